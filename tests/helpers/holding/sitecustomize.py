"""In a decoder process: waits before it opens a video that `hold_video` holds.  Python imports this at its start."""

import os
import sys
import time


def wait_if_held(event: str, args: tuple) -> None:
    """An audit hook, which Python calls before it opens a file."""
    if event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
        return
    path = os.fsdecode(args[0])
    if not path.endswith(".mp4") or not os.path.exists(path + ".hold"):
        return
    with open(path + ".held", "w"):
        pass
    while os.path.exists(path + ".hold"):
        time.sleep(0.01)


if "pipeline.decoding.worker" in sys.orig_argv:
    sys.addaudithook(wait_if_held)
