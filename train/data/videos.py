"""Reads from a ledger which videos of a split are stored, and where, for training and evaluation."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import list_of
from pipeline.common.text import some
from pipeline.ledger import files
from pipeline.ledger import table as ledger_table
from train.data.timeline import Timeline
from train.experiment.sections import Config, Model

_NEEDED = (
    "video_id", "label", "label_id", "split", "status", "source_width", "source_height", "source_fps", "source_frames",
    "num_frames", "fps", "chosen_by", "shard", "nbytes", "crc32",
)  # fmt: skip


@dataclass(frozen=True)
class Videos:
    """The usable videos of one split, in the ledger's order.

    Attributes:
        video_ids: key of each video.
        label_ids: (V,) int32, -1 where unlabelled.
        num_frames: (V,) int64, stored frames.
        timeline: the V source and stored frames.
        source_sizes: (V, 2) int64, height and width of the upright frames of the source; 0: unknown.
        crc32: (V,) int64, of the stored bytes.
        shard_of: (V,) int32, index into `shards`.
        shards: paths of the shards that hold them.
        nbytes: of all of them together, stored.
        class_names: label of each label_id.
        name: which subset of which split this is, `k400-val@<hash> (19,404 of 19,906)`.
        split: the split.
        num_listed: labelled rows of the ledger, those included whose video is missing or corrupted.
    """

    video_ids: list[str]
    label_ids: NDArray[np.int32]
    num_frames: NDArray[np.int64]
    timeline: Timeline
    source_sizes: NDArray[np.int64]
    crc32: NDArray[np.int64]
    shard_of: NDArray[np.int32]
    shards: list[Path]
    nbytes: int
    class_names: list[str]
    name: str
    split: str
    num_listed: int

    def frames_sha256(self) -> str:
        """SHA-256 over the checksums of all videos, in order: other frames under the same names have another one."""
        return hashlib.sha256(self.crc32.astype("<i8").tobytes()).hexdigest()


def read_videos(settings: Preprocess, split: str) -> Videos:
    """The stored videos of a split, from its ledger.

    Raises:
        UserError: the ledger is missing, none of its videos is stored, or a shard that it names is missing.
    """
    path = ledger_table.ledger_path(settings, split)
    if not files.exists(path):
        others = ", ".join(sorted(each.stem for each in path.parent.glob("*.csv") if each.stem in SPLITS))
        action = (
            f"The label files have only {others}: choose one of these splits."
            if others
            else "Run `make manifests preprocess` first."
        )
        raise UserError(f"{path}: ledger not found. {action}")
    table = ledger_table.read_split(settings, split, _NEEDED)
    stored = table[(table["status"] == "ok") & (table["shard"] != "")]
    if stored.empty:
        raise UserError(f"{path}: none of its {len(table):,} videos is stored. Run `make preprocess` first.")
    shard_of, names = pd.factorize(stored["shard"], sort=True)
    store = Path(settings.store)
    existing = {entry.name for entry in os.scandir(store)} if store.is_dir() else set()
    missing = [number for number, name in enumerate(names) if name not in existing]
    if missing:
        video_ids = stored["video_id"].to_numpy(object)[shard_of == missing[0]]
        raise UserError(
            f"{store / names[missing[0]]}: shard not found, but {path} lists {some(video_ids, shown=1)} in it. "
            f"{len(missing)} of {len(names)} shards are missing. Run `make preprocess`."
        )
    num_frames = stored["num_frames"].to_numpy(np.int64)
    return Videos(
        video_ids=list_of(stored["video_id"]),
        label_ids=stored["label_id"].to_numpy(np.int32),
        num_frames=num_frames,
        timeline=Timeline(
            stored["source_frames"].to_numpy(np.int64),
            stored["source_fps"].to_numpy(np.float64),
            num_frames,
            stored["fps"].to_numpy(np.float64),
            stored["chosen_by"].eq("time").to_numpy(bool),
        ),
        source_sizes=stored[["source_height", "source_width"]].to_numpy(np.int64),
        crc32=stored["crc32"].to_numpy(np.int64),
        shard_of=shard_of.astype(np.int32),
        shards=[store / name for name in names],
        nbytes=int(stored["nbytes"].sum()),
        class_names=ledger_table.class_names(table),
        name=ledger_table.videos_name(settings.dataset, table),
        split=split,
        num_listed=int((table["label_id"] >= 0).sum()),
    )


def source_of_a_video(settings: Preprocess, split: str) -> Path | None:
    """The file of the first stored video of a split whose file still exists; None without one.

    Raises:
        UserError: a file that should be a ledger is none.
    """
    path = ledger_table.ledger_path(settings, split)
    if not settings.data_root or not files.exists(path):
        return None
    table = ledger_table.read_columns(path, ["path", "status"])
    stored = list_of(table["path"][(table["status"] == "ok") & (table["path"] != "")])
    return next((file for name in stored[:100] if (file := Path(settings.data_root) / name).is_file()), None)


def count_classes(config: Config) -> int | None:
    """The highest label_id of the ledgers that `data_loader` reads, plus 1; None without a ledger that has labels.

    Raises:
        UserError: a file that should be a ledger is none.
    """
    splits = (config.data_loader.train.dataset.split, config.data_loader.eval.dataset.split)
    paths = {ledger_table.ledger_path(config.preprocess, split) for split in splits}
    columns = [ledger_table.read_columns(path, ["label_id"]) for path in paths if files.exists(path)]
    return max((int(each["label_id"].max()) for each in columns), default=-1) + 1 or None


def check_same_classes(one: Videos, other: Videos) -> None:
    """Check that two splits, whose ledgers were read one after the other, have one class list.

    Raises:
        UserError: a label_id has different labels; the message names the first one.
    """
    for label_id, (ours, theirs) in enumerate(zip(one.class_names, other.class_names, strict=False)):
        if ours and theirs and ours != theirs:
            raise UserError(
                f"class {label_id} is {ours!r} in {one.name} and {theirs!r} in {other.name}: the ledgers were replaced "
                "while they were read. Run this command again."
            )


def class_names(config: Config) -> list[str] | None:
    """The label of each label_id in the ledgers that `data_loader` reads; None without a ledger that has labels.

    Raises:
        UserError: a file that should be a ledger is none, or two ledgers have different classes.
    """
    splits = dict.fromkeys((config.data_loader.train.dataset.split, config.data_loader.eval.dataset.split))
    paths = [ledger_table.ledger_path(config.preprocess, split) for split in splits]
    tables = [ledger_table.read_columns(path, ["label", "label_id"]) for path in paths if files.exists(path)]
    return (ledger_table.class_names(*tables) if tables else []) or None


def check_classes(settings: Model, label_ids: NDArray[np.int32], class_names: list[str], where: str) -> None:
    """Check that the network has a logit for every label.

    Args:
        settings: the `model` section.
        label_ids: (V,) of the videos, -1 where unlabelled.
        class_names: label of each label_id.
        where: name of the ledger, for the message.

    Raises:
        UserError: a label_id is not below `num_classes`.
    """
    highest = int(label_ids.max(initial=-1))
    if highest >= settings.classes:
        raise UserError(
            f"model.num_classes: got {settings.classes}, but {where} has label_id {highest}. "
            f"Set it to {max(len(class_names), highest + 1)}."
        )
