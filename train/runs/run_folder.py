"""Writes the folder of a training run, `<ckpt_path>/<name>/<time>/`; one process at a time writes into it.

config.yaml  env.json  starts.jsonl  train.log  metrics.jsonl  events.out.tfevents.*  ckpt/

A folder is made and changed only when training begins: a start that is refused, killed or has nothing to train leaves
no trace.  The lines of metrics.jsonl have

    step, time             finished steps of the run; seconds since 1970
    epoch                  number of the epoch, from 1
    train/loss             of the last step; its last digit may differ in a run that was resumed
    train/clip_top1        fraction of the clips since the last line that were classified right, while weights changed
    train/clips_per_s      over all devices
    train/data_wait        fraction of the time in which training waited for clips
    train/lr               learning rate of the last step
    train/seconds          since the last line
    val/loss               mean over the clips of the validation split
    val/clip_top1, val/clip_top5, val/video_top1, val/video_top5
                           fraction of clips and of videos whose class is the first, or among the first five
    val/seconds            of the evaluation

A value that was not finite is null.  Runs of earlier versions have train/acc1, val/acc1 and val/acc5, which
runs/metrics.py reads as train/clip_top1, val/video_top1 and val/video_top5.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pipeline.common.errors import UserError
from pipeline.common.files import existing_folder, make_folder, write_json, write_text
from pipeline.common.locking import locked, turn_in
from pipeline.common.settings import Document, to_file
from pipeline.common.value_types import NAME_RULE, is_name
from train.experiment.sections import Config
from train.runs.append_file import AppendFile
from train.runs.events import EventFile
from train.runs.metrics import keep_until
from train.runs.starts import record_start
from train.weights.checkpoint import remove_unfinished

log = logging.getLogger(__name__)

_ANOTHER = "Set train.ckpt_path to another folder."


def runs_root(config: Config, document: Document) -> Path:
    """The folder of this experiment's runs, named after its configuration file.

    Raises:
        UserError: the file's name without its ending is no name of a folder, such as that of `...yaml`.
    """
    name = document.path.stem if document.path else "default"
    if not is_name(name):
        raise UserError(f"{document.path}: its runs need a folder of this name, expected {NAME_RULE}. Rename the file.")
    return Path(config.train.ckpt_path) / name


class RunFolder:
    """One run's folder, locked for this process: a context manager that closes its files at the end.

    Args:
        root: `runs_root(...)`.
        config: the resolved settings, written to config.yaml.
        environment: facts about the machine, written to env.json.
        existing: the folder of a run to resume, instead of a new one.
        check: called just before a new folder is made, while no other training makes one in the same `ckpt_path`; its
            error is a start that is refused.

    Attributes:
        path: the folder; a new one gets its name and exists from `begin` on.

    Raises:
        LockedError: another process trains in `existing`.
        UserError: a new folder cannot be made: a part of its path is a file.
    """

    def __init__(
        self,
        root: Path,
        config: Config,
        environment: dict[str, Any],
        existing: Path | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self._is_new = existing or root, existing is None
        self._config, self._environment, self._check = config, environment, check
        self._metrics: AppendFile | None = None
        self._events: EventFile | None = None
        with contextlib.ExitStack() as stack:
            if not self._is_new:
                self._lock(stack)
            elif not existing_folder(root).is_dir():
                raise UserError(f"{root}: Not a directory. {_ANOTHER}")
            self._log = stack.enter_context(contextlib.closing(_RunLog()))
            logging.getLogger().addHandler(self._log)
            stack.callback(logging.getLogger().removeHandler, self._log)
            self._stack = stack.pop_all()

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "ckpt"

    def begin(self, step: int) -> None:
        """Make the folder and write how this training starts; metrics after `step` are removed: they come again.

        Logs the settings that differ from the start before.

        Raises:
            UserError: a new folder cannot be made, `check` refuses it, or something else than a file of a run has its
                name.
            OSError: a file cannot be written; a new folder is removed again.
        """
        if not self._is_new:
            self._begin(step)
            return
        root = self.path
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        try:
            make_folder(root, _ANOTHER)
            with turn_in(root.parent):  # until the settings are there, by which other starts know this run
                self._check()
                self.path = self._made(root)
                self._lock(self._stack)
                self._begin(step)
        except BaseException:
            if self.path != root:
                shutil.rmtree(self.path, ignore_errors=True)
            for folder in missing:
                with contextlib.suppress(OSError):  # another run is in it
                    folder.rmdir()
            raise

    @staticmethod
    def _made(root: Path) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = root / (stamp + suffix)
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise UserError(f"{root}/{stamp}: a hundred runs started in one second. Start this training again.")

    def _lock(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(locked(self.path))
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)
        remove_unfinished(self.checkpoints)

    def _begin(self, step: int) -> None:
        self._log.open(self.path / "train.log")
        log.info("run folder: %s", self.path)
        changed = record_start(self.path, self._config, self._environment, step)
        for key, (before, now) in changed.items():
            log.info("changed since the last start: %s was %s, is %s", key, json.dumps(before), json.dumps(now))
        text = yaml.safe_dump(to_file(self._config), sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_text(self.path / "config.yaml", text)
        write_json(self.path / "env.json", self._environment)
        path = self.path / "metrics.jsonl"
        keep_until(path, step)
        first_step = None if self._is_new else step + 1
        events = self._stack.enter_context(contextlib.closing(EventFile(self.path, first_step)))
        self._metrics = self._stack.enter_context(contextlib.closing(AppendFile(path)))
        self._events = events

    def record(self, step: int, values: dict[str, float]) -> None:
        """Append scalars (`train/loss`, `val/video_top1` ...) of a global step to metrics.jsonl and TensorBoard.

        Raises:
            OSError: they cannot be written, with the file's name.
        """
        assert self._metrics is not None and self._events is not None, "begin comes first"
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite})
        self._metrics.write(line.encode() + b"\n")
        self._events.add(step, values)

    def note(self, text: str) -> None:
        """Append a line to train.log alone."""
        self._log.handle(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UserError | OSError):
            self.note(f"error: {error}")
        elif isinstance(error, Exception):
            self.note("".join(traceback.format_exception(error)).rstrip())
        self._stack.__exit__(kind, error, trace)


class _RunLog(logging.Handler):
    """Appends the log's lines to a file; when they cannot be written, training does not end, and one line says so."""

    def __init__(self) -> None:
        super().__init__()
        self._early: list[bytes] = []  # lines before `open`
        self._file: AppendFile | None = None
        self._complete = True
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def open(self, path: Path) -> None:
        """Write to this file from now on, first the lines since this handler was made.

        Raises:
            UserError: something else than a file has its name.
            OSError: it cannot be opened.
        """
        self._file = AppendFile(path)
        self._write(b"".join(self._early))
        self._early.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line."""
        line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        if self._file is None:
            self._early.append(line)
        else:
            self._write(line)

    def _write(self, lines: bytes) -> None:
        assert self._file is not None, "open comes first"
        try:
            self._file.write(lines)
        except OSError as error:
            if self._complete and sys.stderr is not None:
                with contextlib.suppress(OSError):
                    print(f"warning: {error}. Lines are missing there from now on.", file=sys.stderr)
            self._complete = False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        super().close()
