"""Decodes videos in a child process, so that a crash or a hang costs one video only.

Decoders are half a million lines of C, and some files make them loop, abort or write to wrong addresses.  There is no
exception then, and a process pool loses all its results when a worker dies.  So each task has its own child: it reads
one path after another, replies with one line each, and passes the bytes through shared memory.  If the child dies or
reaches the deadline, the cause is the first video without a reply: a new child tries it once more, without decord, and
continues with the next.  While the parent stores a video, the child decodes the following one.
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

from pipeline.common.errors import MachineError
from pipeline.common.recipe import Preprocess
from pipeline.decoding.shared_memory import SharedBlock
from pipeline.decoding.worker import READY
from pipeline.shards.encoding import Encoded

_ROOT = Path(__file__).resolve().parents[2]  # where `-m` finds the package
_TICK_S = 0.5  # at most so much of a deadline passes while this process is stopped
_START_S = 120  # for loading the libraries, which a cold disk makes slow
_KILLED = "signal 9 (SIGKILL): out of memory?"
_CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # decord allocates a full-size picture for every frame.  By default glibc gets each from the kernel and returns it,
    # with a page fault every 4 KiB: 13 % of all CPU time.  These keep memory of up to 32 MiB (glibc's limit) for reuse.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


@dataclass(frozen=True)
class DecodeResult:
    """What became of one file.

    Attributes:
        status: ok, or the status of a bad video.
        reason: in words, if it is not ok.
        facts: the ledger's columns about the source, as far as they are known, and `fps` if it is ok.
        encoded: the bytes to store, if it is ok; the next result overwrites them.
    """

    status: str
    reason: str
    facts: dict[str, Any]
    encoded: Encoded | None = None


class DecoderStopped(Exception):
    """The decoder was stopped because the run ends."""


class Decoder:
    """A child process that decodes videos one after another; a new one replaces it when it dies.

    Args:
        settings: the recipe, and the deadline of a video.
        core: the processor core for the child and all its threads; None: any.
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
        """Decode files; yields their results in order.

        Raises:
            DecoderStopped: `stop` was called.
            OSError: this machine has no memory for the decoded frames.
            MachineError: the child does not start.
        """
        waiting = deque(enumerate(paths))
        asked: deque[tuple[int, Path]] = deque()
        failed: DecodeResult | None = None  # the first result of the video that is tried again now
        while waiting or asked:
            while waiting and len(asked) < len(self._blocks):
                # PyAV may decode a video on which decord failed; not if the kernel killed the child for lack of memory.
                with_decord = bool(asked) or failed is None or failed.reason == _KILLED
                asked.append(waiting.popleft())
                self._ask(*asked[-1], with_decord)
            reply = self._reply(asked[0][0])
            child_died = self._child is None
            try_again = child_died and failed is None
            if not try_again:
                asked.popleft()
            if child_died:  # the other questions are lost: ask them again
                waiting.extendleft(reversed(asked))
                asked.clear()
            if try_again:
                failed = reply
            else:
                yield reply if failed is None else _of_two(failed, reply)
                failed = None

    def stop(self) -> None:
        """Stop at once, from any thread; `decode` raises DecoderStopped."""
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
            pass  # it died on an earlier video; `_reply` will find that

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
        task = {"blocks": fds, "settings": asdict(self._settings), "core": self._core}
        with self._lock:
            if self._stopped:
                raise DecoderStopped
            self._child = subprocess.Popen(
                [sys.executable, "-m", self._worker, str(os.getpid()), json.dumps(task)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=fds,
                env={**os.environ, **_CHILD_ENVIRONMENT},
                start_new_session=True,  # a Ctrl-C must reach only the parent, which stops its decoders itself
            )
        assert self._child.stdout is not None
        self._replies = _Lines(self._child.stdout.fileno())
        if self._replies.read(_START_S) != READY:
            cause = _cause(self._end_child())
            if self._stopped:
                raise DecoderStopped
            raise MachineError(f"The decoder process does not start: {cause}. Run the same command again.")

    def _end_child(self) -> int:
        """Kill and reap the child; returns its exit code, negative for a signal."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return 0
        assert child.stdin is not None and child.stdout is not None
        try:
            child.wait(timeout=0.05)  # a child that died by itself must keep its own exit code
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
    """Reads lines of a pipe with a deadline."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest = fd, b""
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, seconds: float) -> bytes | None:
        """The next line without its end; b"" at the end of the pipe; None if it does not come in time.

        Time during which this process was stopped (Ctrl-Z, a scheduler that suspends jobs) does not count.
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
    """The result of a video that was tried twice."""
    if second.status == "ok" or second.reason == first.reason:
        return second
    how = "again" if first.reason == _KILLED else "without decord"
    return DecodeResult(first.status, f"{first.reason}; {how}: {second.status}: {second.reason}", second.facts)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    return _KILLED if code == -signal.SIGKILL else f"signal {-code} ({signal.Signals(-code).name})"
