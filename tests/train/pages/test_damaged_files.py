"""Files of a run and of an evaluation that are damaged: a page says so, or leaves out what is impossible."""

import json
import os

import pytest
from make_report import RECORDS, write_evaluation

from train.pages.evaluation import evaluation_page
from train.pages.run import Run, read_run

VIDEOS = "video_id,label_id,label,views,loss,predicted_id_1,predicted_1,probability_1"
CLASSES = "label,videos,correct"
DAMAGED = {
    "classes.csv": ["", f"{CLASSES}\n\xff", f"{CLASSES}\na,x,1\n", "label\na\n", f"{CLASSES}\na\n"],
    "confusion.csv": ["", "label,a,b\na,1,1\n", "label,a\na,-1\n", "label,a\na,1e9\n", f"label,a\na,{'9' * 30}\n"],
    "videos.csv": ["", "video_id\n1\n", f"{VIDEOS}\na,b,c\n", f"{VIDEOS}\na,x,b,1,1,0,c,1\n",
                   f"{VIDEOS}\na,1,b,1,1,0,c,\n"],
    "summary.json": ["", "[]", "{}", '{"protocol": "a", "num_clips": Infinity, "num_videos": 1}',
                     '{"protocol": "a", "num_clips": 1, "num_videos": 1, "top1": 1, "spread": 3}'],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run with an evaluation of two classes, without settings."""
    run = Run(tmp_path, [], {}, {}, [])
    write_evaluation(tmp_path, ("a", "b"), ["one", "two"], [0, 1], [0, 0])
    return run


def sections(run: Run, folder) -> dict[str, str]:
    return {section.title: repr(section.blocks) for section in evaluation_page([run], [None], folder).sections}


def test_whole_evaluation_has_every_section(run, tmp_path):
    texts = sections(run, tmp_path)
    assert list(texts) == [
        "Protocols",
        "Newest evaluation",
        "Classes",
        "Confusion",
        "Worst errors",
        "Most confident errors",
    ]
    assert (
        "0 % of 1" in texts["Classes"]
        and "100.0 %" in texts["Confusion"]
        and "'two', 'b', 'a'" in texts["Worst errors"]
    )
    assert "No clips: the run's config.yaml is missing" in texts["Worst errors"]
    assert "'1.5000', '4', '4 of 5'" in texts["Protocols"]  # labelled clips and videos, by which accuracy is divided


def test_newer_evaluation_without_labels_hides_nothing(run, tmp_path):
    """Such as one of an unlabelled test split, which has predictions only."""
    before, (folder,) = sections(run, tmp_path), tmp_path.glob("eval/*")
    other = tmp_path / "eval" / "best-one-clip-test"
    other.mkdir()
    summary = {"protocol": "one-clip", "num_clips": 16, "num_videos": 16, "checkpoint": "c", "split": "test"}
    (other / "summary.json").write_text(json.dumps(summary))
    os.utime(folder / "summary.json", (0, 0))
    after = sections(run, tmp_path)
    assert "best-one-clip-test is newer and has no labels." in after["Newest evaluation"]
    for title in ("Classes", "Confusion", "Worst errors"):
        assert after[title] == before[title]


@pytest.mark.parametrize(("name", "content"), [(name, each) for name, every in DAMAGED.items() for each in every])
def test_damaged_file_is_named_once(name, content, run, tmp_path):
    (path,) = tmp_path.glob(f"eval/*/{name}")
    path.write_bytes(content.encode("latin-1"))
    texts = "".join(sections(run, tmp_path).values())
    assert texts.count(f"{name}: corrupted: ") == 1 and "Run `make eval`" in texts


def test_loss_that_was_not_finite_is_the_worst(run, tmp_path):
    (path,) = tmp_path.glob("eval/*/videos.csv")
    path.write_text(f"{VIDEOS}\none,1,b,1,9,0,a,0.5\ntwo,1,b,1,,0,a,0.9\nthree,1,b,0,,,,\nfour,-1,,1,,0,a,1\n")
    worst = sections(run, tmp_path)["Worst errors"]
    assert worst.index("'two', 'b', 'a', '90.0 %', '–'") < worst.index("'one'") and "three" not in worst
    assert "2 of 2 wrong videos" in worst


@pytest.mark.parametrize("name", ["classes.csv", "confusion.csv", "videos.csv"])
def test_missing_file_is_named(name, run, tmp_path):
    (path,) = tmp_path.glob(f"eval/*/{name}")
    path.unlink()
    assert f"{name} is missing" in "".join(sections(run, tmp_path).values())


def test_impossible_metrics_are_left_out(tmp_path):
    huge = 10**400
    lines = [json.dumps(record) for record in RECORDS]
    lines += [f'{{"step": {huge}}}', '{"step": -1}', f'{{"step": 9, "train/loss": {huge}, "train/lr": Infinity}}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_run(tmp_path).records == [*RECORDS, {"step": 9, "train/loss": None, "train/lr": None}]
