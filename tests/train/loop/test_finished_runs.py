"""A run that is finished stays as it is; it can become longer where its schedule allows; the best score is certain."""

import errno
import json
import math
import re
import shlex
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from make_training import TinyNetwork, checkpoints_of, write_config

from pipeline.common.cli import with_args
from pipeline.common.errors import EXIT_IO, EXIT_OK, MachineError, UserError
from pipeline.common.settings import Document
from pipeline.ledger import table
from train import train
from train.experiment.load import load_config
from train.loop import trainer
from train.loop.next_commands import next_commands
from train.loop.position import Position
from train.runs import run_folder
from train.runs.metrics import read_metrics
from train.runs.starts import read_starts
from train.weights import sealed_json

FAST = ["--context.mode=1", "--data_loader.train.dataset.batch_size=8"]  # two steps an epoch
CONSTANT = ["--learning_rate.lr_scheduler=constant", "--learning_rate.warmup_epochs=0"]
RESUME = ["--resume", "auto"]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(trainer, "build_network", lambda _settings: TinyNetwork())


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("finished"), eval_epochs=1)


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_run_is_left_alone_and_can_be_longer(config, tmp_path, capsys):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, *CONSTANT]
    assert train.main([*words, "--train.epochs=2"]) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    result = capsys.readouterr().out
    assert re.fullmatch(rf"video top-1 [\d.]+ top-5 [\d.]+, best [\d.]+ at epoch [12], 4 steps -> {run}\n", result)
    assert f" {result}" in (run / "train.log").read_text()
    before = files_below(run)
    assert train.main([*words, "--train.epochs=2", "--learning_rate.lr=0.5", *RESUME]) == EXIT_OK
    assert files_below(run) == before
    shown = capsys.readouterr()
    assert re.fullmatch(rf"Nothing to train: best [\d.]+ at epoch [12], finished before -> {run}\n", shown.out)
    assert "has finished its 2 epochs (train.epochs). To train longer, use --resume auto with a larger" in shown.err

    assert train.main([*words, "--train.epochs=3", *RESUME]) == EXIT_OK
    assert checkpoints_of(tmp_path / "tiny")[0].stem == "epoch_003-step_000006"
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2, 3, 4, 5, 6]
    assert [record["epoch"] for record in records if "val/loss" in record] == [1, 2, 3]
    keys = set().union(*records)
    assert {"epoch", "time", "train/seconds", "val/seconds", "val/clip_top1", "val/video_top1"} <= keys
    assert all(key in (run_folder.__doc__ or "") for key in keys)
    starts = read_starts(run)
    assert [start["changed"] for start in starts] == [{}, {"train.epochs": [2, 3]}]
    facts = {"started", "command", "git", "host", "cpu", "gpu", "driver", "python", "mindspore", "numpy", "settings"}
    assert all(facts <= start.keys() for start in starts) and starts[0]["host"] == socket.gethostname()
    best = json.loads((run / "ckpt" / "best.json").read_text())
    state = json.loads(checkpoints_of(tmp_path / "tiny")[0].with_suffix(".json").read_text())
    assert (best["epoch"], best["loss"]) == (state["best_epoch"], state["best_loss"])
    (scored,) = [record for record in records if record["epoch"] == best["epoch"] and "val/loss" in record]
    assert (scored["val/video_top1"], scored["val/loss"]) == (best["video_top1"], best["loss"])


def noted_best(run: Path) -> tuple[object, ...]:
    best = json.loads((run / "ckpt" / "best.json").read_text())
    return best["stem"], best["epoch"], best["video_top1"], best["loss"]


@pytest.fixture
def scores(monkeypatch) -> Callable[..., None]:
    """Sets the video top-1 of the next evaluations."""

    def set_scores(*values: float) -> None:
        left = list(values)
        scored = lambda *_: {"video_top1": left.pop(0), "video_top5": 1.0, "loss": 1.0}  # noqa: E731
        monkeypatch.setattr(trainer.Trainer, "_evaluate", scored)

    return set_scores


def test_best_is_true_after_a_kill_before_it_is_noted(config, tmp_path, scores):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, "--train.epochs=2"]
    scores(0.25, 0.5)
    assert train.main(words) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    whole = noted_best(run)
    assert whole == ("epoch_002-step_000004", 2, 0.5, 1.0)
    sealed_json.write(run / "ckpt" / "best.json", {"stem": "epoch_001-step_000002", "epoch": 1, "video_top1": 0.25})
    assert train.main([*words, *RESUME]) == EXIT_OK
    assert noted_best(run) == whole


@pytest.mark.parametrize("kept", [True, False])
def test_best_is_true_after_going_back(kept, config, tmp_path, scores):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, *CONSTANT, "--train.save_checkpoint_epochs=1"]
    scores(0.5, 0.25, 0.75)
    assert train.main([*words, "--train.epochs=3"]) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    assert noted_best(run)[:3] == ("epoch_003-step_000006", 3, 0.75)
    if not kept:
        for path in run.glob("ckpt/epoch_001*"):
            path.unlink()
    scores(0.375)
    second = run / "ckpt" / "epoch_002-step_000004.ckpt"
    assert train.main([*words, "--train.epochs=3", "--resume", str(second), "--learning_rate.lr=0.1"]) == EXIT_OK
    assert noted_best(run)[:3] == (("epoch_001-step_000002", 1, 0.5) if kept else ("epoch_003-step_000006", 3, 0.375))


def test_going_back_and_a_kill_lose_no_record(config, tmp_path, monkeypatch):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, *CONSTANT, "--train.eval_epochs=0"]
    words += ["--train.save_checkpoint_epochs=1", "--train.epochs=3"]
    assert train.main(words) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed here"):
        patch.setattr(trainer.Trainer, "_train_epoch", Mock(side_effect=OSError("killed here")))
        train.main([*words, "--resume", str(run / "ckpt" / "epoch_001-step_000002.ckpt")])
    assert train.main([*words, *RESUME]) == EXIT_OK
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [start["step"] for start in read_starts(run)] == [0, 2, 2]


@pytest.mark.slow
def test_longer_run_ends_in_the_bits_of_a_long_one(config, tmp_path):
    for runs, lengths in (("whole", [3]), ("longer", [1, 3])):
        for epochs in lengths:
            words = ["-c", str(config), f"--train.ckpt_path={tmp_path}/{runs}", f"--train.epochs={epochs}"]
            assert train.main([*words, *FAST, *CONSTANT, *RESUME]) == EXIT_OK
    whole, longer = (checkpoints_of(tmp_path / runs / "tiny")[0] for runs in ("whole", "longer"))
    assert whole.name == longer.name and whole.read_bytes() == longer.read_bytes()


@pytest.mark.slow
def test_command_for_another_schedule_can_be_run(config, tmp_path, capsys):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST]
    assert train.main([*words, "--train.epochs=2"]) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    before = files_below(run)
    assert train.main([*words, "--train.epochs=2", *RESUME]) == EXIT_OK
    same_again = capsys.readouterr().err.splitlines()[-1].partition("start from its weights: ")[2]
    assert shlex.split(same_again)[:3] == ["make", "train", f"CONFIG={config}"]
    assert "--train.epochs=2 --train.pre_trained=true" in same_again
    with pytest.raises(UserError, match="lr_scheduler cosine_annealing the learning rates of the finished") as caught:
        train.main([*words, "--train.epochs=3", *RESUME])
    assert files_below(run) == before
    _make, verb, given, args = shlex.split(str(caught.value).partition("from these weights: ")[2])
    assert verb == "train" and given == f"CONFIG={config}"
    assert train.main(["-c", str(config), *with_args(["--args=" + args.removeprefix("ARGS=")])]) == EXIT_OK
    assert checkpoints_of(tmp_path / "tiny")[0].stem == "epoch_001-step_000002" and files_below(run) == before


def test_start_that_is_refused_does_not_touch_the_run(config, tmp_path):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, "--train.eval_epochs=0", "--train.epochs=1"]
    assert train.main(words) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    before = files_below(run)
    with pytest.raises(UserError, match="cannot resume: seed is 0 in the checkpoint and 7 now"):
        train.main([*words, "--train.seed=7", *RESUME])
    changed = (
        r"Changed since the last start: optimizer\.loss_scale was 1\.0, is \"dynamic\"; optimizer\.ema_decay was null"
    )
    with pytest.raises(
        UserError, match=rf"optimizer\.ckpt does not fit this network and optimizer\. Use .*\. {changed}"
    ):
        train.main([*words, "--optimizer.ema_decay=0.9", "--optimizer.loss_scale=dynamic", "--train.epochs=2", *RESUME])
    assert files_below(run) == before


def test_hint_about_data_wait_after_first_interval(config, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(trainer, "waiting_hint", lambda _, wait: waits.append(wait) or " HINT")
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, "--train.eval_epochs=0", "--train.epochs=2"]
    assert train.main([*words, "--train.log_steps=1"]) == EXIT_OK
    (log,) = tmp_path.glob("tiny/*/train.log")
    lines = [line for line in log.read_text().splitlines() if "data wait" in line]
    assert [" HINT" in line for line in lines] == [False, True, True, True]
    records = read_metrics(log.with_name("metrics.jsonl"))
    assert waits == [record["train/data_wait"] for record in records[1:]]


def test_equal_scores_are_decided_by_the_loss():
    position = Position()
    scores = [(0.5, 2.0), (0.5, 2.0), (0.5, 1.0), (0.4, 0.1), (0.5, 1.5), (0.5, math.nan), (0.6, math.nan), (0.6, 9.0)]
    improved = [epoch for epoch, score in enumerate(scores, 1) if position.improve(*score, epoch)]
    assert improved == [1, 3, 8] and (position.best, position.best_loss, position.best_epoch) == (0.6, 9.0, 8)
    earlier = Position(best=0.5)  # an earlier version's checkpoint has no loss of its best evaluation
    assert not earlier.improve(0.5, 0.1, 3) and earlier.improve(0.6, 7.0, 4)


def test_disk_too_small_for_checkpoints_is_named_first(config, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 4000)
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST]
    with monkeypatch.context() as patch, pytest.raises(MachineError) as caught:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        train.main([*words, "--train.save_checkpoint_steps=1", "--train.keep_checkpoint_max=3"])
    expected = r"/tiny: 5 checkpoints of 0\.0 MB will be there at once, but only 0\.0 MB are free\. Free some"
    assert re.search(expected, str(caught.value))
    assert caught.value.exit_code == EXIT_IO and list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        assert train.main([*words, "--train.epochs=1", "--train.eval_epochs=0"]) == EXIT_OK


def test_full_disk_names_the_checkpoint(config, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as MindSpore does, without a name

    monkeypatch.setattr("mindspore.save_checkpoint", full)
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, "--train.eval_epochs=0", "--train.epochs=1"]
    with pytest.raises(OSError, match=r"No space left on device: '.*/ckpt/epoch_001-step_000002\.(optimizer\.)?ckpt'"):
        train.main(words)


def test_next_commands_can_be_pasted(config, tmp_path, monkeypatch):
    document = Document(config)
    settings = load_config(document)
    run = tmp_path / "runs" / "my run"
    (run / "ckpt").mkdir(parents=True)
    (run / "ckpt" / "best.json").touch()
    assert [line.partition("make ")[2] for line in next_commands(settings, document, run)[1:]] == [
        f"infer VIDEO=clip.mp4 'CKPT={run}'", f"report 'CKPT={run}'"
    ]  # fmt: skip
    ledger = table.read_columns(table.ledger_path(settings.preprocess, "val"), ["path", "status"])
    videos = tmp_path / "the videos"
    file = videos / ledger["path"][ledger["status"] == "ok"].iloc[1]
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr("train.loop.next_commands.DEFAULT_CONFIG", str(config))
    document = Document(config, {"train.ckpt_path": "runs", "preprocess.data_root": str(videos)})
    lines = next_commands(load_config(document), document, run)
    assert [line.partition("make ")[2] for line in lines[1:]] == [
        f"infer 'VIDEO={file}'", "report", "train DATA=/my/videos"
    ]  # fmt: skip


def test_training_ends_with_the_next_commands(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "_SHOWN_EVERY_S", math.inf)
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", *FAST, "--train.eval_epochs=0", "--train.epochs=1"]
    assert train.main(words) == EXIT_OK
    (run,) = (tmp_path / "tiny").iterdir()
    lines = capsys.readouterr().err.splitlines()
    last = f"make report {shlex.quote(f'CKPT={run}')}"
    assert lines[-1].endswith(last)
    assert (run / "train.log").read_text().endswith(f"{last}\n")
    assert [line for line in lines if line.startswith("epoch: ")] == [lines[-5]]
