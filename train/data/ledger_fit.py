"""Checks, from the ledgers alone, that training or evaluation can use a dataset once its videos are decoded."""

from __future__ import annotations

import pandas as pd

from pipeline.common.errors import UserError
from pipeline.common.recipe import SPLITS
from pipeline.ledger import table as ledger_table
from pipeline.ledger.schema import WAITING_STATUSES
from train.data import batch_order
from train.data.videos import check_classes
from train.experiment.sections import Config, Loader

_NEEDED = ("label", "label_id", "split", "status", "video_id")
NO_VALIDATION = "To train without validation, set train.eval_epochs=0"


def check_ledgers(config: Config, *, trains: bool, world: int = 1) -> int:
    """Check that the splits have enough videos, and that the network has their classes.

    Args:
        config: the experiment, with a number in `model.num_classes`.
        trains: whether it will be trained (and unless `train.eval_epochs` is 0 evaluated) or only evaluated.
        world: number of processes that train together.

    Returns:
        How many videos of these splits still have to be decoded.

    Raises:
        UserError: a split has no ledger or no video, training videos have no label or one that the network lacks, or
            an epoch has fewer clips than one step.
    """
    waiting = 0
    if trains:
        loader = config.data_loader.train
        rows = _usable(config, "train", "")
        if (rows["label_id"] < 0).any():
            raise UserError(
                f"data_loader.train.dataset.split: got {loader.dataset.split}, which has videos without a label. "
                "Choose a split whose videos all have one."
            )
        _check_step(config, loader, len(rows), _name(config, rows), world)
        waiting += int(rows["status"].isin(WAITING_STATUSES).sum())
    if not trains or config.train.eval_epochs:
        rows = _usable(config, "eval", f" {NO_VALIDATION}." if trains else "")
        waiting += int(rows["status"].isin(WAITING_STATUSES).sum())
    return waiting


def _usable(config: Config, loader: str, action: str) -> pd.DataFrame:
    """The rows of a loader's split that are stored or wait to be decoded.

    Raises:
        UserError: there are none, or one of their labels has no logit; the message ends with `action`.
    """
    split = getattr(config.data_loader, loader).dataset.split
    path = ledger_table.ledger_path(config.preprocess, split)
    if not path.is_file():
        others = [each for each in SPLITS if path.with_name(f"{each}.csv").is_file()]
        raise UserError(
            f"data_loader.{loader}.dataset.split: got {split}, but {path.parent} has "
            f"{'only a ledger of ' + ', '.join(others) if others else 'no ledger'}. Add videos and label rows of "
            f"{split}, or choose another split.{action}"
        )
    table = ledger_table.read_columns(path, _NEEDED)
    rows = table[table["status"].isin(("ok", *WAITING_STATUSES))]
    if rows.empty:
        counts = ", ".join(f"{count:,} {status}" for status, count in table["status"].value_counts().items())
        raise UserError(
            f"{path}: none of its {len(table):,} videos can be used ({counts or 'it has no rows'}). Check "
            f"preprocess.data_root, {config.preprocess.data_root!r}.{action}"
        )
    label_ids = rows["label_id"].to_numpy("int32")
    check_classes(config.model, label_ids, ledger_table.class_names(table), _name(config, rows))
    return rows


def _name(config: Config, rows: pd.DataFrame) -> str:
    return ledger_table.videos_name(config.preprocess.dataset, rows, rows["status"].unique())


def _check_step(config: Config, loader: Loader, num_videos: int, name: str, world: int) -> None:
    """Check that an epoch has enough clips for one step, even if every video can be decoded.

    Raises:
        UserError: it has not.
    """
    options, group_size = loader.dataset, config.data_loader.group_size
    num_clips = num_videos * options.num_clips * options.num_crops
    num_batches = batch_order.num_batches(num_clips, options.batch_size, world=world, drop_remainder=True)
    if not num_batches:
        ranks = f" on {world} ranks" if world > 1 else ""
        raise UserError(
            f"data_loader.train.dataset.batch_size: got {options.batch_size}{ranks}, but {name} has only {num_clips} "
            f"clips an epoch. Set it to at most {num_clips // world}."
        )
    if num_batches < group_size:
        raise UserError(
            f"data_loader.group_size: got {group_size}, but an epoch of {name} has only {num_batches} batches. "
            f"Set it to at most {num_batches}."
        )
