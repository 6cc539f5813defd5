"""Each video gives the right frames, or the right reason why it has none."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import decord
import numpy as np
import powers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from make_videos import (
    numbered_frame,
    read_number,
    truncate,
    turn,
    write_changing_size,
    write_mp4,
    write_two_streams,
)
from paths import ROOT

from pipeline.common.recipe import Preprocess
from pipeline.decoding import container, decode, frames, video_file, with_decord, with_pyav
from pipeline.decoding.container import probe
from pipeline.decoding.decode import decode_video
from pipeline.decoding.resample import kept_frames, since_first
from pipeline.decoding.video_file import DecodeError, open_video

SOURCE = Preprocess(fps="source", height=64, width=96)


def numbers(path: Path, settings: Preprocess = SOURCE) -> list[int]:
    return [read_number(frame) for frame in decode_video(path, settings).frames]


def status(path: Path, settings: Preprocess = SOURCE, said: str = "") -> str:
    with pytest.raises(DecodeError) as caught:
        decode_video(path, settings)
    assert str(path) not in caught.value.reason  # shards hold the reason, and must have the same bytes everywhere
    assert "\n" not in caught.value.reason and said in caught.value.reason
    return caught.value.status


rates = st.builds(Fraction, st.integers(5_000, 120_000), st.sampled_from([1000, 1001])) | st.integers(1, 120)


@given(st.integers(0, 400), rates, rates)
@example(200, 22, 15)  # 75 * (22 / 15) is less than 110 in floating point
@example(200, 28, 10)
@example(1002, Fraction(30000, 1001), 15)
def test_kept_frames_are_floor_of_k_times_the_ratio(count: int, source_fps: Fraction, fps: Fraction) -> None:
    indices, stored_fps = kept_frames(count, float(source_fps), float(fps))
    if source_fps <= fps:
        assert (indices.tolist(), stored_fps) == (list(range(count)), float(source_fps))
    else:
        step = Fraction(source_fps) / Fraction(fps)
        expected = [number for k in range(count + 1) if (number := math.floor(k * step)) < count]
        assert (indices.tolist(), stored_fps) == (expected, float(fps))


def test_kept_frames_of_the_usual_rates() -> None:
    assert kept_frames(7, 30.0, 15.0)[0].tolist() == [0, 2, 4, 6]
    assert kept_frames(6, 25.0, 15.0)[0].tolist() == [0, 1, 3, 5]
    assert kept_frames(3, 25.0, "source")[0].tolist() == [0, 1, 2]
    assert kept_frames(3, 10.0, 15.0)[1] == 10.0


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp8", "vp9", "av1", "mpeg4"])
@pytest.mark.parametrize(("source_fps", "fps"), [(30, 15.0), (25, 15.0), (30, "source"), (10, 15.0)])
def test_the_frames_stored_are_the_frames_promised(
    tmp_path: Path, codec: str, source_fps: int, fps: float | str
) -> None:
    path = write_mp4(tmp_path / ("a.webm" if codec == "vp8" else "a.mp4"), 40, source_fps, codec=codec)
    settings = Preprocess(fps=fps, height=64, width=96)
    video = decode_video(path, settings)
    assert [read_number(frame) for frame in video.frames] == kept_frames(40, source_fps, fps)[0].tolist()
    source = video.source
    assert (source.source_frames, source.source_fps, source.codec) == (40, source_fps, codec)
    assert (source.source_height, source.source_width, source.source_bytes) == (96, 128, path.stat().st_size)
    assert video.frames.shape[1:] == (64, 96, 3) and video.frames.dtype == np.uint8


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_every_container_gives_every_frame(tmp_path: Path, suffix: str) -> None:
    path = write_mp4(tmp_path / f"a{suffix}", num_frames=20, codec="mpeg4" if suffix == ".avi" else "h264")
    assert numbers(path) == list(range(20))


@pytest.mark.parametrize(
    "name", ["-starts with a dash.mp4", "ünï cödé.mp4", "a:b.mp4", "per%cent.mp4", "new\nline.mp4", f"{251 * 'x'}.mp4"]
)
def test_a_name_is_only_a_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "plain.mp4", num_frames=5).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(Path(name)) == list(range(5))


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p", "yuv444p", "gray"])
def test_unusual_pixels_become_rgb(tmp_path: Path, pix_fmt: str) -> None:
    path = write_mp4(tmp_path / "a.mp4", num_frames=5, pix_fmt=pix_fmt)
    assert numbers(path) == list(range(5))
    assert decode_video(path, SOURCE).source.source_bit_depth == (10 if "10" in pix_fmt else 8)


@pytest.mark.usefixtures("either_decoder")
def test_transparency_is_left_out(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.webm", num_frames=5, codec="vp9", pix_fmt="yuva420p")
    assert numbers(path) == list(range(5))


@pytest.mark.usefixtures("either_decoder")
def test_non_square_pixels_are_stored_unchanged(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", num_frames=5, pixel_aspect=Fraction(2, 1))
    with av.open(str(path)) as file:
        assert file.streams.video[0].sample_aspect_ratio == 2
    video = decode_video(path, SOURCE)
    assert [read_number(frame) for frame in video.frames] == list(range(5))
    assert (video.source.source_height, video.source.source_width) == (96, 128)


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotated_video_is_stored_upright(tmp_path: Path, quarters: int) -> None:
    drawn = [numbered_frame(number, (96, 128), quarters) for number in range(5)]
    path = turn(write_mp4(tmp_path / "a.mp4", frames=drawn, size=(96, 128)), quarters)
    video = decode_video(path, SOURCE)
    assert [read_number(frame) for frame in video.frames] == list(range(5))
    assert (video.source.source_height, video.source.source_width) == ((96, 128) if quarters == 2 else (128, 96))


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize(("suffix", "first"), [(".mp4", "cover"), (".mkv", "cover"), (".mkv", "small")])
def test_the_best_video_stream_is_stored_and_no_cover(tmp_path: Path, suffix: str, first: str) -> None:
    assert numbers(write_two_streams(tmp_path / f"a{suffix}", first)) == list(range(6))


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_frames_that_change_size_midway_are_all_stored(tmp_path: Path, codec: str) -> None:
    assert numbers(write_changing_size(tmp_path / "a.mkv", codec)) == list(range(10))


def test_an_odd_size_and_a_single_frame(tmp_path: Path) -> None:
    odd = write_mp4(tmp_path / "odd.mp4", num_frames=5, size=(97, 131), codec="vp9", pix_fmt="yuv444p")
    assert numbers(odd) == list(range(5))
    assert numbers(write_mp4(tmp_path / "one.mp4", num_frames=1), Preprocess(height=64, width=96)) == [0]


@pytest.mark.parametrize("width", [24, 32, 48])
def test_narrow_pictures_are_not_misread(tmp_path: Path, width: int) -> None:
    # decord reads the padding of such rows as a fourth channel
    path = write_mp4(tmp_path / "a.mp4", 7, 15, (32, width))
    assert numbers(path) == list(range(7))


@pytest.mark.usefixtures("either_decoder")
def test_a_variable_rate_keeps_frames_and_their_times(tmp_path: Path) -> None:
    shown = [0, 1, 2, 3, 10, 20, 21, 22]
    path = write_mp4(tmp_path / "a.mp4", num_frames=8, pts=shown)
    video = decode_video(path, SOURCE)
    assert [read_number(frame) for frame in video.frames] == list(range(8))
    assert video.times_s == pytest.approx(np.array(shown) / 30, abs=1e-4) and video.times_s.dtype == np.float32
    thinned = decode_video(path, replace(SOURCE, fps=4.0))
    kept = [0, 3, 4]  # those shown 0, 7.5 and 15 thirtieths of a second after the first
    assert thinned.times_s.tolist() == video.times_s[kept].tolist()
    assert [read_number(frame) for frame in thinned.frames] == kept


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("start", [30, -3])
def test_nonzero_start_time_begins_with_first_frame(tmp_path: Path, start: int) -> None:
    path = write_mp4(tmp_path / "a.mkv", num_frames=8, pts=list(range(start, start + 8)))
    video = decode_video(path, SOURCE)
    assert [read_number(frame) for frame in video.frames] == list(range(8))
    assert video.times_s == pytest.approx(np.arange(8) / 30, abs=2e-3)  # Matroska counts milliseconds


@pytest.mark.parametrize("times_s", [[0.0, 0.1, 0.1], [0.0, np.nan, 0.2], [0.2, 0.1, 0.3]])
def test_times_that_do_not_rise_fall_back_to_mean_rate(times_s: list[float]) -> None:
    found = since_first(np.array(times_s), np.array([0, 2, 4]), 8.0)
    assert found.tolist() == [0.0, 0.25, 0.5]


def cut_without_encoding(source: Path, target: Path, start_s: float) -> Path:
    """Copy packets from the keyframe before `start_s` on, with an edit list that hides what comes before it."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        old.seek(int(start_s / stream.time_base), stream=stream)
        shift = int(start_s / stream.time_base)
        for packet in old.demux(stream):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return target


def test_edit_list_that_hides_frames_repeats_none(tmp_path: Path) -> None:
    whole = write_mp4(tmp_path / "whole.mp4", num_frames=60, options={"g": "30", "bf": "2"})
    cut = cut_without_encoding(whole, tmp_path / "cut.mp4", 0.5)
    assert numbers(cut) == list(range(15, 60))


def test_video_whose_frames_decord_repeats_uses_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mp4(tmp_path / "a.mp4", num_frames=9)
    by_decord = decode_video(path, SOURCE).frames
    monkeypatch.setattr(decode, "decode_with_decord", lambda *_arguments: None)
    by_pyav = decode_video(path, SOURCE).frames
    assert [read_number(frame) for frame in by_pyav] == list(range(9))
    assert np.abs(by_pyav.astype(int) - by_decord).mean() < 3


@pytest.mark.parametrize("fps", [15.0, 11.0, 4.0])
def test_decord_is_never_asked_to_skip_to_a_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float
) -> None:
    path = write_mp4(tmp_path / "a.mp4", num_frames=60, options={"g": "7", "keyint_min": "7", "sc_threshold": "0"})
    keys = set(decord.VideoReader(str(path)).get_key_indices())
    assert len(keys) > 5
    passed: list[range] = []
    position = {"next": 0}

    class Watched(decord.VideoReader):
        def next(self) -> decord.nd.NDArray:
            position["next"] += 1
            return super().next()

        def skip_frames(self, num: int = 1) -> None:
            passed.append(range(position["next"] + 1, position["next"] + num + 1))
            position["next"] += num
            super().skip_frames(num)

    monkeypatch.setattr(decord, "VideoReader", Watched)
    assert numbers(path, replace(SOURCE, fps=fps)) == kept_frames(60, 30, fps)[0].tolist()
    assert len(passed) > 5 and not any(keys.intersection(skipped) for skipped in passed)


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("method", ["bilinear", "area", "bicubic"])
def test_pixels_are_those_of_an_independent_resize(tmp_path: Path, method: str) -> None:
    path = write_mp4(tmp_path / "a.mp4", num_frames=4, size=(256, 340), options={"crf": "10"})
    frames = decode_video(path, Preprocess(fps="source", interpolation=method)).frames
    with av.open(str(path)) as container:
        pictures = [picture.to_ndarray(format="rgb24").astype(np.float64) for picture in container.decode(video=0)]
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame - resized(picture, 128, 171, method)).mean() < 1


def resized(picture: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """Resize by the definition in float64, one axis after the other, without OpenCV."""
    for axis, size in ((0, height), (1, width)):
        picture = np.tensordot(weights(picture.shape[axis], size, method), picture, (1, axis))
        picture = np.moveaxis(picture, 0, axis)
    return np.clip(picture, 0, 255)


def weights(old: int, new: int, method: str) -> np.ndarray:
    """(new, old): the weight of each old pixel in each new one."""
    scale, table = old / new, np.zeros((new, old))
    for k in range(new):
        if method == "area":
            edges = np.clip(np.arange(old + 1), k * scale, (k + 1) * scale)
            table[k] = np.diff(edges) / scale
            continue
        centre = (k + 0.5) * scale - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            table[k, min(max(tap, 0), old - 1)] += kernel(abs(tap - centre), method)
    return table


def kernel(x: float, method: str, a: float = -0.75) -> float:
    if method == "bilinear":
        return max(0.0, 1 - x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def write_content(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_is_no_video_is_unreadable(tmp_path: Path) -> None:
    assert status(write_content(tmp_path / "empty.mp4", b""), said="empty file") == "unreadable"
    assert status(write_content(tmp_path / "page.mp4", b"<!DOCTYPE html><html>404</html>" * 50)) == "unreadable"
    assert status(write_content(tmp_path / "noise.mp4", np.random.default_rng(0).bytes(50_000))) == "unreadable"
    assert status(truncate(write_mp4(tmp_path / "no_moov.mp4")), said="moov") == "unreadable"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("fraction", [0.5, 0.95])
def test_a_download_that_was_cut_short_is_truncated(tmp_path: Path, suffix: str, fraction: float) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    codec = "mpeg4" if suffix == ".avi" else "h264"
    path = write_mp4(tmp_path / f"a{suffix}", num_frames=60, codec=codec, container_options=options)
    assert numbers(path) == list(range(60))
    assert status(truncate(path, fraction)) == "truncated"


def test_fewer_frames_than_declared_is_truncated(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.avi", num_frames=20, codec="mpeg4")
    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 8 + 32
    assert int.from_bytes(content[length : length + 4], "little") == 20
    content[length : length + 4] = (400).to_bytes(4, "little")
    assert status(write_content(path, content), said="20 of 400 packets") == "truncated"


def test_sound_alone_is_no_video_stream(tmp_path: Path) -> None:
    assert status(write_mp4(tmp_path / "a.mp4", audio_only=True)) == "no_video_stream"


def test_codec_not_on_the_list_reaches_no_decoder(tmp_path: Path) -> None:
    assert status(write_mp4(tmp_path / "a.avi", codec="mjpeg", pix_fmt="yuvj420p")) == "unsupported_codec"


@pytest.mark.parametrize(
    "head",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, head: str) -> None:
    other = write_mp4(tmp_path / "other.mp4")
    assert status(write_content(tmp_path / "list.mp4", head.format(other).encode())) == "unreadable"


def test_what_is_no_file_is_io_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    assert status(tmp_path / "fifo.mp4") == "io"
    assert status(tmp_path) == "io"
    assert status(tmp_path / "absent.mp4") == "io"
    assert status(Path("/dev/null")) == "io"


def test_a_file_that_may_not_be_read_is_io(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4")
    path.chmod(0)
    code = "import sys; from pathlib import Path; from pipeline.decoding.video_file import DecodeError, open_video\n"
    code += "try: open_video(Path(sys.argv[1]))\nexcept DecodeError as error: print(error.status)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, preexec_fn=powers.give_up
    )
    assert run.stdout.strip() == "io", run.stderr


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("MAX_FRAME_PIXELS", 96 * 128 - 1),
        ("MAX_DURATION_S", 0.9),
        ("MAX_FPS", 29.0),
        ("MAX_SIZE_BYTES", 100),
        ("MAX_STORED_BYTES", 29 * 64 * 96 * 3),
    ],
)
def test_what_exceeds_a_limit_is_too_large(
    tmp_path: Path, limit: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mp4(tmp_path / "a.mp4")
    assert numbers(path) == list(range(30))
    for module in (container, frames, video_file, with_decord, with_pyav):
        if hasattr(module, limit):
            monkeypatch.setattr(module, limit, value)
    assert status(path, said="at most") == "too_large"


def test_file_that_grows_while_decoded_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mp4(tmp_path / "a.mp4")
    honest = decode.decode_with_decord

    def slow(*arguments: object) -> object:
        with path.open("ab") as file:
            file.write(b"more")
        return honest(*arguments)

    monkeypatch.setattr(decode, "decode_with_decord", slow)
    assert status(path) == "io"


def test_file_removed_while_decoded_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mp4(tmp_path / "a.mp4")
    honest = decode.decode_with_decord

    def last(*arguments: object) -> object:
        video = honest(*arguments)
        path.unlink()
        return video

    monkeypatch.setattr(decode, "decode_with_decord", last)
    assert status(path) == "io"


def test_checksum_covers_the_whole_file_and_only_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "_PART_BYTES", 1000)
    path = write_mp4(tmp_path / "a.mp4", num_frames=10)
    assert path.stat().st_size > 1000
    assert decode_video(path, SOURCE).source.source_crc32 == zlib.crc32(path.read_bytes())
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(DecodeError, match="not a regular file"):
        open_video(tmp_path / "fifo.mp4")


def test_probe_tells_without_decoding(tmp_path: Path) -> None:
    with open_video(write_mp4(tmp_path / "a.mp4", num_frames=30, fps=25)) as file:
        source = probe(file)
    assert (source.codec, source.source_fps, source.source_frames) == ("h264", 25.0, 30)
    assert source.duration_s == pytest.approx(1.2)


def test_a_hole_in_the_stream_is_no_silent_success(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", num_frames=60, size=(240, 320), options={"crf": "5"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(content)
    assert status(path) == "truncated"


def test_frame_numbers_survive_the_helper(tmp_path: Path) -> None:
    frame = numbered_frame(1234, (96, 128))
    assert read_number(cv2.resize(frame, (171, 128))) == 1234
    shutil.rmtree(tmp_path)
