"""Reads the weights in PyTorch's files without PyTorch, and writes them: both formats of torch.save.

The newer format is a zip archive: `data.pkl` says which tensors there are, and `data/0`, `data/1` ... hold their
bytes.  The older one has several pickles, and the bytes after them.  A file is read completely or refused; nothing in
it is executed (pickled.py).
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import open_to_read, replacing
from pipeline.common.text import printable, shown, some
from train.weights.files import WeightFileError
from train.weights.pickled import Call, CodeError, Name, Persistent, PickleError, read_pickle

ENDINGS = (".pth", ".pt", ".pth.tar", ".bin")
"""How PyTorch's files of weights end, in any case of the letters; Lightning's end in .ckpt, as MindSpore's do."""

_TYPES = {
    "Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16, "Long": np.int64,
    "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
    "ComplexFloat": np.complex64, "ComplexDouble": np.complex128,
}  # fmt: skip
# Where training programs keep the weights beside other things: torchvision's references; mmaction2 and Lightning;
# PySlowFast; others.
_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")
_ZIP = b"PK\x03\x04"  # how the newer format begins; a pickle begins with 0x80
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_LARGEST_PICKLE = 1 << 28
# Kinds of tensors without plain numbers, by the function that PyTorch would call.
_UNUSABLE = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "on the device meta, without values",
}
_SAVE_STATE = "Save model.state_dict() alone with torch.save, and convert that file."


class _Unusable(Exception):
    """What a tensor without plain numbers is."""


class _Program(Exception):
    """A file that is a program with its weights; the text is the function that wrote it."""


class _OtherNumbers(Exception):
    """A tensor without plain numbers in the older format, where the place of the next one depends on them."""


class _Damage(ValueError):
    """What is wrong with a file, in a few words."""


def is_pytorch(path: Path) -> bool:
    """Whether a file's name ends as PyTorch's files do, or a .ckpt begins as they do.

    Raises:
        OSError: the .ckpt cannot be read.
    """
    if path.suffix != ".ckpt" or not path.is_file():
        return path.name.lower().endswith(ENDINGS)
    with open_to_read(path) as file:
        return file.read(4).startswith((_ZIP, b"\x80"))  # MindSpore's begin with the number of a protobuf's field


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
        value, storage = _open_zip(content) if content[:4] == _ZIP else _open_older(content)
        values, where = _state_dict(path, value)
        return {name: _array(path, name, entry, storage) for name, entry in values.items()}, where
    except WeightFileError:
        raise
    except _Program as error:
        raise WeightFileError(
            f"{path}: got a program that {error} wrote, expected a state_dict. {_SAVE_STATE}"
        ) from None
    except _OtherNumbers as error:
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
    except _Unusable as error:
        raise WeightFileError(f"{path}: {shown(name)} is {error}, expected a tensor of floats. {_SAVE_STATE}") from None
    except (ValueError, TypeError, struct.error) as error:
        raise WeightFileError(f"{path}: corrupted: {shown(name)}: {error}") from None
    return array


def _tensor(value: Any, storage: Callable[[Any], NDArray], depth: int = 0) -> NDArray:
    """Carries out the call that a tensor is pickled as.

    Raises:
        _Damage: it does not lie within its storage, or is no call that PyTorch writes.
        _Unusable: it has no plain numbers.
    """
    if not isinstance(value, Call) or depth > 3:
        raise _Damage("it is no tensor that PyTorch writes")
    kind, arguments = value.name, value.arguments
    if kind in _UNUSABLE:
        raise _Unusable(_UNUSABLE[kind])
    if kind.startswith("torch._utils._rebuild_parameter") and arguments:
        return _tensor(arguments[0], storage, depth + 1)
    if kind == "torch._tensor._rebuild_from_type_v2" and len(arguments) > 2 and isinstance(arguments[0], Name):
        return _tensor(Call(arguments[0].text, arguments[2]), storage, depth + 1)
    if kind == "torch._utils._rebuild_tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], Name):
        raise _Unusable(f"of {arguments[6].text}")
    if kind not in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor") or len(arguments) < 4:
        raise _Unusable(f"made by {shown(kind)}")
    values, offset, shape, strides = arguments[:4]
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in (offset, *shape, *strides)):
        raise _Damage(f"its shape {shown(shape)}, strides {shown(strides)} or offset {shown(offset)} is impossible")
    array = storage(values)
    if 0 in shape:
        return np.zeros(shape, array.dtype)
    if any(_metadata(arguments).values()):
        raise _Unusable("a view of complex numbers")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    stored = math.prod(size for size, stride in zip(shape, strides, strict=True) if stride)  # others are repeated
    if last >= array.size or stored > array.size:
        raise _Damage(f"shape {shape} from {offset} on needs more values than the {array.size:,} stored ones")
    steps = [stride * array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)


def _metadata(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """How the values of a tensor differ from the stored ones: `neg` and `conj` change their sign."""
    return arguments[6] if len(arguments) > 6 and isinstance(arguments[6], dict) else {}


def _storage_of(key: Any) -> tuple[str, type, int, tuple[Any, ...]]:
    """Key, type of numbers, how many of them, and what else a persistent id of PyTorch has.

    Raises:
        _Damage: it is none.
        _Unusable: its numbers are none that numpy has.
    """
    if not isinstance(key, Persistent) or not isinstance(key.key, tuple) or len(key.key) < 5:
        raise _Damage("it has no storage")
    mark, kind, name, _, count, *rest = key.key
    if mark != "storage" or not isinstance(kind, Name) or type(count) is not int or count < 0:
        raise _Damage(f"its storage {shown(key.key)} is impossible")
    dtype = _TYPES.get(kind.text.removeprefix("torch.").removesuffix("Storage"))
    if dtype is None:
        raise _Unusable(f"of {shown(kind.text)}")
    return str(name), dtype, count, tuple(rest)


def _open_zip(content: bytes) -> tuple[Any, Callable[[Any], NDArray]]:
    """What `data.pkl` of a zip archive says, and a function that gives the array of a storage."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in entries):
                raise _Program("torch.jit.save")
            if any(name.count("/") == 2 and name.endswith("/models/model.json") for name in entries):
                raise _Program("torch.export.save")
            if len(entries) < len(archive.infolist()):
                raise _Damage("two files in its zip archive have the same name")
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise _Damage("its zip archive is compressed")
            if sum(info.file_size for info in entries.values()) > len(content):
                raise _Damage("files in its zip archive overlap")
            if broken := archive.testzip():
                raise _Damage(f"the CRC of {shown(broken)} in it is wrong. Download it again")
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _Damage("its zip archive has no data.pkl, so that it holds no weights")
            folder = pickles[0].removesuffix("data.pkl")
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
            if order.strip() != b"little":
                raise _Damage(f"its numbers are {shown(order.decode('latin-1'))}-endian, expected little")
            if entries[pickles[0]].file_size > _LARGEST_PICKLE:
                raise _Damage("its data.pkl is too large")
            value = read_pickle(io.BytesIO(archive.read(pickles[0])))
            # Where the bytes of each storage are: after its local header, whose length is in it.
            starts = {name: _data_start(content, info.header_offset) for name, info in entries.items()}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        RuntimeError,
        OSError,
        ValueError,
        struct.error,
    ) as error:
        if isinstance(error, (_Damage, PickleError, CodeError)):
            raise
        raise _Damage(f"its zip archive cannot be read: {error}") from None

    def storage(key: Any) -> NDArray:
        name, dtype, count, _ = _storage_of(key)
        info = entries.get(f"{folder}data/{name}")
        if info is None:
            raise _Damage(f"its values, data/{shown(name)}, are missing")
        if info.file_size < count * np.dtype(dtype).itemsize:
            raise _Damage(f"its storage has {info.file_size:,} bytes, expected {count:,} values")
        return np.frombuffer(content, dtype, count, starts[info.filename])

    return value, storage


def _data_start(content: bytes, header: int) -> int:
    name, extra = struct.unpack_from("<HH", content, header + 26)
    return header + 30 + name + extra


def _open_older(content: bytes) -> tuple[Any, Callable[[Any], NDArray]]:
    """The same of the format that PyTorch had before 1.6."""
    if not content:
        raise _Damage("it is empty")
    file = io.BytesIO(content)
    first = read_pickle(file)
    if first != _MAGIC:
        raise _Damage("it does not begin as PyTorch's files do")
    protocol, system = read_pickle(file), read_pickle(file)
    if protocol != _PROTOCOL:
        raise _Damage(f"its protocol is {shown(protocol)}, expected {_PROTOCOL}")
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise _Damage("its numbers are big-endian, expected little")
    value, keys = read_pickle(file), read_pickle(file)
    if not isinstance(keys, list):
        raise _Damage("its list of storages is missing")
    end_of_pickles = file.tell()

    @functools.cache
    def starts() -> dict[str, tuple[type, int, int]]:
        """Type, first byte and number of values of each storage; only called where a tensor's values are wanted."""
        types, places, at = _types_in(value), {}, end_of_pickles
        for key in map(str, keys):
            if key not in types:
                raise _Damage(f"storage {shown(key)} has no type")
            (count,) = struct.unpack_from("<q", content, at) if at + 8 <= len(content) else (-1,)
            size = count * np.dtype(types[key]).itemsize
            if count < 0 or len(content) < at + 8 + size:
                raise _Damage("the file ends early")
            places[key] = types[key], at + 8, count
            at += 8 + size
        return places

    def storage(key: Any) -> NDArray:
        name, dtype, count, rest = _storage_of(key)
        places = starts()
        if name not in places or dtype is not places[name][0]:
            raise _Damage(f"its values, storage {shown(name)}, are missing")
        _, start, stored = places[name]
        offset = 0
        if rest and rest[0] is not None:  # a part of the storage: key, offset, count
            _, offset, count = rest[0] if isinstance(rest[0], tuple) and len(rest[0]) == 3 else (0, -1, 0)
        if type(offset) is not int or type(count) is not int or offset < 0 or not 0 <= count <= stored - offset:
            raise _Damage(f"its storage has {stored:,} values, expected {shown(count)}")
        return np.frombuffer(content, dtype, count, start + offset * np.dtype(dtype).itemsize)

    return value, storage


def _types_in(value: Any) -> dict[str, type]:
    """The type of each storage in what was pickled, by its key."""
    types: dict[str, type] = {}
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Persistent):
            try:
                name, dtype, _, _ = _storage_of(one)
            except _Unusable as error:  # where the next one begins is unknown
                raise _OtherNumbers(str(error)) from None
            types[name] = dtype
        elif isinstance(one, (dict, list, tuple, Call)) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one.arguments if isinstance(one, Call) else one
            waiting += one.entries.values() if isinstance(one, Call) else ()
    return types


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
