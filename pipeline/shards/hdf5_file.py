"""Reads the part of HDF5 that shards use, without libhdf5, which crashes, hangs or opens other files by a hostile one.

A shard is made with libhdf5's oldest format: a superblock of version 0, groups as B-trees of names, object headers of
version 1 and contiguous datasets ("HDF5 File Format Specification", version 1.1).  Everything else is refused: links,
chunks, filters, external and virtual datasets, shared or nested types.  No number of the file is trusted: what is read
lies in the file, and is of bounded size.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 1 << 20
"""Rows of a table, and names in a group: a shard has at most as many videos."""
_MAX_TABLE_BYTES = 1 << 28
_MAX_HEADER_BYTES = 1 << 20
_MAX_BLOCKS = 64  # of one object header
_MAX_NAME_BYTES = 1 << 12
_MAX_TEXT_BYTES = 1 << 16
_MAX_NUMBER = 1 << 62
_FANOUT, _IN_LEAF = 32, 8  # of a B-tree of names; libhdf5's, which no shard changes

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = (1 << 64) - 1
# Messages of an object header.
_NIL, _SPACE, _TYPE, _OLD_FILL, _FILL, _LAYOUT, _ATTRIBUTE, _CONTINUATION, _GROUP, _MODIFIED = (
    0x00, 0x01, 0x03, 0x04, 0x05, 0x08, 0x0C, 0x10, 0x11, 0x12,
)  # fmt: skip
_OF_A_DATASET = {_NIL, _SPACE, _TYPE, _OLD_FILL, _FILL, _LAYOUT, _CONTINUATION, _MODIFIED}
_OF_A_GROUP = {_NIL, _ATTRIBUTE, _CONTINUATION, _GROUP, _MODIFIED}

# Types as they are in a file.  A fixed-length text is one of the two below and its length.
_NUMBERS = {
    bytes.fromhex(encoded): np.dtype(name)
    for name, encoded in {
        "uint8": "10000000 01000000 00000800",
        "uint32": "10000000 04000000 00002000",
        "int64": "10080000 08000000 00004000",
        "float32": "11201f00 04000000 00002000 17080017 7f000000",
        "float64": "11203f00 08000000 00004000 340b0034 ff030000",
    }.items()
}
_TEXT, _UTF8_TEXT = bytes.fromhex("13010000"), bytes.fromhex("13110000")  # the second where a text is beyond ASCII
_INT = bytes.fromhex("10080000 08000000 00004000")
_VARIABLE_TEXT = bytes.fromhex("19010100 10000000 10000000 01000000 00000800")
_BOOL = bytes.fromhex("18020000 01000000 10080000 01000000 00000800") + b"FALSE\0\0\0TRUE\0\0\0\0" + b"\0\1"
_CONTIGUOUS = b"\3\1"  # version and class of a layout
_SCALAR = b"\1" + bytes(7)


class Hdf5Error(ValueError):
    """What a file has that no shard has; one line."""


class Dataset(NamedTuple):
    """Shape, dtype and byte offset of a contiguous dataset; an empty one may have no offset."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class Hdf5File:
    """An HDF5 file as shards are.

    Args:
        fd: the file, open for reading; not closed here.

    Raises:
        Hdf5Error: it is none.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        superblock = self._bytes(0, 96)
        versions, sizes, base = superblock[8:13], superblock[13:15], superblock[24:32]
        if not superblock.startswith(_SIGNATURE) or any(versions) or sizes != b"\x08\x08" or any(base):
            raise Hdf5Error("no superblock of version 0")
        self._root = self._messages(_unpack("<Q", superblock, 64)[0], _OF_A_GROUP, "/")
        self._groups: dict[str, dict[str, int | None]] = {}

    def attribute(self, name: str) -> str | int | bool:
        """An attribute of the file.

        Raises:
            Hdf5Error: it is missing, or of another type than shards have.
        """
        values = [data for kind, data in self._root if kind == _ATTRIBUTE and _attribute_name(data) == name.encode()]
        if len(values) != 1:
            raise Hdf5Error(f"{len(values)} attributes {name}, expected 1")
        data = values[0]
        _, name_bytes, type_bytes, space_bytes = _unpack("<BxHHH", data, 0)
        begin = 8 + _padded(name_bytes)
        encoded = data[begin : begin + type_bytes]
        begin += _padded(type_bytes)
        space = data[begin : begin + space_bytes]
        begin += _padded(space_bytes)
        if space == _SCALAR and encoded == _VARIABLE_TEXT:
            return self._text(*_unpack("<IQI", data, begin))
        if space == _SCALAR and encoded == _INT:
            return int(_unpack("<q", data, begin)[0])
        if space == _SCALAR and encoded == _BOOL:
            return bool(_unpack("<?", data, begin)[0])
        raise Hdf5Error(f"the attribute {name} is of another type than in a shard")

    def names(self, group: str = "") -> frozenset[str]:
        """The names in a group, or in the file.

        Raises:
            Hdf5Error: it is not a group of this file.
        """
        return frozenset(self._members(group))

    def dataset(self, name: str) -> Dataset:
        """The place of a dataset, `name` or `group/name`.

        Raises:
            Hdf5Error: it is not a contiguous dataset that lies completely in this file.
        """
        group, _, member = name.rpartition("/")
        header = self._members(group).get(member)
        if header is None:
            raise Hdf5Error(f"{name} is not in this file")
        messages = self._messages(header, _OF_A_DATASET, name)
        spaces, types, layouts = (
            [data for kind, data in messages if kind == wanted] for wanted in (_SPACE, _TYPE, _LAYOUT)
        )
        if not len(spaces) == len(types) == len(layouts) == 1:
            raise Hdf5Error(f"{name} is not a contiguous dataset of this file")
        shape, dtype = _shape(spaces[0], name), _dtype(types[0], name)
        if not layouts[0].startswith(_CONTIGUOUS):
            raise Hdf5Error(f"{name} is not a contiguous dataset of this file")
        address, nbytes = _unpack("<QQ", layouts[0], len(_CONTIGUOUS))
        dataset = Dataset(shape, dtype, None if address == _NOWHERE else address)
        if nbytes != dataset.nbytes:
            raise Hdf5Error(f"{name} has {nbytes} bytes, expected {dataset.nbytes}")
        if nbytes and (dataset.offset is None or dataset.offset + nbytes > self._size):
            raise Hdf5Error(f"the file is truncated: {name} ends after the file does")
        return dataset

    def rows(self, name: str) -> NDArray[Any]:
        """The rows of a table, a read-only structured array.

        Raises:
            Hdf5Error: it is not a table of this file, or has more rows or bytes than that of any shard.
        """
        dataset = self.dataset(name)
        if len(dataset.shape) != 1 or dataset.dtype.names is None:
            raise Hdf5Error(f"{name} is not a table")
        if dataset.shape[0] > MAX_ROWS or dataset.nbytes > _MAX_TABLE_BYTES:
            what = f"{dataset.shape[0]:,} rows in {dataset.nbytes:,} bytes"
            raise Hdf5Error(f"{name} has {what}, expected at most {MAX_ROWS:,} in {_MAX_TABLE_BYTES:,}")
        data = self._bytes(dataset.offset, dataset.nbytes) if dataset.offset is not None else b""
        return np.frombuffer(data, dataset.dtype)

    def _bytes(self, offset: int, nbytes: int) -> bytes:
        """Bytes of the file."""
        if not offset <= offset + nbytes <= self._size:
            raise Hdf5Error(f"the file is truncated: {nbytes} bytes at {offset} end after the file does")
        data = os.pread(self._fd, nbytes, offset)
        if len(data) != nbytes:
            raise Hdf5Error("the file was truncated after it was opened")
        return data

    def _messages(self, address: int, allowed: set[int], name: str) -> list[tuple[int, bytes]]:
        """The messages of an object header: number of the kind, and content."""
        kind = "dataset" if allowed is _OF_A_DATASET else "group"
        version, count, nbytes = _unpack("<BxHxxxxI", self._bytes(address, 16), 0)
        if version != 1:
            raise Hdf5Error(f"{name} is not a {kind} of this file")
        messages: list[tuple[int, bytes]] = []
        blocks, read_bytes = [(address + 16, nbytes)], 0
        for begin, nbytes in blocks:  # grows
            read_bytes += nbytes
            if read_bytes > _MAX_HEADER_BYTES or len(blocks) > _MAX_BLOCKS:
                raise Hdf5Error(f"the object header of {name} has no end")
            block, place = self._bytes(begin, nbytes), 0
            while place + 8 <= nbytes and len(messages) < count:
                number, length, flags = _unpack("<HHB", block, place)
                data = block[place + 8 : place + 8 + length]
                if number not in allowed or flags & 2 or len(data) != length:  # 2: the content is elsewhere
                    contiguous = "contiguous " if kind == "dataset" else ""
                    raise Hdf5Error(f"{name} is not a {contiguous}{kind} of this file")
                if number == _CONTINUATION:
                    blocks.append(_unpack("<QQ", data, 0))
                messages.append((number, data))
                place += 8 + length
        return messages

    def _members(self, group: str) -> dict[str, int | None]:
        """The object header of each name in a group; None for a link to elsewhere."""
        if group not in self._groups:
            messages = self._root
            if group:
                header = self._members("").get(group)
                if header is None:
                    raise Hdf5Error(f"{group} is not in this file")
                messages = self._messages(header, _OF_A_GROUP, group)
            tables = [data for kind, data in messages if kind == _GROUP]
            if len(tables) != 1:
                raise Hdf5Error(f"{group or '/'} is not a group of this file")
            tree, heap = _unpack("<QQ", tables[0], 0)
            self._groups[group] = self._entries(tree, heap, group or "/")
        return self._groups[group]

    def _entries(self, tree: int, heap: int, group: str) -> dict[str, int | None]:
        signature, nbytes, _, address = _unpack("<8sQQQ", self._bytes(heap, 32), 0)
        if signature != b"HEAP\0\0\0\0" or nbytes > _MAX_TABLE_BYTES:
            raise Hdf5Error(f"the names of {group} have no heap")
        texts = self._bytes(address, nbytes)
        members: dict[str, int | None] = {}
        names_bytes = 0
        for leaf in self._leaves(tree, group):
            signature, version, count = _unpack("<4sBxH", self._bytes(leaf, 8), 0)
            if signature != b"SNOD" or version != 1 or count > _IN_LEAF:
                raise Hdf5Error(f"the names of {group} have no table")
            for place, header, cached in struct.iter_unpack("<QQIxxxx16x", self._bytes(leaf + 8, 40 * count)):
                stop = texts.find(b"\0", place, place + _MAX_NAME_BYTES) if place < nbytes else -1
                name = texts[place:stop].decode() if stop >= 0 else ""
                names_bytes += len(name) + 1
                if not name or name in members or names_bytes > nbytes or len(members) == MAX_ROWS:
                    raise Hdf5Error(f"the names of {group} are none, too many, or not unique")
                members[name] = header if cached < 2 else None
        return members

    def _leaves(self, tree: int, group: str) -> Iterator[int]:
        """The leaves of a B-tree of names; no part of it is visited twice."""
        nodes = [(tree, -1)]  # the root may be of any level
        visited = {tree}
        while nodes:
            node, expected = nodes.pop()
            signature, kind, level, count = _unpack("<4sBBH", self._bytes(node, 8), 0)
            if (signature, kind) != (b"TREE", 0) or expected not in (-1, level) or count > _FANOUT:
                raise Hdf5Error(f"the names of {group} have no tree")
            children = [child for (child,) in struct.iter_unpack("<8xQ", self._bytes(node + 24, 16 * count))]
            size = len(visited) + count
            visited.update(children)
            if len(visited) < size or size > MAX_ROWS:
                raise Hdf5Error(f"the names of {group} are too many, or their tree has a circle")
            if level == 0:
                yield from children
            else:
                nodes += [(child, level - 1) for child in reversed(children)]

    def _text(self, nbytes: int, address: int, number: int) -> str:
        """A text in a collection of texts."""
        signature, size = _unpack("<8sQ", self._bytes(address, 16), 0)
        if signature != b"GCOL\1\0\0\0" or not max(16, nbytes) <= size <= _MAX_HEADER_BYTES:
            raise Hdf5Error("the attributes' texts are not in this file")
        texts, place = self._bytes(address, size), 16
        while place + 16 <= size:
            index, length = _unpack("<HxxxxxxQ", texts, place)
            if index == 0:
                break
            if index == number and nbytes <= length <= _MAX_TEXT_BYTES and place + 16 + nbytes <= size:
                return texts[place + 16 : place + 16 + nbytes].decode()
            place += 16 + _padded(length)
        raise Hdf5Error("an attribute's text is not in this file")


def _unpack(layout: str, data: bytes, at: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error:
        raise Hdf5Error("a part of it is cut off") from None


def _padded(nbytes: int) -> int:
    return -(-nbytes // 8) * 8


def _attribute_name(data: bytes) -> bytes:
    version, name_bytes = _unpack("<BxH", data, 0)
    if version != 1:
        raise Hdf5Error("an attribute of another version than in a shard")
    return data[8 : 8 + name_bytes].rstrip(b"\0")


def _shape(data: bytes, name: str) -> tuple[int, ...]:
    """The shape in a dataspace message."""
    version, rank, flags = _unpack("<BBB", data, 0)
    if version != 1 or rank > 4 or flags > 1:
        raise Hdf5Error(f"{name} has another shape than a dataset of a shard")
    shape = _unpack(f"<{rank}Q", data, 8)
    if flags and _unpack(f"<{rank}Q", data, 8 + 8 * rank) != shape:
        raise Hdf5Error(f"{name} is not of fixed size")
    if math.prod(shape) > _MAX_NUMBER:
        raise Hdf5Error(f"{name} has {math.prod(shape)} items")
    return shape


def _dtype(data: bytes, name: str) -> np.dtype[Any]:
    """The dtype in a datatype message: a number, or a structure of numbers and texts."""
    if data[:1] != b"\x16":
        dtype, _ = _plain_dtype(data, 0, name)
        return dtype
    count, zero, nbytes = _unpack("<xHBI", data, 0)
    fields: dict[str, np.dtype[Any]] = {}
    place, offset = 8, 0
    for _ in range(count):
        stop = data.find(b"\0", place)
        field = data[place:stop].decode("ascii") if stop > place else ""
        place += _padded(len(field) + 1)
        if _unpack("<I28s", data, place) != (offset, bytes(28)) or not field or field in fields:
            raise Hdf5Error(f"{name} has other columns than in a shard")
        fields[field], place = _plain_dtype(data, place + 32, name)
        offset += fields[field].itemsize
    if offset != nbytes or zero or not fields:
        raise Hdf5Error(f"{name} has other columns than in a shard")
    return np.dtype(list(fields.items()))


def _plain_dtype(data: bytes, at: int, name: str) -> tuple[np.dtype[Any], int]:
    """The dtype of a number or text, and where it ends."""
    for nbytes in (12, 20):
        dtype = _NUMBERS.get(data[at : at + nbytes])
        if dtype is not None:
            return dtype, at + nbytes
    kind, length = _unpack("<4sI", data, at)
    if kind not in (_TEXT, _UTF8_TEXT) or not 1 <= length <= _MAX_NAME_BYTES:
        raise Hdf5Error(f"{name} has another dtype than in a shard")
    return np.dtype(f"S{length}"), at + 8
