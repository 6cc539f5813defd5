"""Limits a decoder process.  Imports nothing large, because the limits are set before libraries are loaded."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

MAX_MEMORY_BYTES = 4 << 30
_MAX_FILE_BYTES = 2 << 30  # twice the shared memory that one video may take
_MAX_FILES = 64
_PR_SET_PDEATHSIG = 1


def confine(parent: int) -> None:
    """Limit this process, and end it when the process `parent` ends in any way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # its parent says how it ended
    for limit, value in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))
    try:
        Path("/proc/self/oom_score_adj").write_text(
            "500"
        )  # so that the kernel kills this process before the one that writes shards
    except OSError:
        pass  # not allowed in some containers; then the kernel chooses
