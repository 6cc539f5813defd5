"""The process in which files are decoded (isolate.py starts it and says what to decode).

Reads one JSON line per video from stdin, decodes it into the shared memory it was given, and answers in one JSON line
on stdout.  It may take only so much memory and so many files, and dies with its parent.  Pandas and h5py stay out:
it is ready in 0.2 s.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.confine import MAX_MEMORY_BYTES
from pipeline.container import DecodeError, probe
from pipeline.decode import decode_video
from pipeline.encoding import Encoded, encode
from pipeline.frames import Video, new_frames
from pipeline.isolate import READY, starts_offset
from pipeline.recipe import Preprocess


def main() -> None:
    """Answer until stdin ends."""
    words = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may pass for an answer
    if words["core"] is not None:
        os.sched_setaffinity(0, {words["core"]})
    settings = Preprocess(**words["settings"])
    slots = [_Slot(fd) for fd in words["slots"]]
    _send(replies, READY)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = Path(os.fsdecode(bytes.fromhex(question["path"])))
        _send(replies, json.dumps(_answer(path, settings, slots[question["slot"]], question["with_decord"])).encode())


def _answer(path: Path, settings: Preprocess, slot: _Slot, with_decord: bool) -> dict[str, Any]:
    try:
        # Raw frames are made where they are handed over; JPEGs are made from frames that stay here.
        video = decode_video(path, settings, slot.frames if settings.codec == "raw" else new_frames, with_decord)
        stored = slot.put(encode(video.frames, settings))
    except DecodeError as error:
        return {"status": error.status, "reason": error.reason, "facts": _facts_of_bad(path), "stored": None}
    except MemoryError:
        reason = f"needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
        return {"status": "crash", "reason": reason, "facts": {}, "stored": None}
    except OSError as error:  # no room for the result: the machine's fault and not the video's
        return {"failure": [error.errno, f"{error.strerror} (shared memory for decoded frames)"]}
    return {"status": "ok", "reason": "", "facts": _facts(video), "stored": stored}


def _facts(video: Video) -> dict[str, Any]:
    return {field.name: getattr(video, field.name) for field in fields(video) if field.name != "frames"}


def _facts_of_bad(path: Path) -> dict[str, Any]:
    """What the container of a bad video says of it, if it can be read."""
    try:
        source = asdict(probe(path))
    except DecodeError:
        return {}
    del source["duration_s"]
    return source


class _Slot:
    """The shared memory of one video, seen from the child."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def frames(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Room for frames, to be filled and then given to `put`."""
        return self._room(math.prod(shape))[: math.prod(shape)].reshape(shape)

    def put(self, encoded: Encoded) -> dict[str, Any]:
        """Copy a video there, unless it is there; what the parent must know to read it."""
        data, starts = encoded.data, encoded.starts
        offset = starts_offset(data.nbytes)
        room = self._room(offset + (0 if starts is None else starts.nbytes))
        if data.ctypes.data != room.ctypes.data:
            room[: data.nbytes] = data.reshape(-1)
        if starts is not None:
            room[offset : offset + starts.nbytes] = starts.view(np.uint8)
        return {
            "nbytes": data.nbytes,
            "shape": data.shape,
            "num_starts": 0 if starts is None else len(starts),
            "num_frames": encoded.num_frames,
            "crc32": encoded.crc32,
        }

    def _room(self, nbytes: int) -> NDArray[np.uint8]:
        size = os.fstat(self._fd).st_size  # the parent cuts it down after a long video
        if size < nbytes:
            size = -(-nbytes // (1 << 20)) << 20
            os.ftruncate(self._fd, size)
        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self._fd, size)
        return np.frombuffer(self._map, np.uint8)


def _send(replies: Any, line: bytes) -> None:  # noqa: ANN401  a binary file
    replies.write(line + b"\n")
    replies.flush()
