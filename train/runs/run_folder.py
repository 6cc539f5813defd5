"""Writes the folder of a training run, `<ckpt_path>/<name>/<time>/`; one process at a time writes into it.

config.yaml  env.json  train.log  metrics.jsonl  events.out.tfevents.*  ckpt/
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pipeline.common.errors import UserError
from pipeline.common.files import make_folder, write_json, write_text
from pipeline.common.locking import locked
from pipeline.common.settings import Document, to_file
from pipeline.common.value_types import NAME_RULE, is_name
from train.experiment.sections import Config
from train.runs.append_file import AppendFile
from train.runs.events import EventFile
from train.runs.metrics import keep_until
from train.weights.checkpoint import remove_unfinished


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

    A new folder is removed if training does not start.

    Args:
        root: `runs_root(...)`.
        config: the resolved settings, written to config.yaml.
        environment: facts about the machine, written to env.json.
        existing: the folder of a run to resume, instead of a new one.

    Raises:
        LockedError: another process trains in `existing`.
        UserError: a new folder cannot be made.
    """

    def __init__(self, root: Path, config: Config, environment: dict[str, Any], existing: Path | None = None) -> None:
        self.path, self._is_new = existing or self._new(root), existing is None
        self.checkpoints = self.path / "ckpt"
        self._config, self._environment = config, environment
        self._metrics: AppendFile | None = None
        self._events: EventFile | None = None
        with contextlib.ExitStack() as stack:
            stack.push(self._remove_unless_begun)
            stack.enter_context(locked(self.path))
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            remove_unfinished(self.checkpoints)
            run_log = stack.enter_context(contextlib.closing(_RunLog(self.path / "train.log")))
            logging.getLogger().addHandler(run_log)
            stack.callback(logging.getLogger().removeHandler, run_log)
            self._stack = stack.pop_all()

    @staticmethod
    def _new(root: Path) -> Path:
        make_folder(root, "Set train.ckpt_path to another folder.")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = root / (stamp + suffix)
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise UserError(f"{root}/{stamp}: a hundred runs started in one second. Run this command again.")

    def begin(self, step: int) -> None:
        """Write the settings and open the metrics; records after `step` are removed: they will be made again.

        Raises:
            OSError: a file cannot be written.
        """
        text = yaml.safe_dump(to_file(self._config), sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_text(self.path / "config.yaml", text)
        write_json(self.path / "env.json", self._environment)
        path = self.path / "metrics.jsonl"
        num_kept = keep_until(path, step)
        events = self._stack.enter_context(contextlib.closing(EventFile(self.path, step + 1 if num_kept else None)))
        self._metrics = self._stack.enter_context(contextlib.closing(AppendFile(path)))
        self._events = events

    def record(self, step: int, values: dict[str, float]) -> None:
        """Append scalars (`train/loss`, `val/acc1` ...) of a global step to metrics.jsonl and TensorBoard.

        Raises:
            OSError: they cannot be written, with the file's name.
        """
        assert self._metrics is not None and self._events is not None, "begin comes first"
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite})
        self._metrics.write(line.encode() + b"\n")
        self._events.add(step, values)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            logging.getLogger(__name__).debug("run ended early", exc_info=error)
        self._stack.__exit__(kind, error, trace)

    def _remove_unless_begun(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove a new folder in which training did not start: only the log is in there."""
        if isinstance(error, UserError | OSError) and self._metrics is None and self._is_new:
            shutil.rmtree(self.path, ignore_errors=True)


class _RunLog(logging.Handler):
    """Appends the log's lines to a file; when they cannot be written, training does not end, and one line says so."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = AppendFile(path)
        self._complete = True
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line."""
        try:
            self._file.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except OSError as error:
            if self._complete and sys.stderr is not None:
                with contextlib.suppress(OSError):
                    print(f"warning: {error}. Lines are missing there from now on.", file=sys.stderr)
            self._complete = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
