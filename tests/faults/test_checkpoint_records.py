"""Every damage of what stands beside a checkpoint's weights is named, and training resumes from an intact one."""

import json
import os
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from pipeline.common.errors import UserError
from train.experiment.sections import Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.weights import checkpoint, sealed_json
from train.weights.checkpoint import CheckpointError, CorruptedError

STEPS = 4  # of an epoch


def made_of(step: int):
    """A network and its training state after some steps."""
    network = nn.SequentialCell(nn.Dense(2, 2))
    settings = Optimizer()
    train_step = TrainStep(
        NetworkWithLoss(network, nn.Identity()), make_optimizer(settings, network, [0.1] * 9), settings
    )
    network[0].bias.set_data(ms.Tensor(np.full(2, step, np.float32)))
    train_step.optimizer.global_step.set_data(ms.Tensor([step], ms.int32))
    return network, train_step


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run's `ckpt/` with checkpoints after steps 3 and 6; the first is the best."""
    made = tmp_path / "20260101-000000" / "ckpt"
    for step in (3, 6):
        network, train_step = made_of(step)
        state = {"step": step, "epoch": step // STEPS, "best": 0.5, "steps_per_epoch": STEPS, "classes": ["a"]}
        checkpoint.save(made, stem_after(step), network, train_step.state(), state)
    checkpoint.point(made, "best", stem_after(3), video_top1=0.5)
    return made


def stem_after(step: int) -> str:
    return checkpoint.stem(-(-step // STEPS), step)


def load_from(folder: Path, step: int):
    network, train_step = made_of(0)
    state = checkpoint.load(folder / f"{stem_after(step)}.ckpt", network, train_step.state())
    assert network[0].bias.asnumpy().tolist() == [step, step] and state["step"] == step
    return state


def test_flipped_bit_in_the_json_is_found_or_harmless(folder):
    path = folder / f"{stem_after(6)}.json"
    content, good = path.read_bytes(), load_from(folder, 6)
    refused = 0
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            state = checkpoint.read_state(path.with_suffix(".ckpt"))
        except CorruptedError as error:
            assert str(error).startswith(f"{path}: corrupted") and "\n" not in str(error)
            refused += 1
        else:  # the name of the checksum itself, or a space
            assert {key: state[key] for key in good} == good
    assert refused > 0.95 * len(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": 5}, r"step is 5, expected 6, which epoch_002-step_000006\.optimizer\.ckpt has"),
        ({"step": True}, "step True, epoch 1 and best 0.5 must be numbers"),
        ({"epoch": 2}, "epoch is 2, expected 1 after step 6 with 4 steps an epoch"),
        ({"epoch": None}, "step 6, epoch None and best"),
        ({"best": "0.5"}, "and best '0.5' must be numbers"),
    ],
)
def test_impossible_position_in_old_json_is_found(folder, change, reason):
    path = folder / f"{stem_after(6)}.json"
    path.write_text(json.dumps({**sealed_json.read(path), **change}))  # of a version without a checksum
    with pytest.raises(CorruptedError, match=rf"step_000006\.json: corrupted: .*{reason}"):
        load_from(folder, 6)


def test_old_json_without_checksum_is_read(folder):
    for step, epoch in ((3, 0), (6, 1)):
        path = folder / f"{stem_after(step)}.json"
        path.write_text(json.dumps(sealed_json.read(path)))
        assert load_from(folder, step)["epoch"] == epoch


def test_checkpoint_under_another_name_is_found(folder):
    for ending in (".ckpt", ".optimizer.ckpt", ".json"):
        shutil.copy(folder / f"{stem_after(3)}{ending}", folder / f"{checkpoint.stem(2, 7)}{ending}")
    path = folder / f"{checkpoint.stem(2, 7)}.ckpt"
    network, train_step = made_of(0)
    with pytest.raises(CorruptedError, match=r"step_000007\.json: corrupted: step is 3, expected 7, .* in its name"):
        checkpoint.load(path, network, train_step.state())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"stem": ' + b"[" * 100_000, "its JSON is nested too deep"),
        (b'{"stem": "../../x"}', "it names '../../x', which is no checkpoint"),
        (b'{"stem": ["x"]}', "it names ['x'], which is no checkpoint"),
        (b'{"stem": "epoch_001-step_\xff"}', "it is not UTF-8 at byte 25"),
        (b'{"stem": "epoch_002-step_000006", "checksum": "0"}', "its content differs from its checksum"),
        (bytes(60), "it is not JSON"),
    ],
)
def test_damaged_pointer_is_named_and_loses_nothing(folder, content, reason, caplog):
    (folder / "best.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.json: corrupted\. Give a checkpoint beside it"):
        checkpoint.weights_in(folder.parent)
    assert caplog.messages[0].startswith(f"warning: {folder}/best.json: corrupted: {reason}")
    checkpoint.prune(folder, keep=1)
    assert load_from(folder, 3) and load_from(folder, 6)  # the first may be the best


def test_odd_names_in_ckpt_are_named_and_ignored(folder, caplog):
    odd = [
        "epoch_x-step_y.json",
        "epoch_001-step_000009 (copy).json",
        "epoch_1-step_7.json",
        "epoch_003-step_-00001.json",
    ]
    for name in odd:
        (folder / name).write_text("{}")
    (folder / "epoch_003-step_000009.json").mkdir()
    os.mkfifo(folder / "epoch_003-step_000010.json")
    (folder / os.fsdecode(b"epoch_003-step_00001\xff.json")).touch()
    assert [path.stem for path in checkpoint.checkpoints_in(folder)] == [stem_after(6), stem_after(3)]
    (line,) = caplog.messages
    assert line.isascii() and line.startswith(f"warning: {folder}: ignored, because they are not files of a checkpoint")
    assert repr(odd[0]) in line or "more" in line
    assert checkpoint.weights_in(folder.parent).stem == stem_after(3)


def test_failed_save_leaves_no_half_checkpoint(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save = ms.save_checkpoint

    def full(values, name):
        if "optimizer" in name:
            raise OSError(28, "No space left on device")
        save(values, name)

    def full_at_the_end(*_):
        raise OSError(28, "No space left on device")

    for where, name, stand_in, steps in (
        (ms, "save_checkpoint", full, (6, 8)),  # over an earlier one, and a new one
        (sealed_json, "write", full_at_the_end, (8,)),
    ):
        for step in steps:
            network, train_step = made_of(0)
            with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
                patch.setattr(where, name, stand_in)
                checkpoint.save(folder, stem_after(step), network, train_step.state(), {"step": step})
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the code after it must matter."""


@pytest.mark.parametrize("old", ["pair", "weights only", "nothing"])
def test_killed_replacement_leaves_old_or_new_pair(tmp_path, old, monkeypatch):
    path, json_path = tmp_path / "x.ckpt", tmp_path / "x.json"
    kept = {}

    def state_on_disk() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def start_over() -> None:
        for file in tmp_path.iterdir():
            file.unlink()
        if old != "nothing":
            checkpoint.save_weights(path, made_of(1)[0], {"classes": ["old"]})
        if old == "weights only":
            json_path.unlink()

    replace, count, outcomes = os.replace, 0, []
    kill_at = 0

    def killing(source, target):
        nonlocal count, kept
        count += 1
        if count == kill_at:
            kept = state_on_disk()  # what follows in this process did not happen
            raise Killed
        replace(source, target)

    while True:
        start_over()
        count, kept, kill_at = 0, {}, kill_at + 1
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killing)
            try:
                checkpoint.save_weights(path, made_of(2)[0], {"classes": ["new"]})
            except Killed:
                for file in tmp_path.iterdir():
                    file.unlink()
                for name, content in kept.items():
                    (tmp_path / name).write_bytes(content)
        if not path.exists():
            outcomes.append("nothing")
            with pytest.raises(UserError, match="checkpoint not found"):
                checkpoint.load(path, made_of(0)[0])
        else:
            network = made_of(0)[0]
            state = checkpoint.load(path, network)
            (value,) = set(network[0].bias.asnumpy().tolist())
            outcomes.append({1: "old", 2: "new"}[value])
            names = {"old": ["old"] if old == "pair" else None, "new": ["new"]}[outcomes[-1]]
            assert state.get("classes") == names
            checkpoint.save_weights(path, made_of(3)[0], {"classes": ["third"]})  # and it can be replaced
            assert checkpoint.load(path, network)["classes"] == ["third"]
        if not kept:
            break
    assert (
        outcomes
        == {
            "pair": ["old", "old", "new", "new"],
            "weights only": ["old", "old", "new", "new"],
            "nothing": ["nothing", "nothing", "new"],
        }[old]
    )
