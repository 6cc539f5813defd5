"""A process that fails to decode a moment in many ways; the video's name chooses which.  Run by test_moment.py."""

import ctypes
import errno
import os
import time

import numpy as np

from pipeline.decoding.moment_worker import main
from pipeline.decoding.video_file import DecodeError, ReadError


def decode_hostile_moment(path, _wanted):
    how, *when = path.stem.split("-")
    if when == ["later"]:
        yield {"width": 4, "height": 2, "fps": 30.0, "video_s": 1.0}, None
        yield {"time_s": 0.0}, np.full((2, 4, 3), 9, np.uint8)
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(7)
    elif how == "memory":
        np.empty(1 << 40, np.uint8)
    elif how == "sleep":
        time.sleep(600)
    elif how == "print":
        print("noise on stdout")
        os.write(1, b"more noise\n")
    elif how == "unread":
        raise ReadError(errno.EIO, os.strerror(errno.EIO))
    elif how == "raise":
        raise DecodeError("unreadable", "no good.")


if __name__ == "__main__":
    main(decode=decode_hostile_moment)
