"""Weights as files: MindSpore's .ckpt, .safetensors, and PyTorch's .pth, which is only read.

A file is read whole or refused; nothing in it is ever executed.  Names are the file's own (model/weights.py maps
them).  A .safetensors file written here carries a SHA-256 of its content, since the format has no checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from mindspore.train.checkpoint_pb2 import Checkpoint
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.common.errors import UserError
from pipeline.common.files import replacing

_CKPT_TYPES = {
    "Float16": np.float16,
    "Float32": np.float32,
    "Float64": np.float64,
    "Int32": np.int32,
    "Int64": np.int64,
}


class WeightFileError(UserError):
    """A file of weights that is missing, damaged, of another format, or that holds more than weights."""


def write_safetensors(path: Path, arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> None:
    """Write arrays and what a user of them needs to know, atomically."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sealed = {**facts, "sha256": _digest(plain, facts)}
    with replacing(path) as temporary:
        # One key, because safetensors writes several in any order: same weights, same bytes.
        save_file(plain, temporary, metadata={"facts": json.dumps(sealed)})


def read_ckpt(path: Path) -> dict[str, NDArray]:
    """Every array of a MindSpore checkpoint by its name there.

    Not ms.load_checkpoint: it fills an array whose bytes have gone missing with zeros, and says nothing (2.10).

    Raises:
        WeightFileError: with the reason.
    """
    content = path.read_bytes()
    if content[-17:-10] == b"crc_num":  # what save_checkpoint(crc_check=True) appends
        content, crc = content[:-17], int.from_bytes(content[-10:], "big")
        if zlib.crc32(content) != crc:
            raise WeightFileError(f"{path}: damaged: its CRC is wrong")
    pieces: dict[str, list[Any]] = {}
    try:
        for entry in Checkpoint.FromString(content).value:
            pieces.setdefault(entry.tag, []).append(entry.tensor)  # large arrays are stored in pieces
        arrays = {name: _join(tensors) for name, tensors in pieces.items()}
    except (DecodeError, ValueError, KeyError) as error:
        raise WeightFileError(f"{path}: damaged: cannot be read as a MindSpore checkpoint: {error!r}") from None
    if not arrays:
        raise WeightFileError(f"{path}: damaged: it holds nothing")
    return arrays


def _join(tensors: list[Any]) -> NDArray:
    """The array stored in pieces; ValueError unless they hold as many bytes as its shape asks for."""
    first = tensors[0]
    shape = () if list(first.dims) == [0] else tuple(first.dims)  # how MindSpore writes a scalar
    array = np.frombuffer(b"".join(tensor.tensor_content for tensor in tensors), _CKPT_TYPES[first.tensor_type])
    return array.reshape(shape)


def read_safetensors(path: Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Every array by its name, and the facts that `write_safetensors` was given (else none).

    Raises:
        WeightFileError: with the reason.
    """
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            metadata = file.metadata() or {}
        facts = dict(json.loads(metadata.get("facts", "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise WeightFileError(f"{path}: damaged: cannot be read as safetensors: {_first_line(error)}") from None
    if facts and facts.pop("sha256", None) != _digest(arrays, facts):
        raise WeightFileError(
            f"{path}: damaged: its content does not have the SHA-256 in its header (or an earlier "
            "version of this program wrote it: convert it again)"
        )
    return arrays, facts


def read_pth(path: Path) -> dict[str, NDArray]:
    """Every array of a state_dict by its name.

    Raises:
        WeightFileError: with the reason; PyTorch not being there is one.
    """
    try:
        import torch
    except ImportError:
        raise WeightFileError(f"{path}: reading .pth needs PyTorch: pip install -e '.[convert]'") from None
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)  # torchvision puts the file's SHA-256 into its name
    if named and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(named[1]):
        raise WeightFileError(f"{path}: damaged: its SHA-256 does not begin with {named[1]}, as its name says")
    try:
        if zipfile.is_zipfile(path):  # PyTorch itself does not look at the CRCs
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise WeightFileError(f"{path}: damaged: the CRC of {broken} in it is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightFileError:
        raise
    except Exception as error:  # a pickle with code, and damaged bytes, make PyTorch's reader raise anything
        raise WeightFileError(
            f"{path}: refused, nothing in it was executed: it is damaged or holds more than weights: "
            f"{_first_line(error)}"
        ) from None
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightFileError(f"{path}: expected a state_dict, names to tensors; got {type(content).__name__}")
    return {str(name): tensor.contiguous().numpy() for name, tensor in content.items()}


def _digest(arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
