"""Opens the files of torch.save, in both formats: what was pickled, and the bytes of each storage.

The newer format is a zip archive: `data.pkl` says which tensors there are, and `data/0`, `data/1` ... hold their
bytes.  The older one has several pickles, and the bytes after them.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pipeline.common.text import shown
from train.weights.pickled import Call, CodeError, Name, Persistent, PickleError, read_pickle

_TYPES = {
    "Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16, "Long": np.int64,
    "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
    "ComplexFloat": np.complex64, "ComplexDouble": np.complex128,
}  # fmt: skip
ZIP = b"PK\x03\x04"  # how the newer format begins; a pickle begins with 0x80
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_LARGEST_PICKLE = 1 << 28


class Unusable(Exception):
    """What a tensor without plain numbers is."""


class Program(Exception):
    """A file that is a program with its weights; the text is the function that wrote it."""


class OtherNumbers(Exception):
    """A tensor without plain numbers in the older format, where the place of the next one depends on them."""


class Damage(ValueError):
    """What is wrong with a file, in a few words."""


def open_file(content: bytes) -> tuple[Any, Callable[[Any], NDArray]]:
    """What was pickled, and a function that gives the array of a storage in it.

    Raises:
        Damage: it is no file of torch.save, or corrupted.
        Program: it is a program.
        CodeError, PickleError: as `read_pickle`.
    """
    return _open_zip(content) if content[:4] == ZIP else _open_older(content)


def _open_zip(content: bytes) -> tuple[Any, Callable[[Any], NDArray]]:
    """What `data.pkl` of a zip archive says, and a function that gives the array of a storage."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in entries):
                raise Program("torch.jit.save")
            if any(name.count("/") == 2 and name.endswith("/models/model.json") for name in entries):
                raise Program("torch.export.save")
            if len(entries) < len(archive.infolist()):
                raise Damage("two files in its zip archive have the same name")
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise Damage("its zip archive is compressed")
            if sum(info.file_size for info in entries.values()) > len(content):
                raise Damage("files in its zip archive overlap")
            if broken := archive.testzip():
                raise Damage(f"the CRC of {shown(broken)} in it is wrong. Download it again")
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise Damage("its zip archive has no data.pkl, so that it holds no weights")
            folder = pickles[0].removesuffix("data.pkl")
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
            if order.strip() != b"little":
                raise Damage(f"its numbers are {shown(order.decode('latin-1'))}-endian, expected little")
            if entries[pickles[0]].file_size > _LARGEST_PICKLE:
                raise Damage("its data.pkl is too large")
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
        if isinstance(error, (Damage, PickleError, CodeError)):
            raise
        raise Damage(f"its zip archive cannot be read: {error}") from None

    def storage(key: Any) -> NDArray:
        name, dtype, count, _ = _storage_of(key)
        info = entries.get(f"{folder}data/{name}")
        if info is None:
            raise Damage(f"its values, data/{shown(name)}, are missing")
        if info.file_size < count * np.dtype(dtype).itemsize:
            raise Damage(f"its storage has {info.file_size:,} bytes, expected {count:,} values")
        return np.frombuffer(content, dtype, count, starts[info.filename])

    return value, storage


def _data_start(content: bytes, header: int) -> int:
    name, extra = struct.unpack_from("<HH", content, header + 26)
    return header + 30 + name + extra


def _open_older(content: bytes) -> tuple[Any, Callable[[Any], NDArray]]:
    """The same of the format that PyTorch had before 1.6."""
    if not content:
        raise Damage("it is empty")
    file = io.BytesIO(content)
    first = read_pickle(file)
    if first != _MAGIC:
        raise Damage("it does not begin as PyTorch's files do")
    protocol, system = read_pickle(file), read_pickle(file)
    if protocol != _PROTOCOL:
        raise Damage(f"its protocol is {shown(protocol)}, expected {_PROTOCOL}")
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise Damage("its numbers are big-endian, expected little")
    value, keys = read_pickle(file), read_pickle(file)
    if not isinstance(keys, list):
        raise Damage("its list of storages is missing")
    end_of_pickles = file.tell()

    @functools.cache
    def starts() -> dict[str, tuple[type, int, int]]:
        """Type, first byte and number of values of each storage; only called where a tensor's values are wanted."""
        types, places, at = _types_in(value), {}, end_of_pickles
        for key in map(str, keys):
            if key not in types:
                raise Damage(f"storage {shown(key)} has no type")
            (count,) = struct.unpack_from("<q", content, at) if at + 8 <= len(content) else (-1,)
            size = count * np.dtype(types[key]).itemsize
            if count < 0 or len(content) < at + 8 + size:
                raise Damage("the file ends early")
            places[key] = types[key], at + 8, count
            at += 8 + size
        return places

    def storage(key: Any) -> NDArray:
        name, dtype, count, rest = _storage_of(key)
        places = starts()
        if name not in places or dtype is not places[name][0]:
            raise Damage(f"its values, storage {shown(name)}, are missing")
        _, start, stored = places[name]
        offset = 0
        if rest and rest[0] is not None:  # a part of the storage: key, offset, count
            _, offset, count = rest[0] if isinstance(rest[0], tuple) and len(rest[0]) == 3 else (0, -1, 0)
        if type(offset) is not int or type(count) is not int or offset < 0 or not 0 <= count <= stored - offset:
            raise Damage(f"its storage has {stored:,} values, expected {shown(count)}")
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
            except Unusable as error:  # where the next one begins is unknown
                raise OtherNumbers(str(error)) from None
            types[name] = dtype
        elif isinstance(one, (dict, list, tuple, Call)) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one.arguments if isinstance(one, Call) else one
            waiting += one.entries.values() if isinstance(one, Call) else ()
    return types


def _storage_of(key: Any) -> tuple[str, type, int, tuple[Any, ...]]:
    """Key, type of numbers, how many of them, and what else a persistent id of PyTorch has.

    Raises:
        Damage: it is none.
        Unusable: its numbers are none that numpy has.
    """
    if not isinstance(key, Persistent) or not isinstance(key.key, tuple) or len(key.key) < 5:
        raise Damage("it has no storage")
    mark, kind, name, _, count, *rest = key.key
    if mark != "storage" or not isinstance(kind, Name) or type(count) is not int or count < 0:
        raise Damage(f"its storage {shown(key.key)} is impossible")
    dtype = _TYPES.get(kind.text.removeprefix("torch.").removesuffix("Storage"))
    if dtype is None:
        raise Unusable(f"of {shown(kind.text)}")
    return str(name), dtype, count, tuple(rest)
