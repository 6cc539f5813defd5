"""Writes and reads the trainer's checkpoints: `<stem>.ckpt` (weights), `<stem>.optimizer.ckpt` and `<stem>.json`.

MindSpore 2.10's `save_checkpoint` removes the old file before it writes and does not fsync; its `load_checkpoint` only
warns about a truncated file.  So each file is written under a temporary name, synced and renamed.  The JSON is written
last and holds the SHA-256 of both and a checksum over its own content (sealed_json.py); without it there is no
checkpoint, so a checkpoint is complete or does not exist.  `latest.json` and `best.json` in the same folder name a
stem.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Parameter, nn

from model import weights
from pipeline.common.errors import UserError
from pipeline.common.files import keep_work, replacing, sync_file
from pipeline.common.text import shown, some
from train.weights import sealed_json
from train.weights.files import WeightFileError, read_ckpt
from train.weights.sealed_json import JsonError

log = logging.getLogger(__name__)

_REMOVED = ".removed.tmp"  # how the JSON of a checkpoint ends while the checkpoint is removed
_STEM = re.compile(r"epoch_([0-9]{3,9})-step_([0-9]{6,18})")


class CheckpointError(UserError):
    """A checkpoint that is missing, corrupted or of another network."""


class CorruptedError(CheckpointError):
    """A checkpoint whose files are missing or changed; an earlier checkpoint may still be complete."""


def stem(epoch: int, step: int) -> str:
    """The name of a checkpoint: its epoch (from 1) and the finished steps of the whole run."""
    return f"epoch_{epoch:03d}-step_{step:06d}"


def save(folder: Path, stem: str, network: nn.Cell, training: Mapping[str, Parameter], state: dict[str, Any]) -> Path:
    """Write a checkpoint and point `latest.json` at it.

    Args:
        folder: the run's `ckpt/`.
        stem: such as `epoch_012-step_000345`.
        network: its parameters are written to `<stem>.ckpt`.
        training: what resuming also needs (moments, step, loss scale), written to `<stem>.optimizer.ckpt`.
        state: what a resumed run or another command needs to know: epoch, step, seed, classes, recipe ...

    Returns:
        The path of the weights.

    Raises:
        OSError: a file cannot be written; earlier checkpoints are unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{stem}.ckpt": weights.parameters(network),
        f"{stem}.optimizer.ckpt": training,
    }
    with contextlib.ExitStack() as stack:  # neither file gets its name if the other cannot be written
        temporary = [stack.enter_context(replacing(folder / name, ".ckpt")) for name in files]
        with ThreadPoolExecutor() as pool:  # hash and sync one file while the other is written
            digests = dict(zip(files, pool.map(_write_parameters, temporary, files.values()), strict=True))
    json_path = folder / f"{stem}.json"
    try:
        sealed_json.write(json_path, {**state, "sha256": digests})
    except OSError:
        if not json_path.exists():  # the other files are no checkpoint, and the disk may be full
            for name in files:
                (folder / name).unlink(missing_ok=True)
        raise
    point(folder, "latest", stem)
    keep_work()
    return folder / f"{stem}.ckpt"


def point(folder: Path, pointer: str, stem: str, **facts: Any) -> None:
    """Write `latest.json` or `best.json`, which names a checkpoint in the same folder."""
    sealed_json.write(folder / f"{pointer}.json", {"stem": stem, **facts})


def best_step(folder: Path) -> int:
    """The step of the checkpoint that `best.json` names; 0 if it is missing or corrupted."""
    numbers = _numbers(_read_pointer(folder / "best.json") or "")
    return numbers[1] if numbers else 0


def save_weights(path: Path, network: nn.Cell, state: dict[str, Any]) -> None:
    """Write weights without training state: `path`, which ends in .ckpt, and the JSON beside it.

    If the process is killed, earlier files of these names are still there, or both are new.

    Raises:
        OSError: a file cannot be written; earlier files of these names are still there.
    """

    def record_of(digest: str) -> dict[str, Any]:
        return {**state, "sha256": {path.name: digest}}

    with sealed_json.replacing_pair(path, path.with_suffix(".json"), record_of, ".ckpt") as temporary:
        _write_parameters(temporary, weights.parameters(network))


def load(path: Path, network: nn.Cell, training: Mapping[str, Parameter] | None = None) -> dict[str, Any]:
    """Load weights, and the training state if `training` is given; all or nothing.

    A file without a JSON beside it is read as plain weights with an empty state.

    Returns:
        The state saved beside the weights.

    Raises:
        CorruptedError: a file is missing or differs from its SHA-256; or, with `training`, the epoch and step are not
            those of the file's name and of the optimizer.
        CheckpointError: it does not fit this network or this optimizer.
    """
    state = read_state(path)
    values = read_parameters(path, state)
    saved: dict[str, Any] = {}
    if training is not None:
        saved = read_parameters(path.with_name(f"{path.stem}.optimizer.ckpt"), state)
        if {name: p.shape for name, p in training.items()} != {name: array.shape for name, array in saved.items()}:
            raise CheckpointError(
                f"{path}: {path.stem}.optimizer.ckpt does not fit this network and optimizer. "
                "Use the model and optimizer settings it was trained with."
            )
        _check_position(path, state, saved)
    try:
        weights.assign(network, values, source=str(path))
    except weights.WeightsError as error:
        raise CheckpointError(str(error)) from None
    for name, parameter in (training or {}).items():
        parameter.set_data(ms.Tensor(saved[name], parameter.dtype))
    return state


def read_state(path: Path) -> dict[str, Any]:
    """The JSON beside a `.ckpt` file; empty when there is none.

    Raises:
        CheckpointError: both the weights and the JSON are missing.
        CorruptedError: the JSON is not what was written, has no SHA-256 of the weights, or has no weights beside it.
    """
    json_path = path.with_suffix(".json")
    if not path.is_file():
        raise (CorruptedError if json_path.is_file() else CheckpointError)(f"{path}: checkpoint not found")
    if not json_path.is_file():
        return {}
    try:
        state = sealed_json.read(json_path, path)
    except JsonError as error:
        raise CorruptedError(f"{json_path}: corrupted: {error}") from None
    if not isinstance(state.get("sha256"), dict):
        raise CorruptedError(
            f"{json_path}: corrupted, or written by another program: it has no SHA-256 of {path.name}. "
            f"Remove it to use {path.name} unchecked"
        )
    if not isinstance(state.get("classes", []), list):
        raise CorruptedError(f"{json_path}: corrupted: `classes` is not a list")
    return state


def _check_position(path: Path, state: dict[str, Any], saved: dict[str, Any]) -> None:
    """Check that epoch and step are possible, and those of the file's name and of the optimizer.

    Raises:
        CorruptedError: they are not.
    """
    problem = ""
    step, epoch, best = (state.get(key) for key in ("step", "epoch", "best"))
    if type(step) is not int or type(epoch) is not int or type(best) not in (int, float):
        problem = f"step {shown(step)}, epoch {shown(epoch)} and best {shown(best)} must be numbers"
    elif step != (of_optimizer := int(saved["global_step"].item())):
        problem = f"step is {step}, expected {of_optimizer}, which {path.stem}.optimizer.ckpt has"
    elif step != (of_name := _numbers(path.stem) or (0, step))[1]:
        problem = f"step is {step}, expected {of_name[1]}, which is in its name"
    elif type(steps := state.get("steps_per_epoch")) is int and steps > 0:
        # An epoch counts as finished after its evaluation.
        possible = {step // steps, (step - 1) // steps} if step else {0}
        if epoch not in possible:
            problem = f"epoch is {epoch}, expected {max(possible)} after step {step} with {steps} steps an epoch"
    if problem:
        raise CorruptedError(f"{path.with_suffix('.json')}: corrupted: {problem}")


def weights_in(run: Path) -> Path:
    """The best checkpoint of a run folder, or its latest where none is the best.

    Raises:
        CheckpointError: it has no checkpoint, or best.json is corrupted.
    """
    folder = run / "ckpt"
    if (folder / "best.json").is_file():
        stem = _read_pointer(folder / "best.json")
        if stem is None:
            raise CheckpointError(f"{folder / 'best.json'}: corrupted. Give a checkpoint beside it with CKPT=FILE.")
        return folder / f"{stem}.ckpt"
    if latest := checkpoints_in(folder):
        return latest[0]
    raise CheckpointError(f"{run}: got a folder without checkpoints, expected a run folder or a file of weights.")


def run_of(path: Path) -> Path | None:
    """The run folder of a file in its `ckpt/`, also if that is named from inside or by a link; None of other files."""
    folder = path.parent
    if folder.name != "ckpt" or not (folder.parent / "config.yaml").is_file():  # a run's ckpt/ may be a link itself
        folder = folder.resolve()
    return folder.parent if folder.name == "ckpt" else None


def resumable(path: Path) -> Path:
    """A checkpoint as the path in its run folder, after a check that training can resume from it.

    Raises:
        CheckpointError: it is missing, has no training state, or is not in a run folder.
    """
    training = path.with_name(f"{path.stem}.optimizer.ckpt")
    if "step" not in read_state(path) or not training.is_file():
        raise CheckpointError(
            f"{path}: got weights only, expected {path.stem}.json (with the step) and {training.name} beside them. "
            f"To start from these weights: --train.pre_trained=true --train.pretrained_model={path}"
        )
    run = run_of(path)
    if run is None:
        raise CheckpointError(
            f"{path}: got a checkpoint outside a run folder, expected <run>/ckpt/{path.name}. Move it there."
        )
    return run / "ckpt" / path.name


def checkpoints_in(folder: Path) -> list[Path]:
    """The weights of the checkpoints in a run's `ckpt/`, newest first."""
    return [folder / f"{stem}.ckpt" for stem in reversed(_stems(folder))]


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one; none if best.json is corrupted."""
    best = _read_pointer(folder / "best.json")
    if best is None and (folder / "best.json").exists():
        return  # any of them may be the best one
    stems = _stems(folder)
    for stem in stems[: max(len(stems) - keep, 0)]:
        if stem != best:  # the JSON first: without it the other files are no checkpoint
            left = folder / f".{stem}{_REMOVED}"
            (folder / f"{stem}.json").replace(left)
            _remove_rest(left)


def _remove_rest(left: Path) -> None:
    """Remove the files of a checkpoint that has become the file `left`, and then that."""
    stem = left.name.removeprefix(".").removesuffix(_REMOVED)
    if _numbers(stem) and not left.with_name(f"{stem}.json").exists():
        for ending in (".ckpt", ".optimizer.ckpt"):
            left.with_name(f"{stem}{ending}").unlink(missing_ok=True)
    left.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed left: its temporary files, and checkpoints that `prune` began to remove."""
    for left in folder.glob(f".*{_REMOVED}"):
        _remove_rest(left)
    for left in folder.glob(".*.tmp*"):
        left.unlink()


def _stems(folder: Path) -> list[str]:
    """The checkpoints in a folder, oldest first.

    Sorted by number, because a million steps have one digit more.  Checkpoints after `latest` are from before training
    resumed from an earlier one; they count as the oldest.
    """
    paths = list(folder.glob("epoch_*-step_*.json"))
    stems = [path.stem for path in paths if _numbers(path.stem) and path.is_file()]
    if odd := sorted(shown(path.name) for path in paths if path.stem not in stems):
        log.warning("warning: %s: ignored, because they are not files of a checkpoint: %s", folder, some(odd))
    stems.sort(key=lambda stem: int(stem.rpartition("_")[2]))
    latest = _read_pointer(folder / "latest.json")
    if latest is not None and latest not in stems:
        log.warning("warning: %s: names %s, which is missing. It is ignored.", folder / "latest.json", latest)
    end = stems.index(latest) + 1 if latest in stems else len(stems)
    return stems[end:] + stems[:end]


def _numbers(name: str) -> tuple[int, int] | None:
    """Epoch and step of a checkpoint's name; None if it is no such name."""
    match = _STEM.fullmatch(name)
    numbers = (int(match[1]), int(match[2])) if match else None
    return numbers if numbers and stem(*numbers) == name else None


def _read_pointer(pointer: Path) -> str | None:
    """The stem that latest.json or best.json names; None if the file is missing or, with a warning, corrupted."""
    if not pointer.is_file():
        return None
    try:
        name = sealed_json.read(pointer).get("stem")
        if not isinstance(name, str) or not _numbers(name):
            raise JsonError(f"it names {shown(name)}, which is no checkpoint")
    except JsonError as error:
        log.warning("warning: %s: corrupted: %s. It is ignored.", pointer, error)
        return None
    return name


def _write_parameters(path: Path, values: Mapping[str, Parameter]) -> str:
    """Write a .ckpt file under a temporary name until it is on the disk; returns its SHA-256."""
    try:
        ms.save_checkpoint([{"name": name, "data": value} for name, value in values.items()], str(path))
    finally:  # MindSpore first writes under this name, and leaves the file there when the disk is full
        path.with_suffix(".tmp").unlink(missing_ok=True)
    path.chmod(0o644)  # MindSpore leaves its files read-only
    sync_file(path)
    return sealed_json.sha256(path)


def read_parameters(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a .ckpt file by name.

    Args:
        path: the file.
        state: the JSON beside it, with the SHA-256 that the file must have; empty: not compared.

    Raises:
        CorruptedError: it is missing, corrupted, or differs from its SHA-256.
    """
    if not path.is_file():
        raise CorruptedError(f"{path}: checkpoint not found")
    if state:
        digests = state["sha256"]  # if a file and its JSON were renamed, the old name is in there
        if sealed_json.sha256(path) not in ([digests[path.name]] if path.name in digests else digests.values()):
            raise CorruptedError(f"{path}: corrupted: its SHA-256 differs from {path.stem.split('.')[0]}.json")
    try:
        return read_ckpt(path)
    except WeightFileError as error:
        raise CorruptedError(str(error)) from None
