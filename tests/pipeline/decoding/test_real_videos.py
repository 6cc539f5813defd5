"""A dozen real files through all stages: every container, codec and error gets the right status in the ledger."""

# The files are not part of the repository: they are in `../shared/videos`, if that folder exists.

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from paths import ROOT, SHARED

from pipeline import manifests
from pipeline.common import recipe
from pipeline.common.settings import Document
from pipeline.ledger.table import ledger_path, read_ledger
from pipeline.preprocess import main
from pipeline.shards.reader import ShardReader

VIDEOS = SHARED / "videos"
pytestmark = pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real videos: {VIDEOS} is not there")

LABELS = ("arm wrestling", "flipping pancake")
# file -> (status, codec, source frames; for a bad video the number in its container)
EXPECTED = {
    "arm_wrestling_h264_340x256.mp4": ("ok", "h264", 280),
    "av1.mkv": ("ok", "av1", 125),
    "corrupted_h264.mp4": ("truncated", "h264", 50),  # a frame in its middle is corrupted
    "edit_list_short.mp4": ("ok", "h264", 25),  # decord returns 30, five of them copies
    "flipping_pancake_h264.mkv": ("ok", "h264", 310),
    "hevc_10bit.mp4": ("ok", "hevc", 30),
    "mpeg4.avi": ("ok", "mpeg4", 131),
    "odd_width_vp9.mp4": ("ok", "vp9", 25),
    "one_frame.mp4": ("ok", "mpeg4", 1),
    "rotated_90.mov": ("ok", "h264", 3),
    "stream_copied_cut.mp4": ("ok", "h264", 32),  # decord returns 100, most of them copies of one frame
    "two_video_streams.mp4": ("ok", "h264", 390),
}


def video_id(name: str) -> str:
    """The Kinetics name given to a file: ids as YouTube's, one for each place in the list."""
    return f"real-{list(EXPECTED).index(name):06d}_000000_000010"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arrange the files as a small Kinetics tree, build its ledgers and shards; returns overrides with its paths."""
    folder = tmp_path_factory.mktemp("real")
    root = folder / "kinetics"
    tables: dict[str, list[list[str]]] = {"train": [], "val": []}
    for index, name in enumerate(EXPECTED):
        split = "val" if index % 4 == 3 else "train"
        (root / split).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(VIDEOS / name, root / split / f"{video_id(name)}{Path(name).suffix}")
        tables[split].append([LABELS[index // 2 % 2], video_id(name)[:11], "0", "10", split, "0"])
    for split, rows in tables.items():
        with open(root / f"real_{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["label", "youtube_id", "time_start", "time_end", "split", "is_cc"], *rows])
    settings = {
        "dataset": "real", "data_root": root, "manifests": folder / "manifests", "store": folder / "shards",
        "jobs": 2, "videos_per_shard": 4, "max_bad_fraction": 0.1,
    }  # fmt: skip
    given = ["-c", str(ROOT / "train/configs/sample.yaml")]
    given += [f"--preprocess.{key}={value}" for key, value in settings.items()]
    assert manifests.main(given) == 0
    assert main(given) == 0
    return given


def read_ledgers(options: list[str]) -> pd.DataFrame:
    overrides = dict(option.removeprefix("--").split("=", 1) for option in options[2:])
    settings = recipe.load(Document(options[1], overrides))
    return pd.concat([read_ledger(ledger_path(settings, split)) for split in ("train", "val")])


def test_the_folder_holds_the_files_this_test_knows() -> None:
    assert sorted(path.name for path in VIDEOS.iterdir() if path.is_file()) == sorted(EXPECTED)


def test_every_file_is_in_the_ledger_with_its_status(options: list[str]) -> None:
    table = read_ledgers(options).set_index("video_id")
    found = {
        name: (str(row["status"]), str(row["codec"]), int(row["source_frames"]))
        for name, row in ((name, table.loc[video_id(name)]) for name in EXPECTED)
    }
    assert found == EXPECTED
    assert len(table) == len(EXPECTED)


def test_every_stored_video_can_be_read_back(options: list[str]) -> None:
    table = read_ledgers(options)
    stored = table[table["status"] == "ok"]
    store = Path(next(option for option in options if "store=" in option).split("=", 1)[1])
    for shard, rows in stored.groupby("shard"):
        reader = ShardReader(store / str(shard))
        for row in rows.itertuples():
            frames = reader.frames(reader.row_of(str(row.video_id)))
            assert frames.shape == (row.num_frames, 64, 86, 3)
            reader.verify(reader.row_of(str(row.video_id)))


@pytest.mark.slow
def test_training_and_evaluation_run_on_them(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mindspore")
    from train import evaluate, train

    settings = {
        "model.stage_channels": [4, 4, 4, 4], "model.num_classes": 2, "train.ckpt_path": tmp_path / "runs",
        "train.epochs": 1, "data_loader.train.dataset.batch_size": 4, "learning_rate.warmup_epochs": 0,
    }  # fmt: skip
    given = options + [f"--{key}={value}" for key, value in settings.items()]
    assert train.main(given) == 0
    assert "2 steps" in capsys.readouterr().out  # 8 good videos of train in batches of 4
    assert evaluate.main(given) == 0
    results = json.loads(next((tmp_path / "runs").rglob("eval/*/summary.json")).read_text(encoding="utf-8"))
    assert results["num_videos"] == 3  # all of val
