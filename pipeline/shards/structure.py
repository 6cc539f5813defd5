"""Compares the datasets of a shard's HDF5 file with its index: readers use the index, HDF5 tools the datasets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.common.text import printable
from pipeline.shards.hdf5_file import Dataset, Hdf5Error, Hdf5File
from pipeline.shards.head import Head


def structure_errors(file: Hdf5File, head: Head) -> Iterator[tuple[str, str]]:
    """What is wrong with the datasets of a shard, inside `open_finished`.

    Args:
        file: the shard.
        head: its head.

    Yields:
        The video, or an empty text for the whole shard; and what was expected and what is there.
    """
    groups = ["frames", "jpeg"] if head.jpeg else ["frames"]
    present = file.names()
    for name in sorted(present ^ {*groups, "index", "outcomes", "times_s"}):
        yield "", f"unexpected {printable(name)}" if name in present else f"{name} is missing"
    for group in groups:
        if group not in present:
            continue
        try:
            members = file.names(group)
        except Hdf5Error as error:
            yield "", str(error)
            continue
        for video_id in sorted(members ^ set(head.video_ids)):
            yield printable(video_id), (
                f"{printable(f'{group}/{video_id}')} is not in the index" if video_id in members
                else f"{group}/{video_id} is missing"
            )  # fmt: skip
        for video_id, name, expected in _places(head, group):
            if video_id in members and (what := _difference(file, name, expected)):
                yield video_id, what
    if "times_s" in present and head.video_ids:
        times = Dataset((int(head.index["num_frames"].sum()),), np.dtype("f4"), int(head.index["times_s"][0]))
        if what := _difference(file, "times_s", times):
            yield "", what


def _places(head: Head, group: str) -> Iterator[tuple[str, str, Dataset]]:
    """Each video, its dataset in a group, and the place that the index gives it."""
    columns = [head.index[name].tolist() for name in ("num_frames", "nbytes", "offset", "starts")]
    for video_id, num_frames, nbytes, offset, starts in zip(head.video_ids, *columns, strict=True):
        if group == "jpeg":
            expected = Dataset((num_frames + 1,), np.dtype("i8"), starts)
        else:
            shape = (nbytes,) if head.jpeg else (num_frames, *head.frame_shape)
            expected = Dataset(shape, np.dtype("u1"), offset)
        yield video_id, f"{group}/{video_id}", expected


def _difference(file: Hdf5File, name: str, expected: Dataset) -> str:
    """How a dataset differs from its place; empty when it does not."""
    try:
        actual = file.dataset(name)
    except Hdf5Error as error:
        return str(error)
    return "" if actual == expected else f"{name}: (shape, dtype, offset) {_text(actual)}, expected {_text(expected)}"


def _text(dataset: Dataset) -> str:
    return f"({dataset.shape}, {dataset.dtype}, {dataset.offset})"
