"""Limits of a decoder process; imports nothing large, for they are set before the libraries are loaded."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

MAX_MEMORY_BYTES = 4 << 30
_MAX_FILE_BYTES = 2 << 30  # twice what one video may take of shared memory
_MAX_FILES = 64
_PR_SET_PDEATHSIG = 1


def confine(parent: int) -> None:
    """Limits, and an end with the parent's, however that comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)
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
        Path("/proc/self/oom_score_adj").write_text("500")  # rather this process than the one that writes shards
    except OSError:
        pass  # not allowed in some containers; then the kernel chooses
