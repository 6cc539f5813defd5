"""The `map` of a loader: from stored frames to what the network sees, in zjut_mindvideo's words.

`Map.transforms` checks the list of operations against what the shards hold, and resolves it once into `Transforms`:
where clips are cut and mirrored (train/data/crops.py), and their normalisation (train/network/normalize.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.common.value_types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

Size = tuple[PositiveInt, PositiveInt]
Rgb = tuple[float, float, float]
Cut = Literal["random", "centre", "none"]

# Keys that each operation of a map takes besides `type`, all required; the size of VideoResize is the recipe's.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "VideoRescale": ("shift",),
    "VideoResize": ("size",),
    "VideoRandomCrop": ("size",),
    "VideoCenterCrop": ("size",),
    "VideoRandomHorizontalFlip": ("prob",),
    "VideoReOrder": ("order",),
    "VideoNormalize": ("mean", "std"),
}

# Pairs whose order decides the result: shards hold frames that are resized and not yet cropped, and mean and std are
# those of pixels in 0..1.
ORDERED = (
    ("VideoResize", "VideoRandomCrop"),
    ("VideoResize", "VideoCenterCrop"),
    ("VideoRescale", "VideoNormalize"),
)

# zjut_mindvideo's and torchvision's, of Kinetics-400.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True)
class Transforms:
    """What the operations of a map do to a stored clip.

    Attributes:
        crop: (H, W) in pixels of what the network sees.
        cut: `random`: the crop is anywhere; `centre`: in the middle; `none`: it is the whole frame.
        flip_probability: of mirroring left and right.
        mean: of the training set's pixels, RGB, 0..1.
        std: their standard deviation, RGB.
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
        type: what it does.
        shift: of VideoRescale: added after the division by 255; must be 0.
        size: [height, width] in pixels, of VideoResize (the stored size) and of the crops.
        prob: of VideoRandomHorizontalFlip: probability of mirroring left and right.
        order: of VideoReOrder: must be [3, 0, 1, 2], (T, H, W, C) to (C, T, H, W).
        mean: of VideoNormalize: of the pixels, RGB, 0..1.
        std: of VideoNormalize: their standard deviation, RGB.
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
            raise ValueError(f"{self.type} takes {sorted(takes)}, got {sorted(given)}")
        if self.order is not None and self.order != (3, 0, 1, 2):
            raise ValueError(f"VideoReOrder: got {list(self.order)}, expected [3, 0, 1, 2] (T,H,W,C to C,T,H,W)")
        if self.shift:
            raise ValueError(f"VideoRescale: got shift {self.shift}, expected 0.0 (pixels become 0..1)")


@dataclass(frozen=True)
class Map:
    """The operations between a stored frame and the network.

    Attributes:
        operations: what is done, in this order.  null: rescale, resize to the stored size, crop 112 x 112
            (random in training, centre in evaluation), flip at 0.5 (in training), reorder, normalise.
        input_columns: has no effect; the operations act on the video.
    """

    operations: tuple[Operation, ...] | None = None
    input_columns: tuple[str, ...] = ("video",)

    def __post_init__(self) -> None:
        types = [operation.type for operation in self.operations or ()]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"operations: {name} is given {types.count(name)} times")
        if "VideoRandomCrop" in types and "VideoCenterCrop" in types:
            raise ValueError("operations: VideoRandomCrop and VideoCenterCrop exclude each other")
        for first, then in ORDERED:
            if first in types and then in types and types.index(first) > types.index(then):
                raise ValueError(f"operations: {first} stands after {then}; the shards can only be used the other way")

    def transforms(self, stored: tuple[int, int]) -> Transforms:
        """Check the operations against what the shards hold, and resolve them.

        Args:
            stored: (H, W) in pixels of stored frames, which the network sees whole where no operation crops them.

        Raises:
            ValueError: a size does not go with `stored`, or an operation is missing.
        """
        by_type = {operation.type: operation for operation in self.operations or ()}
        resize = by_type.get("VideoResize")
        if resize is not None and resize.size != stored:
            raise ValueError(
                f"VideoResize size {list(resize.size or ())} is not the stored size {list(stored)} "
                "(preprocess.height, preprocess.width): frames are resized once, by make preprocess"
            )
        crop = by_type.get("VideoRandomCrop") or by_type.get("VideoCenterCrop")
        size = crop.size if crop is not None and crop.size is not None else stored
        if crop is not None and (size[0] > stored[0] or size[1] > stored[1]):
            raise ValueError(f"{crop.type} size {list(size)} is larger than the stored {list(stored)}")
        for name in ("VideoRescale", "VideoReOrder", "VideoNormalize"):
            if name not in by_type:
                raise ValueError(f"operations: {name} is missing; the network takes normalised clips (C,T,H,W)")
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
