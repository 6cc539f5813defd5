"""Packets are believed and not headers: every frame is stored once, at its right time, and what is lost is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_inputs import files, make_inputs, moved, path_of, train_rows
from make_videos import read_number, write_mp4
from paths import RESOURCES

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video
from pipeline.decoding.frames import DecodedVideo
from pipeline.decoding.packets import _rate
from pipeline.decoding.resample import kept_by_time
from pipeline.execution.run import preprocess_store
from pipeline.shards.reader import ShardReader

SOURCE = Preprocess(fps="source", height=64, width=96)
FIFTEEN = replace(SOURCE, fps=15.0)
either = pytest.mark.usefixtures("either_decoder")


def numbers_on(video: DecodedVideo) -> list[int]:
    """The numbers drawn on the stored frames."""
    return [read_number(frame) for frame in video.frames]


def shown_at(times_ms: list[int], fps: int) -> list[int]:
    """The frame that is shown at 0, 1 / fps, 2 / fps ... seconds, until the last frame begins."""
    instants = [k for k in range(len(times_ms) * 100) if 1000 * k <= times_ms[-1] * fps]
    return [max(i for i, time in enumerate(times_ms) if time * fps <= 1000 * k) for k in instants]


def set_default_duration(path: Path, nanoseconds: int) -> Path:
    """Change the duration of a frame in the header of a Matroska file."""
    content = bytearray(path.read_bytes())
    place = content.index(bytes.fromhex("23e38384")) + 4
    content[place : place + 4] = nanoseconds.to_bytes(4, "big")
    path.write_bytes(content)
    return path


@either
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_varying_rate_is_stored_by_time(tmp_path: Path, suffix: str) -> None:
    ticks = [*range(0, 40, 5), *range(40, 80)]  # 10 frames/s, then 50
    path = write_mp4(tmp_path / f"a{suffix}", len(ticks), 50, pts=ticks)
    video = decode_video(path, FIFTEEN)
    assert numbers_on(video) == shown_at([20 * tick for tick in ticks], 15)
    assert (video.chosen_by, video.fps, video.source.source_frames) == ("time", 15.0, 48)
    assert video.source.source_fps == pytest.approx(48 / 1.6)
    assert video.times_s == pytest.approx(np.array(ticks)[numbers_on(video)] / 50, abs=1e-6)
    assert numbers_on(decode_video(path, SOURCE)) == list(range(48))
    few = decode_video(path, replace(SOURCE, fps=40.0))
    assert (numbers_on(few), few.fps) == (list(range(48)), few.source.source_fps), (
        "no frame is stored twice to fill gaps"
    )


@either
@pytest.mark.parametrize(("fps", "nanoseconds"), [(30, 1_000_000), (30, 100_000_000), (25, 500_000)])
def test_rate_of_a_header_that_packets_deny(tmp_path: Path, fps: int, nanoseconds: int) -> None:
    path = write_mp4(tmp_path / "a.webm", 40, fps, codec="vp8")
    video = decode_video(set_default_duration(path, nanoseconds), FIFTEEN)
    assert numbers_on(video) == [k * fps // 15 for k in range(40) if k * fps // 15 < 40]
    assert (video.source.source_fps, video.fps, video.chosen_by) == (fps, 15.0, "")


@either
def test_times_hours_apart_are_not_believed(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mkv", 20, 30, pts=[*range(10), *range(26 * 3600 * 30, 26 * 3600 * 30 + 10)])
    video = decode_video(set_default_duration(path, 33_333_333), FIFTEEN)
    assert numbers_on(video) == list(range(0, 20, 2))
    assert video.times_s == pytest.approx(np.arange(10) / 15, abs=1e-3)


@pytest.mark.parametrize("rate", [24000 / 1001, 25.0, 30000 / 1001, 30.0, 12.5, 60000 / 1001])
@pytest.mark.parametrize("declared", [1.0, 14.0])
def test_constant_rate_is_found_in_rounded_times(rate: float, declared: float) -> None:
    ticks = np.rint(1000 * np.arange(300) / rate).astype(np.int64)
    assert _rate(ticks, Fraction(1, 1000), declared * rate) == (pytest.approx(rate, rel=1e-12), False)
    late = ticks + np.where(np.arange(300) >= 150, 3, 0)
    assert _rate(late, Fraction(1, 1000), rate)[1], "3 ms in the middle are a varying rate"


@given(st.lists(st.integers(1, 400), min_size=2, max_size=60), st.integers(1, 60))
def test_by_time_is_the_frame_shown_at_each_instant(gaps: list[int], fps: int) -> None:
    times_ms = [0, *np.cumsum(gaps).tolist()]
    mean = 1000 * len(gaps) / times_ms[-1]
    indices, stored_fps = kept_by_time(np.array(times_ms), Fraction(1, 1000), mean, float(fps))
    if mean <= fps:
        assert (indices.tolist(), stored_fps) == (list(range(len(times_ms))), mean)
    else:
        assert (indices.tolist(), stored_fps) == (shown_at(times_ms, fps), float(fps))


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_ledger_says_which_videos_are_stored_by_time(tmp_path: Path, decoder: str) -> None:
    settings = replace(make_inputs(tmp_path, num_videos=4, broken=None), height=64, width=96, decoder=decoder)
    varying, packed, steady = (path_of(settings, number) for number in (0, 1, 3))
    ticks = [*range(0, 40, 5), *range(40, 80)]
    write_mp4(varying, len(ticks), 50, pts=ticks)
    shutil.copyfile(RESOURCES / "packed_b_frames.avi", packed)
    write_mp4(steady, 20, 30)
    runs = [moved(settings, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    for each in runs:
        assert preprocess_store(each) == 0
    assert files(runs[0]) == files(runs[1])
    rows = train_rows(runs[0])
    assert rows["chosen_by"].tolist() == ["time", "", "", ""] and rows["source_frames"].tolist() == [48, 24, 0, 20]
    expected = {0: shown_at([20 * tick for tick in ticks], 15), 1: list(range(0, 24, 2)), 3: list(range(0, 20, 2))}
    for number, numbers in expected.items():
        reader = ShardReader(Path(runs[0].store) / rows["shard"].iloc[number])
        row = reader.row_of(rows.index[number])
        assert [read_number(frame) for frame in reader.frames(row)] == numbers
