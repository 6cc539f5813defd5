"""Makes what a command prints and logs safe: nothing acts on a terminal, and a stream that breaks stops no work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from pipeline.common.text import visible

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Record(logging.LogRecord):
    """A log record whose text is shown escaped by every handler: on the terminal and in a run's train.log."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.exc_info and self.exc_info[0]:  # formatted here, because formatters would not escape it
            self.exc_text = visible("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:  # noqa: N802  logging's name
        """The text of the record, escaped."""
        return visible(super().getMessage())


class _Escaped:
    """A text stream that escapes what would act on a terminal (text.visible).

    Args:
        stream: where the text goes.
        cursor: leave alone a write that begins with the moves of a progress bar.
    """

    def __init__(self, stream: TextIO, *, cursor: bool) -> None:
        self._stream, self._cursor = stream, cursor

    def write(self, text: str) -> int:
        """Write a text, escaped; the number of characters in it."""
        moves = _CURSOR.match(text) if self._cursor else None
        begin = moves.end() if moves else 0
        self._stream.write(text[:begin] + visible(text[begin:]))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_CURSOR = re.compile(r"\r?(?:\x1b\[A)*")  # how tqdm moves to the beginning of its bar


@contextlib.contextmanager
def escaped_streams() -> Iterator[None]:
    """Within it, stdout and stderr escape what would act on a terminal."""
    streams = sys.stdout, sys.stderr
    try:
        if sys.stdout is not None:  # closed by the caller: `>&-`
            sys.stdout = cast(TextIO, _Escaped(sys.stdout, cursor=False))
        if sys.stderr is not None:
            sys.stderr = cast(TextIO, _Escaped(sys.stderr, cursor=True))
        yield
    finally:
        sys.stdout, sys.stderr = streams


class Output(io.FileIO):
    """Standard output or error: when it cannot be written any more, its text is dropped and the work continues.

    Attributes:
        lost: the first error; None: everything was written.
    """

    lost: OSError | None = None

    def write(self, data: Buffer) -> int:
        """Write, or drop the text."""
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
                with contextlib.suppress(OSError):  # libraries in C write there too
                    sink = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(sink, self.fileno())
                    os.close(sink)
        return memoryview(data).nbytes


def _descriptor(stream: object) -> int | None:
    """The descriptor that a text file of Python's writes to."""
    try:
        return stream.fileno() if isinstance(stream, io.TextIOWrapper) else None
    except io.UnsupportedOperation:
        return None


def secure_streams() -> Sequence[Output]:
    """Make the standard streams safe: none is closed, and none that breaks stops the work.  Returns those replaced."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # closed, as by `>&-`: the next file that is opened would get what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    outputs = []
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
        elif _descriptor(stream) != fd:  # a library's, or a test's
            continue
        else:
            stream.flush()
            outputs.append(Output(fd, "w", closefd=False))
            stream = io.TextIOWrapper(
                io.BufferedWriter(outputs[-1]), stream.encoding, stream.errors,
                line_buffering=stream.line_buffering, write_through=stream.write_through,
            )  # fmt: skip
        setattr(sys, name, stream)
    return outputs
