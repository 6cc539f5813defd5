"""Gives a loaded library a second name, under which other libraries open it.

cuDNN 8.9 opens `libnvrtc.so` and `libcuda.so`, names that NVIDIA's wheels and many drivers do not have, and a search
path must be set before a process starts.  But `dlopen` takes a library that is already in the process if its soname is
the name, and `dlsym` also searches the libraries that this one needs.  So an empty library with the one name that needs
the other is a second name.  It is so small that it is written here byte by byte, into memory: no compiler, no file.
"""

from __future__ import annotations

import ctypes
import os
import struct

_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 1, 4, 5, 6, 10, 11, 14
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE = 6
_PAGE = 0x1000

_open_files: dict[str, int] = {}  # kept open: the loader takes two libraries at one path for the same


def load_alias(name: str, soname: str) -> None:
    """Load an empty library whose soname is `name` and which needs `soname`.

    Args:
        name: the second name, such as libnvrtc.so.
        soname: a library that is already in the process or that the loader finds, such as libnvrtc.so.11.2.

    Raises:
        OSError: the library cannot be loaded.
    """
    if name in _open_files:
        return
    file = os.memfd_create(name)
    try:
        os.write(file, empty_library(name, soname))
        ctypes.CDLL(f"/proc/self/fd/{file}")
    except OSError:
        os.close(file)
        raise
    _open_files[name] = file


def empty_library(name: str, needed: str) -> bytes:
    """An ELF shared library for x86-64 without any function, whose soname is `name` and which needs `needed`."""
    strings = b"\0" + name.encode() + b"\0" + needed.encode() + b"\0"
    symbols_at = 64 + 3 * 56  # after the header and three program headers
    hash_at = symbols_at + 24  # after one empty symbol
    dynamic_at = hash_at + 16 + 8  # 8: the dynamic section is aligned to 16 bytes
    strings_at = dynamic_at + 8 * 16
    size = strings_at + len(strings)
    dynamic = [
        (_DT_SONAME, 1), (_DT_NEEDED, 2 + len(name.encode())), (_DT_HASH, hash_at), (_DT_STRTAB, strings_at),
        (_DT_SYMTAB, symbols_at), (_DT_STRSZ, len(strings)), (_DT_SYMENT, 24), (0, 0),
    ]  # fmt: skip
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        b"\x7fELF", 2, 1, 1, 0, 0,  # 64 bits, little-endian
        3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0,  # a shared library for x86-64 without sections
    )  # fmt: skip
    program = [
        (_PT_LOAD, 0, size, _PAGE),
        (_PT_DYNAMIC, dynamic_at, 8 * 16, 16),
        (_PT_GNU_STACK, 0, 0, 16),  # without it the loader would make the stack executable
    ]
    return b"".join(
        (
            header,
            *(
                struct.pack("<IIQQQQQQ", kind, _READ_WRITE, at, at, at, length, length, align)
                for kind, at, length, align in program
            ),
            bytes(24),
            struct.pack("<4I", 1, 1, 0, 0),  # a hash table with one bucket and no symbol
            bytes(8),
            *(struct.pack("<QQ", *entry) for entry in dynamic),
            strings,
        )
    )
