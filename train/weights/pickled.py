"""Reads the pickles in PyTorch's files as plain data: nothing in them is executed, and no name in them is imported.

Python's own pickle imports and calls what a file names.  Here the operations that plain data needs are carried out one
by one, and a name stays a name: a call becomes a `Call`, which only train/weights/pytorch.py gives a meaning.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

# What the usual programs save beside weights: settings, counters, histories.  It is not looked at.
_HARMLESS = {
    "_codecs", "argparse", "collections", "copyreg", "copy_reg", "datetime", "enum", "functools", "lightning",
    "lightning_fabric", "mmaction", "mmcv", "mmengine", "numpy", "omegaconf", "pathlib", "pytorch_lightning",
    "torch", "typing",
}  # fmt: skip
_BUILTINS = ("builtins", "__builtin__")
_HARMLESS_BUILTINS = {"bool", "bytearray", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object",
                      "range", "set", "slice", "str", "tuple"}  # fmt: skip
# Functions that are called where such things are saved.  Other names that begin with a small letter do things, such as
# `torch.hub.load`; classes and PyTorch's own ways to rebuild begin with a capital letter or an underscore.
_HARMLESS_FUNCTIONS = {
    "dtype", "scalar", "ndarray", "device", "encode", "partial", "date", "datetime", "time", "timedelta", "timezone",
    "deque", "defaultdict",
}  # fmt: skip
_MOST_OPERATIONS = 5_000_000  # a training state of a thousand tensors has about 100,000


class PickleError(ValueError):
    """Bytes that are no pickle of plain data."""


class CodeError(ValueError):
    """A pickle that needs code; `name` is what it would import."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Name:
    """A name that the pickle would import, such as `torch.FloatStorage`."""

    text: str


@dataclass(eq=False)
class Call:
    """A call that was not carried out, or an object whose class was not imported."""

    name: str
    arguments: tuple[Any, ...] = ()
    entries: dict[Any, Any] = field(default_factory=dict)  # of a subclass of dict

    def __repr__(self) -> str:
        return f"{self.name}(...)"


@dataclass(eq=False)
class Persistent:
    """What the file stores outside the pickle: a storage of PyTorch."""

    key: Any

    def __repr__(self) -> str:
        return "a storage"


_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(file: BytesIO) -> Any:
    """The value of the pickle at the position of `file`, which then stands behind it.

    Returns:
        Numbers, texts, lists, tuples, sets and dicts, and in them Name, Call and Persistent.  An OrderedDict is a dict.

    Raises:
        CodeError: it needs a name that is none of the usual ones beside weights.
        PickleError: it is no pickle, or ends early.
    """
    try:
        return _Reader().read(file)
    except (CodeError, PickleError):
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise PickleError(f"its pickle cannot be read: {error}") from None


class _Reader:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, file: BytesIO) -> Any:
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if operation.name == "STOP":
                (value,) = self.stack
                return value
            if count == _MOST_OPERATIONS:
                raise PickleError(f"its pickle has more than {_MOST_OPERATIONS:,} operations")
            self.run(operation.name, argument)
        raise PickleError("its pickle has no end")

    def run(self, operation: str, argument: Any) -> None:
        stack = self.stack
        if operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation]())
        elif operation in _LITERALS:
            stack.append(argument)
        elif operation in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif operation == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif operation in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif operation in _TUPLES:
            number = _TUPLES[operation]
            if len(stack) < number:
                raise PickleError("its pickle takes more values than it has")
            stack[-number:] = [tuple(stack[-number:])]
        elif operation in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            values = self.after_mark()
            stack.append(
                _pairs(values) if operation == "DICT" else list(values) if operation == "LIST" else tuple(values)
            )
        elif operation in ("SETITEM", "SETITEMS"):
            entries = _pairs(self.after_mark() if operation == "SETITEMS" else [stack.pop(-2), stack.pop()])
            target = stack[-1]
            (target.entries if isinstance(target, Call) else target).update(entries)
        elif operation in ("APPEND", "APPENDS", "ADDITEMS"):
            values = self.after_mark() if operation != "APPEND" else [stack.pop()]
            if isinstance(stack[-1], list):
                stack[-1].extend(values)
            elif not isinstance(stack[-1], (set, Call)):
                raise PickleError("its pickle adds to what is no list")
        elif operation == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif operation == "STACK_GLOBAL":
            name = stack.pop()
            stack.append(_name(stack.pop(), name))
        elif operation in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if operation == "NEWOBJ_EX":
                stack.pop()
            arguments = stack.pop()
            stack[-1] = _call(stack[-1], arguments)
        elif operation == "BUILD":
            stack.pop()  # attributes, such as the versions in a state_dict's `_metadata`
        elif operation in ("BINPERSID", "PERSID"):
            stack.append(Persistent(stack.pop() if operation == "BINPERSID" else argument))
        elif operation not in ("PROTO", "FRAME"):
            raise PickleError(f"its pickle has the operation {operation}, which PyTorch does not write")

    def after_mark(self) -> list[Any]:
        """Takes the values above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # IndexError without a mark
            at -= 1
            if at < 0:
                raise PickleError("its pickle lacks a mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    keys = values[::2]
    if any(isinstance(part, tuple) for key in keys if isinstance(key, tuple) for part in key):
        raise PickleError("its pickle has a key of tuples in tuples")  # Python's stack ends in the hash of a deep one
    return dict(zip(keys, values[1::2], strict=True))


def _name(module: str, name: str) -> Name:
    text = f"{module}.{name}"
    if module in _BUILTINS:
        harmless = name in _HARMLESS_BUILTINS
    else:
        harmless = module.split(".")[0] in _HARMLESS
    if not harmless:
        raise CodeError(text)
    return Name(text)


def _call(target: Any, arguments: Any) -> Any:
    name = target.text if isinstance(target, Name) else "a value"
    arguments = arguments if isinstance(arguments, tuple) else ()
    if name in ("builtins.getattr", "__builtin__.getattr"):  # mmengine's history has methods of its own class
        owner = getattr(arguments[0], "text", getattr(arguments[0], "name", "")) if arguments else ""
        if not owner.startswith("mmengine."):
            raise CodeError("builtins.getattr")
    if name in ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"):
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else ()
        return _pairs([value for key, value_of in pairs for value in (key, value_of)])
    module, _, function = name.rpartition(".")
    if function[:1].islower() and function not in _HARMLESS_FUNCTIONS and module and module not in _BUILTINS:
        raise CodeError(name)
    return Call(name, arguments)
