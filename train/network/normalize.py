"""Normalises frames in the graph, on the device: until then they are uint8, a quarter of their float32 size."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from train.experiment.transforms import Rgb


class Normalize(nn.Cell):
    """(N, T, H, W, 3) uint8, 0..255 -> (N, 3, T, H, W) float32, zero mean and unit deviation.

    Args:
        mean: of the training set's pixels, RGB, 0..1.
        std: their standard deviation, RGB.
    """

    def __init__(self, mean: Rgb, std: Rgb) -> None:
        super().__init__()
        # (x / 255 - mean) / std as one multiplication and one addition.
        self.scale = Tensor(1 / (255 * np.array(std)), ms.float32)
        self.shift = Tensor(-np.array(mean) / np.array(std), ms.float32)

    def construct(self, clips: Tensor) -> Tensor:
        """Normalise, and move the channels before T."""
        return ops.transpose(clips.astype(ms.float32) * self.scale + self.shift, (0, 4, 1, 2, 3))
