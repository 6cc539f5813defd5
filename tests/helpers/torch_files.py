"""Writes files as torch.save does, in both formats and without PyTorch: for tests of what programs put into them."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
            "bfloat16": "BFloat16Storage", "int64": "LongStorage"}  # fmt: skip
V2 = "torch._utils._rebuild_tensor_v2"


class Called:
    """What is pickled as a call: `Called("torch._utils._rebuild_parameter", array, True, {})`; arrays are tensors."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments


class Storage:
    """What is pickled as the storage of an array, and saved apart from the pickle."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, storages: list[np.ndarray]) -> None:
        super().__init__(file, protocol=2)
        self.storages = storages

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        self.storages.append(value.array)
        kind = _named(f"torch.{STORAGES[value.array.dtype.name]}")
        return ("storage", kind, str(len(self.storages) - 1), "cpu", value.array.size)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            strides = tuple(stride // value.itemsize for stride in value.strides)
            return _named(V2), (Storage(value), 0, value.shape, strides, False, {})
        if isinstance(value, Called):
            return _named(value.name), value.arguments
        return NotImplemented


def _named(text: str) -> Any:
    """A function that is pickled as this name, which must then be found in its module."""
    module, name = text.rsplit(".", 1)
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(parent := ".".join(parts[:end]), types.ModuleType(parent))
    if not hasattr(sys.modules[module], name):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__ = module
        function.__qualname__ = name
        setattr(sys.modules[module], name, function)
    return getattr(sys.modules[module], name)


def pickled(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of a value, and the arrays that are saved beside it."""
    storages: list[np.ndarray] = []
    buffer = io.BytesIO()
    stand_ins = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch._tensor")}
    with mock.patch.dict(sys.modules, stand_ins):  # also where the real ones are installed
        _Pickler(buffer, storages).dump(value)
    return buffer.getvalue(), storages


def write_torch(path: Path, value: Any, *, older: bool = False, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write what torch.save(value, path) would; numpy arrays stand for tensors."""
    pickle_, storages = pickled(value)
    if older:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps(system, 2), pickle_,
                 pickle.dumps([str(number) for number in range(len(storages))], 2)]  # fmt: skip
        parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages]
        path.write_bytes(b"".join(parts))
        return path
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_)
        for number, array in enumerate(storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", b"3\n")
    return path


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The array rounded to bfloat16."""
    return array.astype(ml_dtypes.bfloat16)
