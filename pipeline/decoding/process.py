"""Decodes videos in a child process, so that a crash or a hang costs one video only.

Decoders are half a million lines of C, and some files make them loop, abort or write to wrong addresses.  There is no
exception then, and a process pool loses all its results when a worker dies.  So each task has its own child: it reads
one path after another, replies with one line each, and passes the bytes through shared memory.  If the child dies or
reaches the deadline, the cause is the first video without a reply: a new child tries it again in the same way, and only
if that fails too with the other decoder.  So what is stored does not depend on a child that once was killed, or waited
too long.  While the parent stores a video, the child decodes the following one.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.common.errors import MachineError
from pipeline.common.recipe import Preprocess
from pipeline.decoding import child
from pipeline.decoding.child import Replies
from pipeline.decoding.shared_memory import SharedBlock
from pipeline.decoding.worker import READY
from pipeline.shards.encoding import Encoded

log = logging.getLogger(__name__)

_MOST_UNREAD = 5  # videos in a row that the machine may fail to read before a run is stopped


@dataclass(frozen=True)
class DecodeResult:
    """What became of one file.

    Attributes:
        status: ok, the status of a bad video, or `retry`: the machine could not read it.
        reason: in words, if it is not ok.
        facts: the ledger's columns about the source, as far as they are known, and `fps` if it is ok.
        encoded: the bytes to store, if it is ok; the next result overwrites them.
    """

    status: str
    reason: str
    facts: dict[str, Any]
    encoded: Encoded | None = None


class DecoderStopped(Exception):
    """The decoder was stopped because the run ends."""


class Decoder:
    """A child process that decodes videos one after another; a new one replaces it when it dies.

    Args:
        settings: the recipe, the deadline of a video, and `data_root`, in which each file must be, also if a link there
            leads to it; empty: anywhere.
        core: the processor core for the child and all its threads; None: any.
        worker: the module that the child runs.
    """

    def __init__(self, settings: Preprocess, core: int | None = None, worker: str = "pipeline.decoding.worker") -> None:
        root = os.path.abspath(settings.data_root) if settings.data_root else ""
        self._settings, self._core, self._worker = replace(settings, data_root=root), core, worker
        self._deadline_s = settings.video_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._replies: Replies | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._unread = 0  # the last videos that the machine could not read
        self._blocks = [SharedBlock(), SharedBlock()]

    def decode(self, paths: Iterable[Path]) -> Iterator[DecodeResult]:
        """Decode files; yields their results in order.

        Raises:
            DecoderStopped: `stop` was called.
            MachineError: several videos in a row could not be read.
            OSError: this machine has no memory for the decoded frames.
            MachineError: the child does not start.
        """
        waiting = deque(enumerate(paths))
        asked: deque[tuple[int, Path]] = deque()
        deaths = _Deaths(self._settings.decoder)
        while waiting or asked:
            while waiting and len(asked) < len(self._blocks):
                with_chosen = bool(asked) or deaths.with_chosen
                asked.append(waiting.popleft())
                self._ask(*asked[-1], with_chosen)
            reply = self._reply(asked[0][0])
            child_died = self._child is None
            try_again = child_died and deaths.add(reply)
            if try_again:
                log.info("%s: %s; decoded again", asked[0][1].name, reply.reason)
            else:
                asked.popleft()
            if child_died:  # the other questions are lost: ask them again
                waiting.extendleft(reversed(asked))
                asked.clear()
            if not try_again:
                self._count_unread(reply)
                yield deaths.result(reply)
                deaths = _Deaths(self._settings.decoder)

    def decode_pieces(self, path: Path, num_frames: int) -> Iterator[DecodeResult]:
        """Decode one file of up to 24 h in order, some frames at a time, in memory that does not grow with its length.

        While one piece is looked at, the child decodes the next.  A child that dies is not replaced: what came before
        would have to be decoded again.

        Args:
            path: the file.
            num_frames: stored frames of a piece; the last one has fewer.

        Yields:
            The pieces; the last result has the fact `is_last`, or is not ok, or has nothing encoded.

        Raises:
            As `decode`.
        """
        self._ask(0, path, True, num_frames)
        for number in itertools.count():
            self._ask(number + 1, path, True, num_frames)
            result = self._reply(number)
            ends = result.encoded is None or bool(result.facts["is_last"])
            if ends and self._child is not None:
                self._reply(number + 1)  # to what was asked ahead
            if ends:
                self._count_unread(result)
            yield result
            if ends:
                return

    def _count_unread(self, result: DecodeResult) -> None:
        """Count the videos in a row that the machine could not read.

        Raises:
            MachineError: they are too many: the disk or the file server is away.
        """
        self._unread = self._unread + 1 if result.status == "retry" else 0
        if self._unread >= _MOST_UNREAD:
            where = self._settings.data_root or "the folder of the videos"
            raise MachineError(
                f"{where}: {self._unread} videos in a row {result.reason}. No video is bad by that. "
                "Fix the disk or its connection, and run the same command again."
            )

    def stop(self) -> None:
        """Stop at once, from any thread; `decode` raises DecoderStopped."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """End the child and free the shared memory."""
        self._end_child()
        for block in self._blocks:
            block.close()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, number: int, path: Path, with_chosen: bool, piece_frames: int = 0) -> None:
        """Ask for a file, or with `piece_frames` for its next piece, which is piece `number`."""
        if self._child is None:
            self._start()
        assert self._child is not None and self._child.stdin is not None
        block = number % len(self._blocks)
        self._blocks[block].trim()
        question = {"path": os.fsencode(os.path.abspath(path)).hex(), "block": block, "with_chosen": with_chosen,
                    "piece": number, "piece_frames": piece_frames}  # fmt: skip
        try:
            self._child.stdin.write(json.dumps(question).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it died on an earlier video; `_reply` will find that

    def _reply(self, number: int) -> DecodeResult:
        assert self._replies is not None
        line = self._replies.line(self._deadline_s)
        if line is None or not line:
            if self._stopped:
                raise DecoderStopped
            if line is None:
                self._end_child()
                return DecodeResult("timeout", f"not decoded within {self._deadline_s:g} s", {})
            return DecodeResult("crash", child.cause(self._end_child(child.DYING_S)), {})
        reply = json.loads(line)
        if "failure" in reply:
            raise OSError(*reply["failure"])
        encoded = self._blocks[number % len(self._blocks)].take(**reply["stored"]) if reply["stored"] else None
        return DecodeResult(reply["status"], reply["reason"], reply["facts"], encoded)

    def _start(self) -> None:
        fds = [block.fd for block in self._blocks]
        task = {"blocks": fds, "settings": asdict(self._settings), "core": self._core}
        with self._lock:
            if self._stopped:
                raise DecoderStopped
            self._child = child.start(self._worker, task, fds)
        assert self._child.stdout is not None
        self._replies = Replies(self._child.stdout.fileno())
        if self._replies.line(child.START_S) != READY:
            cause = child.cause(self._end_child(child.DYING_S))
            if self._stopped:
                raise DecoderStopped
            raise MachineError(f"The decoder process does not start: {cause}. Run the same command again.")

    def _end_child(self, own_end_s: float = 0.05) -> int:
        """Kill and reap the child as `child.end` does; returns its exit code, negative for a signal."""
        with self._lock:
            ended, self._child = self._child, None
        return 0 if ended is None else child.end(ended, own_end_s)


class _Deaths:
    """The tries of one video in which the child died or reached the deadline.

    Two of them show that the recipe's decoder cannot decode the video, and then the other one is tried.  A child that
    was killed, as for lack of memory, shows nothing, so that is tried again only once, and with the same decoder.

    Args:
        decoder: the recipe's.
    """

    def __init__(self, decoder: str) -> None:
        self._decoder = decoder
        self._last: DecodeResult | None = None
        self._kills = self._failures = 0

    @property
    def with_chosen(self) -> bool:
        """Whether the next try is with the recipe's decoder."""
        return self._failures < 2

    def add(self, result: DecodeResult) -> bool:
        """Count a try; returns whether there is another one."""
        if result.reason == child.KILLED:
            self._kills += 1
        elif self.with_chosen:
            self._failures, self._last = self._failures + 1, result
        else:
            return False
        return self._kills < 2

    def result(self, last: DecodeResult) -> DecodeResult:
        """The result of the video whose last try gave `last`; it does not tell how often the video was tried."""
        failed = self._last
        if failed is None or self.with_chosen or last.status in ("ok", "retry") or last.reason == failed.reason:
            return last
        reason = f"{failed.reason}; without {self._decoder}: {last.status}: {last.reason}"
        return DecodeResult(failed.status, reason, last.facts)
