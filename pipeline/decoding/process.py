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

from pipeline.common.recipe import Preprocess
from pipeline.decoding.shared_memory import SharedBlock
from pipeline.decoding.worker import READY
from pipeline.shards.encoding import Encoded

_ROOT = Path(__file__).resolve().parents[2]  # where `-m` finds the package
_TICK_S = 0.5  # of a deadline; at most so much passes while this process is stopped
_START_S = 120  # a cold disk may take long to load the libraries; nothing is decoded yet
_KILLED = "signal 9 (SIGKILL): out of memory?"
_CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # decord asks for a full-size picture anew for every frame.  glibc would fetch each from the kernel and return it,
    # a page fault every 4 KiB: 13 % of all CPU time.  So up to 32 MiB (its limit) come from memory that is kept.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


@dataclass(frozen=True)
class DecodeResult:
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


class DecoderStopped(Exception):
    """The decoder was stopped from outside, for the run ends."""


class Decoder:
    """A child process that decodes videos one after another; replaced when it dies.

    Args:
        settings: the recipe, and the deadline of a video.
        core: the processor core that the child keeps to, with all its threads; None: any.
        worker: the module that the child runs.
    """

    def __init__(self, settings: Preprocess, core: int | None = None, worker: str = "pipeline.decoding.worker") -> None:
        self._settings, self._core, self._worker = settings, core, worker
        self._deadline_s = settings.video_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._replies: _Lines | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._blocks = [SharedBlock(), SharedBlock()]

    def decode(self, paths: Iterable[Path]) -> Iterator[DecodeResult]:
        """What becomes of each file, in order.

        Raises:
            DecoderStopped: `stop` was called.
            OSError: this machine lacks room for what was decoded.
            RuntimeError: the child does not start.
        """
        waiting = deque(enumerate(paths))
        asked: deque[tuple[int, Path]] = deque()
        failed: DecodeResult | None = (
            None  # what became of the video that is next to be answered, when it is tried again
        )
        while waiting or asked:
            while waiting and len(asked) < len(self._blocks):
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
        """End at once, from any thread; `decode` raises DecoderStopped."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """End the child and free the shared memory."""
        self._end_child()
        for block in self._blocks:
            block.close()

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
        block = number % len(self._blocks)
        self._blocks[block].trim()
        question = {"path": os.fsencode(os.path.abspath(path)).hex(), "block": block, "with_decord": with_decord}
        try:
            self._child.stdin.write(json.dumps(question).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it died on the video before; the missing answer will tell

    def _reply(self, number: int) -> DecodeResult:
        assert self._replies is not None
        line = self._replies.read(self._deadline_s)
        if line is None or not line:
            if self._stopped:
                raise DecoderStopped
            if line is None:
                self._end_child()
                return DecodeResult("timeout", f"not decoded within {self._deadline_s:g} s", {})
            return DecodeResult("crash", _cause(self._end_child()), {})
        reply = json.loads(line)
        if "failure" in reply:
            raise OSError(*reply["failure"])
        encoded = self._blocks[number % len(self._blocks)].take(**reply["stored"]) if reply["stored"] else None
        return DecodeResult(reply["status"], reply["reason"], reply["facts"], encoded)

    def _start(self) -> None:
        fds = [block.fd for block in self._blocks]
        words = {"blocks": fds, "settings": asdict(self._settings), "core": self._core}
        with self._lock:
            if self._stopped:
                raise DecoderStopped
            self._child = subprocess.Popen(
                [sys.executable, "-m", self._worker, str(os.getpid()), json.dumps(words)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=fds,
                env={**os.environ, **_CHILD_ENVIRONMENT},
                start_new_session=True,  # a Ctrl-C is the parent's, which stops its decoders itself
            )
        assert self._child.stdout is not None
        self._replies = _Lines(self._child.stdout.fileno())
        if self._replies.read(_START_S) != READY:
            cause = _cause(self._end_child())
            if self._stopped:
                raise DecoderStopped
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


def _of_two(first: DecodeResult, second: DecodeResult) -> DecodeResult:
    """What to say of a video that was tried twice."""
    if second.status == "ok" or second.reason == first.reason:
        return second
    how = "again" if first.reason == _KILLED else "without decord"
    return DecodeResult(first.status, f"{first.reason}; {how}: {second.status}: {second.reason}", second.facts)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    return _KILLED if code == -signal.SIGKILL else f"signal {-code} ({signal.Signals(-code).name})"
