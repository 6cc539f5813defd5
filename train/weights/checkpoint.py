"""Checkpoints that are whole or not there: `<stem>.ckpt` (weights), `<stem>.optimizer.ckpt` and `<stem>.json`.

MindSpore's `save_checkpoint` removes the old file before it writes, does not fsync, and its `load_checkpoint` reads
a truncated file with no more than a warning (2.10).  So each file is written under a temporary name, synced and
renamed; the JSON comes last, holds the SHA-256 of both, and without it there is no checkpoint.
`latest.json` and `best.json` in the same folder name a stem.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Parameter, nn

from model import weights
from pipeline.common.errors import UserError
from pipeline.common.files import replacing, write_json
from train.weights.files import WeightFileError, read_ckpt

log = logging.getLogger(__name__)


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another network."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are not those that were written; an earlier one may be whole."""


def stem(epoch: int, step: int) -> str:
    """The name of a checkpoint: the epoch it was made in (from 1) and finished steps of the whole run."""
    return f"epoch_{epoch:03d}-step_{step:06d}"


def save(folder: Path, stem: str, network: nn.Cell, training: Mapping[str, Parameter], state: dict[str, Any]) -> Path:
    """Write a checkpoint and point `latest.json` at it.

    Args:
        folder: the run's `ckpt/`.
        stem: such as `epoch_012-step_000345`.
        network: its parameters go to `<stem>.ckpt`.
        training: what going on needs besides (moments, step, loss scale), to `<stem>.optimizer.ckpt`.
        state: what a resumed run or another command needs to know: epoch, step, seed, classes, recipe ...

    Returns:
        The path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{stem}.ckpt": weights.parameters(network),
        f"{stem}.optimizer.ckpt": training,
    }
    with ThreadPoolExecutor() as pool:  # one file is hashed and synced while the other is written
        paths = [folder / name for name in files]
        digests = dict(zip(files, pool.map(_write_parameters, paths, files.values()), strict=True))
    write_json(folder / f"{stem}.json", {**state, "sha256": digests})
    write_json(folder / "latest.json", {"stem": stem})
    return folder / f"{stem}.ckpt"


def save_weights(path: Path, network: nn.Cell, state: dict[str, Any]) -> None:
    """Write weights alone: `path`, which ends in .ckpt, and the JSON beside it."""
    digest = _write_parameters(path, weights.parameters(network))
    write_json(path.with_suffix(".json"), {**state, "sha256": {path.name: digest}})


def load(path: Path, network: nn.Cell, training: Mapping[str, Parameter] | None = None) -> dict[str, Any]:
    """Load weights, and with `training` what going on needs too; all or nothing.

    A file without a JSON beside it is taken as plain weights, and its state is empty.

    Returns:
        The state saved beside them.

    Raises:
        DamagedError: a file is missing or differs from its SHA-256.
        CheckpointError: it does not fit this network or this optimizer.
    """
    state = read_state(path)
    values = read_parameters(path, state)
    saved: dict[str, Any] = {}
    if training is not None:
        saved = read_parameters(path.with_name(f"{path.stem}.optimizer.ckpt"), state)
        if {name: p.shape for name, p in training.items()} != {name: array.shape for name, array in saved.items()}:
            raise CheckpointError(f"{path}: the state beside it is of another optimizer or another network")
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
        CheckpointError: neither weights nor JSON are there.
        DamagedError: the JSON cannot be read, is there without the weights, or does not say what their SHA-256 is.
    """
    beside = path.with_suffix(".json")
    if not path.is_file():
        raise (DamagedError if beside.is_file() else CheckpointError)(f"{path}: no such checkpoint")
    if not beside.is_file():
        return {}
    try:
        state = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{beside}: damaged: {error}") from None
    if not isinstance(state, dict) or not isinstance(state.get("sha256"), dict):
        raise DamagedError(
            f"{beside}: damaged, or another program's: it has no SHA-256 of {path.name}; without a .json of its name "
            f"{path.name} is taken as it is"
        )
    if not isinstance(state.get("classes", []), list):
        raise DamagedError(f"{beside}: damaged: its classes are no list")
    return state


def newest(runs: Path, pointer: str) -> Path:
    """The weights that `pointer` (best or latest) names in the newest run under `runs` that has one.

    It warns when there is a newer run, which has none.

    Raises:
        CheckpointError: no run has a checkpoint.
    """
    found = sorted(runs.glob(f"*/ckpt/{pointer}.json"), reverse=True)
    if not found:
        raise CheckpointError(f"{runs}: no run with a checkpoint; run `make train` or give one with CKPT=FILE")
    run, last = found[0].parent.parent, max(runs.glob("*/ckpt")).parent
    if run != last:
        stems = _stems(last / "ckpt")
        latest = f" (its latest: CKPT={last / 'ckpt' / stems[-1]}.ckpt)" if stems else ""
        log.warning("warning: %s, the newest run, has no %s checkpoint%s; taking %s's", last, pointer, latest, run.name)
    stem = _pointed(found[0])
    if stem is None:
        raise CheckpointError(f"{found[0]}: damaged; give a checkpoint beside it with CKPT=FILE")
    return found[0].with_name(f"{stem}.ckpt")


def check_resumable(path: Path) -> None:
    """Refuse a file that training cannot go on with, before anything is made beside it.

    Raises:
        CheckpointError: it is missing, is weights alone, or is not in the folder of a run.
    """
    training = path.with_name(f"{path.stem}.optimizer.ckpt")
    if "step" not in read_state(path) or not training.is_file():
        raise CheckpointError(
            f"{path}: got weights alone, expected {path.stem}.json (with the step) and {training.name} beside them; "
            f"to start from them: --train.pre_trained=true --train.pretrained_model={path}"
        )
    if path.resolve().parent.name != "ckpt":
        raise CheckpointError(f"{path}: got a checkpoint outside a run folder, expected <run>/ckpt/{path.name}")


def resumable(runs: Path) -> list[Path]:
    """The checkpoints of the newest run under `runs` that has any, newest first."""
    for folder in sorted(runs.glob("*/ckpt"), reverse=True):
        if stems := _stems(folder):
            return [folder / f"{stem}.ckpt" for stem in reversed(stems)]
    return []


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    kept = _pointed(folder / "best.json")
    stems = _stems(folder)
    for stem in stems[: max(len(stems) - keep, 0)]:
        if stem != kept:  # the JSON first: what is left without it is no checkpoint
            for ending in (".json", ".ckpt", ".optimizer.ckpt"):
                (folder / f"{stem}{ending}").unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of a run that was killed while it saved."""
    for left in folder.glob(".*.tmp*"):
        left.unlink()


def _stems(folder: Path) -> list[str]:
    """The checkpoints in a folder, oldest first.

    By number, since a million steps have one digit more.  Those after the latest were left behind when training went
    on from an earlier one; they count as the oldest.
    """
    stems = [path.stem for path in folder.glob("epoch_*-step_*.json")]
    stems.sort(key=lambda stem: int(stem.rpartition("_")[2]))
    latest = _pointed(folder / "latest.json")
    if latest is not None and latest not in stems:
        log.warning("warning: %s: names %s, which is not there; doing without", folder / "latest.json", latest)
    end = stems.index(latest) + 1 if latest in stems else len(stems)
    return stems[end:] + stems[:end]


def _pointed(pointer: Path) -> str | None:
    """The stem that latest.json or best.json names; None when it is not there or, with a warning, damaged."""
    if not pointer.is_file():
        return None
    try:
        return str(json.loads(pointer.read_text(encoding="utf-8"))["stem"])
    except (ValueError, KeyError, TypeError):
        log.warning("warning: %s: damaged; doing without", pointer)
        return None


def _write_parameters(path: Path, values: Mapping[str, Parameter]) -> str:
    """Write a .ckpt file atomically; returns its SHA-256."""
    with replacing(path, ".ckpt") as temporary:  # MindSpore requires the ending
        try:
            ms.save_checkpoint([{"name": name, "data": value} for name, value in values.items()], str(temporary))
        finally:  # MindSpore first writes under this name, and leaves the file there when the disk is full
            temporary.with_suffix(".tmp").unlink(missing_ok=True)
        temporary.chmod(0o644)  # MindSpore leaves its files read-only
        return _sha256(temporary)


def read_parameters(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a .ckpt file by name.

    Args:
        path: the file.
        state: the JSON beside it, whose SHA-256 it must have; empty: there is none to compare with.

    Raises:
        CheckpointError: it is missing, damaged, or differs from its SHA-256.
    """
    if not path.is_file():
        raise DamagedError(f"{path}: no such checkpoint")
    if state:
        digests = state["sha256"]  # a file that was renamed, with its JSON, is in there under its old name
        if _sha256(path) not in ([digests[path.name]] if path.name in digests else digests.values()):
            raise DamagedError(f"{path}: damaged: its SHA-256 is not the one in {path.stem.split('.')[0]}.json")
    try:
        return read_ckpt(path)
    except WeightFileError as error:
        raise DamagedError(str(error)) from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
