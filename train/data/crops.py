"""Chooses where a clip is cropped and whether it is mirrored; both happen while it is copied out of its shard."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.experiment.transforms import Transforms


def places(
    transforms: Transforms,
    stored: tuple[int, int],
    draws: NDArray[np.float64],
    crop: NDArray[np.int64],
    num_crops: int = 1,
    *,
    half_pixel: Literal["round", "floor"] = "round",
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The crops of N clips: (top, left, mirrored), each (N,).

    Three crops lie along the side with more room: number 0 at one end, 1 in
    the centre, 2 at the other end.

    Args:
        transforms: the size of a crop, where it is, and how often clips are mirrored.
        stored: (H, W) in pixels of the stored frames.
        draws: (N, 3) in [0, 1), different for each clip.
        crop: (N,) number of each crop among its clip's.
        num_crops: crops of a clip, 1 or 3.
        half_pixel: how a centre crop between two pixels is rounded: to even as in torchvision, or down.
    """
    spare_h, spare_w = stored[0] - transforms.crop[0], stored[1] - transforms.crop[1]
    if transforms.cut == "random":
        top = (draws[:, 0] * (spare_h + 1)).astype(np.int64)
        left = (draws[:, 1] * (spare_w + 1)).astype(np.int64)
    else:
        middle_h, middle_w = (spare // 2 if half_pixel == "floor" else round(spare / 2) for spare in (spare_h, spare_w))
        top, left = np.full(len(draws), middle_h), np.full(len(draws), middle_w)
        if num_crops == 3 and spare_w >= spare_h:
            left = np.array([0, middle_w, spare_w])[crop]
        elif num_crops == 3:
            top = np.array([0, middle_h, spare_h])[crop]
    return top, left, draws[:, 2] < transforms.flip_probability
