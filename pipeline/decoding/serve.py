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
    _send(replies, READY)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = Path(os.fsdecode(bytes.fromhex(question["path"])))
        reply = _answer(path, settings, blocks[question["block"]], question["with_chosen"], decode)
        _send(replies, json.dumps(reply).encode())


def _answer(path: Path, settings: Preprocess, block: SharedBlock, with_chosen: bool, decode: Decode) -> dict[str, Any]:
    try:
        # Raw frames are decoded into the shared memory; JPEGs are made from frames in this process's memory.
        allocate = block.frames if settings.codec == "raw" else new_frames
        try:
            video = decode(path, settings, allocate, with_chosen)
        except ReadError:  # a file server that was away for a moment needs a second try
            video = decode(path, settings, allocate, with_chosen)
        stored = block.put(encode(video.frames, video.times_s, settings))
    except DecodeError as error:
        return {"status": error.status, "reason": error.reason, "facts": error.facts, "stored": None}
    except ReadError as error:
        return {"status": "retry", "reason": f"could not be read: {error.strerror}", "facts": {}, "stored": None}
    except MemoryError:
        reason = f"needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
        return {"status": "crash", "reason": reason, "facts": {}, "stored": None}
    except OSError as error:  # no memory for the result: an error of the machine, not of the video
        return {"failure": [error.errno, f"{error.strerror} (shared memory for decoded frames)"]}
    facts = {"fps": video.fps, "decoder": video.decoder, "chosen_by": video.chosen_by, **video.source.facts()}
    return {"status": "ok", "reason": "", "facts": facts, "stored": stored}


def _send(replies: Any, line: bytes) -> None:  # noqa: ANN401  a binary file
    replies.write(line + b"\n")
    replies.flush()
