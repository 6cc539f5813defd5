"""A training that is stopped, killed or corrupted resumes to the same bits, or one line explains why it cannot."""

import contextlib
import io
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from make_training import (
    NORMALIZE,
    NUM_VAL,
    TinyNetwork,
    checkpoints_of,
    signalling,
    to_the_waiting_thread,
    write_config,
)
from paths import ROOT
from terminal import Terminal

from pipeline.common.errors import EXIT_NOT_FINITE, EXIT_OK, EXIT_RETRY, EXIT_SIGINT, UserError
from pipeline.common.settings import Document
from train import train
from train.data.clip_batches import ClipBatches
from train.data.prefetch import LoaderError
from train.device.processes import World
from train.evaluation.results import results_of
from train.evaluation.scoring import Evaluation, score
from train.experiment.load import load_config
from train.experiment.sections import Config, Train
from train.loop import dropout, trainer
from train.loop.health import NotFiniteError, OutOfMemoryError
from train.pages.run import read_run
from train.weights import checkpoint

# Everything that has a state or is random: groups of batches, a changing loss scale, an average of the weights.
STATEFUL = ["--data_loader.group_size=2", "--optimizer.loss_scale=dynamic", "--optimizer.ema_decay=0.9",
            "--model.dropout=0.5"]  # fmt: skip
PLAIN = [{"type": "VideoRescale", "shift": 0.0}, {"type": "VideoReOrder", "order": [3, 0, 1, 2]}, NORMALIZE]
LAST = "epoch_002-step_000008"


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(trainer, "build_network", lambda _settings: TinyNetwork())


@pytest.fixture
def seen(monkeypatch):
    """Sample numbers of every step trained in this process."""
    steps = []
    iterate = trainer.iterate

    def noting(*args, **options):
        for batch in iterate(*args, **options):
            steps.append(batch[2].tolist())
            yield batch

    monkeypatch.setattr(trainer, "iterate", noting)
    return steps


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("trainer"), save_checkpoint_steps=3)


def words(config: Path, runs: Path, *more: str) -> list[str]:
    return ["-c", str(config), f"--train.ckpt_path={runs}", *STATEFUL, *more]


def signalled(name: str, step: int, words: list[str]) -> int:
    """The exit code of a training in a separate process that gets a signal in a step."""
    here = ROOT
    command = [sys.executable, "tests/helpers/make_training.py", name, str(step), *words]
    done = subprocess.run(
        command, cwd=here, env={**os.environ, "PYTHONPATH": str(here)}, capture_output=True, text=True
    )
    print(done.stderr)
    return done.returncode


def files_of(runs: Path, stem: str) -> dict[str, bytes]:
    (folder,) = (runs / "tiny").glob("*/ckpt")
    return {ending: (folder / f"{stem}{ending}").read_bytes() for ending in (".ckpt", ".optimizer.ckpt")}


def test_interrupted_training_sees_same_clips_and_bits(config, tmp_path, seen, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    dropped, factors = [], dropout.factors

    def noting(samples, *args, **options):
        dropped.append(samples.tolist())
        return factors(samples, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(dropout, "factors", noting)
        assert train.main(words(config, whole)) == EXIT_OK
    whole_clips = list(seen)
    assert dropped == whole_clips
    assert len(whole_clips) == 16  # 2 epochs of 4 steps of 2 batches

    assert signalled("SIGKILL", 5, words(config, broken)) == -signal.SIGKILL

    seen.clear()
    resume = words(config, broken, "--resume", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", signalling(signal.SIGTERM, 4, to_the_waiting_thread))
        assert train.main(resume) == EXIT_RETRY
    assert seen == whole_clips[6:8]
    assert signalled("SIGINT", 7, resume) == EXIT_SIGINT

    (folder,) = (broken / "tiny").glob("*/ckpt")
    latest = folder / "epoch_002-step_000007.ckpt"
    latest.write_bytes(latest.read_bytes()[:-100])
    seen.clear()
    assert train.main(resume) == EXIT_OK
    said = (folder.parent / "train.log").read_text()
    assert re.search(r"step_000007\.ckpt: corrupted: .*\. Resuming from epoch_002-step_000006 instead\.", said)
    assert re.search(r"clips/s, data wait \d+\.\d %", said)
    assert seen == whole_clips[12:]

    assert files_of(broken, LAST) == files_of(whole, LAST)
    steps = [json.loads(line)["step"] for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 8]  # each once, and the evaluation
    state = json.loads((folder / f"{LAST}.json").read_text())
    assert state["epoch"] == 2 and state["best"] >= 0


@pytest.mark.parametrize(("saved", "policy"), [({}, 1), ({"clip_policy": 1}, 1), ({"clip_policy": 2}, 2)])
def test_run_of_an_old_clip_policy_is_resumed_under_it(config, monkeypatch, saved, policy):
    options = {"data_loader.train.dataset.seq_mode": "random", "data_loader.train.dataset.num_clips": "2"}
    document = Document(config, options)
    training = trainer.Trainer(load_config(document), World(), None)
    assert training.source.views.clip_policy == 2
    state = {**training._clip_settings(), "step": 3, "epoch": 0, "best": 0.5, "epochs": 2, **saved}
    monkeypatch.setattr(trainer.checkpoint, "load", lambda *_: state)
    training.resume([Path("x.ckpt")], document)
    assert training.source.views.clip_policy == policy
    written = {}
    monkeypatch.setattr(trainer.checkpoint, "save", lambda *given: written.update(given[-1]))
    monkeypatch.setattr(trainer.checkpoint, "prune", lambda *_: None)
    training.run = SimpleNamespace(checkpoints=Path("."))
    training.save()
    assert written["clip_policy"] == policy


def test_stop_in_evaluation_resumes_with_evaluation(config, tmp_path, monkeypatch):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", "--train.epochs=1"]
    with monkeypatch.context() as patch:
        evaluate = trainer.Trainer._evaluate

        def stopped(self, epoch):
            to_the_waiting_thread(self, signal.SIGTERM)
            return evaluate(self, epoch)

        patch.setattr(trainer.Trainer, "_evaluate", stopped)
        assert train.main(words) == EXIT_RETRY
    (run,) = (tmp_path / "tiny").iterdir()
    assert "val/video_top1" not in (run / "metrics.jsonl").read_text()
    assert train.main([*words, "--resume", "auto"]) == EXIT_OK
    assert (run / "metrics.jsonl").read_text().count("val/video_top1") == 1
    assert (run / "ckpt" / "best.json").is_file()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scalars = {f"train/{name}" for name in ("loss", "clip_top1", "lr", "clips_per_s", "data_wait", "seconds")}
    assert all(scalars <= set(record) for record in records[:-1]) and "val/video_top5" in records[-1]
    written = b"".join(path.read_bytes() for path in run.glob("events.out.tfevents.*"))
    assert all(tag.encode() in written for tag in (*scalars, "val/video_top1", "val/video_top5"))

    of_report = read_run(run)
    assert len(of_report.starts) == 2 and of_report.best == of_report.records[-1] and "cpu" in of_report.environment
    assert of_report.settings["preprocess.dataset"] == "tiny"


def test_loss_that_stays_nan_keeps_a_good_checkpoint(config, tmp_path, monkeypatch):
    make_step = trainer.Trainer._step

    def poisoned(self, *args):
        if self.position.step == 4:
            self.network.fc.bias.set_data(ms.Tensor(np.full(3, np.nan, np.float32)))
        return make_step(self, *args)

    monkeypatch.setattr(trainer.Trainer, "_step", poisoned)
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", "--train.nonfinite_steps=3"]
    with pytest.raises(
        NotFiniteError, match=r"Loss is nan at step 7, and was not finite for 3 steps in a row"
    ) as caught:
        train.main([*words, "--train.save_checkpoint_steps=1"])
    assert caught.value.exit_code == EXIT_NOT_FINITE == 70
    newest = checkpoints_of(tmp_path / "tiny")
    assert newest[0].stem == "epoch_001-step_000004"
    values = checkpoint.read_parameters(newest[0], checkpoint.read_state(newest[0]))
    assert all(np.isfinite(value).all() for value in values.values())


def test_gradients_that_never_are_finite_end_training(config, tmp_path, capsys):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", "--train.nonfinite_steps=3"]
    with pytest.raises(
        NotFiniteError, match="Gradients are not finite at step 3, and no weight has changed for 3 steps"
    ):
        train.main([*words, "--train.amp_level=O2", "--optimizer.loss_scale=1e9"])
    assert "warning: step 1: gradients are not finite, so its update is skipped" in capsys.readouterr().err


def step_lines(text: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", text) if "epoch: 1 step: " in line]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_people_see_a_bar_and_whole_lines_of_the_log(stream, config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(trainer, "_SHOWN_EVERY_S", math.inf)
    assert train.main(["-c", str(config), f"--train.ckpt_path={tmp_path}", "--train.epochs=1"]) == EXIT_OK
    shown = sys.stderr.getvalue()
    bars = re.findall(r"\repoch 1: +\d+%\|[^\r\n]*\| (\d)/8 \[[\d:]+<[\d:?]+, *\S*(?:step/s|s/step)\]", shown)
    assert bars[:1] + bars[-1:] == (["0", "8"] if stream is Terminal else [])
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("epoch: ")]
    form = r".*epoch: 1 step: {}, loss is \d+\.\d+, lr [\d.]+, [\d.]+ clips/s, data wait [\d.]+ %.*, eta {}"
    (log,) = (tmp_path / "tiny").glob("*/train.log")
    for number, line in enumerate(logged := step_lines(log.read_text()), 1):
        assert re.fullmatch(form.format(number, "unknown" if number == 1 else r"\d\d:\d\d"), line)
    assert len(logged) == 8 and step_lines(shown) == lines[:1] and logged[-1].endswith(lines[0])
    assert lines[1].startswith("epoch: 1 evaluation: video top-1 ") and len(lines) == 2


def test_long_epoch_shows_more_than_one_line(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "_SHOWN_EVERY_S", 0.0)
    words = [f"--train.ckpt_path={tmp_path}", "--train.epochs=1", "--context.mode=1", "--train.log_steps=2"]
    assert train.main(["-c", str(config), *words]) == EXIT_OK
    assert len(step_lines(capsys.readouterr().err)) == 4


def test_what_is_evaluated_and_kept_when(config, monkeypatch):
    made, saved = [], []
    found = iter([0.5, 0.4, 0.6])  # video top-1
    monkeypatch.setattr(trainer.RunningStatistics, "settle", lambda *_: False)
    monkeypatch.setattr(trainer.Trainer, "_train_epoch", lambda *_: None)
    monkeypatch.setattr(
        trainer.Trainer,
        "_evaluate",
        lambda _, epoch: made.append(epoch + 1) or {"video_top1": next(found), "loss": 1.0},
    )
    monkeypatch.setattr(
        trainer.Trainer, "save", lambda self, is_best: saved.append((self.position.epoch, self.position.best, is_best))
    )
    overrides = {"train.epochs": "7", "train.eval_epochs": "3", "train.save_checkpoint_epochs": "2"}
    trainer.Trainer(load_config(Document(config, overrides)), World(), None).fit()
    assert made == [3, 6, 7]  # every third, and the last
    assert saved == [(2, -1.0, False), (3, 0.5, True), (4, 0.5, False), (6, 0.5, False), (7, 0.6, True)]


def test_evaluation_with_nan_loss_is_never_the_best(config, monkeypatch, caplog):
    found = iter([(1.0, math.nan), (0.5, 2.0), (0.4, 1.0)])  # video top-1 and loss of each epoch
    saved = []
    monkeypatch.setattr(trainer.RunningStatistics, "settle", lambda *_: False)
    monkeypatch.setattr(trainer.Trainer, "_train_epoch", lambda *_: None)
    monkeypatch.setattr(
        trainer.Trainer, "_evaluate", lambda *_: dict(zip(("video_top1", "loss"), next(found), strict=True))
    )
    monkeypatch.setattr(
        trainer.Trainer, "save", lambda self, is_best: saved.append((self.position.epoch, self.position.best, is_best))
    )
    overrides = {"train.epochs": "3", "train.eval_epochs": "1", "model.num_classes": "5"}
    trainer.Trainer(load_config(Document(config, overrides)), World(), None).fit()
    assert "model.num_classes: got 5, but the ledgers have 3 classes" in caplog.text
    assert saved == [(2, 0.5, True), (3, 0.5, False)]


def test_validation_normalises_as_make_eval_does(config):
    document = Document(config)
    operations = document.values["data_loader"]["eval"]["map"]["operations"]
    operations[-1] = {**operations[-1], "mean": [0.1, 0.2, 0.3]}
    made = trainer.Trainer(load_config(document), World(), None)
    train_shift, shift = (cell.normalize.shift.asnumpy() for cell in (made.train_step.loss, made.predictor))
    np.testing.assert_allclose(shift, -np.array([0.1, 0.2, 0.3]) / 0.2, rtol=1e-6)
    np.testing.assert_allclose(train_shift, -np.full(3, 0.4) / 0.2, rtol=1e-6)


def test_first_protocol_scores_training_as_make_eval(config):
    names = {"eval.protocols": "[views-10x3, one-clip]", "train.seed": "1"}
    loaded = load_config(Document(config, names))
    training = trainer.Trainer(loaded, World(), None)
    summary = training._evaluate(0)
    source = Evaluation(loaded)
    together = results_of(source, score(training.predictor, source))
    assert summary == together[0].summary and together[0].name == "views-10x3"
    assert summary["num_clips"] == 30 * NUM_VAL


def test_batches_of_both_loaders_are_checked(config, monkeypatch):
    checked = []

    def check_batch(_network, _config, loader, clip_lengths=()):
        checked.append((loader, list(clip_lengths)))

    monkeypatch.setattr(trainer, "check_batch", check_batch)
    trainer.Trainer(load_config(Document(config)), World(), None)
    assert checked == [("train", []), ("eval", [4])]


def test_evaluation_in_training_is_without_tf32(config, monkeypatch):
    inside = []

    @contextlib.contextmanager
    def without_tf32():
        inside.append("off")
        yield
        inside.append("on")

    def score(_predict, _source):
        inside.append("score")
        raise trainer.TrainingStopped(75)

    monkeypatch.setattr(trainer, "without_tf32", without_tf32)
    monkeypatch.setattr(trainer, "score", score)
    document = Document(config, {"train.ckpt_path": "unused"})
    assert trainer.Trainer(load_config(document), World(), None)._evaluate(0) == {}
    assert inside[:2] == ["off", "score"]


def test_training_asks_for_the_device_with_tf32(config, tmp_path, monkeypatch):
    asked = []

    def start_device(_config, *, trains=False):
        asked.append(trains)
        raise UserError("enough")

    monkeypatch.setattr(train, "start_device", start_device)
    with pytest.raises(UserError, match="enough"):
        train.main(words(config, tmp_path))
    assert asked == [True]


def test_read_that_hangs_ends_training_resumably(config, tmp_path, monkeypatch):
    make, wake = ClipBatches.batch, threading.Event()

    def batch(self, number):
        if number == 5 and self.options.split == "train":
            wake.wait()
        return make(self, number)

    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(ClipBatches, "batch", batch)
        with pytest.raises(LoaderError, match="No batch for 2 s") as caught:
            train.main([*words, "--data_loader.train.dataset.batch_timeout_s=2"])
    wake.set()
    assert caught.value.exit_code == EXIT_RETRY
    (run,) = (tmp_path / "tiny").iterdir()
    stacks = (run / "train.log").read_text().split("\nthread ")[1:]
    assert any(stack.startswith("batches ") and "wake.wait()" in stack for stack in stacks)  # the line that hangs
    assert any(stack.startswith("MainThread ") and "trainer.fit()" in stack for stack in stacks)
    newest = checkpoints_of(tmp_path / "tiny")[0].stem
    assert "epoch_001-step_000003" <= newest <= "epoch_001-step_000005"  # batches that were ready may be dropped
    assert train.main([*words, "--resume", "auto"]) == EXIT_OK


def test_worker_that_dies_ends_training_resumably(config, tmp_path, monkeypatch):
    make = ClipBatches.batch

    def batch(self, number):
        return 1 / 0 if number == 5 and self.options.split == "train" else make(self, number)

    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(ClipBatches, "batch", batch)
        with pytest.raises(LoaderError, match="died: ZeroDivisionError") as caught:
            train.main(words)
    assert caught.value.exit_code == EXIT_RETRY
    assert checkpoints_of(tmp_path / "tiny")[0].stem == "epoch_001-step_000005"
    assert train.main([*words, "--resume", "auto"]) == EXIT_OK


def test_when_no_checkpoint_is_whole_training_says_so(config, tmp_path):
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}", "--train.epochs=1", "--train.eval_epochs=0"]
    assert train.main(words) == EXIT_OK
    for path in (tmp_path / "tiny").glob("*/ckpt/*.optimizer.ckpt"):
        path.unlink()
    message = (
        r"step_000003\.optimizer\.ckpt: checkpoint not found\. There is no earlier checkpoint\. Start again without"
    )
    with pytest.raises(checkpoint.CorruptedError, match=message):
        train.main([*words, "--resume", "auto"])


def test_resume_without_checkpoint_says_so_and_starts(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert train.checkpoints_to_resume(Config(train=Train(ckpt_path=str(tmp_path))), None, "auto") == []
    assert "has no checkpoint of dataset kinetics400 to resume from. Training starts at step 0." in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data_loader.group_size=9", r"group_size: got 9, but an epoch of .* has only 8 batches"),
        ("data_loader.train.dataset.batch_size=18", r"batch_size: got 18, but .* has only 17 clips an epoch"),
        ("model.num_classes=2", r"model\.num_classes: got 2, but .* has label_id 2\. Set it to 3"),
        ("train.run_distribute=true", r"train\.run_distribute: got true, but .* not started by msrun\. Run `make"),
    ],
)
def test_a_mistake_is_one_clear_line(config, tmp_path, override, message):
    with pytest.raises(UserError, match=message) as caught:
        train.main(["-c", str(config), f"--train.ckpt_path={tmp_path}", f"--{override}"])
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


# The message of MindSpore 2.10 when a CPU's memory is full (seen with a limit on the address space).
MEMORY_NOT_ENOUGH = """
----------------------------------------------------
- Memory not enough:
----------------------------------------------------
Memory isn't enough and alloc failed, kernel name: Default/data-204, alloc size: 9633792B.
"""


@pytest.mark.parametrize(
    ("error", "said"), [(RuntimeError(MEMORY_NOT_ENOUGH), "Memory isn't.* 9633792B."), (MemoryError(), "MemoryError")]
)
def test_no_memory_left_is_one_clear_line(config, tmp_path, monkeypatch, error, said):
    class TooLarge:
        def __init__(self, *args, **options):
            self.set_train = self.swap_average = lambda *args: None
            self.state = dict

        def __call__(self, *args):
            raise error

    monkeypatch.setattr(trainer, "TrainStep", TooLarge)
    with pytest.raises(
        OutOfMemoryError, match=rf"batch_size: got 2, which does not fit in memory \({said}\)\. Halve it"
    ):
        train.main(["-c", str(config), f"--train.ckpt_path={tmp_path}"])
