"""A checkpoint is read completely or refused, whatever happened while it was written."""

import contextlib
import json
import os
import resource
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from model import weights
from pipeline.common.files import write_json
from train import train
from train.experiment.sections import Config, Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.runs.choose import run_folder
from train.runs.run_folder import RunFolder
from train.weights import checkpoint
from train.weights.checkpoint import CheckpointError, CorruptedError

SETTINGS = Optimizer(weight_decay=0.0, loss_scale="dynamic", ema_decay=0.9)


def make(classes: int = 3, steps: int = 10):
    network = nn.SequentialCell(nn.Dense(4, classes), nn.BatchNorm1d(classes))
    optimizer = make_optimizer(SETTINGS, network, [0.1] * steps)
    return network, TrainStep(NetworkWithLoss(network, nn.Identity()), optimizer, SETTINGS, group_size=2)


def values(network: nn.Cell, step: TrainStep) -> list[np.ndarray]:
    return [parameter.asnumpy().copy() for parameter in [*network.get_parameters(), *step.state().values()]]


@pytest.fixture
def saved(tmp_path):
    network, step = make()
    rng = np.random.default_rng(0)
    for parameter in [*network.get_parameters(), *step.state().values()]:
        value = rng.integers(1, 9, parameter.shape) if parameter.dtype == ms.int32 else rng.random(parameter.shape)
        parameter.set_data(ms.Tensor(value, parameter.dtype))
    step.optimizer.global_step.set_data(ms.Tensor([2], ms.int32))
    state = {"step": 2, "epoch": 0, "best": -1.0, "classes": ["a"]}
    return checkpoint.save(tmp_path, checkpoint.stem(1, 2), network, step.state(), state), network, step


def test_weights_optimizer_and_state_survive_a_save(saved):
    path, network, step = saved
    other, other_step = make(steps=99)  # another schedule: the rates are the configuration's, not the checkpoint's
    state = checkpoint.load(path, other, other_step.state())
    assert state["step"] == 2 and state["classes"] == ["a"]
    for ours, theirs in zip(values(network, step), values(other, other_step), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kinds = {name.split(".")[0] for name in step.state()}
    assert kinds == {"moments", "average", "global_step", "loss_scale", "steps_without_overflow"}
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
@pytest.mark.parametrize("ending", [".ckpt", ".optimizer.ckpt"])
def test_damage_is_found_and_nothing_is_loaded(saved, damage, ending):
    path, *_ = saved
    victim = path.with_name(path.stem + ending)
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    victim.write_bytes(
        bytes(content) if damage == "flip" else content[: len(content) // 2] if damage == "truncate" else b""
    )
    network, step = make()
    before = values(network, step)
    with pytest.raises(CorruptedError, match="corrupted"):
        checkpoint.load(path, network, step.state())
    for old, new in zip(before, values(network, step), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("ending", [".ckpt", ".optimizer.ckpt"])
def test_half_a_checkpoint_counts_as_damaged(saved, ending):
    path, network, step = saved
    path.with_name(path.stem + ending).unlink()
    with pytest.raises(CorruptedError, match=f"{path.stem}{ending}: checkpoint not found"):
        checkpoint.load(path, network, step.state())


def test_without_pointer_most_steps_are_the_latest(tmp_path, caplog):
    network, step = make()
    folder = tmp_path / "20260101-000000" / "ckpt"
    for number in (3, 6):
        checkpoint.save(folder, checkpoint.stem(1, number), network, step.state(), {})
    for damage, reason in (
        (b"", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{}", "it names None, which is no checkpoint"),
        (b"[1]", "it is not a JSON object"),
    ):
        caplog.clear()
        (folder / "latest.json").write_bytes(damage)
        assert [int(path.stem[-1]) for path in checkpoint.checkpoints_in(folder)] == [6, 3]
        assert caplog.messages == [f"warning: {folder}/latest.json: corrupted: {reason}. It is ignored."]
    (folder / "best.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"best\.json: corrupted\. Give a checkpoint beside it with CKPT=FILE"):
        checkpoint.weights_in(folder.parent)


def test_a_checkpoint_of_another_network_is_refused(saved):
    path, *_ = saved
    with pytest.raises(CheckpointError, match=r"0\.weight: got \(3, 4\), expected \(5, 4\)"):
        checkpoint.load(path, make(classes=5)[0])


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path, make()[0])
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        checkpoint.load(tmp_path / "y.ckpt", make()[0])


def test_failed_save_leaves_the_previous_checkpoint(saved, monkeypatch):
    path, network, step = saved
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path.parent, path.stem, network, step.state(), {"step": 3})
    monkeypatch.undo()
    assert checkpoint.load(path, make()[0])["step"] == 2
    assert not list(path.parent.glob(".*"))


def test_a_disk_that_takes_no_more_is_not_left_full(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save_weights(tmp_path / "x.ckpt", nn.Dense(600, 600), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_replacing_clears_what_a_killed_process_left(tmp_path):
    left = [".x[1].ckpt.999999999.tmp.ckpt", ".x[1].ckpt.999999999.tmp.tmp", ".x[1].json.999999999.tmp"]
    others = [".x[1].ckpt.1.tmp.ckpt", ".x1.ckpt.999999999.tmp.ckpt", ".x[1].ckpt.y.tmp"]  # the first is at work
    for name in (*left, *others):
        (tmp_path / name).touch()
    checkpoint.save_weights(tmp_path / "x[1].ckpt", make()[0], {})
    assert {path.name for path in tmp_path.iterdir()} == {"x[1].ckpt", "x[1].json", *others}


def test_resuming_clears_what_a_killed_save_left(tmp_path):
    folder = tmp_path / "ckpt"
    folder.mkdir()
    names = (".x.ckpt.12.tmp.ckpt", ".x.ckpt.12.tmp.tmp", ".x.optimizer.ckpt.12.tmp.ckpt", ".latest.json.12.tmp")
    for name in (*names, "x.ckpt", "x.json"):
        (folder / name).write_bytes(b"x")
    with RunFolder(tmp_path, None, {}, tmp_path):
        pass
    assert {path.name for path in folder.iterdir()} == {"x.ckpt", "x.json"}


def test_an_optimizer_of_another_kind_is_refused(saved):
    path, network, _ = saved
    plain = Optimizer()
    step = TrainStep(NetworkWithLoss(network, nn.Identity()), make_optimizer(plain, network, [0.1]), plain)
    with pytest.raises(CheckpointError, match=r"optimizer\.ckpt does not fit this network and optimizer"):
        checkpoint.load(path, network, step.state())


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    network, step = make()
    numbers = [1, 2, 3, 999_999, 1_000_000]  # one more digit is newer, though it sorts first
    for number in numbers:
        checkpoint.save(tmp_path, checkpoint.stem(1, number), network, step.state(), {"step": number})
        if number == 2:
            write_json(tmp_path / "best.json", {"stem": checkpoint.stem(1, 2)})
        checkpoint.prune(tmp_path, keep=2)
    assert {path.stem for path in tmp_path.glob("epoch_*.json")} == {checkpoint.stem(1, n) for n in (2, *numbers[-2:])}
    assert len(list(tmp_path.glob("*.ckpt"))) == 6
    assert json.loads((tmp_path / "latest.json").read_text())["stem"] == checkpoint.stem(1, 1_000_000)


@pytest.mark.parametrize("number", range(4))
def test_killed_pruning_is_completed_later(number, tmp_path, monkeypatch):
    network, step = make()
    folder = tmp_path / "ckpt"
    for each in (1, 2):
        checkpoint.save(folder, checkpoint.stem(1, each), network, step.state(), {"step": each})
    (folder / "epoch_001-step_000003.ckpt").touch()  # without a JSON, and not ours to remove
    left, unlink = number, Path.unlink

    def kill(path, missing_ok=False):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) if number < 3 else contextlib.nullcontext():
        patch.setattr(Path, "unlink", kill)
        checkpoint.prune(folder, keep=1)
    assert [path.stem for path in checkpoint.checkpoints_in(folder)] == ["epoch_001-step_000002"]
    checkpoint.remove_unfinished(folder)
    assert {path.name for path in folder.iterdir()} == {
        "latest.json", "epoch_001-step_000003.ckpt",
        *(f"epoch_001-step_000002{ending}" for ending in (".json", ".ckpt", ".optimizer.ckpt")),
    }  # fmt: skip


def test_unresumable_checkpoint_is_refused_up_front(saved, tmp_path, monkeypatch):
    path, network, step = saved
    with pytest.raises(CheckpointError, match=r"outside a run folder, expected <run>/ckpt/epoch_001-step_000002\.ckpt"):
        train.checkpoints_to_resume(Config(), None, str(path))
    path = checkpoint.save(tmp_path / "run" / "ckpt", "x", network, step.state(), {"step": 2})
    assert train.checkpoints_to_resume(Config(), None, str(path)) == [path]
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "link").symlink_to(path.parent)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ckpt").symlink_to(path.parent)
    monkeypatch.chdir(path.parent)
    for given in ("x.ckpt", "../ckpt/x.ckpt", tmp_path / "link" / "x.ckpt", tmp_path / "other" / "ckpt" / "x.ckpt"):
        (found,) = train.checkpoints_to_resume(Config(), None, str(given))
        assert found.parent.name == "ckpt" and found.parent.parent.samefile(tmp_path / "run")
    assert run_folder(Path("x.ckpt")) == run_folder(tmp_path / "link") == tmp_path / "run"
    for name in ("config.yaml", "ckpt"):  # a run whose checkpoints are on another disk
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).symlink_to(tmp_path / "run" / name)
    (found,) = train.checkpoints_to_resume(Config(), None, str(tmp_path / "moved" / "ckpt" / "x.ckpt"))
    assert found == tmp_path / "moved" / "ckpt" / "x.ckpt"
    path.with_name("x.optimizer.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"got weights only, expected x\.json .* and x\.optimizer\.ckpt beside"):
        train.checkpoints_to_resume(Config(), None, str(path))
    checkpoint.save_weights(tmp_path / "y.ckpt", network, {"classes": ["a"]})
    with pytest.raises(CheckpointError, match=r"--train\.pre_trained=true --train\.pretrained_model=.*y\.ckpt"):
        train.checkpoints_to_resume(Config(), None, str(tmp_path / "y.ckpt"))
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        train.checkpoints_to_resume(Config(), None, str(tmp_path / "z.ckpt"))


def test_names_do_not_depend_on_who_holds_the_network():
    network, _ = make()
    before = list(weights.parameters(network))
    nn.SequentialCell(network)  # MindSpore renames the parameters of a cell that is put into another
    assert list(weights.parameters(network)) == before


def test_abandoned_checkpoints_are_older_than_new_ones(tmp_path):
    network, step = make()
    folder = tmp_path / "20260101-000000" / "ckpt"
    for number in (3, 6, 9, 4):  # training continued from step 3 again
        checkpoint.save(folder, checkpoint.stem(1, number), network, step.state(), {})
        checkpoint.prune(folder, keep=3)
    assert [int(path.stem[-1]) for path in checkpoint.checkpoints_in(folder)] == [4, 3, 9]


def test_run_folder_means_its_best_checkpoint(tmp_path):
    network, step = make()
    with pytest.raises(CheckpointError, match="expected a run folder or a file of weights"):
        checkpoint.weights_in(tmp_path)
    for number in (9, 10):
        checkpoint.save(tmp_path / "ckpt", checkpoint.stem(1, number), network, step.state(), {})
    assert checkpoint.weights_in(tmp_path).stem == "epoch_001-step_000010"
    write_json(tmp_path / "ckpt" / "best.json", {"stem": "epoch_001-step_000009"})
    assert checkpoint.weights_in(tmp_path).stem == "epoch_001-step_000009"
