"""Builds the ONNX graph of a VideoResNet, arranged so that it runs fast on a CPU, for train/weights/export.py.

MindSpore 2.10's own exporter writes the padding of Conv3d in a wrong order (t, t, h, h, w, w; ONNX expects
t, h, w, t, h, w) and has no dynamic batch size.

Three things differ from the network, and its logits by rounding only:

- Batch norms are folded into the weights of the convolutions before them.
- A convolution over time alone is one of two dimensions, over (T, H * W).  onnxruntime computes these from channels in
  blocks, which takes a quarter less time; the reshapes between the two views copy nothing.
- onnxruntime takes such blocks from a multiple of 4 channels only: mid-planes such as 45 and 230 get channels of zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from mindspore import nn
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.r2plus1d import Block, SpatialMaxPool, VideoResNet

_OPSET, _IR_VERSION = 17, 8  # of 2022: readable by onnxruntime 1.12 and later, and by most converters
_CHANNELS = 4


def build_onnx(network: VideoResNet, shape: tuple[int | None, ...], facts: dict[str, Any]) -> onnx.ModelProto:
    """The ONNX model of a network in evaluation mode.

    Args:
        network: in the layout NCTHW.  Convolutions keep torchvision's names in the file.
        shape: (N, 3, T, H, W) of the clips; N is None for any number.
        facts: become the file's metadata, each value as JSON.
    """
    graph = _Graph()
    value = _Value("clips", "space", shape[3] or 0)
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        value = graph.add(getattr(network, name), name, value)
    mean = graph.node("ReduceMean", [graph.viewed(value, "time").name], "mean", axes=[2, 3], keepdims=0)
    graph.store("fc.weight", network.fc.weight.asnumpy())
    graph.store("fc.bias", network.fc.bias.asnumpy())
    graph.node("Gemm", [mean, "fc.weight", "fc.bias"], "logits", transB=1)
    sizes = ["N", *shape[1:]] if shape[0] is None else list(shape)
    onnx_graph = helper.make_graph(
        graph.nodes,
        type(network).__name__,
        [helper.make_tensor_value_info("clips", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [sizes[0], network.fc.out_channels])],
        graph.arrays,
    )
    model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


View = Literal["space", "time"]


@dataclass(frozen=True)
class _Value:
    """The output of a node.

    Attributes:
        name: of the node, too.
        view: `space`: its shape is (N, C, T, H, W); `time`: (N, C, T, H * W).
        height: H.
        extra: how many channels of zeros come after its own.
    """

    name: str
    view: View
    height: int
    extra: int = 0


class _Graph:
    """The nodes added so far; each value has the name of the cell that computes it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: list[onnx.TensorProto] = []
        self._reshaped: set[str] = set()

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; returns its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def store(self, name: str, array: NDArray) -> str:
        """Append an array that nodes take by its name; returns the name."""
        self.arrays.append(numpy_helper.from_array(array, name))
        return name

    def viewed(self, value: _Value, view: View) -> _Value:
        """The value in a view; a reshape where it has the other."""
        if value.view == view:
            return value
        name = f"{value.name}.{view}"
        if name not in self._reshaped:
            self._reshaped.add(name)
            sizes = [0, 0, 0, -1] if view == "time" else [0, 0, 0, value.height, -1]  # 0: as it is
            self.node("Reshape", [value.name, self.store(f"{name}.shape", np.array(sizes, np.int64))], name)
        return _Value(name, view, value.height, value.extra)

    def add(self, cell: nn.Cell, name: str, value: _Value) -> _Value:
        """Append a sequence of cells whose input is `value`; returns its output."""
        cells = list(_leaves(cell, name))
        for at, (part_name, part) in enumerate(cells):
            following = [each for _, each in cells[at + 1 : at + 4]]
            if isinstance(part, nn.Conv3d):
                norm = following[0]
                assert isinstance(norm, nn.BatchNorm3d), f"{part_name}: no batch norm follows"
                feeds = len(following) == 3 and isinstance(following[2], nn.Conv3d) and _is_temporal(following[2])
                value = self.convolution(part, norm, part_name, value, extra=-part.out_channels % _CHANNELS * feeds)
            elif isinstance(part, nn.ReLU):
                value = self.relu(part_name, value)
            elif isinstance(part, SpatialMaxPool):
                value = self.max_pool(part_name, value)
            elif isinstance(part, Block):
                value = self.block(part, part_name, value)
            elif not isinstance(part, (nn.BatchNorm3d, nn.Identity)):  # a norm is in its convolution
                raise TypeError(f"{part_name}: {type(part).__name__} has no ONNX form in this module")
        return value

    def block(self, block: Block, name: str, value: _Value) -> _Value:
        """Append a residual block."""
        shortcut = self.add(block.downsample, f"{name}.downsample", value)
        for part in ("conv1", "conv2", "conv3"):
            value = self.add(getattr(block, part), f"{name}.{part}", value)
        both = [self.viewed(each, value.view).name for each in (value, shortcut)]
        return self.relu(f"{name}.relu", _Value(self.node("Add", both, f"{name}.add"), value.view, value.height))

    def relu(self, name: str, value: _Value) -> _Value:
        """Append a ReLU."""
        return _Value(self.node("Relu", [value.name], name), value.view, value.height, value.extra)

    def max_pool(self, name: str, value: _Value) -> _Value:
        """Append the maximum over 3×3 pixels of a frame, at every second one."""
        inputs = [self.viewed(value, "space").name]
        self.node("MaxPool", inputs, name, kernel_shape=(1, 3, 3), strides=(1, 2, 2), pads=(0, 1, 1, 0, 1, 1))
        return _Value(name, "space", -(-value.height // 2), value.extra)

    def convolution(self, cell: nn.Conv3d, norm: nn.BatchNorm3d, name: str, value: _Value, *, extra: int) -> _Value:
        """Append a convolution and the batch norm after it as one, with `extra` channels of zeros."""
        weight, bias = _folded(cell, norm)
        weight = np.pad(weight, [(0, extra), (0, value.extra), *[(0, 0)] * 3])
        kernel, strides = cell.kernel_size, cell.stride
        view: View = "time" if _is_temporal(cell) else "space"
        if view == "time":
            weight, kernel, strides = weight[..., 0], kernel[:2], strides[:2]
        half = [size // 2 for size in kernel]  # the padding of model.r2plus1d.conv
        inputs = [self.viewed(value, view).name, self.store(f"{name}.weight", weight)]
        inputs.append(self.store(f"{name}.bias", np.pad(bias, (0, extra))))
        self.node("Conv", inputs, name, kernel_shape=kernel, strides=strides, pads=[*half, *half])
        return _Value(name, view, -(-value.height // cell.stride[1]), extra)


def _leaves(cell: nn.Cell, name: str) -> Iterator[tuple[str, nn.Cell]]:
    """The cells of nested sequences in order, with their names."""
    if not isinstance(cell, nn.SequentialCell):
        yield name, cell
        return
    for index, part in enumerate(cell):
        yield from _leaves(part, f"{name}.{index}")


def _is_temporal(cell: nn.Conv3d) -> bool:
    return tuple(cell.kernel_size[1:]) == tuple(cell.stride[1:]) == (1, 1)


def _folded(cell: nn.Conv3d, norm: nn.BatchNorm3d) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution that computes what the convolution and the batch norm do in evaluation."""
    leaves = (norm.bn2d.gamma, norm.bn2d.beta, norm.bn2d.moving_mean, norm.bn2d.moving_variance)
    gamma, beta, mean, variance = (leaf.asnumpy().astype(np.float64) for leaf in leaves)
    scale = gamma / np.sqrt(variance + norm.bn2d.eps)
    weight = cell.weight.asnumpy() * scale[:, None, None, None, None]
    return weight.astype(np.float32), (beta - mean * scale).astype(np.float32)
