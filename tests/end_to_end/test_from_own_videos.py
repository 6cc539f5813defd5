"""Own videos go from a folder to a prediction without an edit, in each of the four ways to label them."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
from make_videos import write_mp4
from paths import CONFIGS, ROOT

from pipeline.ledger.table import read_ledger
from pipeline.sample_videos.dataset import plan_sample, write_video
from train.weights.files import read_ckpt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
# Classes that are easy to tell apart: each has a motion and a colour (dark, middle, light).
CLASSES = {
    "moving left": ((40, 0, 0), (180, 40, 40), (255, 190, 190)),
    "rotating clockwise": ((0, 40, 0), (40, 180, 40), (190, 255, 190)),
    "growing": ((0, 0, 40), (40, 40, 180), (190, 190, 255)),
}
TINY = ["--train.epochs=1", "--context.mode=1", "--model.stage_channels=[4, 4, 4, 4]", "--train.eval_epochs=1"]


def output_of(module, here, *words):
    """Run a command as a person does, in the folder `here`; its stdout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train_and_score(here, data, *words):
    """What `make train DATA=...` runs, with more words for each; the stdout of the training."""
    words = ["-c", CONFIGS / "own.yaml", f"--preprocess.data_root={data}", *words]
    shared = [word for word in words if not str(word).startswith(("--train.", "--context.", "--model."))]
    output_of("pipeline.manifests", here, *shared)
    output_of("pipeline.preprocess", here, *shared)
    trained = output_of("train.train", here, *words)
    assert "video top-1" in output_of("train.evaluate", here, *words)
    return trained


def moving_clips(folder, per_class):
    """Draw clips of three classes into class folders; yields the path of a clip of each class outside of them."""
    counts = dict.fromkeys(CLASSES, 0)
    for video in plan_sample({"train": 400, "val": 0, "test": 0}):
        if video.defect or counts.get(video.label, per_class + 1) > per_class:
            continue
        number = counts[video.label]
        path = (
            folder / video.label / f"clip {number}.mp4" if number < per_class else folder.parent / f"{video.label}.mp4"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, replace(video, motion=replace(video.motion, colours=CLASSES[video.label])))
        counts[video.label] += 1
        if number == per_class:
            yield path


def test_24_clips_are_learned_in_three_minutes(tmp_path):
    data = tmp_path / "three motions"
    unseen = list(moving_clips(data, 8))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    trained = train_and_score(tmp_path, data)
    assert float(trained.split()[2]) >= 0.9, trained
    (weights,) = tmp_path.glob("runs/own/*/ckpt/best.json")
    (tmp_path / "unseen.txt").write_text("".join(f"{path}\n" for path in unseen))
    words = ["-c", CONFIGS / "own.yaml", f"--preprocess.data_root={data}", "--json", "--no-pictures"]
    lines = output_of("train.infer", tmp_path, *words, f"--infer.image_path={tmp_path}/unseen.txt").splitlines()
    for path, row in zip(unseen, map(json.loads, lines), strict=True):
        assert row["top"][0]["label"] == path.stem, row
    change_s = join(tmp_path / "joined.mp4", unseen[:2])
    line = output_of("train.infer", tmp_path, *words, f"--infer.image_path={tmp_path}/joined.mp4", "--window=0.5")
    first, second = json.loads(line)["segments"]
    assert [first["label"], second["label"]] == [path.stem for path in unseen[:2]]
    assert abs(first["end_s"] - change_s) <= 0.5
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{seconds:.0f} s of CPU time for {weights.parent.parent}")
    assert seconds < 2 * 180, "three minutes on two cores"


def join(target, paths):
    """Write two videos one after the other at the rate of the first; the seconds of the first."""
    pictures, counts, rates = [], [], []
    for path in paths:
        with av.open(str(path)) as source:
            rates.append(source.streams.video[0].average_rate)
            added = [frame.reformat(320, 240, "rgb24").to_ndarray() for frame in source.decode(video=0)]
        counts.append(len(added))
        pictures += added
    write_mp4(target, fps=rates[0], size=(240, 320), frames=pictures)
    return float(counts[0] / rates[0])


def two_classes(data, *places):
    """Short videos of two classes at these places, in which `{c}` and `{n}` are replaced; their paths."""
    paths = [place.format(c=c, n=n) for place in places for c in ("cat", "dog") for n in range(4)]
    for number, path in enumerate(paths):
        write_mp4(data / path, 20, 30, (48, 64), first=20 * number)
    return paths


@pytest.mark.parametrize("way", ["folders", "folders with splits", "csv", "lists"])
def test_each_way_to_label_ends_in_a_prediction(tmp_path, way):
    data, numbers = tmp_path / "pets", {"cat": 0, "dog": 1}
    if way == "folders":
        paths = two_classes(data, "{c}/{c} {n}.mp4")
    elif way == "folders with splits":
        paths = two_classes(data, "train/{c}/{n}.mp4", "val/{c}/{n}.mp4")
    else:
        paths = two_classes(data, "clips/{c}_{n}.mp4")
    if way == "csv":
        (data / "pets.csv").write_text("path,label\n" + "".join(f"{path},{path[6:9]}\n" for path in paths))
    elif way == "lists":
        numbers = {"cat": 2, "dog": 0}
        (data / "label_map.txt").write_text("dog\nemu\ncat\n")
        for split, chosen in (("train", paths[:3] + paths[4:7]), ("val", [paths[3], paths[7]])):
            lines = [f"{path} {numbers[path[6:9]]}\n" for path in chosen]
            (data / f"{split}.txt").write_text("".join(lines))
    train_and_score(tmp_path, data, *TINY)
    for split in ("train", "val"):
        ledger = read_ledger(tmp_path / "data_manifests" / "pets" / f"{split}.csv")
        assert set(ledger["status"]) == {"ok"}
        assert dict(zip(ledger["label"], ledger["label_id"], strict=True)) == numbers
    # With another configuration, the network and what it sees come from the checkpoint's own record.
    (best,) = (path for path in tmp_path.glob("runs/own/*/ckpt/epoch_*.ckpt") if "optimizer" not in path.name)
    words = ["-c", CONFIGS / "sample.yaml", f"--infer.image_path={data / paths[0]}", "--context.mode=1"]
    lines = output_of("train.infer", tmp_path, *words, f"--infer.pretrained_model={best}").splitlines()
    probabilities = {
        line.split("  ")[0].split(". ")[1]: float(line.split("  ")[1]) for line in lines[: max(numbers.values()) + 1]
    }
    assert set(numbers) <= set(probabilities) and np.isclose(sum(probabilities.values()), 1, atol=1e-3)
    own = [
        "-c",
        CONFIGS / "own.yaml",
        *words[2:],
        f"--preprocess.data_root={data}",
        "--data_loader.eval.dataset.num_clips=2",
    ]
    assert output_of("train.infer", tmp_path, *own).splitlines()[:2] == lines[:2]
    exported = output_of("train.export", tmp_path, *own, "--export.file_formate=ONNX")
    assert "reloaded and run" in exported


def test_fine_tuning_uses_the_same_shards(tmp_path):
    two_classes(tmp_path / "pets", "{c}/{n}.mp4")
    train_and_score(tmp_path, tmp_path / "pets", *TINY)
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/pets-shards/*.h5")}
    (weights,) = (path for path in tmp_path.glob("runs/own/*/ckpt/epoch_*.ckpt") if "optimizer" not in path.name)
    words = ["-c", CONFIGS / "finetune.yaml", f"--preprocess.data_root={tmp_path / 'pets'}"]
    for module in ("pipeline.manifests", "pipeline.preprocess"):
        output_of(module, tmp_path, *words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/pets-shards/*.h5")} == stored and stored
    words += [f"--train.pretrained_model={weights}", *TINY, "--data_loader.train.dataset.seq=8"]
    words += ["--model.stage_strides=[[1, 4, 4], [1, 2, 2], [2, 2, 2], [2, 2, 2]]"]  # those of the narrow network
    output_of("train.train", tmp_path, *words)
    (tuned,) = (path for path in tmp_path.glob("runs/finetune/*/ckpt/epoch_*.ckpt") if "optimizer" not in path.name)
    before, after = read_ckpt(weights), read_ckpt(tuned)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("stem", "layer1"))} <= same
    assert "fc.weight" in before and not {"fc.weight", "fc.bias"} & same
