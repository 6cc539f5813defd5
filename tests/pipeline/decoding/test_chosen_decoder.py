"""The recipe's decoder is tried first, then the other one; PyAV's pictures are those of decord within a level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_inputs import files, make_inputs, moved, path_of, train_rows
from make_videos import numbered_frame, read_number, truncate, turn, write_changing_size, write_mp4
from paths import SHARED

from pipeline.common.recipe import Preprocess
from pipeline.decoding import decode, packets, resize_planes
from pipeline.decoding.decode import decode_video
from pipeline.decoding.resize_planes import PlaneResizer
from pipeline.decoding.video_file import DecodeError
from pipeline.execution.run import preprocess_store

PYAV = Preprocess(fps="source", height=64, width=96, decoder="pyav")
DECORD = replace(PYAV, decoder="decord")
BOUND = 1.0  # grey levels, mean over a video
VIDEOS = SHARED / "videos"


def check_close(path: Path, fps: float | str = "source", **changes: object) -> float:
    """Both decoders give the same times, rate and facts, and close frames; returns how close."""
    ours, theirs = (decode_video(path, Preprocess(fps=fps, decoder=each, **changes)) for each in ("pyav", "decord"))
    assert (ours.decoder, theirs.decoder) == ("pyav", "")
    assert ours.times_s.tolist() == theirs.times_s.tolist()
    assert (ours.fps, ours.source, ours.chosen_by) == (theirs.fps, theirs.source, theirs.chosen_by)
    difference = float(np.abs(ours.frames.astype(np.int16) - theirs.frames).mean())
    assert difference < BOUND
    return difference


def smooth(number: int, size: tuple[int, int]) -> np.ndarray:
    """A picture like camera footage: colours that change slowly over it, with some noise of brightness."""
    y, x = np.mgrid[: size[0], : size[1]] / 40.0
    waves = [np.sin(x + 0.2 * number), np.cos(y - 0.1 * number), np.sin(x + y)]
    noise = np.random.default_rng(number).normal(0, 6, size)[..., None]
    return np.clip(125 + 70 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "area", "bicubic"])
def test_pictures_are_within_a_level_of_decord(tmp_path: Path, interpolation: str) -> None:
    size = (256, 340)
    path = write_mp4(tmp_path / "a.mp4", size=size, frames=[smooth(number, size) for number in range(4)])
    assert 0 < check_close(path, interpolation=interpolation), "planes were resized first"


@pytest.mark.parametrize("space", ["bt709", "smpte170m", pytest.param("bt2020nc", marks=pytest.mark.slow)])
@pytest.mark.parametrize("levels", ["pc", "tv"])
def test_matrix_and_range_are_believed(tmp_path: Path, space: str, levels: str) -> None:
    options, size = {"colorspace": space, "color_range": levels}, (96, 130)
    path = write_mp4(tmp_path / "a.mp4", size=size, frames=[smooth(1, size)] * 2, options=options)
    assert 0 < check_close(path), "planes were resized first"


def test_graphics_are_converted_first(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 2, (48, 65, 3), np.uint8) * 255
    frames = [np.repeat(np.repeat(colours, 2, axis=0), 2, axis=1)] * 34
    path = write_mp4(tmp_path / "a.mp4", size=(96, 130), frames=frames, options={"crf": "3"})
    assert check_close(path) == 0


def test_one_frame_in_32_is_made_in_both_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, planes_first = write_mp4(tmp_path / "a.mp4", 66, size=(64, 96)), PlaneResizer._resize
    compared: list[bool] = []
    monkeypatch.setattr(resize_planes, "MAX_DIFFERENCE", 255)
    with monkeypatch.context() as patch:
        patch.setattr(PlaneResizer, "_resize", lambda *arguments: (compared.append(True), planes_first(*arguments)))
        exact = decode_video(path, DECORD).frames
        ours = decode_video(path, PYAV).frames
    assert len(compared) == 66
    same = [bool((one == other).all()) for one, other in zip(ours, exact, strict=True)]
    assert [number for number, equal in enumerate(same) if equal] == [0, 32, 64]


def test_turned_or_changing_pictures_are_right(tmp_path: Path) -> None:
    drawn = [numbered_frame(number, (240, 320), 1) for number in range(3)]
    assert check_close(turn(write_mp4(tmp_path / "a.mp4", frames=drawn, size=(240, 320)), 1)) == 0
    check_close(write_changing_size(tmp_path / "b.mkv", "h264"))


@pytest.mark.parametrize(("limit", "value"), [("_KEPT_BYTES", 100), ("_KEPT_PACKETS", 7)])
def test_large_file_is_read_again_to_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    path = write_mp4(tmp_path / "a.mp4", 20)
    small = decode_video(path, PYAV)
    monkeypatch.setattr(packets, limit, value)
    large = decode_video(path, PYAV)
    assert (large.frames == small.frames).all() and large.times_s.tolist() == small.times_s.tolist()
    assert [read_number(frame) for frame in large.frames] == list(range(20))


@pytest.mark.parametrize(("settings", "first"), [(DECORD, "decord"), (PYAV, "pyav")])
def test_other_decoder_is_tried_after_the_chosen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Preprocess, first: str
) -> None:
    path, tried, other = write_mp4(tmp_path / "a.mp4", 5), [], {"decord": "pyav", "pyav": "decord"}[first]
    honest = {name: getattr(decode, f"decode_with_{name}") for name in ("decord", "pyav")}

    def watched(name: str, *arguments: object) -> object:
        tried.append(name)
        if name == first:
            raise DecodeError("unreadable", "not by this one")
        return honest[name](*arguments)

    for name in honest:
        monkeypatch.setattr(decode, f"decode_with_{name}", lambda *arguments, name=name: watched(name, *arguments))
    video = decode_video(path, settings)
    assert tried == [first, first, other] and video.decoder == {"pyav": "pyav", "decord": ""}[other]
    assert [read_number(frame) for frame in video.frames] == list(range(5))
    tried.clear()
    decode_video(path, settings, with_chosen=False)
    assert tried == [other]


@pytest.mark.parametrize("with_chosen", [True, False])
def test_status_is_named_whichever_decoder_is_first(tmp_path: Path, with_chosen: bool) -> None:
    path = truncate(write_mp4(tmp_path / "a.mp4", 30, container_options={"movflags": "faststart"}))
    for settings in (DECORD, PYAV):
        with pytest.raises(DecodeError, match="truncated: "):
            decode_video(path, settings, with_chosen=with_chosen)


@pytest.mark.slow
def test_ledger_names_pyav_for_any_number_of_jobs(tmp_path: Path) -> None:
    settings = make_inputs(tmp_path, num_videos=5, decoder="pyav")
    path_of(settings, 3).write_bytes(path_of(settings, 3).read_bytes()[:-200])
    runs = [moved(settings, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    for each in runs:
        assert preprocess_store(each) == 0
    assert files(runs[0]) == files(runs[1])
    rows = train_rows(runs[0])
    assert rows["status"].tolist() == ["ok", "ok", "missing", "unreadable", "unreadable"]
    assert rows["decoder"].tolist() == ["pyav", "pyav", "", "", ""]


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real videos: {VIDEOS} is not there")
def test_real_videos_are_within_a_level() -> None:
    compared = 0
    for path in sorted(VIDEOS.iterdir()):
        try:
            if decode_video(path, Preprocess()).decoder == "":
                for fps in ("source", 15.0, 11.0):
                    check_close(path, fps)
                compared += 1
        except DecodeError:
            continue
    assert compared >= 9
