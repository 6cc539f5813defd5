"""The page of one or several runs: learning curves over one another, settings, environment, and every start."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from pipeline.common.errors import SettingsError
from pipeline.common.settings import to_plain
from pipeline.common.yaml_file import read_mapping
from train.experiment.sections import Config
from train.pages import charts, numbers
from train.pages.blocks import Block, Folded, Note, Numbers, Page, Picture, Pictures, Section, Table, table_of_runs
from train.pages.charts import LETTERS, Curve
from train.pictures.charts import series
from train.runs.choose import CONFIG, STARTED
from train.runs.metrics import read_metrics
from train.runs.starts import read_starts
from train.weights import sealed_json

SLIDE = "learning_curves.png"
"""A picture in the report with clips and curves of the first run."""

_LARGEST = 1e100  # larger numbers are damage, and so are NaN and infinity
_LONGEST = 120  # characters of a value in a table


@dataclass(frozen=True)
class Run:
    """What is in a run folder.

    Attributes:
        path: the folder.
        records: of metrics.jsonl.
        settings: of config.yaml, by key; empty if it cannot be read.
        environment: of env.json, by key; empty if it cannot be read.
        starts: of starts.jsonl.
    """

    path: Path
    records: list[dict[str, Any]]
    settings: dict[str, str]
    environment: dict[str, str]
    starts: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the evaluation that training calls best: the highest top-1 of videos, then the lowest loss."""
        scored = [each for each in self.records if _is_number(each.get("val/video_top1"))]
        scored = [each for each in scored if each.get("val/loss", 0) is not None]
        return max(scored, key=_rank, default=None)


def read_run(path: Path) -> Run:
    """Read a run folder; what is missing or corrupted in it is empty.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        settings = dict(_flat(read_mapping(path / CONFIG)[0]))
    except SettingsError:
        settings = {}
    try:
        environment = dict(_flat(sealed_json.parse((path / "env.json").read_bytes())))
    except (FileNotFoundError, sealed_json.JsonError):
        environment = {}
    records = [
        {key: value if _is_number(value) else None for key, value in record.items()}
        for record in read_metrics(path / "metrics.jsonl") if 0 <= record["step"] < _LARGEST
    ]  # fmt: skip
    return Run(path, records, settings, environment, read_starts(path))


def run_page(runs: Sequence[Run], why_none: str, folder: Path) -> Page:
    """Describe runs, drawn over one another.

    Args:
        runs: at most as many as LETTERS.
        why_none: why there is no run.
        folder: of the report; pictures go into its `files`.

    Raises:
        OSError: a picture cannot be written.
    """
    if not runs:
        return Page("no run", [Section("Runs", [Note(why_none)])])
    page = Page(", ".join(str(run.path) for run in runs))
    page.sections += [
        Section("Results", _results(runs)),
        Section("Learning curves", _curves(runs, folder)),
        Section("Settings", _settings(runs)),
        Section("Environment", _environment(runs)),
        Section("Starts", _starts(runs)),
    ]
    if (folder / SLIDE).is_file():
        with Image.open(folder / SLIDE) as picture:
            slide = Picture(SLIDE, picture.size, "Clips and learning curves of the first run")
        folded = Folded(f"{SLIDE}: clips and curves in one picture", [Pictures([slide])])
        page.sections.append(Section("For slides", [folded]))
    return page


def _results(runs: Sequence[Run]) -> list[Block]:
    rows = []
    for letter, run in zip(LETTERS, runs, strict=False):
        best = run.best
        speeds = [each["train/clips_per_s"] for each in run.records if _is_number(each.get("train/clips_per_s"))]
        seconds = sum(each["train/seconds"] for each in run.records if _is_number(each.get("train/seconds")))
        rows.append([
            letter, str(run.path), run.settings.get("preprocess.dataset", numbers.MISSING),
            run.environment.get(STARTED, numbers.MISSING)[:16].replace("T", " "),
            numbers.count(max((each["step"] for each in run.records), default=0)),
            numbers.percent(best["val/video_top1"]) if best else numbers.MISSING,
            str(best.get("epoch", numbers.MISSING)) if best else numbers.MISSING,
            _percent_of(best, "val/video_top5"), _percent_of(best, "val/clip_top1"),
            numbers.decimal(best["val/loss"]) if best and _is_number(best.get("val/loss")) else numbers.MISSING,
            numbers.duration(seconds) if seconds else numbers.MISSING,
            f"{np.median(speeds):,.1f}" if speeds else numbers.MISSING,
        ])  # fmt: skip
    head = [
        "", "run", "dataset", "last start (UTC)", "steps", "best top-1", "in epoch", "top-5", "clip top-1", "loss",
        "training", "clips/s",
    ]  # fmt: skip
    blocks: list[Block] = []
    if len(runs) == 1:
        what = ("steps", "best video top-1", "in epoch", "video top-5 there")
        blocks.append(Numbers(list(zip(rows[0][4:8], what, strict=True))))
    return [*blocks, table_of_runs(head, rows, 4, len(runs))]


def _percent_of(record: dict[str, Any] | None, key: str) -> str:
    return numbers.percent(record[key]) if record and _is_number(record.get(key)) else numbers.MISSING


def _curves(runs: Sequence[Run], folder: Path) -> list[Block]:
    plans: tuple[tuple[str, str, str, tuple[tuple[str, str, bool], ...], tuple[float | None, float | None]], ...] = (
        ("loss", "loss", "Loss", (("train/loss", "train", False), ("val/loss", "val", True)), (None, None)),
        ("top1", "top-1", "Top-1: clips of training, videos of validation",
         (("train/clip_top1", "train", False), ("val/video_top1", "val", True)), (0, 1.03)),
        ("top5", "top-5", "Top-5 of the validation videos", (("val/video_top5", "val", True),), (0, 1.03)),
        ("lr", "learning rate", "Learning rate", (("train/lr", "", False),), (None, None)),
        ("speed", "clips/s", "Training speed", (("train/clips_per_s", "", False),), (None, None)),
        ("wait", "share of time", "Time in which training waited for clips", (("train/data_wait", "", False),), (0, 1)),
    )  # fmt: skip
    pictures = []
    for name, unit, caption, parts, limits in plans:
        lines = []
        for number, run in enumerate(runs):
            best = run.best["step"] if run.best else None
            for key, what, points in parts:
                steps, values = series(run.records, key)
                if np.isfinite(values).any():
                    lines.append(Curve(number, steps, values, what, points, best if points else None))
        if lines:
            alt = f"{caption} of {len(runs)} runs over the step" if len(runs) > 1 else f"{caption} over the step"
            pictures.append(
                charts.curves(folder, f"run-{name}", lines, unit=unit, alt=alt, caption=caption, limits=limits)
            )
    if not pictures:
        return [Note("There are no metrics yet: a run has them after its first steps of training.")]
    blocks: list[Block] = [Pictures(pictures)]
    if len(runs) > 1:
        blocks.append(Note("Lines are training; dashed lines with points are validation."))
    if any(run.best for run in runs):
        blocks.append(Note("A star marks the best evaluation: the highest top-1 of videos, then the lowest loss."))
    else:
        blocks.append(Note("There is no evaluation in training yet, so no epoch is marked as the best."))
    if empty := [letter for letter, run in zip(LETTERS, runs, strict=False) if not run.records]:
        blocks.append(Note(f"Without metrics: {', '.join(empty)}."))
    return blocks


def _settings(runs: Sequence[Run]) -> list[Block]:
    """First what differs between runs, or from the defaults; then everything."""
    columns = [run.settings for run in runs]
    if not any(columns):
        return [Note(f"{CONFIG} is missing or cannot be read.")]
    usual = dict(_flat(to_plain(Config())))
    blocks: list[Block] = []
    if len(runs) > 1:
        different = [key for key in _keys(columns) if len({each.get(key) for each in columns}) > 1]
        title = "What differs between the runs:" if different else "The runs have the same settings."
        blocks += [Note(title), *([_by_run("key", different, columns)] if different else [])]
    changed = [
        key for key in _keys(columns) if any(each.get(key, usual.get(key)) != usual.get(key) for each in columns)
    ]
    folded: list[Block] = [_by_run("key", changed, [*columns, usual], ["default"])]
    blocks += [Note("What differs from the defaults:"), *folded] if len(runs) == 1 else [
        Folded("What differs from the defaults", folded)
    ]  # fmt: skip
    return [*blocks, Folded("All settings", [_by_run("key", _keys(columns), columns)])]


def _environment(runs: Sequence[Run]) -> list[Block]:
    columns = [run.environment for run in runs]
    return [_by_run("fact", _keys(columns), columns)] if any(columns) else [Note("env.json is missing or corrupted.")]


def _by_run(what: str, keys: Sequence[str], columns: Sequence[dict[str, str]], more: Sequence[str] = ()) -> Table:
    """Values by key, with a column for each run."""
    num_runs = len(columns) - len(more)
    letters = list(LETTERS[:num_runs]) if num_runs > 1 else ["value"]
    rows = [[key, *(_cut(column.get(key, numbers.MISSING)) for column in columns)] for key in keys]
    return Table([what, *letters, *more], rows, names=1 + len(columns))


def _starts(runs: Sequence[Run]) -> list[Block]:
    rows = []
    for letter, run in zip(LETTERS, runs, strict=False):
        for start in run.starts:
            git, changed, command = (start.get(key) for key in ("git", "changed", "command"))
            commit = str(git.get("commit"))[:12] + (", changed" if git.get("dirty") else "") if _is_map(git) else ""
            words = " ".join(str(word) for word in command[1:]) if isinstance(command, list) else ""
            texts = (_cut(words), _cut(", ".join(changed) if _is_map(changed) else ""), str(start.get("step", "")))
            rows.append([
                letter, str(start.get(STARTED, ""))[:16].replace("T", " "), commit,
                *(text or numbers.MISSING for text in texts),
            ])  # fmt: skip
    head = ["", "started (UTC)", "commit", "words", "settings that changed", "from step"]
    return (
        [table_of_runs(head, rows, 5, len(runs))]
        if rows
        else [Note("starts.jsonl is missing: an earlier version trained.")]
    )


def _keys(columns: Sequence[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for column in columns for key in column))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted keys with texts; a list is one value."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _flat(each, f"{key}.{name}" if key else str(name))
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _rank(record: dict[str, Any]) -> tuple[float, float]:
    loss = record.get("val/loss")
    return record["val/video_top1"], -loss if _is_number(loss) else -math.inf


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
