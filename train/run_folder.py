"""What a run leaves behind: `<ckpt_path>/<name>/<time>/` with its settings, machine, log, metrics and checkpoints.

config.yaml  env.json  train.log  metrics.jsonl  events.out.tfevents.*  ckpt/
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from tensorboardX import SummaryWriter

from pipeline.settings import Document, to_plain
from train.checkpoint import write_json
from train.config import Config


def runs_root(config: Config, document: Document) -> Path:
    """The folder of this experiment's runs, named after its file."""
    name = document.path.stem if document.path else "default"
    return Path(config.train.ckpt_path) / name


class RunFolder:
    """One run's folder, as a context manager that closes its files.

    Args:
        root: `runs_root(...)`.
        config: the resolved settings, written to config.yaml.
        environment: facts of the machine, written to env.json.
        existing: the folder of a run to go on with instead of a new one.
    """

    def __init__(self, root: Path, config: Config, environment: dict[str, Any], existing: Path | None = None) -> None:
        self.path = existing or self._new(root)
        self.checkpoints = self.path / "ckpt"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, default_flow_style=None)
        (self.path / "config.yaml").write_text(text, encoding="utf-8")
        write_json(self.path / "env.json", environment)
        self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115  closed in __exit__
        self._scalars = SummaryWriter(str(self.path))
        self._log = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._log)

    @staticmethod
    def _new(root: Path) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = root / (stamp + suffix)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return path
        raise FileExistsError(f"{root}/{stamp}: a hundred runs started in one second")

    def record(self, step: int, values: dict[str, float]) -> None:
        """Append scalars (`train/loss`, `val/acc1` ...) of a global step to metrics.jsonl and TensorBoard."""
        self._metrics.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
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
        self._metrics.close()
        self._scalars.close()
