"""Starts a decoder process, reads what it writes with a deadline, and ends it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = "signal 9 (SIGKILL): out of memory?"
START_S = 120  # for loading the libraries, which a cold disk makes slow
DYING_S = 5.0  # for the end of a process that has closed its pipe
_ROOT = Path(__file__).resolve().parents[2]  # where `-m` finds the package
_TICK_S = 0.5  # at most so much of a deadline passes while this process is stopped
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # decord allocates a full-size picture for every frame.  By default glibc gets each from the kernel and returns it,
    # with a page fault every 4 KiB: 13 % of all CPU time.  These keep memory of up to 32 MiB (glibc's limit) for reuse.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


def start(worker: str, task: dict[str, Any], pass_fds: list[int]) -> subprocess.Popen[bytes]:
    """Start a module as a decoder process, with the process number of its parent and a task as its arguments.

    Args:
        worker: the module.
        task: what it does, as JSON-able values.
        pass_fds: descriptors that it gets.
    """
    return subprocess.Popen(
        [sys.executable, "-m", worker, str(os.getpid()), json.dumps(task)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,  # a Ctrl-C must reach only the parent, which stops its decoders itself
    )


def end(child: subprocess.Popen[bytes], own_end_s: float = 0.05) -> int:
    """Kill and reap a process; returns its exit code, negative for a signal.

    Args:
        child: the process.
        own_end_s: time for it to end by itself, so that the exit code is its own; DYING_S after the end of its pipe.
    """
    assert child.stdin is not None and child.stdout is not None
    try:
        child.wait(timeout=own_end_s)
    except subprocess.TimeoutExpired:
        child.kill()
    code = child.wait()
    child.stdout.close()
    try:
        child.stdin.close()
    except BrokenPipeError:
        pass
    return code


def cause(code: int) -> str:
    """What an exit code says, in words."""
    if code >= 0:
        return f"exit status {code}"
    return KILLED if code == -signal.SIGKILL else f"signal {-code} ({signal.Signals(-code).name})"


class Replies:
    """Reads what a process writes to a pipe with a deadline.

    Time during which this process was stopped (Ctrl-Z, a scheduler that suspends jobs) does not count.

    Attributes:
        waited_s: how long all reads have waited.
    """

    def __init__(self, fd: int) -> None:
        self._fd, self._rest, self.waited_s = fd, bytearray(), 0.0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def line(self, seconds: float) -> bytes | None:
        """The next line without its end; b"" at the end of the pipe; None if it does not come in time."""
        line = self._read(lambda: self._rest.find(b"\n") + 1, seconds)
        return line and line[:-1]

    def exactly(self, nbytes: int, seconds: float) -> bytes | None:
        """The next bytes; b"" if the pipe ends before them; None if they do not come in time."""
        return self._read(lambda: nbytes if len(self._rest) >= nbytes else 0, seconds)

    def _read(self, complete: Callable[[], int], seconds: float) -> bytes | None:
        while not (length := complete()):
            began = time.monotonic()
            readable = self._poll.poll(1000 * max(min(seconds, _TICK_S), 0))
            waited_s = min(time.monotonic() - began, _TICK_S)
            seconds, self.waited_s = seconds - waited_s, self.waited_s + waited_s
            if readable:
                part = os.read(self._fd, 1 << 16)
                if not part:
                    return b""
                self._rest += part
            if seconds <= 0 and not complete():
                return None
        result = bytes(self._rest[:length])
        del self._rest[:length]
        return result
