"""Which decoder gave the frames of a video does not change them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_videos import numbered_frame, turn, write_changing_size, write_mp4
from paths import SHARED

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video
from pipeline.decoding.video_file import DecodeError

BOUND = 0  # grey levels; PyAV's own conversion differs by up to 119
VIDEOS = SHARED / "videos"


def slow(*values: object) -> list[object]:
    """Parameters of the slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def check_same(path: Path, *rates: float | str) -> None:
    """Both decoders give the same frames, times, rate and facts."""
    for fps in rates or ("source", 15.0, 11.0):
        settings = Preprocess(fps=fps)
        by_decord, by_pyav = (decode_video(path, settings, with_chosen=each) for each in (True, False))
        assert (by_decord.decoder, by_pyav.decoder) == ("", "pyav")
        difference = np.abs(by_decord.frames.astype(np.int16) - by_pyav.frames)
        assert difference.max() <= BOUND, f"{fps}: {difference.max()} levels, mean {difference.mean():.3f}"
        assert by_decord.times_s.tolist() == by_pyav.times_s.tolist()
        assert (by_decord.fps, by_decord.source) == (by_pyav.fps, by_pyav.source)
        assert by_decord.chosen_by == by_pyav.chosen_by


def colourful(number: int) -> np.ndarray:
    """Saturated blocks of 3 x 5 pixels that change in every frame: chroma that must be interpolated."""
    colours = np.random.default_rng(number).integers(0, 256, (32, 26, 3), np.uint8)
    return np.repeat(np.repeat(colours, 3, axis=0), 5, axis=1)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", *slow("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv422p10le")])
def test_colours_are_the_same(tmp_path: Path, pix_fmt: str) -> None:
    frames = [colourful(number) for number in range(7)]
    check_same(write_mp4(tmp_path / "a.mp4", size=(96, 130), frames=frames, pix_fmt=pix_fmt, options={"crf": "3"}))


@pytest.mark.parametrize("name", ["vp9.webm", "mpeg4.avi", *slow("av1.mkv", "hevc.mp4")])
def test_codecs_are_the_same(tmp_path: Path, name: str) -> None:
    check_same(write_mp4(tmp_path / name, 12, 30, (256, 340), name.split(".")[0]), 15.0)


@pytest.mark.parametrize("space", ["bt709", *slow("smpte170m", "bt2020nc")])
@pytest.mark.parametrize("colour_range", ["pc", *slow("tv")])
def test_matrix_and_range_are_the_same(tmp_path: Path, space: str, colour_range: str) -> None:
    frames = [colourful(number) for number in range(3)]
    options = {"colorspace": space, "color_range": colour_range}
    check_same(write_mp4(tmp_path / "a.mp4", size=(96, 130), frames=frames, options=options), "source")


@pytest.mark.parametrize("quarters", [1, *slow(2, 3)])
def test_turned_videos_are_the_same(tmp_path: Path, quarters: int) -> None:
    drawn = [numbered_frame(number, (240, 320), quarters) for number in range(5)]
    check_same(turn(write_mp4(tmp_path / "a.mp4", frames=drawn, size=(240, 320)), quarters), "source")


@pytest.mark.parametrize("codec", ["h264", *slow("vp9")])
def test_a_change_of_size_is_the_same(tmp_path: Path, codec: str) -> None:
    check_same(write_changing_size(tmp_path / "a.mkv", codec), "source")


@pytest.mark.parametrize("name", ["a.mp4", *slow("a.mkv", "a.webm")])
@pytest.mark.parametrize("first", [0, *slow(7, 7200 * 30)])
def test_frames_chosen_by_time_are_the_same(tmp_path: Path, name: str, first: int) -> None:
    pts = [first + tick for tick in (0, 1, 2, 3, 9, 20, 21, 22, 30, 31, 32, 33, 60)]
    codec = "vp9" if name == "a.webm" else "h264"
    check_same(write_mp4(tmp_path / name, 13, pts=pts, codec=codec), "source", 4.0, 3.7)


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real videos: {VIDEOS} is not there")
def test_real_videos_are_the_same() -> None:
    compared = 0
    for path in sorted(VIDEOS.iterdir()):
        try:
            if decode_video(path, Preprocess()).decoder == "":
                check_same(path)
                compared += 1
        except DecodeError:
            continue
    assert compared >= 9
