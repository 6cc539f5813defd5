"""A decoder process that fails in every possible way; the video's name chooses which.  Run by test_process.py."""

import ctypes
import errno
import os
import signal
import time
from pathlib import Path

import numpy as np

from pipeline.decoding.container import Source
from pipeline.decoding.frames import DecodedVideo
from pipeline.decoding.resample import steady_times
from pipeline.decoding.video_file import DecodeError, ReadError
from pipeline.decoding.worker import main


def decode_hostile(path, settings, _allocate, with_chosen):
    how = Path(path).stem.split("-")[0]
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "chosenfault" and with_chosen:
        ctypes.string_at(0)
    elif how == "chosenhang":
        if with_chosen:
            time.sleep(600)
        raise DecodeError("unreadable", "no good")
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(7)
    elif how == "lateexit":  # as an interpreter that ends: its pipe is closed some time before
        os.closerange(3, 64)
        time.sleep(0.2)
        os._exit(7)
    elif how == "raise":
        raise DecodeError("unreadable", "no good")
    elif how == "memory":
        np.empty(1 << 40, np.uint8)
    elif how == "spin":
        spin()
    elif how == "waits":
        mark = Path(path).with_suffix(".mark")
        while not mark.exists():  # in short sleeps: a long one would continue while the process is stopped
            time.sleep(0.01)
    elif how == "sleep":
        time.sleep(600)
    elif how == "print":
        print("noise on stdout")
        os.write(1, b"more noise\n")
    elif how == "killed":  # as the kernel does when memory is full
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "unread":
        raise ReadError(errno.EIO, os.strerror(errno.EIO))
    elif how.startswith("once"):
        mark = Path(path).with_suffix(".mark")
        if not mark.exists():
            mark.touch()
            fail_once(how.removeprefix("once"))
    number = int(Path(path).stem.split("-")[1])
    frames = np.full((3 + number % 3, settings.height, settings.width, 3), number % 251, np.uint8)
    times_s = steady_times(np.arange(len(frames)), 15.0)
    source = Source("h264", 340, 256, 8, 30.0, 2 * len(frames), 1000, 0.0)
    return DecodedVideo(frames, times_s, 15.0, source, "" if with_chosen == (settings.decoder == "decord") else "pyav")


def spin():
    """Wait in C, with the interpreter's lock: no Python thread could stop it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    ctypes.PyDLL(None).usleep(600_000_000)


def fail_once(how):
    if how == "killed":  # as the kernel does when memory is full
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "fault":
        ctypes.string_at(0)
    elif how == "stalled":
        time.sleep(600)
    elif how == "spin":
        spin()
    else:
        raise ReadError(errno.ESTALE, os.strerror(errno.ESTALE))


if __name__ == "__main__":
    main(decode=decode_hostile)
