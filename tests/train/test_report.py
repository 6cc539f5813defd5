"""What `make report` writes: pages whose links lead somewhere, escaped names, and sentences about what is missing."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from make_report import HOSTILE, PageReader, files_in, make_hostile_run, write_run
from make_store import LABELS
from make_training import write_config
from PIL import Image

from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.settings import Document
from pipeline.common.text import visible
from train.data.clip_batches import ClipBatches
from train.data.videos import read_videos
from train.experiment.load import load_config
from train.pages import charts
from train.pages.blocks import PAGES, Picture
from train.report import first_clips, main


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_hostile_run(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def report(run) -> Path:
    """The report of that run: with shards, metrics and an evaluation."""
    config = run.parents[2] / "tiny.yaml"
    assert main(["-c", str(config)]) == EXIT_OK
    return run / "report"


@pytest.fixture(scope="module")
def pages(report) -> dict[str, PageReader]:
    return {name: PageReader(report / name) for name in PAGES}


def bare(folder: Path, *words: str) -> dict[str, str]:
    """The texts of the pages of a report."""
    assert main(["-c", str(folder / "tiny.yaml"), "--output-dir", str(folder / "out"), *words]) == EXIT_OK
    return {name: PageReader(folder / "out" / name).text for name in PAGES}


def test_every_link_leads_to_a_file_of_the_report(report, pages):
    linked = {file for page in pages.values() for file in page.files}
    assert linked | {"report.json"} == files_in(report)
    for page in pages.values():
        assert set(PAGES) <= set(page.files)
    assert not [file for file in linked if ":" in file or file.startswith("/")]
    assert json.loads((report / "report.json").read_text())["files"] == sorted(linked)


def test_pictures_decode_with_the_aspect_of_the_page(report, pages):
    shown = [tag for page in pages.values() for name, tag in page.tags if name in ("img", "video")]
    assert len(shown) > 15
    for tag in shown:
        width, height = int(tag["width"]), int(tag["height"])
        file = Image.open(report / (tag.get("src") or tag["poster"]))
        file.load()
        assert abs(height - width * file.height / file.width) <= 1
    for path in report.glob("files/*.mp4"):
        with av.open(str(path)) as video:
            assert video.streams.video[0].codec_context.name == "h264"
            frames = list(video.decode(video=0))
            poster = Image.open(path.with_suffix(".jpg"))
            assert len(frames) >= 12 and abs(frames[0].width - poster.width) <= 1


def test_hostile_names_are_text_and_nothing_else(run, pages):
    allowed = {
        "html", "head", "meta", "title", "style", "body", "header", "nav", "a", "h1", "h2", "p", "bdi", "main", "dl",
        "section", "div", "dd", "dt", "table", "thead", "tbody", "tr", "th", "td", "span", "figure", "figcaption",
        "picture", "source", "img", "video", "details", "summary", "footer",
    }  # fmt: skip
    for page in pages.values():
        assert {name for name, _ in page.tags} <= allowed
        assert not [key for _, tag in page.tags for key in tag if key.startswith("on")]
        assert not set("\u202e\u202c\x1b") & set(page.text)
    for name in ("index.html", "evaluation.html"):
        for label in HOSTILE:
            assert visible(label) in pages[name].text
    assert visible(str(run)) in pages["run.html"].text


def test_pages_show_what_is_known(pages):
    dataset, of_run, evaluation = (pages[name].text for name in PAGES)
    assert "truncated" in dataset and "340 × 256" in dataset
    assert "16 × 16 of 20 × 16 pixels" in dataset and "epochs 1 to 3" in dataset
    assert "75.0 %" in of_run and "A star marks the best" in of_run
    assert "50.00 %" in evaluation and "25.0–75.0" in evaluation and ": 87.5\u00a0%, loss\u00a02.48" in evaluation


def test_report_again_replaces_the_earlier_one(run, report):
    (report / "files" / "mine.txt").touch()
    with pytest.raises(UserError, match="files that are not of a report: files/mine.txt"):
        main(["-c", str(run.parents[2] / "tiny.yaml")])
    (report / "files" / "mine.txt").unlink()
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_nothing_made_yet_is_said_on_the_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    shutil.rmtree(tmp_path / "manifests")
    dataset, of_run, evaluation = bare(tmp_path).values()
    assert "has no ledgers. Run `make manifests`." in dataset
    assert "no run of dataset tiny" in of_run and "Run `make eval`." in evaluation


def test_missing_shards_and_metrics_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "draw", lambda *_, **__: Picture("index.html", (1, 1), ""))  # takes seconds
    config = write_config(tmp_path)
    first = write_run(tmp_path / "runs" / "tiny" / "20260101-000000", config, [])
    (first / "eval" / "broken").mkdir(parents=True)
    (first / "eval" / "broken" / "summary.json").write_text("{}")
    shutil.rmtree(tmp_path / "store")
    dataset, of_run, evaluation = bare(tmp_path, "--run", str(first)).values()
    assert dataset.count("No pictures: ") == 2 and "shard not found" in dataset
    assert "There are no metrics yet" in of_run
    assert "There is no evaluation in the folder eval" in evaluation and "summary.json: corrupted" in evaluation


def test_run_that_is_no_run_folder_is_named(tmp_path):
    words = ["-c", str(write_config(tmp_path)), "--run"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for given, what in (("nope", "that does not exist"), ("empty", "without ckpt/"), ("file", "outside a run folder")):
        with pytest.raises(UserError, match=f"--run: got .*{given}, a .*{what}, expected a run folder such as"):
            main([*words, str(tmp_path / given)])


def test_clips_are_those_of_the_first_batches(tmp_path):
    config = load_config(Document(write_config(tmp_path)))
    clips = first_clips(config)
    assert [clip.label for clip in clips] == list(LABELS)
    videos = read_videos(config.preprocess, "train")
    source = ClipBatches(videos, config.data_loader.train, config.preprocess, seed=config.train.seed,
                         drop_remainder=True)  # fmt: skip
    source.set_epoch(0)
    trained_on = [(np.array(clip), label) for number in range(source.num_batches)
                  for clip, label in zip(*source.batch(number)[:2], strict=True)]  # fmt: skip
    for number, clip in enumerate(clips):
        first = next(frames for frames, label in trained_on if label == number)
        assert np.array_equal(clip.frames, first)
