"""Reads files of weights (MindSpore's .ckpt, .safetensors) as arrays, and writes .safetensors; pytorch.py does .pth.

A file is read completely or refused; nothing in it is ever executed.  Names are those in the file (model/weights.py
maps them).  A .safetensors file written here contains a SHA-256 of its content, because the format has no checksum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf.message import DecodeError
from mindspore.train.checkpoint_pb2 import Checkpoint
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.common.errors import UserError
from pipeline.common.files import open_to_read, replacing

_CKPT_TYPES = {
    "Float16": np.float16,
    "Float32": np.float32,
    "Float64": np.float64,
    "BFloat16": ml_dtypes.bfloat16,
    "Int32": np.int32,
    "Int64": np.int64,
}


class WeightFileError(UserError):
    """A file of weights that is missing, corrupted, of another format, or that holds more than weights."""


def write_safetensors(path: Path, arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> None:
    """Write arrays and facts about them; the file gets its name only when it is complete."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sealed = {**facts, "sha256": _digest(plain, facts)}
    with replacing(path) as temporary:
        # One key, because safetensors writes several in any order: same weights, same bytes.
        save_file(plain, temporary, metadata={"facts": json.dumps(sealed)})


def read_ckpt(path: Path) -> dict[str, NDArray]:
    """Every array of a MindSpore checkpoint by its name in the file.

    ms.load_checkpoint is not used: MindSpore 2.10's fills missing bytes of an array with zeros, without a warning.

    Raises:
        WeightFileError: the file is corrupted or no checkpoint.
        OSError: it cannot be read now.
    """
    content = path.read_bytes()
    if content[-17:-10] == b"crc_num":  # what save_checkpoint(crc_check=True) appends
        content, crc = content[:-17], int.from_bytes(content[-10:], "big")
        if zlib.crc32(content) != crc:
            raise WeightFileError(f"{path}: corrupted: CRC-32 {zlib.crc32(content):08x}, expected {crc:08x}")
    pieces: dict[str, list[Any]] = {}
    try:
        for entry in Checkpoint.FromString(content).value:
            pieces.setdefault(entry.tag, []).append(entry.tensor)  # large arrays are stored in pieces
        arrays = {name: _join(tensors) for name, tensors in pieces.items()}
    except (DecodeError, ValueError, KeyError) as error:
        raise WeightFileError(f"{path}: corrupted: cannot be read as a MindSpore checkpoint: {error!r}") from None
    if not arrays:
        raise WeightFileError(f"{path}: corrupted: it has no arrays")
    return arrays


def _join(tensors: list[Any]) -> NDArray:
    """Joins the pieces of an array; ValueError if their size does not match its shape."""
    first = tensors[0]
    shape = () if list(first.dims) == [0] else tuple(first.dims)  # how MindSpore writes a scalar
    array = np.frombuffer(b"".join(tensor.tensor_content for tensor in tensors), _CKPT_TYPES[first.tensor_type])
    return array.reshape(shape)


def read_safetensors(path: Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Every array by its name, and the facts that `write_safetensors` wrote (empty in other files).

    Raises:
        WeightFileError: the file is corrupted, no .safetensors, or has numbers that numpy lacks, such as float8.
        OSError: it cannot be read now.
    """
    open_to_read(path).close()  # errors of safetensors lack the reason: too many open files are "not found"
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: _tensor(path, file, name) for name in file.keys()}  # noqa: SIM118  not a mapping
            metadata = file.metadata() or {}
        facts = dict(json.loads(metadata.get("facts", "{}")))
    except WeightFileError:
        raise
    except RecursionError:
        raise WeightFileError(f"{path}: corrupted: the JSON in its header is nested too deep") from None
    except OSError as error:  # without a number
        raise OSError(error.errno or errno.EIO, str(error), str(path)) from None
    except (SafetensorError, ValueError, TypeError) as error:
        raise WeightFileError(f"{path}: corrupted: cannot be read as safetensors: {_first_line(error)}") from None
    if facts and facts.pop("sha256", None) != _digest(arrays, facts):
        raise WeightFileError(
            f"{path}: corrupted, or written by an earlier version of this program: its content differs from the "
            "SHA-256 in its header. Convert it again with `make convert`."
        )
    return arrays, facts


def _tensor(path: Path, file: Any, name: str) -> NDArray:
    try:
        return file.get_tensor(name)
    except (AttributeError, TypeError):  # numpy has no such type
        dtype = file.get_slice(name).get_dtype()
        raise WeightFileError(
            f"{path}: {name} has dtype {dtype}, expected F32. Save the weights as float32 where they were made."
        ) from None


def _digest(arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
