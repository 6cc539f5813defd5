"""Finds checkpoints to resume from, and checks that training would continue with the same clips and schedule."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.settings import Document, build, to_plain
from train.experiment.sections import Config, Dataset
from train.experiment.transforms import OPERATIONS
from train.runs.choose import CONFIG, runs_of
from train.weights import checkpoint

log = logging.getLogger(__name__)

_DATASET = "data_loader.train.dataset."

# Keys of data_loader.train.dataset that do not change the clips of a step, or, as batch_size, only with other keys.
_NOT_OF_CLIPS = {"type", "path", "batch_size", "num_parallel_workers", "verify_checksums", "batch_timeout_s"}


def checkpoints_to_resume(config: Config, class_names: Sequence[str] | None, resume: str | None) -> list[Path]:
    """The checkpoints that training may resume from, best first; empty: it starts at step 0.

    Args:
        config: the whole experiment.
        class_names: label of each label_id in the ledgers; None: unknown.
        resume: `auto`: those of the newest run of the same dataset and classes, and if there are such, of the same
            settings; or the path of one checkpoint; or None.

    Raises:
        CheckpointError: training cannot resume from this file.
    """
    if resume is None:
        return []
    if resume != "auto":
        checkpoint.check_resumable(Path(resume))
        return [Path(resume)]
    candidates = [run for run in runs_of(config, class_names) if checkpoint.checkpoints_in(run.path / "ckpt")]
    if not candidates:
        log.warning(
            "warning: %s has no checkpoint of dataset %s to resume from. Training starts at step 0.",
            config.train.ckpt_path, config.preprocess.dataset,
        )  # fmt: skip
        return []
    chosen = next((run for run in candidates if _experiment_of(run.path) == _experiment(config)), candidates[0])
    log.info("run to resume: %s", chosen)
    return checkpoint.checkpoints_in(chosen.path / "ckpt")


def check_before_decoding(config: Config, class_names: Sequence[str] | None, resume: str | None, *, world: int) -> None:
    """Check that training can resume, as far as that is known before the videos are decoded.

    Args:
        config: the whole experiment.
        class_names: label of each label_id in the ledgers; None: unknown.
        resume: as `checkpoints_to_resume`.
        world: number of processes that train together.

    Raises:
        UserError: the checkpoint is missing, or of other settings.
    """
    for path in checkpoints_to_resume(config, class_names, resume)[:1]:
        clips = config.data_loader.train.dataset.batch_size * config.data_loader.group_size * world
        current = clip_settings(config, clips_per_step=clips, steps_per_epoch=0, videos="")
        known = {key: value for key, value in current.items() if key not in ("steps_per_epoch", "videos")}
        with contextlib.suppress(checkpoint.CorruptedError):  # then training takes the one before
            check_clip_settings(path, checkpoint.read_state(path), known)


def _experiment_of(run: Path) -> dict[str, object] | None:
    """What a run trained; None if its settings cannot be read."""
    try:
        return _experiment(build(Config, Document(run / CONFIG)))
    except UserError:
        return None


def _experiment(config: Config) -> dict[str, object]:
    """The settings that make two trainings on one dataset different experiments."""
    sections = (config.model, config.learning_rate, config.optimizer, config.loss)
    settings = clip_settings(config, clips_per_step=0, steps_per_epoch=0, videos="")
    return {**settings, "sections": [to_plain(section) for section in sections]}


def clip_settings(config: Config, *, clips_per_step: int, steps_per_epoch: int, videos: str) -> dict[str, object]:
    """What decides the clips and the learning rate of each step, so it must be the same when training resumes.

    `train.epochs` is part of it, because it is the length of the learning rate's schedule.

    Args:
        config: the whole experiment.
        clips_per_step: clips of one optimizer step, over all devices.
        steps_per_epoch: optimizer steps of an epoch.
        videos: name of the training videos (`Videos.name`).

    Returns:
        Values by name, as they are saved in a checkpoint's JSON.
    """
    loader = config.data_loader.train
    given: dict[str, object] = {operation.type: to_plain(operation) for operation in loader.map.operations or ()}
    return {
        "seed": config.train.seed,
        "clips a step (batch_size x group_size x devices)": clips_per_step,
        "steps_per_epoch": steps_per_epoch,
        "epochs": config.train.epochs,
        "recipe_sha256": config.preprocess.fingerprint(),
        "videos": videos,
        **_of_dataset(loader.dataset),
        **{f"data_loader.train.map.{name}": given.get(name) for name in OPERATIONS},
    }


def check_clip_settings(path: Path, state: dict[str, Any], current: dict[str, object]) -> None:
    """Check that a checkpoint has the `clip_settings` that training would continue with.

    A key that the checkpoint lacks is newer than the checkpoint.  It had no effect then, so it is taken as its default:
    of the dataset's keys that of `Dataset`, and None for a map's operation or a key of one.

    Args:
        path: the checkpoint.
        state: its JSON.
        current: `clip_settings` of this training.

    Raises:
        UserError: they differ; the message names the first key.
    """
    saved = {**_of_dataset(Dataset()), **state}
    for key, value in current.items():
        if _given(saved.get(key)) != _given(value):
            raise UserError(
                f"{path}: cannot resume: {key} is {saved.get(key)} in the checkpoint and {value} now. "
                "Set it back, or start again without --resume."
            )


def _of_dataset(dataset: Dataset) -> dict[str, object]:
    return {_DATASET + key: value for key, value in to_plain(dataset).items() if key not in _NOT_OF_CLIPS}


def _given(value: object) -> object:
    """An operation without the keys that are None; any other value unchanged."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
