"""The head of a shard: its recipe and index, all that reading frames needs of the HDF5 file."""

from __future__ import annotations

import functools
import json
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.common.errors import REPAIR, ShardError
from pipeline.common.recipe import FORMAT_VERSION, Preprocess
from pipeline.common.text import dotted, shown
from pipeline.common.value_types import MisfitError, converted_to
from pipeline.shards.format import INDEX_FIELDS
from pipeline.shards.hdf5 import FileId, Opened, read_rows

_LONGEST_TEXT = 255
_LARGEST_NUMBER = 1 << 63
_NO_NAME = re.compile(r"[/\\\x00-\x1f]")  # as in a ledger
_NO_VALUE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, eq=False)
class Head:
    """What reading frames needs of a shard's HDF5 file.

    Attributes:
        file_id: of the file that this was read from.
        recipe: as JSON.
        recipe_sha256: its fingerprint.
        jpeg: whether frames are JPEGs.
        frame_shape: height, width and 3.
        index: the table `index`, a structured array (V,).
        video_ids: the ids in it; no two are equal.
    """

    file_id: FileId
    recipe: str
    recipe_sha256: str
    jpeg: bool
    frame_shape: tuple[int, int, int]
    index: NDArray
    video_ids: list[str]


def read_head(shard: Opened) -> Head:
    """The head of a shard, inside `open_finished`.

    Raises:
        ShardError: the recipe or the index is not one of this format.
        Hdf5Error: the index is not a table of this file.
    """
    recipe, sha256 = str(shard.attrs["recipe"]), str(shard.attrs["recipe_sha256"])
    try:
        settings = _settings(recipe)
    except ValueError as error:
        raise ShardError(shard.path, f"the recipe is not one of this format: {error}", REPAIR) from None
    frame_shape = (settings["height"], settings["width"], 3)
    index = read_rows(shard, "index", INDEX_FIELDS)
    video_ids = names(shard.path, index["video_id"].tolist(), "index")
    return Head(shard.file_id, recipe, sha256, settings["codec"] == "jpeg", frame_shape, index, video_ids)


def names(path: Path, texts: list[bytes], table: str) -> list[str]:
    """The video ids of a table.

    Raises:
        ShardError: one is no id, or two are equal.
    """
    ids = [text.decode() for text in texts]
    if wrong := [video_id for video_id in ids if not video_id or _NO_NAME.search(video_id)]:
        what = f"the table {table} has the video id {shown(wrong[0])}, expected a name without slashes and line ends"
        raise ShardError(path, what, REPAIR)
    if len(set(ids)) < len(ids):
        raise ShardError(path, f"the table {table} has a video id twice", REPAIR)
    return ids


@functools.lru_cache(maxsize=16)  # the shards of a store have one recipe
def _settings(recipe: str) -> dict[str, Any]:
    """The keys of a recipe and their values; keys of a later version are plain values.

    Raises:
        ValueError: it is no recipe; the text is one line.
    """
    try:
        settings = json.loads(recipe)
    except RecursionError:
        raise ValueError("too many brackets") from None
    except ValueError:
        raise ValueError(f"got {shown(recipe)}, expected JSON") from None
    if not isinstance(settings, dict):
        raise ValueError(f"got {shown(settings)}, expected keys and values")
    hints = typing.get_type_hints(Preprocess, include_extras=True)
    for key in Preprocess().stored():
        if key not in settings:
            raise ValueError(f"{key} is missing")
    if settings["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version: got {shown(settings['format_version'])}, expected {FORMAT_VERSION}")
    for key, value in settings.items():
        if not key.isidentifier() or not _is_plain(value) or not (key not in hints or _fits(hints[key], value)):
            raise ValueError(f"{dotted([key])}: got {shown(value)}")
    return settings


def _is_plain(value: Any) -> bool:
    """Whether a value is nothing, a finite number that is not too large, or a text of one short line."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and not _NO_VALUE.search(value)
    if isinstance(value, (int, float)):
        return abs(value) < _LARGEST_NUMBER  # neither infinite nor not a number
    return value is None


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the type of its key, and in its range."""
    try:
        return isinstance(converted_to(hint, value), str) == isinstance(value, str)
    except MisfitError:
        return False
