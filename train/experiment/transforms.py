"""The `map` of a loader: from stored frames to what the network sees, in the seed's words.

What of it acts: where clips are cut and mirrored, and their normalisation (train/augment.py).  The rest is checked
against what the shards hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.common.settings import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

Size = tuple[PositiveInt, PositiveInt]
Rgb = tuple[float, float, float]

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


@dataclass(frozen=True)
class Operation:
    """One step from stored frames to what the network sees; which keys it takes depends on its type."""

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
    """The operations between a stored frame and the network, in the seed's words."""

    operations: tuple[Operation, ...] = ()
    input_columns: tuple[str, ...] = ("video",)

    def __post_init__(self) -> None:
        types = [operation.type for operation in self.operations]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"operations: {name} is given {types.count(name)} times")
        if "VideoRandomCrop" in types and "VideoCenterCrop" in types:
            raise ValueError("operations: VideoRandomCrop and VideoCenterCrop exclude each other")
        for first, then in ORDERED:
            if first in types and then in types and types.index(first) > types.index(then):
                raise ValueError(f"operations: {first} stands after {then}; the shards can only be used the other way")

    def find(self, name: str) -> Operation | None:
        """The operation of that type, if it is there."""
        return next((operation for operation in self.operations if operation.type == name), None)
