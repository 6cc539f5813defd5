"""Counts the parameters of each network, its multiply-adds for one clip, and its largest tensor.

    python -m model.complexity

Nothing is run: the numbers come from the cells.  Convolutions and the linear layer are counted, as in the paper and in
torchvision's `GFLOPS`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mindspore import nn

from model import channels_last, r2plus1d
from model.r2plus1d import Block, SpatialMaxPool, Triple, VideoResNet

CLIP: Triple = (16, 112, 112)


def num_parameters(network: nn.Cell) -> int:
    """Number of values that training changes, without the statistics of batch norms."""
    return sum(parameter.size for parameter in network.trainable_params())


def multiply_adds(network: VideoResNet, clip: Triple = CLIP) -> int:
    """Multiply-adds of the network for one clip of (T, H, W)."""
    return network.fc.in_channels * network.fc.out_channels + sum(layer.cost for layer in _layers(network, clip))


def largest_tensor(network: VideoResNet, clip: Triple = CLIP) -> int:
    """Elements of the largest output of a convolution for one clip of (T, H, W), in either layout."""
    return max(layer.elements for layer in _layers(network, clip))


class _Layer(NamedTuple):
    """What one convolution has for one clip: elements of its output, and multiply-adds."""

    elements: int
    cost: int


def _layers(network: VideoResNet, clip: Triple) -> list[_Layer]:
    """The convolutions of a network."""
    size, layers = clip, []
    for stage in network.stages[:-1]:
        size, more = _walk(stage, size)
        layers += more
    return layers


def _walk(cell: nn.Cell, size: Triple) -> tuple[Triple, list[_Layer]]:
    """The output size (T, H, W) of a cell whose input has `size`, and its convolutions."""
    if isinstance(cell, nn.Conv3d | channels_last.Conv):  # padded by half its kernel: size / stride, rounded up
        t, h, w = (-(-length // step) for length, step in zip(size, cell.stride, strict=True))
        channels = cell.weight.shape[0] + (cell.planes[1] if isinstance(cell, channels_last.Conv) else 0)
        return (t, h, w), [_Layer(channels * t * h * w, t * h * w * math.prod(cell.weight.shape))]
    if isinstance(cell, SpatialMaxPool):
        return (size[0], -(-size[1] // 2), -(-size[2] // 2)), []
    if isinstance(cell, Block):
        out, layers = size, _walk(cell.downsample, size)[1]
        for part in (cell.conv1, cell.conv2, cell.conv3):
            out, more = _walk(part, out)
            layers += more
        return out, layers
    layers = []
    if isinstance(cell, nn.SequentialCell):
        for part in cell:
            size, more = _walk(part, size)
            layers += more
    return size, layers


def main() -> None:
    """Print a line for each network with 400 classes."""
    networks = {
        "r2plus1d_18": r2plus1d.r2plus1d_18(),
        "r2plus1d_18, the paper's mid-planes": r2plus1d.r2plus1d_18(midplanes="paper"),
        "r2plus1d_34": r2plus1d.r2plus1d_34(),
        "mmaction2_r2plus1d_34": r2plus1d.mmaction2_r2plus1d_34(),
        "r2plus1d_50": r2plus1d.r2plus1d_50(),
        "r3d_18": r2plus1d.r3d_18(),
        "r3d_34": r2plus1d.r3d_34(),
        "mc3_18": r2plus1d.mc3_18(),
    }
    for name, network in networks.items():
        macs = multiply_adds(network) / 1e9
        print(f"{name:36} {num_parameters(network):11,} parameters  {macs:7.2f} GMAC a clip of 3x16x112x112")


if __name__ == "__main__":
    main()
