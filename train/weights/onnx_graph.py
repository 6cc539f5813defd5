"""Builds the ONNX graph of a VideoResNet cell by cell, for train/weights/export.py.

MindSpore 2.10's own exporter writes the padding of Conv3d in a wrong order (t, t, h, h, w, w; ONNX expects
t, h, w, t, h, w) and has no dynamic batch size.
"""

from __future__ import annotations

import json
from typing import Any

import onnx
from mindspore import nn
from onnx import TensorProto, helper, numpy_helper

from model import weights
from model.r2plus1d import Block, SpatialMaxPool, VideoResNet

_OPSET, _IR_VERSION = 17, 8  # of 2022: readable by onnxruntime 1.12 and later, and by most converters


def build_onnx(network: VideoResNet, shape: tuple[int | None, ...], facts: dict[str, Any]) -> onnx.ModelProto:
    """The ONNX model of a network in evaluation mode.

    Args:
        network: its weights are stored with torchvision's names.
        shape: (N, 3, T, H, W) of the clips; N is None for any number.
        facts: become the file's metadata, each value as JSON.
    """
    graph = _Graph(network)
    value = "clips"
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        value = graph.add(getattr(network, name), name, value)
    value = graph.node("ReduceMean", [value], "mean", axes=[2, 3, 4], keepdims=0)
    graph.node("Gemm", [value, "fc.weight", "fc.bias"], "logits", transB=1)
    sizes = ["N", *shape[1:]] if shape[0] is None else list(shape)
    onnx_graph = helper.make_graph(
        graph.nodes,
        type(network).__name__,
        [helper.make_tensor_value_info("clips", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [sizes[0], network.fc.out_channels])],
        [
            numpy_helper.from_array(parameter.asnumpy(), weights.torchvision_name(name))
            for name, parameter in weights.parameters(network).items()
        ],
    )
    model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes added so far; each value has the name of the cell that computes it."""

    def __init__(self, network: VideoResNet) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def add(self, cell: nn.Cell, name: str, value: str) -> str:
        """Append a cell whose input is `value`; returns the name of its output."""
        if isinstance(cell, nn.Conv3d):
            half = [size // 2 for size in cell.kernel_size]  # the padding of model.r2plus1d.conv
            return self.node(
                "Conv", [value, f"{name}.weight"], name, kernel_shape=cell.kernel_size, strides=cell.stride,
                pads=[*half, *half],
            )  # fmt: skip
        if isinstance(cell, nn.BatchNorm3d):
            leaves = [f"{name}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
            return self.node("BatchNormalization", [value, *leaves], name, epsilon=cell.bn2d.eps)
        if isinstance(cell, nn.ReLU):
            return self.node("Relu", [value], name)
        if isinstance(cell, nn.Identity):
            return value
        if isinstance(cell, SpatialMaxPool):
            return self.node(
                "MaxPool", [value], name, kernel_shape=(1, 3, 3), strides=(1, 2, 2), pads=(0, 1, 1, 0, 1, 1)
            )
        if isinstance(cell, Block):
            shortcut = self.add(cell.downsample, f"{name}.downsample", value)
            for part in ("conv1", "conv2", "conv3"):
                value = self.add(getattr(cell, part), f"{name}.{part}", value)
            return self.node("Relu", [self.node("Add", [value, shortcut], f"{name}.add")], f"{name}.relu")
        if isinstance(cell, nn.SequentialCell):
            for index, part in enumerate(cell):
                value = self.add(part, f"{name}.{index}", value)
            return value
        raise TypeError(f"{name}: {type(cell).__name__} has no ONNX form in this module")
