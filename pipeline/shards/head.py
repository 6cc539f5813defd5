"""The head of a shard: its recipe and index, all that reading frames needs of the HDF5 file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from pipeline.common.errors import REPAIR, ShardError
from pipeline.shards.format import INDEX_FIELDS
from pipeline.shards.hdf5 import FileId, file_id, read_rows

if TYPE_CHECKING:
    import h5py


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
    """

    file_id: FileId
    recipe: str
    recipe_sha256: str
    jpeg: bool
    frame_shape: tuple[int, int, int]
    index: NDArray


def read_head(file: h5py.File) -> Head:
    """The head of a shard, inside `open_finished`.

    Raises:
        ShardError: the index is not a table of this file, or has other columns.
    """
    index = read_rows(file, "index")
    kinds = {name: index.dtype[name].kind for name in index.dtype.names or ()}
    if not all(kinds.get(name, "") in ("S" if kind == "text" else "iu") for name, kind in INDEX_FIELDS.items()):
        raise ShardError(Path(file.filename), "the index has other columns than this format", REPAIR)
    recipe, sha256 = (str(file.attrs[name]) for name in ("recipe", "recipe_sha256"))
    settings = json.loads(recipe)
    frame_shape = (int(settings["height"]), int(settings["width"]), 3)
    return Head(file_id(file.id.get_vfd_handle()), recipe, sha256, settings["codec"] == "jpeg", frame_shape, index)
