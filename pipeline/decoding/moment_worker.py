"""The program of the process that decodes a moment, which moment.py starts; its limits are set as in worker.py.

It writes JSON lines to stdout: how the video is shown; for each frame its time, followed by its pixels; and the end, or
what is wrong with the video.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.decoding.limits import MAX_MEMORY_BYTES, confine
from pipeline.decoding.worker import READY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Wanted:
    """What the parent asks for.

    Attributes:
        path: the video, its bytes in hexadecimal digits.
        start_s: begin of the moment, in seconds since the first frame.
        seconds: its length at most.
        largest: (width, height) in pixels.
    """

    path: str
    start_s: float
    seconds: float
    largest: tuple[int, int]


Answers = Iterator[tuple[dict[str, Any], "NDArray[np.uint8] | None"]]
Decode = Callable[[Path, Wanted], Answers]


def main(decode: Decode | None = None) -> None:
    """Set the limits, load the libraries, and write the moment.

    Args:
        decode: what tests put in the place of `decode_moment`.
    """
    confine(parent=int(sys.argv[1]))
    from pipeline.decoding.decode_moment import decode_moment
    from pipeline.decoding.video_file import DecodeError, ReadError

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be read as an answer
    wanted = Wanted(**json.loads(sys.argv[2]))

    def send(answer: dict[str, Any], pixels: NDArray[np.uint8] | None = None) -> None:
        replies.write(json.dumps(answer).encode() + b"\n")
        if pixels is not None:
            replies.write(pixels.data)
        replies.flush()

    replies.write(READY + b"\n")
    replies.flush()
    try:
        for answer, pixels in (decode or decode_moment)(Path(os.fsdecode(bytes.fromhex(wanted.path))), wanted):
            send(answer, pixels)
        send({"end": True})
    except DecodeError as error:
        send({"status": error.status, "reason": error.reason})
    except ReadError as error:
        send({"status": "retry", "reason": f"could not be read: {error.strerror}"})
    except MemoryError:
        send({"status": "crash", "reason": f"needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"})
    except BrokenPipeError:  # the parent has ended, and this process is about to
        os._exit(1)


if __name__ == "__main__":
    main()
