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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
from pipeline.confine import MAX_MEMORY_BYTES
from pipeline.container import DecodeError, file_crc32, probe
from pipeline.decode import decode_video
from pipeline.frames import new_frames
from pipeline.isolate import READY, places
from pipeline.shards.encoding import Encoded, encode


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
        stored = slot.put(encode(video.frames, video.times_s, settings))
        facts = {"fps": video.fps, **video.source.facts(), "source_crc32": file_crc32(path)}
    except DecodeError as error:
        return {"status": error.status, "reason": error.reason, "facts": _facts_of_bad(path), "stored": None}
    except MemoryError:
        reason = f"needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
        return {"status": "crash", "reason": reason, "facts": {}, "stored": None}
    except OSError as error:  # no room for the result: the machine's fault and not the video's
        return {"failure": [error.errno, f"{error.strerror} (shared memory for decoded frames)"]}
    return {"status": "ok", "reason": "", "facts": facts, "stored": stored}


def _facts_of_bad(path: Path) -> dict[str, Any]:
    """What is known of a bad video: its checksum if it can be read, and what its container says."""
    facts: dict[str, Any] = {}
    try:
        facts["source_crc32"] = file_crc32(path)
        facts.update(probe(path).facts())
    except DecodeError:
        pass
    return facts


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
        data = encoded.data
        starts = np.empty(0, np.int64) if encoded.starts is None else encoded.starts
        starts_at, times_at, end = places(data.nbytes, len(starts), encoded.num_frames)
        room = self._room(end)
        if data.ctypes.data != room.ctypes.data:
            room[: data.nbytes] = data.reshape(-1)
        room[starts_at:times_at] = starts.view(np.uint8)
        room[times_at:end] = encoded.times_s.view(np.uint8)
        return {
            "nbytes": data.nbytes,
            "shape": data.shape,
            "num_starts": len(starts),
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
