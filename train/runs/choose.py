"""Finds the run that a command looks at: the one that is given, or the newest of a dataset and its classes.

The newest is the one that started last by the UTC time in its env.json, whatever its name and its configuration's name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.common.errors import SettingsError, UserError
from pipeline.common.settings import Document
from pipeline.common.text import some
from pipeline.common.yaml_file import read_mapping
from train.experiment.sections import Config, Train
from train.weights.checkpoint import CheckpointError, checkpoints_in, run_of, weights_in

log = logging.getLogger(__name__)

STARTED = "started"
"""The key of env.json with the time of a run's last start, as `now()` returns it."""

CONFIG = "config.yaml"
"""The file of a run folder with its settings."""

_LATEST = 2**36  # seconds since 1970, in the year 4147: later times are damage


def now() -> str:
    """The time in UTC, such as 2026-11-26T08:49:12.123456+00:00."""
    return datetime.now(timezone.utc).isoformat()


@dataclass(frozen=True)
class Run:
    """A run folder, by its own files.

    Attributes:
        path: the folder.
        started: when it started last, in seconds since 1970.
        dataset: its `preprocess.dataset`; empty if that cannot be read.
    """

    path: Path
    started: float
    dataset: str

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.started, timezone.utc)
        return f"{self.path} (dataset {self.dataset or 'unknown'}, started {when:%Y-%m-%d %H:%M} UTC)"


def runs(root: Path) -> Iterator[Run]:
    """The runs in `<root>/<name>/<time>/`, newest first."""
    folders = [path for path in root.glob("*/*") if _is_run(path)]
    for started, folder in sorted(((_started(folder), folder) for folder in folders), reverse=True):
        yield Run(folder, started, _dataset(folder))


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / "ckpt").is_dir()


def _started(folder: Path) -> float:
    """When a run started last, in seconds since 1970; of earlier versions' runs: the time of its first record."""
    environment = _first_object(folder / "env.json", whole=True)
    try:
        return datetime.fromisoformat(environment[STARTED]).timestamp()
    except (KeyError, TypeError, ValueError):
        pass
    first = _first_object(folder / "metrics.jsonl", whole=False).get("time")
    if isinstance(first, (int, float)) and 0 <= first < _LATEST:
        return float(first)
    return folder.stat().st_mtime


def _first_object(path: Path, *, whole: bool) -> dict[str, Any]:
    """The JSON object of a file, or of its first line; empty if there is none."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read() if whole else file.readline())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _dataset(folder: Path) -> str:
    try:
        values, _ = read_mapping(folder / CONFIG)
        return str(values["preprocess"]["dataset"])
    except (SettingsError, KeyError, TypeError):
        return ""


def runs_of(config: Config, class_names: Sequence[str] | None) -> Iterator[Run]:
    """The runs of a configuration's dataset with checkpoints of its classes, newest first.

    Warns about each run of the dataset that has other classes, and of each with checkpoints whose dataset is unknown.

    Args:
        config: its `train.ckpt_path` and `preprocess.dataset` are used.
        class_names: label of each label_id, empty where no row has it; None: unknown, so not compared.
    """
    for run in runs(Path(config.train.ckpt_path)):
        if not run.dataset and checkpoints_in(run.path / "ckpt"):
            log.warning(
                "warning: %s: missing or corrupted, so the dataset of its run is unknown. The run is not used.",
                run.path / CONFIG,
            )
        if run.dataset != config.preprocess.dataset:
            continue
        if different := _difference(run.path, class_names):
            log.warning(
                "warning: The run %s has other classes than the ledgers (%s). It is not used.", run.path, different
            )
            continue
        yield run


def _difference(run: Path, class_names: Sequence[str] | None) -> str:
    """The first difference between a run's classes and those of the ledgers; empty if none is known."""
    newest = checkpoints_in(run / "ckpt")[:1]
    trained = _first_object(newest[0].with_suffix(".json"), whole=True).get("classes") if newest else None
    if class_names is None or not isinstance(trained, list) or not trained:
        return ""
    for label_id, (name, listed) in enumerate(zip(trained, class_names, strict=False)):
        if name and listed and name != listed:
            return f"class {label_id} is {name!r} there and {listed!r} here"
    return f"{len(trained)} there, {len(class_names)} here" if len(class_names) > len(trained) else ""


def newest_weights(config: Config, class_names: Sequence[str] | None) -> Path:
    """The best checkpoint of the newest run of a dataset; the log names the run.

    Warns if there is a newer run without a best checkpoint.

    Args:
        config: as `runs_of`.
        class_names: as `runs_of`.

    Raises:
        CheckpointError: there is no such run, or its best.json is corrupted.
    """
    for run in runs_of(config, class_names):
        if has_best(run.path):
            log.info("run: %s", run)
            return weights_in(run.path)
        latest = checkpoints_in(run.path / "ckpt")
        hint = f" (its latest: CKPT={latest[0]})" if latest else ""
        log.warning("warning: The newest run, %s, has no best checkpoint%s. An earlier run is used.", run.path, hint)
    raise CheckpointError(f"{_no_run(config)} has a checkpoint. Run `make train`, or give one with CKPT=FILE.")


def newest_metrics(config: Config) -> Path:
    """The metrics.jsonl of the newest run of a dataset that has metrics; the log names the run.

    Raises:
        UserError: there is none.
    """
    for run in runs_of(config, None):
        if has_metrics(run.path):
            log.info("run: %s", run)
            return run.path / "metrics.jsonl"
    raise UserError(f"{_no_run(config)} has metrics. Run `make train`, or give a run with --run FOLDER.")


def _no_run(config: Config) -> str:
    """The beginning of an error: no run of this dataset, and of which datasets there are some."""
    root, dataset = Path(config.train.ckpt_path), config.preprocess.dataset
    others = sorted({run.dataset for run in runs(root)} - {dataset, ""})
    known = f" (there are runs of {some(others)})" if others else ""
    return f"{root}: no run of dataset {dataset}{known}"


def has_best(run: Path) -> bool:
    """Whether a run folder has a best checkpoint."""
    return (run / "ckpt" / "best.json").is_file()


def has_metrics(run: Path) -> bool:
    """Whether a run folder has metrics."""
    path = run / "metrics.jsonl"
    return path.is_file() and path.stat().st_size > 0


def run_folder(path: Path) -> Path | None:
    """The run folder that a path is, or that a checkpoint or an export is in; None outside one."""
    folders = (path, path.parent if path.name == "ckpt" else path.parent.parent, run_of(path), run_of(path / "any"))
    return next((folder for folder in folders if folder is not None and _is_run(folder)), None)


def weights_of(given: str, config: Config, document: Document, class_names: Sequence[str] | None) -> Path:
    """The file of weights that a command uses.

    Args:
        given: a file of any form, or a run folder; empty: the newest run's best, or the best of the run that the
            configuration belongs to.
        config: as `runs_of`.
        document: what it was read from.
        class_names: as `runs_of`.

    Raises:
        CheckpointError: there is no run, or no checkpoint in it.
    """
    if given:
        return weights_in(run_folder(Path(given)) or Path(given)) if Path(given).is_dir() else Path(given)
    if document.path is not None and document.path.name == CONFIG and (run := run_folder(document.path.parent)):
        log.info("run: %s", Run(run, _started(run), _dataset(run)))
        return weights_in(run)
    return newest_weights(config, class_names)


def config_of_run(given: str | None, overrides: Mapping[str, str], has: Callable[[Path], bool]) -> Path | None:
    """For a command without -c: the settings of the run that it looks at; None outside a run folder.

    Args:
        given: a file of weights or a run folder; empty: the newest run of all.
        overrides: by key; `train.ckpt_path` and `preprocess.dataset` limit where is looked.
        has: whether a run folder has what the command needs.
    """
    if given:
        run = run_folder(Path(given))
    else:
        dataset = overrides.get("preprocess.dataset")
        every = runs(Path(overrides.get("train.ckpt_path", Train().ckpt_path)))
        run = next((each.path for each in every if dataset in (None, each.dataset) and has(each.path)), None)
    return run / CONFIG if run is not None and (run / CONFIG).is_file() else None
