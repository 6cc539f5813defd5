"""Counts, intervals and files of results are right, and no result replaces one of other settings."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.common.recipe import Preprocess
from train.data.videos import Videos
from train.evaluation.metrics import Scores, wilson
from train.evaluation.plan import Count
from train.evaluation.protocols import PROTOCOLS
from train.evaluation.results import confusion, folder_for, line_of, results_of, settings_of, table_of, write_files
from train.experiment.sections import Config, Dataset, Loader
from train.experiment.transforms import standard_map
from train.pictures.confusion import block_order, draw_confusion

NAMES = [*(f"class {number}" for number in range(5)), 'an "open", \r\n_door_ $5$', "a\rb"]


def scored(name: str = "one-clip", labelled: bool = True, num_videos: int = 60):
    """A source and its scores: random logits, one video without a clip, one without a label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, num_videos).astype(np.int32) if labelled else np.full(num_videos, -1, np.int32)
    labels[1] = -1
    scores = Scores(num_videos, 7, labels=labels)
    seen = np.delete(np.arange(num_videos), 2)
    scores.add(rng.normal(size=(len(seen), 7)).astype(np.float32), labels[seen], seen)
    videos = SimpleNamespace(
        video_ids=[f"v{number:03d}" for number in range(num_videos)], label_ids=labels, num_listed=num_videos + 9,
        name="these", split="val",
    )  # fmt: skip
    plan = SimpleNamespace(counts=[Count(name, PROTOCOLS[name], 0)])
    return SimpleNamespace(videos=videos, plan=plan, config=Config()), scores


def no_picture(*_: object) -> None:
    """Draws nothing."""


def csv_rows(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_counts_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    source, scores = scored()
    (result,) = results_of(source, [scores])
    seen = (scores.labels >= 0) & (scores.views > 0)
    labels, probabilities = scores.labels[seen], result.probabilities[seen]
    total = int((scores.labels >= 0).sum())
    assert result.summary["num_labelled_videos"] == total == 59
    for k in (1, 5):
        right = metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(7), normalize=False)
        assert result.summary[f"video_top{k}"] * total == pytest.approx(right)
        assert result.summary[f"clip_top{k}"] * (total - 1) == pytest.approx(right)
        assert result.summary[f"video_top{k}_if_missing_are_wrong"] == pytest.approx(right / 69)
    matrix = confusion(scores.labels, result)
    assert (matrix == metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(7))).all()
    assert result.summary["loss"] == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(7)))
    recalls = metrics.recall_score(labels, probabilities.argmax(axis=1), average=None, labels=range(6))
    totals = np.bincount(scores.labels[scores.labels >= 0])
    with_view = np.bincount(labels)
    assert result.summary["mean_class"] == pytest.approx((recalls * with_view / totals).mean())


def test_scores_that_are_no_numbers_count_as_wrong(tmp_path):
    source, scores = scored()
    before = results_of(source, [scores])[0].summary
    scores.add(np.full((1, 7), np.nan, np.float32), scores.labels[:1], np.array([0]))
    (result,) = results_of(source, [scores])
    assert (before["num_nan_videos"], result.summary["num_nan_videos"]) == (0, 1)
    assert result.summary["video_top5"] * 59 <= before["video_top5"] * 59 and np.isnan(result.summary["loss"])
    write_files(tmp_path / "r", source, result, NAMES, {}, {}, no_picture)
    text = (tmp_path / "r" / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None  # JSON has no NaN
    assert [row["loss"] for row in csv_rows(tmp_path / "r" / "videos.csv")[:3]] == ["", "", ""]


def test_intervals_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    for total in (1, 2, 59, 19404):
        for hits in {0, 1, total // 3, total - 1, total}:
            expected = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
            assert wilson(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_files_hold_what_was_scored(tmp_path):
    source, scores = scored()
    (result,) = results_of(source, [scores])
    drawn = []

    def draw(path: Path, counts: np.ndarray, names: list[str]) -> None:
        assert names == NAMES and not (path.parent / "summary.json").exists(), "the summary must come last"
        path.touch()
        drawn.append(counts)

    write_files(tmp_path / "r", source, result, NAMES, {"checkpoint": "best.ckpt"}, {"seed": 0}, draw)
    (matrix,) = drawn
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "summary.json", "videos.csv", "classes.csv", "confusion.csv", "confusion.png", "scores.npz"
    }  # fmt: skip
    rows = csv_rows(tmp_path / "r" / "videos.csv")
    assert len(rows) == 60 and rows[1]["label"] == "" and rows[1]["loss"] == "" and rows[1]["predicted_1"] in NAMES
    assert rows[2]["views"] == "0" and rows[2]["predicted_1"] == "" and rows[2]["label"] in NAMES
    right = sum(row["label_id"] == row["predicted_id_1"] for row in rows)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["video_top1"] == right / 59 and summary["checkpoint"] == "best.ckpt"
    with np.load(tmp_path / "r" / "scores.npz") as arrays:
        assert np.array_equal(arrays["probabilities"], result.probabilities)
        assert arrays["class_names"].tolist() == NAMES and arrays["video_ids"].tolist() == source.videos.video_ids
    classes = csv_rows(tmp_path / "r" / "classes.csv")
    assert sum(int(row["correct"]) for row in classes) == right and classes[6]["accuracy"] == ""
    assert sum(int(row["videos"]) for row in classes) == 59  # also the one without a clip, which is wrong
    assert np.mean([float(row["accuracy"]) for row in classes[:6]]) == pytest.approx(summary["mean_class"], abs=1e-6)
    with open(tmp_path / "r" / "confusion.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == NAMES and np.array([row[1:] for row in table[1:]]).astype(int).tolist() == matrix.tolist()
    worst = summary["most_confused"][0]
    assert worst["videos"] == max(matrix[i, j] for i in range(7) for j in range(7) if i != j)


def test_a_split_without_labels_has_no_accuracy(tmp_path):
    source, scores = scored(labelled=False)
    (result,) = results_of(source, [scores])
    assert line_of(result, "these") == "these has no labels: predictions only"
    write_files(tmp_path / "r", source, result, NAMES, {}, {}, no_picture)
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"summary.json", "videos.csv", "scores.npz"}
    assert "NaN" not in (tmp_path / "r" / "summary.json").read_text()
    assert "nan" not in (tmp_path / "r" / "videos.csv").read_text()


def test_table_counts_what_accuracy_is_divided_by():
    source, scores = scored()
    results = results_of(source, [scores])
    assert results[0].summary["num_clips"] == 59  # one of them without a label, and one video without a clip
    assert re.search(r" 58 +59 of 69 +- +-$", table_of(results)[1])
    assert "these, 58 clips, 59 labelled videos, one-clip; " in line_of(results[0], "these")
    short = Scores(60, 7, labels=scores.labels)
    (result,) = results_of(source, [short])
    assert line_of(result, "these") == "these: none of its 59 labelled videos has a clip: predictions only"


def test_files_of_seeds_agree_with_their_mean(tmp_path):
    source, _ = scored()
    source.plan = SimpleNamespace(counts=[Count("zjut", PROTOCOLS["zjut"], seed) for seed in range(5)])
    rng, seen = np.random.default_rng(1), np.delete(np.arange(60), 2)
    labels, seeds = source.videos.label_ids, []
    for _ in range(5):
        seeds.append(Scores(60, 7, labels=labels))
        seeds[-1].add(rng.normal(size=(59, 7)).astype(np.float32), labels[seen], seen)
    (result,) = results_of(source, seeds)
    write_files(tmp_path, source, result, NAMES, {}, {}, no_picture)
    with np.load(tmp_path / "scores.npz") as arrays:
        each, probabilities = arrays["seed_probabilities"], arrays["probabilities"]
    right = (each.argmax(axis=2) == labels)[:, seen].sum()
    assert np.allclose(each.mean(axis=0), probabilities)
    assert result.summary["video_top1"] == pytest.approx(right / 5 / 59)
    assert right != 5 * (probabilities.argmax(axis=1) == labels)[seen].sum(), "the mean of the seeds would pass too"
    classes = csv_rows(tmp_path / "classes.csv")
    assert sum(int(row["correct"]) for row in classes) == right
    accuracies = [float(row["accuracy"]) for row in classes[:6]]
    assert np.mean(accuracies) == pytest.approx(result.summary["mean_class"], abs=1e-6)


def test_another_setting_never_replaces_a_result(tmp_path):
    source, scores = scored()
    (result,) = results_of(source, [scores])
    folders = [folder_for(tmp_path, "best-one-clip-val", {"seed": seed}) for seed in (0, 0)]
    for settings, expected in (({"seed": 0}, ""), ({"seed": 1}, "-2"), ({"seed": 0}, ""), ({"seed": (2,)}, "-3"),
                               ({"seed": 1}, "-2"), ({"seed": (2,)}, "-3")):  # fmt: skip
        folder = folder_for(tmp_path, "best-one-clip-val", settings)
        assert folder.name == f"best-one-clip-val{expected}"
        write_files(folder, source, result, NAMES, {}, settings, no_picture)
    assert len(list(tmp_path.iterdir())) == 3 and folders[0] == folders[1]
    (tmp_path / "best-one-clip-val" / "summary.json").write_text("{")  # cannot be read, so it is kept
    assert folder_for(tmp_path, "best-one-clip-val", {"seed": 0}).name == "best-one-clip-val-4"


def test_settings_are_what_decides_a_result():
    config, loader = Config(), Config().data_loader.eval

    def settings(config: Config = config, weights: str = "a", crc32: int = 1) -> str:
        videos = SimpleNamespace(name="these", crc32=np.array([crc32, 2]))
        videos.frames_sha256 = partial(Videos.frames_sha256, videos)
        return json.dumps(settings_of(config, weights, videos))

    def evaluated(loader: Loader) -> Config:
        return replace(config, data_loader=replace(config.data_loader, eval=loader))

    same = {"batch_size": 2, "num_parallel_workers": 3, "verify_checksums": True, "batch_timeout_s": 9.0}
    assert settings(evaluated(replace(loader, dataset=replace(loader.dataset, **same)))) == settings()
    others = [
        settings(weights="b"), settings(crc32=3), settings(replace(config, train=replace(config.train, seed=1))),
        settings(replace(config, model=replace(config.model, bn_eps=1e-3))),
        settings(replace(config, preprocess=replace(config.preprocess, codec="jpeg"))),
        settings(evaluated(Loader(loader.dataset, standard_map((128, 171), "centre", (56, 56))))),
        *(settings(evaluated(replace(loader, dataset=replace(loader.dataset, **{key: value})))) for key, value in (
            ("seq", 8), ("seq_mode", "average"), ("frame_interval", 2), ("num_clips", 3), ("num_crops", 3),
        )),
    ]  # fmt: skip
    assert len({settings(), *others}) == 12


def test_folder_of_a_stopped_evaluation_is_used_again(tmp_path):
    folder = tmp_path / "best-one-clip-val"
    folder.mkdir()
    for name in ("videos.csv", "scores.npz", ".scores.npz.12.tmp.npz"):
        (folder / name).write_text("incomplete")
    assert folder_for(tmp_path, folder.name, {"seed": 0}) == folder
    (folder / "notes.txt").write_text("mine")
    assert folder_for(tmp_path, folder.name, {"seed": 0}).name == "best-one-clip-val-2"
    (tmp_path / "best-one-clip-val-2").touch()
    (tmp_path / "best-one-clip-val-3").symlink_to("nowhere")
    assert folder_for(tmp_path, folder.name, {"seed": 0}).name == "best-one-clip-val-4"


def test_table_has_published_numbers_of_400_classes():
    source, scores = scored("torchvision-video")
    header, row = table_of(results_of(source, [scores]))
    assert header.split()[:3] == ["protocol", "top-1", "95"] and row.startswith("torchvision-video")
    assert "67.46 / 86.17" in row or "67.46 / 86.18" in row
    values = results_of(source, [scores])[0].summary
    assert values["difference"]["top1"] == pytest.approx(100 * values["video_top1"] - 67.463)
    recorded = source.config
    loaders = recorded.data_loader
    small = Loader(loaders.eval.dataset, standard_map((128, 171), "centre", (56, 56)))
    for other in (
        replace(recorded, model=replace(recorded.model, num_classes=7)),
        replace(recorded, data_loader=replace(loaders, eval=small)),
        replace(recorded, data_loader=replace(loaders, eval=replace(loaders.eval, dataset=Dataset(split="test")))),
        Config(preprocess=Preprocess(height=112, width=112)),
    ):
        source.config = other
        assert "published" not in results_of(source, [scores])[0].summary
    source, scores = scored("zjut")
    for seq, known in ((64, True), (16, True), (32, False)):  # those of its README, of its configuration, and others
        source.config = replace(recorded, data_loader=replace(
            loaders, eval=replace(loaders.eval, dataset=replace(loaders.eval.dataset, seq=seq))
        ))  # fmt: skip
        assert ("published" in results_of(source, [scores])[0].summary) == known


def test_confused_classes_stand_together(tmp_path):
    matrix = np.diag([9] * 6)
    for one, other in ((0, 3), (3, 5), (1, 4)):
        matrix[one, other] += 4
    order = block_order(matrix).tolist()
    assert sorted(order) == list(range(6))
    assert sorted(order.index(number) for number in (0, 3, 5)) in ([0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5])
    assert abs(order.index(1) - order.index(4)) == 1
    draw_confusion(tmp_path / "c.png", matrix, NAMES[:6], "$a title$ with_marks")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] > 900 and picture.size[1] > 700
