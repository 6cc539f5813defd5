"""Decode in a child process, where a crash or a hang costs one video.

A decoder is half a million lines of C fed with strangers' files: some make it loop, abort or write where it must not.
No exception tells, and a worker of a process pool that dies takes the pool's other results with it.  So each task has
a child of its own, which is told one path after another and answers in one line each; the bytes come through shared
memory.  The first question that stays unanswered names the video to blame, whether the child died or was killed at
the deadline; a new child tries it once more, without decord, and goes on with the next.  While the parent stores a
video, the child decodes the one after it.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.common.recipe import Preprocess
from pipeline.shards.encoding import Encoded

ENTRY = "from pipeline.child import main; main()"
READY = b"ready"
_TICK_S = 0.5  # of a deadline; at most so much passes while this process is stopped
_START_S = 120  # a cold disk may take long to load the libraries; nothing is decoded yet
_KILLED = "signal 9 (SIGKILL): out of memory?"
_KEEP_BYTES = 64 << 20  # shared memory kept between videos
_CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # decord asks for a full-size picture anew for every frame.  glibc would fetch each from the kernel and return it,
    # a page fault every 4 KiB: 13 % of all CPU time.  So up to 32 MiB (its limit) come from memory that is kept.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


@dataclass(frozen=True)
class Decoded:
    """What became of one file.

    Attributes:
        status: ok, or a ledger status that says what is wrong.
        reason: in words, when it is not ok.
        facts: the ledger's columns about the source, as far as they are known, and `fps` when it is ok.
        encoded: the bytes to store, when it is ok; they are overwritten when the next result is asked for.
    """

    status: str
    reason: str
    facts: dict[str, Any]
    encoded: Encoded | None = None


class Stopped(Exception):
    """The decoder was stopped from outside, for the run ends."""


class Decoder:
    """A child process that decodes videos one after another; replaced when it dies.

    Args:
        settings: the recipe, and the deadline of a video.
        core: the processor core that the child keeps to, with all its threads; None: any.
    """

    def __init__(self, settings: Preprocess, core: int | None = None) -> None:
        self._settings, self._core = settings, core
        self._deadline_s = settings.video_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._replies: _Lines | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._slots = [_Slot(), _Slot()]

    def decode(self, paths: Iterable[Path]) -> Iterator[Decoded]:
        """What becomes of each file, in order.

        Raises:
            Stopped: `stop` was called.
            OSError: this machine lacks room for what was decoded.
            RuntimeError: the child does not start.
        """
        waiting = deque(enumerate(paths))
        asked: deque[tuple[int, Path]] = deque()
        failed: Decoded | None = None  # what became of the video that is next to be answered, when it is tried again
        while waiting or asked:
            while waiting and len(asked) < len(self._slots):
                # One that the kernel killed lacked memory; any other that killed its child may suit PyAV.
                with_decord = bool(asked) or failed is None or failed.reason == _KILLED
                asked.append(waiting.popleft())
                self._ask(*asked[-1], with_decord)
            reply = self._reply(asked[0][0])
            child_died = self._child is None
            again = child_died and failed is None
            if not again:
                asked.popleft()
            if child_died:  # and with it the question that had not come up yet
                waiting.extendleft(reversed(asked))
                asked.clear()
            if again:
                failed = reply
            else:
                yield reply if failed is None else _of_two(failed, reply)
                failed = None

    def stop(self) -> None:
        """End at once, from any thread; `decode` raises Stopped."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """End the child and free the shared memory."""
        self._end_child()
        for slot in self._slots:
            slot.close()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, number: int, path: Path, with_decord: bool) -> None:
        if self._child is None:
            self._start()
        assert self._child is not None and self._child.stdin is not None
        slot = number % len(self._slots)
        self._slots[slot].trim()
        question = {"path": os.fsencode(path).hex(), "slot": slot, "with_decord": with_decord}
        try:
            self._child.stdin.write(json.dumps(question).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it died on the video before; the missing answer will tell

    def _reply(self, number: int) -> Decoded:
        assert self._replies is not None
        line = self._replies.read(self._deadline_s)
        if line is None or not line:
            if self._stopped:
                raise Stopped
            if line is None:
                self._end_child()
                return Decoded("timeout", f"not decoded within {self._deadline_s:g} s", {})
            return Decoded("crash", _cause(self._end_child()), {})
        reply = json.loads(line)
        if "failure" in reply:
            raise OSError(*reply["failure"])
        encoded = self._slots[number % len(self._slots)].take(**reply["stored"]) if reply["stored"] else None
        return Decoded(reply["status"], reply["reason"], reply["facts"], encoded)

    def _start(self) -> None:
        words = {
            "slots": [slot.fd for slot in self._slots], "settings": asdict(self._settings), "core": self._core
        }  # fmt: skip
        root = str(Path(__file__).resolve().parents[1])
        confine = f"from pipeline.confine import confine; confine({os.getpid()})"
        code = f"import sys; sys.path.insert(0, {root!r}); {confine}; {ENTRY}"
        with self._lock:
            if self._stopped:
                raise Stopped
            self._child = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[slot.fd for slot in self._slots],
                env={**os.environ, **_CHILD_ENVIRONMENT},
                start_new_session=True,  # a Ctrl-C is the parent's, which stops its decoders itself
            )
        assert self._child.stdout is not None
        self._replies = _Lines(self._child.stdout.fileno())
        if self._replies.read(_START_S) != READY:
            cause = _cause(self._end_child())
            if self._stopped:
                raise Stopped
            raise RuntimeError(f"the decoder process does not start: {cause}")

    def _end_child(self) -> int:
        """Kill and reap the child; its exit code, negative for a signal."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return 0
        assert child.stdin is not None and child.stdout is not None
        try:
            child.wait(timeout=0.05)  # one that has died on its own must be reaped with its own code
        except subprocess.TimeoutExpired:
            child.kill()
        code = child.wait()
        child.stdout.close()
        try:
            child.stdin.close()
        except BrokenPipeError:
            pass
        return code


class _Lines:
    """Lines of a pipe, with a deadline."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest = fd, b""
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, seconds: float) -> bytes | None:
        """The next line without its end; b"" at the end of the pipe; None when it does not come in time.

        Time for which this process was stopped (Ctrl-Z, a scheduler that suspends jobs) is not the child's.
        """
        while b"\n" not in self._rest:
            began = time.monotonic()
            readable = self._poll.poll(1000 * min(seconds, _TICK_S))
            seconds -= min(time.monotonic() - began, _TICK_S)
            if readable:
                part = os.read(self._fd, 1 << 16)
                if not part:
                    return b""
                self._rest += part
            if seconds <= 0 and b"\n" not in self._rest:
                return None
        line, _, self._rest = self._rest.partition(b"\n")
        return line


class _Slot:
    """Anonymous shared memory for one video."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("frames")
        self._map: mmap.mmap | None = None

    def take(self, nbytes: int, shape: list[int], num_starts: int, num_frames: int, crc32: int) -> Encoded:
        """The video that the child has put here; it stays valid until `trim`."""
        size = os.fstat(self.fd).st_size
        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self.fd, size)
        data = np.frombuffer(self._map, np.uint8, nbytes)
        starts_at, times_at, _ = places(nbytes, num_starts, num_frames)
        starts = np.frombuffer(self._map, np.int64, num_starts, starts_at) if num_starts else None
        times_s = np.frombuffer(self._map, np.float32, num_frames, times_at)
        return Encoded(data.reshape(shape), starts, num_frames, times_s, crc32)

    def trim(self) -> None:
        """Give back the memory of a long video before the next."""
        if os.fstat(self.fd).st_size > _KEEP_BYTES:
            self._map = None
            os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Free it; arrays that still view it stay valid."""
        self._map = None
        os.close(self.fd)


def places(nbytes: int, num_starts: int, num_frames: int) -> tuple[int, int, int]:
    """Where, behind the bytes of a video, its int64 starts and its float32 times begin, and where these end."""
    starts_at = -(-nbytes // 8) * 8
    times_at = starts_at + 8 * num_starts
    return starts_at, times_at, times_at + 4 * num_frames


def _of_two(first: Decoded, second: Decoded) -> Decoded:
    """What to say of a video that was tried twice."""
    if second.status == "ok" or second.reason == first.reason:
        return second
    how = "again" if first.reason == _KILLED else "without decord"
    return Decoded(first.status, f"{first.reason}; {how}: {second.status}: {second.reason}", second.facts)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    return _KILLED if code == -signal.SIGKILL else f"signal {-code} ({signal.Signals(-code).name})"
