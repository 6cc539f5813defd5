"""Finds checkpoints to resume from, and checks that training would continue with the same clips and schedule."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.locking import LockedError, locked
from pipeline.common.settings import Document, build, to_plain
from train.experiment.sections import Config, Dataset
from train.experiment.transforms import OPERATIONS
from train.loop.lr_schedule import learning_rates
from train.runs.choose import CONFIG, Run, runs, runs_of
from train.runs.starts import changed_settings
from train.weights import checkpoint

log = logging.getLogger(__name__)

_DATASET = "data_loader.train.dataset."
_CLIPS = "clips a step (batch_size x group_size x devices)"

# Keys of data_loader.train.dataset that do not change the clips of a step, or, as batch_size, only with other keys.
_NOT_OF_CLIPS = {"type", "path", "batch_size", "num_parallel_workers", "verify_checksums", "batch_timeout_s"}


def checkpoints_to_resume(
    config: Config, class_names: Sequence[str] | None, resume: str | None, *, writes: bool = False
) -> list[Path]:
    """The checkpoints that training may resume from, best first; empty: it starts at step 0.

    Args:
        config: the whole experiment.
        class_names: label of each label_id in the ledgers; None: unknown.
        resume: `auto`: those of the newest run of the same dataset and classes, and if there are such, of the same
            settings, or of the same but for `train.epochs`; or the path of one checkpoint; or None.
        writes: whether this process will write the run.

    Raises:
        CheckpointError: training cannot resume from this file.
        LockedError: another process trains the newest run of these settings, which has no checkpoint yet.
    """
    if resume is None:
        return []
    if resume != "auto":
        return [checkpoint.resumable(Path(resume))]
    every = list(runs_of(config, class_names))
    if writes:
        _check_not_live(config, every)
    candidates = [run for run in every if checkpoint.checkpoints_in(run.path / "ckpt")]
    if not candidates:
        log.warning(
            "warning: %s has no checkpoint of dataset %s to resume from. Training starts at step 0.",
            config.train.ckpt_path, config.preprocess.dataset,
        )  # fmt: skip
        return []
    chosen = _most_alike(config, candidates)
    log.info("run to resume: %s", chosen)
    return checkpoint.checkpoints_in(chosen.path / "ckpt")


def known_runs(config: Config) -> set[Path]:
    """The runs whose settings are there: not one that another training just begins."""
    return {run.path for run in runs(Path(config.train.ckpt_path)) if run.dataset}


def check_first(config: Config, known: Collection[Path]) -> None:
    """Check that no training of the same settings began since `--resume auto` looked for one and found none.

    Args:
        config: the whole experiment.
        known: `known_runs` before it looked.

    Raises:
        LockedError: one did.
    """
    for run in runs_of(config, None):
        if run.path not in known and _experiment_of(run.path) == _experiment(config):
            raise LockedError(
                f"{run.path}: another training of these settings began at the same moment. Wait until it ends, then "
                "use --resume auto."
            )


def _check_not_live(config: Config, every: Sequence[Run]) -> None:
    """Check that no process trains the newest run of the same settings, as long as that has no checkpoint.

    Raises:
        LockedError: one does.
    """
    for run in every:
        if _experiment_of(run.path) != _experiment(config):
            continue
        if checkpoint.checkpoints_in(run.path / "ckpt"):
            return  # RunFolder locks it
        if (run.path / ".lock").is_file():
            with locked(run.path):
                pass


def _most_alike(config: Config, candidates: Sequence[Run]) -> Run:
    """The first run of the same settings; else the first whose `train.epochs` only differs; else the first."""
    ours, longer = _experiment(config), None
    for run in candidates:
        theirs = _experiment_of(run.path)
        if theirs == ours:
            return run
        if longer is None and {**theirs, "epochs": None} == {**ours, "epochs": None}:
            longer = run
    return longer or candidates[0]


def check_before_decoding(
    config: Config, document: Document, class_names: Sequence[str] | None, resume: str | None, *, world: int
) -> None:
    """Check that training can resume, as far as that is known before the videos are decoded.

    Args:
        config: the whole experiment.
        document: what it was read from.
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
            state = checkpoint.read_state(path)
            check_clip_settings(path, state, known)
            check_schedule(path, state, config, document, world)


def _experiment_of(run: Path) -> dict[str, object]:
    """What a run trained; empty if its settings cannot be read."""
    try:
        return _experiment(build(Config, Document(run / CONFIG)))
    except UserError:
        return {}


def _experiment(config: Config) -> dict[str, object]:
    """The settings that make two trainings on one dataset different experiments."""
    sections = (config.model, config.learning_rate, config.optimizer, config.loss)
    settings = clip_settings(config, clips_per_step=0, steps_per_epoch=0, videos="")
    return {**settings, "epochs": config.train.epochs, "sections": [to_plain(section) for section in sections]}


def clip_settings(config: Config, *, clips_per_step: int, steps_per_epoch: int, videos: str) -> dict[str, object]:
    """What decides the clips of each step, so it must be the same when training resumes.

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
        _CLIPS: clips_per_step,
        "steps_per_epoch": steps_per_epoch,
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


def check_schedule(path: Path, state: dict[str, Any], config: Config, document: Document, devices: int) -> None:
    """Check that the steps trained so far had the learning rates that the schedule of `train.epochs` gives them.

    So training can become longer with the schedules constant, step and multi_step, and with cosine_annealing only
    during the warm-up.

    Args:
        path: the checkpoint.
        state: its JSON.
        config: the settings of this training.
        document: what they were read from.
        devices: number of processes that train together.

    Raises:
        UserError: they had others; the message has the command that starts a new training from these weights.
    """
    before, now = state.get("epochs"), config.train.epochs
    if before == now:
        return
    problem = f"{path}: cannot resume: train.epochs is {before} in the checkpoint and {now} now"
    numbers = [state.get(key) for key in ("epochs", "step", "steps_per_epoch", _CLIPS, "epoch")]
    if not all(type(number) is int for number in numbers):
        raise UserError(f"{problem}. Set it back, or start again without --resume.")
    _, step, in_epoch, clips, done = map(int, numbers)  # type: ignore[arg-type]
    rates = [
        learning_rates(config.learning_rate, epochs=epochs, steps_per_epoch=in_epoch, clips_per_step=clips)[:step]
        for epochs in (int(before), now)  # type: ignore[arg-type]
    ]
    if rates[0] == rates[1]:
        return
    if now <= done:
        raise UserError(f"{problem}, and {done} epochs are finished. Set it back, or start again without --resume.")
    raise UserError(
        f"{problem}, and with learning_rate.lr_scheduler {config.learning_rate.lr_scheduler} the learning rates of the "
        f"finished steps depend on it. Set it back, or train {now - done} more epochs from these weights: "
        f"{command_from_weights(path, document, epochs=now - done, devices=devices)}"
    )


def command_from_weights(path: Path, document: Document, *, epochs: int, devices: int) -> str:
    """The command, for a shell, that starts a new training of the same settings from a checkpoint.

    Args:
        path: the checkpoint.
        document: file and overrides of this training.
        epochs: length of the new training.
        devices: number of processes that train together.
    """
    start = {"epochs": str(epochs), "pre_trained": "true", "pretrained_model": str(path), "head": "same"}
    overrides = {**document.overrides, **{f"train.{key}": value for key, value in start.items()}}
    overrides.pop("train.run_distribute", None)  # set by make's DEVICES
    words = ["make", "train"]
    if document.path is not None:
        words.append(f"CONFIG={document.path}")
    for name, key in (("DATA", "data_root"), ("NAME", "dataset"), ("STORE", "store")):
        if value := overrides.pop(f"preprocess.{key}", ""):
            words.append(f"{name}={value}")
    if devices > 1:
        words.append(f"DEVICES={devices}")
    return shlex.join([*words, "ARGS=" + shlex.join(f"--{key}={value}" for key, value in overrides.items())])


def what_changed(path: Path, config: Config) -> str:
    """The keys of network and optimizer that differ from the last start of a checkpoint's run, for its error."""
    run = checkpoint.run_of(path)
    changed = changed_settings(run, config) if run is not None else {}
    texts = [
        f"{key} was {json.dumps(before)}, is {json.dumps(now)}"
        for key, (before, now) in changed.items()
        if key.startswith(("model.", "optimizer."))
    ]
    return f" Changed since the last start: {'; '.join(texts)}." if texts else ""


def _of_dataset(dataset: Dataset) -> dict[str, object]:
    return {_DATASET + key: value for key, value in to_plain(dataset).items() if key not in _NOT_OF_CLIPS}


def _given(value: object) -> object:
    """An operation without the keys that are None; any other value unchanged."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
