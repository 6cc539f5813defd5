"""Reads a moment of a video as a viewer sees it: upright, in its display aspect, with its own frame times.

Frames are decoded in a process of their own with the limits of process.py, and come through a pipe one after another,
so a moment of any length takes little memory here and there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import MachineError, UserError
from pipeline.decoding import child
from pipeline.decoding.moment_worker import Wanted
from pipeline.decoding.worker import READY

_WORKER = "pipeline.decoding.moment_worker"
_MOST_WAITED_S = 120.0  # for all frames of a moment; and more if it is long
_MOST_WAITED_FOR_A_SECOND_S = 5.0


@dataclass(frozen=True)
class Shown:
    """How a video is shown.

    Attributes:
        width: of its frames as they are read, in pixels.
        height: likewise.
        fps: about how many of them come in a second.
        video_s: length of the whole video by its header; 0: unknown.
    """

    width: int
    height: int
    fps: float
    video_s: float


class MomentReader:
    """A child process that decodes a moment of a video, and its frames.

    A context manager.

    Args:
        path: the video.
        start_s: begin of the moment, in seconds since the first frame.
        seconds: its length at most.
        largest: (width, height) of the box into which a frame fits exactly, whatever size the source has.
        worker: the module that the child runs.

    Attributes:
        shown: how the video is shown.

    Raises:
        UserError: the video cannot be decoded.
        MachineError: it could not be read, or the child does not start.
    """

    def __init__(
        self, path: Path, start_s: float, seconds: float, largest: tuple[int, int], worker: str = _WORKER
    ) -> None:
        self._path, self._most_waited_s = path, _MOST_WAITED_S + _MOST_WAITED_FOR_A_SECOND_S * seconds
        name = os.fsencode(os.path.abspath(path)).hex()
        self._child = child.start(worker, asdict(Wanted(name, start_s, seconds, largest)), [])
        assert self._child.stdout is not None
        self._replies = child.Replies(self._child.stdout.fileno())
        try:
            if self._replies.line(child.START_S) != READY:
                why = child.cause(child.end(self._child, child.DYING_S))
                raise MachineError(f"The decoder process does not start: {why}. Run the same command again.")
            self._replies.waited_s = 0.0
            first = self._next()
            if first is None:
                raise self._error("unreadable", f"no frame {start_s:g} s after the first")
            self.shown = Shown(**first)
        except BaseException:
            child.end(self._child)
            raise

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Frames (height, width, 3) uint8 RGB, with the time of each in seconds since the begin of the moment.

        The first time is 0.

        Raises:
            UserError: the rest cannot be decoded.
            MachineError: it could not be read.
        """
        shape = (self.shown.height, self.shown.width, 3)
        while (reply := self._next()) is not None:
            pixels = self._received(self._replies.exactly(int(np.prod(shape)), self._left_s()))
            yield reply["time_s"], np.frombuffer(pixels, np.uint8).reshape(shape)

    def _left_s(self) -> float:
        return self._most_waited_s - self._replies.waited_s

    def _next(self) -> dict[str, Any] | None:
        """The next reply; None after the last frame."""
        reply = json.loads(self._received(self._replies.line(self._left_s())))
        if "status" in reply:
            raise self._error(**reply)
        return None if "end" in reply else reply

    def _received(self, part: bytes | None) -> bytes:
        if part is None:
            raise self._error("timeout", f"not decoded within {self._most_waited_s:g} s")
        if not part:
            raise self._error("crash", child.cause(child.end(self._child, child.DYING_S)))
        return part

    def _error(self, status: str, reason: str) -> UserError:
        if status == "retry":
            return MachineError(f"{self._path}: {reason}. Run the same command again.")
        return UserError(
            f"{self._path}: no picture can be made of it: {status}: {reason.rstrip('.')}. Give another video."
        )

    def __enter__(self) -> MomentReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child.end(self._child)
