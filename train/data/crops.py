"""Where a clip is cut out of its frames, and whether it is mirrored; applied on the host, while the clip is copied."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.experiment.transforms import Transforms


def places(
    transforms: Transforms,
    stored: tuple[int, int],
    draws: NDArray[np.float64],
    crop: NDArray[np.int64],
    num_crops: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(top, left, mirrored), each (N,), of N clips whose stored frames are `stored`, (H, W) pixels.

    Centre crops are rounded as torchvision's.  Of three crops number 0 is at one end of the side with more room, 1 in
    the centre and 2 at the other end.

    Args:
        transforms: the size of a crop, where it is, and how often clips are mirrored.
        stored: size of the stored frames.
        draws: (N, 3) in [0, 1), each clip's own.
        crop: (N,) which of its clip's crops each one is.
        num_crops: crops of a clip, 1 or 3.
    """
    spare_h, spare_w = stored[0] - transforms.crop[0], stored[1] - transforms.crop[1]
    if transforms.cut == "random":
        top = (draws[:, 0] * (spare_h + 1)).astype(np.int64)
        left = (draws[:, 1] * (spare_w + 1)).astype(np.int64)
    else:
        top, left = np.full(len(draws), round(spare_h / 2)), np.full(len(draws), round(spare_w / 2))
        if num_crops == 3 and spare_w >= spare_h:
            left = np.array([0, round(spare_w / 2), spare_w])[crop]
        elif num_crops == 3:
            top = np.array([0, round(spare_h / 2), spare_h])[crop]
    return top, left, draws[:, 2] < transforms.flip_probability
