"""The bytes and times of `make estimate` are right, and it writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from make_store import make_ledger, make_split, settings_for
from make_videos import write_mp4

from pipeline import estimate
from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess
from pipeline.ledger.table import ledger_path, read_ledger, read_ledgers, write_ledger


def make_videos_and_ledger(folder: Path, num_videos: int = 4, **changes: object) -> Preprocess:
    """Videos of 30 frames at 30 frames/s and their ledger; the last one is not a video."""
    settings = settings_for(folder, jobs=1, **changes)
    table = make_ledger(num_videos, "train")
    table["path"] = [f"train/{name}.mp4" for name in table["video_id"]]
    for path in table["path"][:-1]:
        write_mp4(Path(settings.data_root) / path)
    (Path(settings.data_root) / table["path"].iloc[-1]).write_bytes(b"no video")
    write_ledger(ledger_path(settings, "train"), table)
    return settings


def test_the_bytes_told_are_the_bytes_stored(tmp_path: Path) -> None:
    settings = make_videos_and_ledger(tmp_path)
    paths = estimate.sample(read_ledgers(settings), settings)
    cost = estimate.measure(paths, settings)
    assert len(paths) == 4 and cost.num_bad == 1
    assert cost.nbytes * 4 == 3 * 15 * 16 * 20 * 3  # 30 frames at 30/s are 15 at 15/s, and the bad one stores nothing


def test_estimate_compares_codecs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_videos_and_ledger(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert estimate.estimate(settings) == 0
    assert sorted(path for path in tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert re.search(r"4 videos on disk, 4 measured, 1 of these bad; 1 jobs", said)
    assert [line.split()[:2] for line in said.splitlines()[2:6]] == [
        ["*", "15.0"], ["15.0", "jpeg"], ["source", "raw"], ["source", "jpeg"]
    ]  # fmt: skip
    assert "fits" in said and "does not fit" not in said


def test_only_what_is_pending_is_still_to_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_videos_and_ledger(tmp_path)
    table = read_ledger(ledger_path(settings, "train"))
    stored = {"status": "ok", "path": "", "shard": "train-00000-of-00001.h5", "num_frames": 1}  # its source was deleted
    for row in range(len(table) - 1):
        table.loc[row, list(stored)] = list(stored.values())
    table.loc[len(table) - 1, ["status", "path"]] = ["crash", f"train/{table['video_id'][0]}.mp4"]
    write_ledger(ledger_path(settings, "train"), table)
    assert estimate.estimate(settings) == 0
    assert "still to write: at most 0.00B;" in capsys.readouterr().out


def test_store_of_another_recipe_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    make_split(settings, "train", 4)
    other = settings_for(tmp_path, fps=30.0)
    with pytest.raises(UserError, match=r"another recipe \(fps: 30.0 here, 15.0 there\)"):
        estimate.estimate(other)


def test_full_disk_is_reported_before_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_videos_and_ledger(tmp_path)
    monkeypatch.setattr(estimate, "free_bytes", lambda _store: 1000)
    assert estimate.estimate(settings) == 74


def test_the_same_videos_are_drawn_each_time(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    names = pd.DataFrame({"path": [f"{number}.mp4" for number in range(500)]})
    first, again = (estimate.sample({"train": names}, settings) for _ in range(2))
    assert first == again and len(set(first)) == estimate.SAMPLED_VIDEOS


def test_nothing_to_measure_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make manifests"):
        estimate.sample({"train": pd.DataFrame({"path": ["", ""]})}, settings_for(tmp_path))


@pytest.mark.parametrize(("nbytes", "words"), [(2.4e12, "2.40TB"), (1.5e9, "1.50GB"), (0, "0.00B")])
def test_sizes_are_for_people(nbytes: float, words: str) -> None:
    assert estimate.size(nbytes) == words


@pytest.mark.parametrize(("seconds", "words"), [(5400, "1.5 h"), (90, "1.5 min"), (2.04, "2.0 s")])
def test_times_are_for_people(seconds: float, words: str) -> None:
    assert estimate.duration(seconds) == words
