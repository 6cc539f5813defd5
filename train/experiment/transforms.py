"""The `map` of a loader: operations from stored frames to what the network sees, named as in zjut_mindvideo.

`Map.transforms` checks that the operations match what the shards hold, and turns them into `Transforms` once: where
clips are cropped and mirrored (train/data/crops.py), and how they are normalised (train/network/normalize.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.common.value_types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

Size = tuple[PositiveInt, PositiveInt]
Rgb = tuple[float, float, float]
Cut = Literal["random", "centre", "none"]

# Keys of each operation besides `type`, all required; the size of VideoResize must be the recipe's.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "VideoRescale": ("shift",),
    "VideoResize": ("size",),
    "VideoRandomCrop": ("size",),
    "VideoCenterCrop": ("size",),
    "VideoRandomHorizontalFlip": ("prob",),
    "VideoReOrder": ("order",),
    "VideoNormalize": ("mean", "std"),
}

# The first must come before the second: shards hold frames that are resized and not yet cropped, and mean and std are
# for pixels in 0..1.
ORDERED = (
    ("VideoResize", "VideoRandomCrop"),
    ("VideoResize", "VideoCenterCrop"),
    ("VideoRescale", "VideoNormalize"),
)

# Of Kinetics-400, as in zjut_mindvideo and torchvision.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True)
class Transforms:
    """What the operations of a map do to a stored clip.

    Attributes:
        crop: (H, W) in pixels of what the network sees.
        cut: where the crop is: `random`: anywhere; `centre`: in the middle; `none`: the whole frame.
        flip_probability: probability of mirroring left and right.
        mean: mean of the training set's pixels, RGB, 0..1.
        std: standard deviation of the training set's pixels, RGB.
    """

    crop: tuple[int, int]
    cut: Cut
    flip_probability: float
    mean: Rgb
    std: Rgb


@dataclass(frozen=True)
class Operation:
    """One step from stored frames to what the network sees; which keys it takes depends on its type.

    Attributes:
        type: which operation.
        shift: VideoRescale: number added after the division by 255; must be 0.
        size: VideoResize: [height, width] in pixels of stored frames; crops: of the crop.
        prob: VideoRandomHorizontalFlip: probability of mirroring left and right.
        order: VideoReOrder: must be [3, 0, 1, 2], (T, H, W, C) to (C, T, H, W).
        mean: VideoNormalize: mean of the pixels, RGB, 0..1.
        std: VideoNormalize: standard deviation of the pixels, RGB.
    """

    type: Literal[
        "VideoRescale", "VideoResize", "VideoRandomCrop", "VideoCenterCrop", "VideoRandomHorizontalFlip",
        "VideoReOrder", "VideoNormalize",
    ]  # fmt: skip
    shift: float | None = None
    size: Size | None = None
    prob: Fraction | None = None
    order: tuple[NonNegativeInt, ...] | None = None
    mean: Rgb | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None

    def __post_init__(self) -> None:
        given = {key for key in ("shift", "size", "prob", "order", "mean", "std") if getattr(self, key) is not None}
        takes = set(OPERATIONS[self.type])
        if given != takes:
            raise ValueError(f"{self.type}: got the keys {sorted(given)}, expected {sorted(takes)}")
        if self.order is not None and self.order != (3, 0, 1, 2):
            raise ValueError(f"VideoReOrder: got {list(self.order)}, expected [3, 0, 1, 2] (T,H,W,C to C,T,H,W)")
        if self.shift:
            raise ValueError(f"VideoRescale: got shift {self.shift}, expected 0.0 (pixels become 0..1)")


@dataclass(frozen=True)
class Map:
    """The operations between a stored frame and the network.

    Attributes:
        operations: what is done to stored frames, in this order.  null: rescale, resize to the stored size, crop 112 x
            112 (training: random; evaluation: centre), flip with probability 0.5 (training only), reorder, normalise.
        input_columns: has no effect; operations always act on the video.
    """

    operations: tuple[Operation, ...] | None = None
    input_columns: tuple[str, ...] = ("video",)

    def __post_init__(self) -> None:
        types = [operation.type for operation in self.operations or ()]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"operations: got {name} {types.count(name)} times, expected it once")
        if "VideoRandomCrop" in types and "VideoCenterCrop" in types:
            raise ValueError("operations: got VideoRandomCrop and VideoCenterCrop, expected at most one of them")
        for first, then in ORDERED:
            if first in types and then in types and types.index(first) > types.index(then):
                raise ValueError(f"operations: got {first} after {then}, expected it before")

    def transforms(self, stored: tuple[int, int]) -> Transforms:
        """Check that the operations match what the shards hold, and combine them.

        Args:
            stored: (H, W) in pixels of stored frames; without a crop the network sees whole frames.

        Raises:
            ValueError: a size does not match `stored`, or an operation is missing.
        """
        by_type = {operation.type: operation for operation in self.operations or ()}
        resize = by_type.get("VideoResize")
        if resize is not None and resize.size != stored:
            raise ValueError(
                f"VideoResize: got size {list(resize.size or ())}, expected the stored size {list(stored)} "
                "(preprocess.height, preprocess.width); frames are resized once, by `make preprocess`"
            )
        crop = by_type.get("VideoRandomCrop") or by_type.get("VideoCenterCrop")
        size = crop.size if crop is not None and crop.size is not None else stored
        if crop is not None and (size[0] > stored[0] or size[1] > stored[1]):
            raise ValueError(f"{crop.type}: got size {list(size)}, expected at most the stored size {list(stored)}")
        for name in ("VideoRescale", "VideoReOrder", "VideoNormalize"):
            if name not in by_type:
                raise ValueError(f"operations: {name} is missing; the network needs normalised clips (C,T,H,W)")
        flip, normalize = by_type.get("VideoRandomHorizontalFlip"), by_type["VideoNormalize"]
        assert normalize.mean is not None and normalize.std is not None  # Operation checks that
        return Transforms(
            crop=size,
            cut="none" if crop is None else "random" if crop.type == "VideoRandomCrop" else "centre",
            flip_probability=flip.prob if flip is not None and flip.prob is not None else 0.0,
            mean=normalize.mean,
            std=normalize.std,
        )


def standard_map(stored: tuple[int, int], cut: Cut, crop: tuple[int, int] = (112, 112), flip: float = 0.0) -> Map:
    """The map of zjut_mindvideo's configuration.

    Args:
        stored: (H, W) in pixels of stored frames.
        cut: where frames are cropped.
        crop: (H, W) in pixels.
        flip: probability of mirroring left and right; 0: no such operation.
    """
    operations = [Operation("VideoRescale", shift=0.0), Operation("VideoResize", size=stored)]
    if cut != "none":
        operations.append(Operation("VideoRandomCrop" if cut == "random" else "VideoCenterCrop", size=crop))
    if flip:
        operations.append(Operation("VideoRandomHorizontalFlip", prob=flip))
    reorder, normalize = Operation("VideoReOrder", order=(3, 0, 1, 2)), Operation("VideoNormalize", mean=MEAN, std=STD)
    return Map((*operations, reorder, normalize))
