"""Normalises frames in the graph, on the device: until then they are uint8, a quarter of their float32 size."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pipeline.common.errors import UserError
from train.experiment.transforms import Map


class Normalize(nn.Cell):
    """(N, T, H, W, 3) uint8, 0..255 -> (N, 3, T, H, W) float32, zero mean and unit deviation.

    Args:
        mean: of the training set's pixels, RGB, 0..1.
        std: their standard deviation, RGB.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        # (x / 255 - mean) / std as one multiplication and one addition.
        self.scale = Tensor(1 / (255 * np.array(std)), ms.float32)
        self.shift = Tensor(-np.array(mean) / np.array(std), ms.float32)

    @classmethod
    def of(cls, transforms: Map) -> Normalize:
        """The normalisation of a map.

        Raises:
            UserError: VideoRescale, VideoReOrder or VideoNormalize is missing in its operations.
        """
        for name in ("VideoRescale", "VideoReOrder", "VideoNormalize"):
            if transforms.find(name) is None:
                raise UserError(f"map.operations: {name} is missing; the network takes normalised clips (C,T,H,W)")
        normalize = transforms.find("VideoNormalize")
        assert normalize is not None and normalize.mean is not None and normalize.std is not None
        return cls(normalize.mean, normalize.std)

    def construct(self, clips: Tensor) -> Tensor:
        """Normalise, and move the channels before T."""
        return ops.transpose(clips.astype(ms.float32) * self.scale + self.shift, (0, 4, 1, 2, 3))
