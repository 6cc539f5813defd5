"""Compares the datasets of a shard's HDF5 file with its index: readers use the index, HDF5 tools the datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.shards.hdf5 import Place, names, place
from pipeline.shards.head import Head

if TYPE_CHECKING:
    import h5py


def structure_errors(file: h5py.File, head: Head) -> Iterator[tuple[str, str]]:
    """What is wrong with the datasets of a shard, inside `open_finished`.

    Args:
        file: the shard.
        head: its head.

    Yields:
        The video, or an empty text for the whole shard; and what was expected and what is there.
    """
    groups = ["frames", "jpeg"] if head.jpeg else ["frames"]
    present = names(file)
    for name in sorted(present ^ {*groups, "index", "outcomes", "times_s"}):
        yield "", f"unexpected {name}" if name in present else f"{name} is missing"
    video_ids = [text.decode() for text in head.index["video_id"].tolist()]
    for group in groups:
        if group in present:
            members = names(file, group)
            for video_id in sorted(members ^ set(video_ids)):
                yield video_id, (
                    f"{group}/{video_id} is not in the index" if video_id in members
                    else f"{group}/{video_id} is missing"
                )  # fmt: skip
            for video_id, name, expected in _places(head, group, video_ids):
                if video_id in members and (what := _difference(file, name, expected)):
                    yield video_id, what
    if "times_s" in present and video_ids:
        times = Place((int(head.index["num_frames"].sum()),), "float32", int(head.index["times_s"][0]))
        if what := _difference(file, "times_s", times):
            yield "", what


def _places(head: Head, group: str, video_ids: list[str]) -> Iterator[tuple[str, str, Place]]:
    """Each video, its dataset in a group, and the place that the index gives it."""
    columns = [head.index[name].tolist() for name in ("num_frames", "nbytes", "offset", "starts")]
    for video_id, num_frames, nbytes, offset, starts in zip(video_ids, *columns, strict=True):
        if group == "jpeg":
            expected = Place((num_frames + 1,), "int64", starts)
        else:
            expected = Place((nbytes,) if head.jpeg else (num_frames, *head.frame_shape), "uint8", offset)
        yield video_id, f"{group}/{video_id}", expected


def _difference(file: h5py.File, name: str, expected: Place) -> str:
    """How a dataset differs from its place; empty when it does not."""
    actual = place(file, name)
    if isinstance(actual, str):
        return actual
    return "" if actual == expected else f"{name}: (shape, dtype, offset) {tuple(actual)}, expected {tuple(expected)}"
