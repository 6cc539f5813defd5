import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from model import weights
from train import checkpoint
from train.checkpoint import CheckpointError
from train.config import Optimizer
from train.step import make_optimizer


def make(classes: int = 3):
    network = nn.SequentialCell(nn.Dense(4, classes), nn.BatchNorm1d(classes))
    optimizer = make_optimizer(Optimizer(weight_decay=0.0), network, [0.1] * 10)
    return network, optimizer


def values(*cells: nn.Cell) -> list[np.ndarray]:
    return [parameter.asnumpy().copy() for cell in cells for parameter in cell.get_parameters()]


@pytest.fixture
def saved(tmp_path):
    network, optimizer = make()
    rng = np.random.default_rng(0)
    for _ in range(2):  # so that moments and the step counter are not at their start
        optimizer(tuple(ms.Tensor(rng.standard_normal(p.shape).astype(np.float32)) for p in optimizer.parameters))
    path = checkpoint.save(tmp_path, "epoch_001-step_000002", network, optimizer, {"step": 2, "classes": ["a"]})
    return path, network, optimizer


def test_weights_optimizer_and_state_come_back_bit_for_bit(saved):
    path, network, optimizer = saved
    other, other_optimizer = make()
    state = checkpoint.load(path, other, other_optimizer)
    assert state["step"] == 2 and state["classes"] == ["a"]
    for ours, theirs in zip(values(network, optimizer), values(other, other_optimizer), strict=True):
        np.testing.assert_array_equal(ours, theirs)
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
    network, optimizer = make()
    before = values(network, optimizer)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path, network, optimizer)
    for old, new in zip(before, values(network, optimizer), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_checkpoint_of_another_network_is_refused(saved):
    path, *_ = saved
    with pytest.raises(CheckpointError, match=r"0\.weight: got \(3, 4\), expected \(5, 4\)"):
        checkpoint.load(path, make(classes=5)[0])


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path, make()[0])
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "y.ckpt", make()[0])


def test_a_save_that_fails_leaves_the_previous_checkpoint(saved, monkeypatch):
    path, network, optimizer = saved
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path.parent, path.stem, network, optimizer, {"step": 3})
    monkeypatch.undo()
    assert checkpoint.load(path, make()[0])["step"] == 2


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    network, optimizer = make()
    for step in range(1, 6):
        checkpoint.save(tmp_path, f"epoch_{step:03d}-step_{step:06d}", network, optimizer, {"step": step})
        if step == 2:
            checkpoint.write_json(tmp_path / "best.json", {"stem": "epoch_002-step_000002"})
        checkpoint.prune(tmp_path, keep=2)
    assert sorted(p.stem[:9] for p in tmp_path.glob("epoch_*.json")) == [
        "epoch_002",
        "epoch_004",
        "epoch_005",
    ]
    assert json.loads((tmp_path / "latest.json").read_text())["stem"].startswith("epoch_005")


def test_newest_run_with_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="make train"):
        checkpoint.newest(tmp_path, "best")
    for run in ("20260101-000000", "20260102-000000"):
        (tmp_path / run / "ckpt").mkdir(parents=True)
        checkpoint.write_json(tmp_path / run / "ckpt" / "best.json", {"stem": "epoch_001-step_000001"})
    (tmp_path / "20260103-000000" / "ckpt").mkdir(parents=True)
    assert checkpoint.newest(tmp_path, "best") == tmp_path / "20260102-000000/ckpt/epoch_001-step_000001.ckpt"


def test_names_do_not_depend_on_who_holds_the_network():
    network, _ = make()
    before = list(weights.parameters(network))
    nn.SequentialCell(network)  # MindSpore renames the parameters of a cell that is put into another
    assert list(weights.parameters(network)) == before
