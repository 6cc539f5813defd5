"""Answers the questions of process.py in a decoder process.

For each video it reads a JSON line from stdin, decodes into shared memory, and writes a JSON line to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video
from pipeline.decoding.frames import Allocate, DecodedVideo, new_frames
from pipeline.decoding.limits import MAX_MEMORY_BYTES
from pipeline.decoding.pieces import PieceReader
from pipeline.decoding.shared_memory import SharedBlock
from pipeline.decoding.video_file import DecodeError, ReadError
from pipeline.decoding.worker import READY
from pipeline.shards.encoding import encode

Decode = Callable[[Path, Preprocess, Allocate, bool], DecodedVideo]


def serve(task: dict[str, Any], decode: Decode = decode_video) -> None:
    """Answer until stdin ends.

    Args:
        task: `blocks`, file descriptors of the shared memory; `settings`, the recipe; `core`, the processor core to
            run on, or None.
        decode: decodes a file.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be read as an answer
    if task["core"] is not None:
        os.sched_setaffinity(0, {task["core"]})
    settings = Preprocess(**task["settings"])
    blocks = [SharedBlock(fd) for fd in task["blocks"]]
    pieces = _Pieces(settings)
    _send(replies, READY)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = Path(os.fsdecode(bytes.fromhex(question["path"])))
        block = blocks[question["block"]]
        if count := question["piece_frames"]:
            reply = _guarded(lambda: pieces.answer(path, block, count, question["piece"]))  # noqa: B023  called here
        else:
            reply = _guarded(lambda: _answer(path, settings, block, question["with_chosen"], decode))  # noqa: B023
        _send(replies, json.dumps(reply).encode())


def _guarded(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer to a question; what is wrong with the video or the machine is one, too."""
    try:
        return answer()
    except DecodeError as error:
        return {"status": error.status, "reason": error.reason, "facts": error.facts, "stored": None}
    except ReadError as error:
        return {"status": "retry", "reason": f"could not be read: {error.strerror}", "facts": {}, "stored": None}
    except MemoryError:
        reason = f"needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
        return {"status": "crash", "reason": reason, "facts": {}, "stored": None}
    except OSError as error:  # no memory for the result: an error of the machine, not of the video
        return {"failure": [error.errno, f"{error.strerror} (shared memory for decoded frames)"]}


def _answer(path: Path, settings: Preprocess, block: SharedBlock, with_chosen: bool, decode: Decode) -> dict[str, Any]:
    # Raw frames are decoded into the shared memory; JPEGs are made from frames in this process's memory.
    allocate = block.frames if settings.codec == "raw" else new_frames
    try:
        video = decode(path, settings, allocate, with_chosen)
    except ReadError:  # a file server that was away for a moment needs a second try
        video = decode(path, settings, allocate, with_chosen)
    stored = block.put(encode(video.frames, video.times_s, settings))
    facts = {"fps": video.fps, "decoder": video.decoder, "chosen_by": video.chosen_by, **video.source.facts()}
    return {"status": "ok", "reason": "", "facts": facts, "stored": stored}


class _Pieces:
    """Answers questions for the pieces of one video after another.

    Args:
        settings: the recipe.
    """

    def __init__(self, settings: Preprocess) -> None:
        self._settings = settings
        self._reader: PieceReader | None = None

    def answer(self, path: Path, block: SharedBlock, count: int, piece: int) -> dict[str, Any]:
        """The next `count` frames of a video; of piece 0 the first.

        Raises:
            DecodeError: the file cannot be decoded to there, or its earlier pieces were not.
            ReadError: the machine failed.
        """
        reader, self._reader = self._reader, None  # after an error nothing is left to read
        if not piece:
            if reader is not None:
                reader.close()
            reader = PieceReader(path, self._settings)
        elif reader is None:
            raise DecodeError("unreadable", "an earlier part cannot be decoded")
        shape = (count, self._settings.height, self._settings.width, 3)
        frames = block.frames(shape) if self._settings.codec == "raw" else new_frames(shape)
        times_s = reader.read(frames)
        self._reader = reader
        stored = None
        if len(times_s):
            stored = block.put(encode(frames[: len(times_s)], times_s, self._settings))
        return {"status": "ok", "reason": "", "facts": reader.facts(), "stored": stored}


def _send(replies: Any, line: bytes) -> None:  # noqa: ANN401  a binary file
    try:
        replies.write(line + b"\n")
        replies.flush()
    except BrokenPipeError:  # the parent has ended, and this process is about to
        os._exit(1)
