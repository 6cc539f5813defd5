"""Drops the extra rights of root, so that tests of permissions work for every user."""

from __future__ import annotations

import ctypes
import os

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def give_up() -> None:
    """For `preexec_fn` of a subprocess: its program must obey the permissions of files, even as root."""
    if os.geteuid() != 0:
        return
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for power in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if prctl(_PR_CAPBSET_DROP, power, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot give up root's powers over files")
