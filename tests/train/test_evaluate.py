"""`make eval` prints its results before it writes them, tries the folder first, and ends in one line on Ctrl-C."""

from __future__ import annotations

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from make_store import make_split, settings_for
from make_training import TinyNetwork, write_config
from paths import HELPERS, ROOT
from ports import free_port

from pipeline.common import files
from pipeline.common.errors import EXIT_IO, EXIT_OK, EXIT_SIGINT, EXIT_USAGE, UserError
from train import evaluate
from train.device import launch, signals
from train.evaluation.protocols import PROTOCOLS
from train.evaluation.results import Result, folder_for
from train.network import predictor
from train.weights import checkpoint

BOTH = "--eval.protocols=[torchvision-clip, torchvision-video]"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration with 7 validation videos of 18 to 22 frames, one of them missing; and weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = write_config(folder)
    for split in ("val", "test"):
        make_split(settings_for(folder), split, 7, bad=(3,), length=18)
    weights = folder / "tiny.ckpt"
    checkpoint.save_weights(weights, TinyNetwork(), {"classes": ["clapping", "jumping", "running"]})
    return config, weights


@pytest.fixture
def words(made, monkeypatch):
    """The words of an evaluation of a tiny network without compiling it."""
    monkeypatch.setattr(predictor, "build_network", lambda _settings: TinyNetwork())
    config, weights = made
    return ["-c", str(config), "--context.mode=1", f"--eval.pretrained_model={weights}"]


def evaluation() -> int:
    """What `launch` starts several times: an evaluation of the tiny network."""
    predictor.build_network = lambda _settings: TinyNetwork()
    return evaluate.main(sys.argv[1:])


def test_table_lines_and_files_of_each_protocol(words, tmp_path, capsys, monkeypatch):
    def chosen_in_turn(parent: Path, *rest: Any) -> Path:
        fd = os.open(parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):  # another evaluation has to wait
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        return folder_for(parent, *rest)

    monkeypatch.setattr(evaluate, "folder_for", chosen_in_turn)
    assert evaluate.main([*words, BOTH, f"--eval.output_dir={tmp_path}"]) == EXIT_OK
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("protocol") and [line.split()[0] for line in lines[1:3]] == BOTH[18:-1].split(", ")
    assert re.match(r"video top-1 .* 30 clips, 6 labelled videos, torchvision-clip; if missing .* of 7 -> ", lines[3])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"tiny-{name}-val" for name in ("torchvision-clip", "torchvision-video")
    }
    folder = tmp_path / "tiny-torchvision-video-val"
    assert {path.name for path in folder.iterdir()} == {
        "summary.json", "videos.csv", "classes.csv", "confusion.csv", "confusion.png", "scores.npz"
    }  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    with open(folder / "videos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([row["label"] == row["predicted_1"] for row in rows]) == summary["video_top1"]
    assert summary["video_top1_if_missing_are_wrong"] == pytest.approx(summary["video_top1"] * 6 / 7)
    assert f"video top-1 {summary['video_top1']:.4f}" in out and "tiny-val@" in summary["split"]


def test_notes_say_how_many_videos_of_all():
    summary = {"num_inexact_videos": 1, "num_short_videos": 2, "num_labelled_videos": 3, "num_nan_videos": 0}
    result = Result("vmz", PROTOCOLS["vmz"], summary, np.ones((4, 3)), np.ones(4), np.ones(4, int), np.ones((1, 4, 3)))
    assert evaluate._notes(result) == [
        "1 of 4 videos have no label; they are predicted and not counted",
        "1 of 4 videos lack a stored frame that it names; they show the nearest one",
        "2 of 4 videos are shorter than a clip; their frames repeat",
    ]
    assert evaluate._notes(replace(result, protocol=PROTOCOLS["torchvision-clip"]))[2].endswith("they have no clip")


def test_results_are_printed_before_they_are_written(words, tmp_path, capsys, monkeypatch):
    def fails(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "write_files", fails)
    with pytest.raises(OSError, match="No space"):
        evaluate.main([*words, f"--eval.output_dir={tmp_path}"])
    assert "video top-1" in capsys.readouterr().out


def test_folder_is_tried_before_anything_is_scored(words, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(evaluate, "score", lambda *_: pytest.fail("scored"))
    with pytest.raises(UserError, match=r"file/x: Not a directory\. Give another folder"):
        evaluate.main([*words, f"--eval.output_dir={tmp_path}/file/x"])
    for option in ({"dir": "/proc/self"}, {"dir": tmp_path, "prefix": "x" * 300}):  # as no permission, or a long name
        failing = partial(lambda options, **_: TemporaryDirectory(**options), option)
        monkeypatch.setattr(files.tempfile, "TemporaryDirectory", failing)
        with pytest.raises(UserError, match=rf"{tmp_path}/x: cannot be written: .*\. Give another folder") as caught:
            evaluate.main([*words, f"--eval.output_dir={tmp_path}/x"])
        assert caught.value.exit_code == (EXIT_IO if option["dir"] == "/proc/self" else EXIT_USAGE)


def test_batch_is_checked_before_anything_is_scored(words, monkeypatch):
    checked = []

    def check_batch(network, _config, loader, clip_lengths):
        checked.append((type(network), loader, list(clip_lengths)))
        raise UserError("too large")

    monkeypatch.setattr(predictor, "check_batch", check_batch)
    monkeypatch.setattr(evaluate, "score", lambda *_: pytest.fail("scored"))
    with pytest.raises(UserError, match="^too large"):
        evaluate.main([*words, "--eval.protocols=[torchvision-clip, one-clip]"])
    assert checked == [(TinyNetwork, "eval", [16, 4])]  # frames of torchvision's clips, and of the settings'


def test_names_are_those_of_the_weights_without_labels(words, tmp_path, capsys, made):
    ledger = made[0].parent / "manifests" / "tiny" / "test.csv"
    with open(ledger, newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [{**row, "label": "", "label_id": "-1"} for row in rows]
    unlabelled = tmp_path / "m" / "tiny" / "test.csv"
    unlabelled.parent.mkdir(parents=True)
    with open(unlabelled, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    more = ["--data_loader.eval.dataset.split=test", f"--preprocess.manifests={tmp_path}/m"]
    assert evaluate.main([*words, *more, f"--eval.output_dir={tmp_path}/out"]) == EXIT_OK
    out = capsys.readouterr().out
    assert "has no labels: predictions only ->" in out and "top-1" not in out
    (videos,) = (tmp_path / "out").glob("*-test/videos.csv")
    with open(videos, newline="") as file:
        predicted = {row["predicted_1"] for row in csv.DictReader(file)}
    assert predicted <= {"clapping", "jumping", "running"}


def start_program(module: str, words: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HELPERS}"}
    return subprocess.Popen([sys.executable, module, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


@pytest.mark.slow
def test_interrupt_ends_with_130_and_a_word(words, tmp_path):
    path = ROOT / "tests/train/test_evaluate.py"
    many = ["--eval.protocols=[views-10x3]", "--data_loader.eval.dataset.batch_size=1", "--context.mode=0"]
    with start_program(str(path), [*words, *many, f"--eval.output_dir={tmp_path}"]) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step:[" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == EXIT_SIGINT
        assert "SIGINT: stopping at once." in process.stderr.read()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_three_processes_have_the_counts_of_one(words, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{HELPERS}")
    program = str(Path(__file__))
    summaries, scores = [], []
    for devices in (1, 2, 3):
        out = tmp_path / str(devices)
        more = ["--eval.protocols=[torchvision-video, views-10x3, zjut]", f"--eval.output_dir={out}"]
        if devices > 1:
            more.append("--train.run_distribute=true")
            code = launch.launch([program, *words, *more], devices=devices, port=free_port(), log_dir=tmp_path / "logs")
            assert code == EXIT_OK, (tmp_path / "logs" / "worker_0.log").read_text()
        else:
            with start_program(program, [*words, *more]) as process:
                assert process.wait(timeout=300) == EXIT_OK
        folders = sorted(out.iterdir())
        assert len(folders) == 3
        summaries.append([json.loads((folder / "summary.json").read_text()) for folder in folders])
        with np.load(folders[0] / "scores.npz") as arrays:
            scores.append(arrays["probabilities"])
    assert np.array_equal(scores[0], scores[1]) and np.array_equal(scores[0], scores[2]), "not the bits of one process"
    for summary in (each for several in summaries for each in several):
        del summary["settings"]
    assert summaries[0] == summaries[1] == summaries[2]


if __name__ == "__main__":
    with launch.note_exit_code():
        signals.run(evaluation)
