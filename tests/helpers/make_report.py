"""A run with an evaluation, whose names would act on a page if one of them were not escaped; and a reader of pages."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from make_store import settings_for
from make_training import write_config

from pipeline.ledger.table import ledger_path, read_ledger, write_ledgers

SCRIPT = "<script>alert('1')</script>&\"q\""
RTL = "\u202egnp.\u202c \u05d0\u05d1 {{ 7*7 }}"
HOSTILE = (SCRIPT, RTL, "\u65e5\u672c \x1b[31m <img src=http://x.example/y onerror=alert(2)>" + "W" * 150)
"""Labels instead of those of make_store."""

RECORDS = [
    *({"step": step, "time": 1.0, "epoch": 1, "train/loss": 1 / step, "train/clip_top1": 0.5, "train/seconds": 1.0}
      for step in range(1, 9)),
    {"step": 8, "epoch": 1, "val/loss": 0.25, "val/video_top1": 0.75, "val/clip_top1": 0.5},
    {"step": 16, "epoch": 2, "val/loss": 0.5, "val/video_top1": 0.75, "val/clip_top1": 0.5},
]  # fmt: skip
"""Only what two charts need, because charts take most of the time of a report."""


def write_run(folder: Path, config: Path, records: list[dict[str, object]] = RECORDS) -> Path:
    """A run folder as training leaves it, without checkpoints."""
    folder.mkdir(parents=True)
    shutil.copy(config, folder / "config.yaml")
    (folder / "env.json").write_text(json.dumps({"cpu": SCRIPT, "started": "2026-11-26T08:49:12.1+00:00"}))
    start = {"command": ["train.py", SCRIPT], "git": {"commit": "abc", "dirty": True}, "changed": {RTL: [1, 2]}}
    (folder / "starts.jsonl").write_text(json.dumps({**start, "step": 0}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def write_evaluation(
    run: Path, names: Sequence[str], video_ids: list[str], labels: list[int], predicted: list[int]
) -> Path:
    """The files of an evaluation with the predicted class of each video; those near the 20th have the highest loss."""
    folder = run / "eval" / f"best-one-clip-val-{SCRIPT.replace('/', '')}"
    folder.mkdir(parents=True)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, predicted), 1)

    def write(name: str, rows: list[list[object]]) -> None:
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    head = ["video_id", "label_id", "label", "views", "loss", "predicted_id_1", "predicted_1", "probability_1"]
    rows = enumerate(zip(video_ids, labels, predicted, strict=True))
    lines = ([each, label, names[label], 1, 2.5 - abs(row - 20) / 1000, best, names[best], 0.875]
             for row, (each, label, best) in rows)  # fmt: skip
    write("videos.csv", [head, *lines])
    classes = [[number, name, counts[number].sum(), counts[number, number]] for number, name in enumerate(names)]
    write("classes.csv", [["label_id", "label", "videos", "correct"], *classes])
    write("confusion.csv", [["label", *names], *([name, *row] for name, row in zip(names, counts, strict=True))])
    summary = {
        "checkpoint": SCRIPT, "split": RTL, "protocol": "one-clip", "num_clips": 5, "num_videos": 5, "level": "video",
        "num_labelled_clips": 4, "num_labelled_videos": 4,
        "top1": 0.5, "top1_interval": [0.25, 0.75], "top5": 1.0, "top5_interval": [0.5, 1.0], "mean_class": 0.5,
        "loss": 1.5, "num_listed_videos": 5, "settings": {"dataset": {"split": "val"}},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def make_hostile_run(root: Path) -> Path:
    """A store, ledgers with hostile labels, paths and reasons, and a run with an evaluation, in a hostile folder."""
    folder = root / "<b>'R&D\" \u202e"
    folder.mkdir()
    config = write_config(folder)
    settings = settings_for(folder)
    ledgers = {split: read_ledger(ledger_path(settings, split)) for split in ("train", "val")}
    for table in ledgers.values():
        table["label"] = [HOSTILE[label] for label in table["label_id"]]
        table["path"] = [f"{SCRIPT.replace('/', '')} {RTL} {number}.mp4" for number in range(len(table))]
    last = ledgers["train"].index[-1]
    for name, value in {"status": "truncated", "reason": f"{SCRIPT} {RTL}", "shard": "", "num_frames": 0}.items():
        ledgers["train"].loc[last, name] = value
    write_ledgers({ledger_path(settings, split): table for split, table in ledgers.items()})
    run = write_run(folder / "runs" / "tiny" / "20260101-000000", config)
    val = ledgers["val"]
    write_evaluation(run, HOSTILE, val["video_id"].tolist(), val["label_id"].tolist(), [0] * len(val))
    return run


class PageReader(HTMLParser):
    """The tags of a page, what it links to and shows, and its text.

    Attributes:
        tags: (name, attributes) of each.
        files: what `href`, `src`, `srcset` and `poster` name.
        text: what a person reads, without styles.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.files: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.files += [value for name, value in attrs if name in ("href", "src", "srcset", "poster")]
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text += data


def files_in(folder: Path) -> set[str]:
    """The files of a folder, by relative path."""
    return {os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file()}
