"""Reads a run's metrics.jsonl and prepares it for a resumed run; corrupted lines are set aside and never lost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pipeline.common.files import replacing
from train.weights import sealed_json

log = logging.getLogger(__name__)

_EARLIER = {"train/acc1": "train/clip_top1", "val/acc1": "val/video_top1", "val/acc5": "val/video_top5"}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, with None for values that were not finite; empty if the file is missing.

    Keys of earlier versions get their names of today (run_folder.py lists them).
    Corrupted lines are ignored with a warning, and so is an incomplete last line.
    """
    good, bad = _split(path)
    if bad:
        log.warning("warning: %s: %s corrupted. %s ignored.", path, *_counted(bad))
    return [{_EARLIER.get(key, key): value for key, value in record.items()} for _, record in good]


def keep_until(path: Path, step: int) -> None:
    """Remove the records after `step`, which will be made again; corrupted lines are moved to a file of their own.

    Args:
        path: the metrics.jsonl; made if it is missing.
        step: the step from which training resumes.

    Raises:
        OSError: a file cannot be written; the metrics.jsonl is unchanged.
    """
    good, bad = _split(path)
    if bad:
        number = 1
        while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        with replacing(aside) as temporary:
            temporary.write_bytes(b"\n".join(line for _, line in bad))
        log.warning("warning: %s: %s corrupted. %s moved to %s.", path, *_counted(bad), aside.name)
    kept = [line for line, record in good if record["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))


def _split(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], list[tuple[int, bytes]]]:
    """The good lines with their records, and the corrupted lines with their numbers, from 1."""
    good, bad = [], []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = sealed_json.parse(line)
        except sealed_json.JsonError:
            record = {}
        numbers = all(value is None or type(value) in (int, float) for value in record.values())
        if numbers and type(record.get("step")) is int:
            good.append((line, record))
        else:
            bad.append((number, line))
    return good, bad


def _counted(bad: list[tuple[int, bytes]]) -> tuple[str, str]:
    return (f"line {bad[0][0]} is", "It is") if len(bad) == 1 else (f"{len(bad)} lines are", "They are")
