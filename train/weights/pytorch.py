"""Reads the weights in PyTorch's files without PyTorch, and writes them.

torch_save.py opens the file; here the state_dict in it is found, and its tensors become arrays.  A file is read
completely or refused; nothing in it is executed (pickled.py).
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import open_to_read, replacing
from pipeline.common.text import printable, shown, some
from train.weights.files import WeightFileError
from train.weights.pickled import Call, CodeError, Name
from train.weights.torch_save import ZIP, Damage, OtherNumbers, Program, Unusable, open_file

ENDINGS = (".pth", ".pt", ".pth.tar", ".bin")
"""How PyTorch's files of weights end, in any case of the letters; Lightning's end in .ckpt, as MindSpore's do."""

# Where training programs keep the weights beside other things: torchvision's references; mmaction2 and Lightning;
# PySlowFast; others.
_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")
# Kinds of tensors without plain numbers, by the function that PyTorch would call.
_UNUSABLE = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "on the device meta, without values",
}
_MOST_DIMENSIONS = 32  # numpy crashes where an array's memory is given with too many
_SAVE_STATE = "Save model.state_dict() alone with torch.save, and convert that file."


def is_pytorch(path: Path) -> bool:
    """Whether a file's name ends as PyTorch's files do, or a .ckpt begins as they do.

    Raises:
        OSError: the .ckpt cannot be read.
    """
    if path.suffix != ".ckpt" or not path.is_file():
        return path.name.lower().endswith(ENDINGS)
    with open_to_read(path) as file:
        return file.read(4).startswith((ZIP, b"\x80"))  # MindSpore's begin with the number of a protobuf's field


def read_pth(path: Path) -> tuple[dict[str, NDArray], str]:
    """Every array of the file's state_dict by its name.

    Returns:
        The arrays, and where in the file they were, for a log: empty if they are all it holds.

    Raises:
        WeightFileError: the file is corrupted, or holds no state_dict.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    # torchvision's names end with the SHA-256, others with a date.
    hash_in_name = re.search(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.pth$", path.name)
    if hash_in_name and not hashlib.sha256(content).hexdigest().startswith(hash_in_name[1]):
        raise WeightFileError(
            f"{path}: corrupted: its SHA-256 does not begin with {hash_in_name[1]} from its name. Download it again, "
            "or rename it if that is no SHA-256."
        )
    try:
        value, storage = open_file(content)
        values, where = _state_dict(path, value)
        return {name: _array(path, name, entry, storage) for name, entry in values.items()}, where
    except WeightFileError:
        raise
    except Program as error:
        raise WeightFileError(
            f"{path}: got a program that {error} wrote, expected a state_dict. {_SAVE_STATE}"
        ) from None
    except OtherNumbers as error:
        raise WeightFileError(f"{path}: it has a tensor {error}, expected tensors of floats. {_SAVE_STATE}") from None
    except CodeError as error:
        raise WeightFileError(
            f"{path}: refused, and nothing in it was executed: it holds more than weights: {shown(error.name)}. "
            f"{_SAVE_STATE}"
        ) from None
    except RecursionError:
        raise WeightFileError(f"{path}: corrupted, or not written by torch.save: it is nested too deep") from None
    except ValueError as error:  # of ours; or of Python, whose texts of numbers have at most 4,300 digits
        raise WeightFileError(f"{path}: corrupted, or not written by torch.save: {error}") from None


def _state_dict(path: Path, value: Any) -> tuple[dict[str, Any], str]:
    """The names and tensors in what was pickled, and where they are in it."""
    whole = _entries(value)
    if whole is None:
        kind = value.name if isinstance(value, Call) else type(value).__name__
        raise WeightFileError(f"{path}: got {shown(kind)}, expected a state_dict (names to tensors). {_SAVE_STATE}")
    inside = {key: entries for key in whole if (entries := _entries(whole[key])) is not None}
    with_tensors = [key for key in inside if any(map(_is_tensor, inside[key].values()))]
    wrapper = next((key for key in _WRAPPERS if key in with_tensors), None)
    if wrapper is None:
        wrapper = with_tensors[0] if len(with_tensors) == 1 else next((key for key in _WRAPPERS if key in inside), None)
    if wrapper is None and with_tensors:
        raise WeightFileError(
            f"{path}: got {len(with_tensors)} state_dicts ({some(map(shown, with_tensors))}), expected one. "
            f"{_SAVE_STATE}"
        )
    entries = whole if wrapper is None else inside[wrapper]
    others = [printable(str(key)) for key in whole if key != wrapper]
    where = "" if wrapper is None else f"{shown(wrapper)}" + (f", and not {some(others)}" if others else "")
    if not entries:
        raise WeightFileError(f"{path}: its state_dict is empty. {_SAVE_STATE}")
    for name, entry in entries.items():
        if not isinstance(name, str):
            raise WeightFileError(f"{path}: got the key {shown(name)}, expected names of parameters. {_SAVE_STATE}")
        if not _is_tensor(entry) and not name.endswith("_extra_state"):
            kind = entry.name if isinstance(entry, Call) else type(entry).__name__
            raise WeightFileError(
                f"{path}: {shown(name)} is {shown(kind)}{f' in {shown(wrapper)}' if wrapper else ''}, expected a "
                f"tensor, because a state_dict maps names to tensors. {_SAVE_STATE}"
            )
    return {name: entry for name, entry in entries.items() if _is_tensor(entry)}, where


def _entries(value: Any) -> dict[Any, Any] | None:
    """The entries of a dict or of an object of its subclass; None of anything else."""
    return value if isinstance(value, dict) else value.entries or None if isinstance(value, Call) else None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Call) and value.name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild"))


def _array(path: Path, name: str, value: Call, storage: Callable[[Any], NDArray]) -> NDArray:
    """The array of a tensor; it shares its memory with others of the same storage."""
    try:
        array = _tensor(value, storage)
    except Unusable as error:
        raise WeightFileError(f"{path}: {shown(name)} is {error}, expected a tensor of floats. {_SAVE_STATE}") from None
    except (ValueError, TypeError, struct.error) as error:
        raise WeightFileError(f"{path}: corrupted: {shown(name)}: {error}") from None
    return array


def _tensor(value: Any, storage: Callable[[Any], NDArray], depth: int = 0) -> NDArray:
    """Carries out the call that a tensor is pickled as.

    Raises:
        Damage: it does not lie within its storage, or is no call that PyTorch writes.
        Unusable: it has no plain numbers.
    """
    if not isinstance(value, Call) or depth > 3:
        raise Damage("it is no tensor that PyTorch writes")
    kind, arguments = value.name, value.arguments
    if kind in _UNUSABLE:
        raise Unusable(_UNUSABLE[kind])
    if kind.startswith("torch._utils._rebuild_parameter") and arguments:
        return _tensor(arguments[0], storage, depth + 1)
    if kind == "torch._tensor._rebuild_from_type_v2" and len(arguments) > 2 and isinstance(arguments[0], Name):
        return _tensor(Call(arguments[0].text, arguments[2]), storage, depth + 1)
    if kind == "torch._utils._rebuild_tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], Name):
        raise Unusable(f"of {arguments[6].text}")
    if kind not in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor") or len(arguments) < 4:
        raise Unusable(f"made by {shown(kind)}")
    values, offset, shape, strides = arguments[:4]
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in (offset, *shape, *strides)):
        raise Damage(f"its shape {shown(shape)}, strides {shown(strides)} or offset {shown(offset)} is impossible")
    if len(shape) > _MOST_DIMENSIONS:
        raise Damage(f"it has {len(shape):,} dimensions")
    array = storage(values)
    if 0 in shape:
        return np.zeros(shape, array.dtype)
    if any(_metadata(arguments).values()):
        raise Unusable("a view of complex numbers")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    stored = math.prod(size for size, stride in zip(shape, strides, strict=True) if stride)  # others are repeated
    if last >= array.size or stored > array.size:
        raise Damage(f"shape {shown(shape)} from {offset} on needs more values than the {array.size:,} stored ones")
    steps = [stride * array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)


def _metadata(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """How the values of a tensor differ from the stored ones: `neg` and `conj` change their sign."""
    return arguments[6] if len(arguments) > 6 and isinstance(arguments[6], dict) else {}


def write_pth(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write float32 and int64 arrays as torch.save writes a state_dict; it gets its name only when it is complete.

    Raises:
        OSError: it cannot be written; an earlier file is unchanged.
    """
    kinds = {np.dtype(np.float32): "Float", np.dtype(np.int64): "Long"}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, data: bytes | memoryview) -> None:
            info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))  # same weights, same bytes
            padding = -(archive.fp.tell() + 30 + len(info.filename) + 4) % 64  # type: ignore[union-attr]
            info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding  # PyTorch maps values at such places
            archive.writestr(info, data)

        write("data.pkl", _pickled({name: (kinds[array.dtype], array) for name, array in arrays.items()}))
        write("byteorder", b"little")
        for number, array in enumerate(arrays.values()):
            write(f"data/{number}", np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        write("version", b"3\n")


def _pickled(arrays: Mapping[str, tuple[str, NDArray]]) -> bytes:
    """The pickle of a dict of tensors, whose values are the storages 0, 1, ..."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    parts = [b"\x80\x02}("]
    for index, (name, (kind, array)) in enumerate(arrays.items()):
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        parts += [
            text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"), f"ctorch\n{kind}Storage\n".encode(),
            text(str(index)), text("cpu"), number(array.size), b"tQ", number(0), numbers(array.shape), numbers(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]  # fmt: skip
    return b"".join([*parts, b"u."])
