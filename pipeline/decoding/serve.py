"""What a decoder process does: answer one question after another (process.py asks them).

Reads one JSON line a video from stdin, decodes it into the shared memory it was given, and answers in one JSON line on
stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import DecodeError, file_crc32, probe
from pipeline.decoding.decode import decode_video
from pipeline.decoding.frames import Allocate, DecodedVideo, new_frames
from pipeline.decoding.limits import MAX_MEMORY_BYTES
from pipeline.decoding.shared_memory import SharedBlock
from pipeline.decoding.worker import READY
from pipeline.shards.encoding import encode

Decode = Callable[[Path, Preprocess, Allocate, bool], DecodedVideo]


def serve(words: dict[str, Any], decode: Decode = decode_video, checksum: Callable[[Path], int] = file_crc32) -> None:
    """Answer until stdin ends.

    Args:
        words: `blocks`, file descriptors of the shared memory; `settings`, the recipe; `core`, the processor core to
            keep to, or None.
        decode: decodes a file.
        checksum: CRC-32 of a file.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may pass for an answer
    if words["core"] is not None:
        os.sched_setaffinity(0, {words["core"]})
    settings = Preprocess(**words["settings"])
    blocks = [SharedBlock(fd) for fd in words["blocks"]]
    _send(replies, READY)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = Path(os.fsdecode(bytes.fromhex(question["path"])))
        reply = _answer(path, settings, blocks[question["block"]], question["with_decord"], decode, checksum)
        _send(replies, json.dumps(reply).encode())


def _answer(
    path: Path,
    settings: Preprocess,
    block: SharedBlock,
    with_decord: bool,
    decode: Decode,
    checksum: Callable[[Path], int],
) -> dict[str, Any]:
    try:
        # Raw frames are made where they are handed over; JPEGs are made from frames that stay here.
        video = decode(path, settings, block.frames if settings.codec == "raw" else new_frames, with_decord)
        stored = block.put(encode(video.frames, video.times_s, settings))
        facts = {"fps": video.fps, **video.source.facts(), "source_crc32": checksum(path)}
    except DecodeError as error:
        return {"status": error.status, "reason": error.reason, "facts": _facts_of_bad(path, checksum), "stored": None}
    except MemoryError:
        reason = f"needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
        return {"status": "crash", "reason": reason, "facts": {}, "stored": None}
    except OSError as error:  # no room for the result: the machine's fault and not the video's
        return {"failure": [error.errno, f"{error.strerror} (shared memory for decoded frames)"]}
    return {"status": "ok", "reason": "", "facts": facts, "stored": stored}


def _facts_of_bad(path: Path, checksum: Callable[[Path], int]) -> dict[str, Any]:
    """What is known of a bad video: its checksum if it can be read, and what its container says."""
    facts: dict[str, Any] = {}
    try:
        facts["source_crc32"] = checksum(path)
        facts.update(probe(path).facts())
    except DecodeError:
        pass
    return facts


def _send(replies: Any, line: bytes) -> None:  # noqa: ANN401  a binary file
    replies.write(line + b"\n")
    replies.flush()
