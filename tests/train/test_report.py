"""What `make report` draws: clips of the run, its curves, and its message if shards no longer exist."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from make_store import LABELS
from make_training import write_config
from PIL import Image

from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.settings import Document
from train.data.clip_batches import ClipBatches
from train.data.videos import read_videos
from train.experiment.load import load_config
from train.report import first_clips, main


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder as training leaves it, and the store it was trained on."""
    config = write_config(tmp_path)
    folder = tmp_path / "runs" / "tiny" / "20260101-000000"
    folder.mkdir(parents=True)
    shutil.copy(config, folder / "config.yaml")
    records = [{"step": step, "train/loss": 1 / step, "train/acc1": 0.5, "train/lr": 0.1, "train/clips_per_s": 9.0,
                "train/data_wait": 0.0} for step in range(1, 9)]  # fmt: skip
    records.append({"step": 8, "val/loss": None, "val/acc1": 0.75, "val/acc5": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def draw(run: Path) -> tuple[int, Image.Image]:
    code = main(["-c", str(run.parents[2] / "tiny.yaml")])
    return code, Image.open(run / "learning_curves.png")


def test_clips_are_those_of_the_first_batches(run):
    config = load_config(Document(run / "config.yaml"))
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


def test_picture_has_clips_and_is_wide(run, capsys):
    code, picture = draw(run)
    assert code == EXIT_OK and "9 records to step 8, 3 clips -> " in capsys.readouterr().out
    assert 1000 <= picture.width <= 1200 and picture.width > 2 * picture.height


def test_without_store_the_curves_are_drawn_alone(run, capsys):
    _, whole = draw(run)
    width = whole.width
    shutil.rmtree(run.parents[2] / "store")
    capsys.readouterr()
    code, picture = draw(run)
    out, err = capsys.readouterr()
    assert code == EXIT_OK and "0 clips" in out and "no clips, only curves: " in err and "store" in err
    assert picture.width < width


def test_shards_of_another_recipe_give_no_clips(run, capsys):
    document = yaml.safe_load((run / "config.yaml").read_text())
    document["preprocess"]["fps"] = 7.0  # as if the store had been made again after the run
    (run / "config.yaml").write_text(yaml.safe_dump(document))
    code, _ = draw(run)
    out, err = capsys.readouterr()
    assert code == EXIT_OK and "0 clips" in out and "only curves: " in err


def test_folder_without_metrics_is_refused(run):
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="metrics"):
        main(["-c", str(run.parents[2] / "tiny.yaml"), "--run", str(run)])


def test_run_that_is_no_run_folder_is_named(run, tmp_path):
    words = ["-c", str(run.parents[2] / "tiny.yaml"), "--run"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for given, what in (("nope", "that does not exist"), ("empty", "without ckpt/"), ("file", "outside a run folder")):
        with pytest.raises(UserError, match=f"--run: got .*{given}, a .*{what}, expected a run folder such as"):
            main([*words, str(tmp_path / given)])
