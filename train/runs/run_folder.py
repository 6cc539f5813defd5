"""Writes the folder of a training run, `<ckpt_path>/<name>/<time>/`, and reads its metrics.

config.yaml  env.json  train.log  metrics.jsonl  events.out.tfevents.*  ckpt/
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import yaml
from tensorboardX import SummaryWriter

from pipeline.common.errors import UserError
from pipeline.common.files import make_folder, write_json, write_text
from pipeline.common.settings import Document, to_file
from train.experiment.sections import Config
from train.weights.checkpoint import remove_unfinished


def runs_root(config: Config, document: Document) -> Path:
    """The folder of this experiment's runs, named after its configuration file."""
    name = document.path.stem if document.path else "default"
    return Path(config.train.ckpt_path) / name


class RunFolder:
    """One run's folder: a context manager that closes its files, and removes a new folder if training does not start.

    Args:
        root: `runs_root(...)`.
        config: the resolved settings, written to config.yaml.
        environment: facts about the machine, written to env.json.
        existing: the folder of a run to resume, instead of a new one.
    """

    def __init__(self, root: Path, config: Config, environment: dict[str, Any], existing: Path | None = None) -> None:
        self.path, self._is_new = existing or self._new(root), existing is None
        self.checkpoints = self.path / "ckpt"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)
        remove_unfinished(self.checkpoints)
        self._config, self._environment = config, environment
        self._metrics: TextIO | None = None
        self._scalars: SummaryWriter | None = None
        self._log = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._log)

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
        raise FileExistsError(f"{root}/{stamp}: a hundred runs started in one second. Run this command again.")

    def begin(self, step: int) -> None:
        """Write the settings and open the metrics; records after `step` are removed: they will be made again."""
        text = yaml.safe_dump(to_file(self._config), sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_text(self.path / "config.yaml", text)
        write_json(self.path / "env.json", self._environment)
        path = self.path / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed in __exit__
        self._scalars = SummaryWriter(str(self.path), purge_step=step + 1 if kept else None)

    def record(self, step: int, values: dict[str, float]) -> None:
        """Append scalars (`train/loss`, `val/acc1` ...) of a global step to metrics.jsonl and TensorBoard."""
        assert self._metrics is not None and self._scalars is not None, "begin comes first"
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self._metrics.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            self._scalars.add_scalar(name, value, step)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            logging.getLogger(__name__).debug("run ended early", exc_info=error)
        logging.getLogger().removeHandler(self._log)
        self._log.close()
        if isinstance(error, UserError) and self._metrics is None and self._is_new:
            shutil.rmtree(self.path, ignore_errors=True)  # training did not start: only the log is in there
        if self._metrics is not None and self._scalars is not None:
            self._metrics.close()
            self._scalars.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, with None for values that were not finite; empty if the file is missing.

    A last line that is incomplete, because the process was killed, is ignored.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # after the last line end there is nothing or half a line
