"""Pictures of a prediction: the source's frames, times and aspect over the names; true speed; all files or none."""

import errno
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from machine_faults import can_fail, failing
from make_videos import numbered_frame, read_number, truncate, turn, write_mp4
from paths import ROOT
from PIL import Image

from pipeline.common.errors import UserError
from train.pictures import prediction as pictures
from train.pictures.panel import BLUE, DARK, GREEN, ORANGE, Moment, clock, draw_panel
from train.pictures.prediction import GIF_MOST_BYTES, GIF_WIDTH, MP4_WIDTH, Prediction, StoredVideo, write_pictures
from train.pictures.video_writer import gif_delays

PREDICTION = Prediction([("abseiling", 0.9), ("air drumming", 0.06), ("zumba", 0.02)], "abseiling")


def draw_pictures(stem: Path, source: Path | StoredVideo, span=None, **options) -> None:
    """Write the pictures of `stem`, and nothing else."""
    files = write_pictures(stem, source, PREDICTION, span=span, **options)
    assert files == [stem.with_suffix(".mp4"), stem.with_suffix(".gif")]
    assert sorted(path for path in stem.parent.iterdir() if path != source) == sorted(files)


def read_mp4(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Times and pages (H, W, 3) of an MP4 that every browser plays."""
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "it plays while it loads"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.canonical_name, stream.format.name) == ("h264", "yuv420p")
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    return [time for time, _ in frames], [page for _, page in frames]


def read_gif(path: Path) -> tuple[list[int], list[np.ndarray]]:
    """Milliseconds and pages (H, W, 3) of a GIF."""
    durations, pages = [], []
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        for number in range(gif.n_frames):
            gif.seek(number)
            durations.append(int(gif.info["duration"]))
            pages.append(np.asarray(gif.convert("RGB")))
    return durations, pages


def video_part(page: np.ndarray) -> np.ndarray:
    """The frame of the video on a page: above the panel, between dark edges."""
    bright = (np.abs(page.astype(int) - DARK).max(2) > 12).astype(int)
    rows = bright.mean(1) > 0.3
    height = int(np.argmin(rows)) if not rows.all() else len(rows)
    columns = np.flatnonzero(bright[:height].mean(0) > 0.5)
    return page[:height, columns[0] : columns[-1] + 1]


def test_frames_and_times_are_those_of_the_source(tmp_path):
    pts = [0, 1, 3, 4, 8, 9, *range(20, 30)]
    source = write_mp4(tmp_path / "a.mp4", len(pts), 30, (40, 160), pts=pts)
    draw_pictures(tmp_path / "out" / "x", source)
    times, pages = read_mp4(tmp_path / "out" / "x.mp4")
    assert times == pytest.approx([number / 30 for number in pts], abs=1e-4)
    assert [read_number(page[:120]) for page in pages] == list(range(len(pts)))
    assert pages[0].shape[1] == MP4_WIDTH
    durations, pages = read_gif(tmp_path / "out" / "x.gif")
    assert abs(sum(durations) - 1000) <= 40 and pages[0].shape[1] == GIF_WIDTH


def test_last_frame_that_comes_late_is_still_played(tmp_path):
    source = write_mp4(tmp_path / "a.mkv", 11, 30, (40, 160), pts=[*range(10), 60])
    draw_pictures(tmp_path / "out" / "a", source)
    assert read_mp4(tmp_path / "out" / "a.mp4")[0][-1] == pytest.approx(2.0, abs=1e-3)
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(2.0 + 1 / 30, abs=0.1)


def test_gif_of_a_fast_source_is_even(tmp_path):
    draw_pictures(tmp_path / "out" / "a", write_mp4(tmp_path / "a.mp4", 120, 120, (40, 160)))
    durations, pages = read_gif(tmp_path / "out" / "a.gif")
    assert len(pages) == 15 and set(durations) == {60, 70} and sum(durations) == 1000
    assert [read_number(page[:80]) for page in pages] == list(range(0, 120, 8))


@pytest.mark.parametrize(
    ("size", "aspect", "quarters", "shown"),
    [
        pytest.param((96, 128), Fraction(4, 3), 0, (480, 270), marks=pytest.mark.slow),  # 16:9 stored as 4:3
        pytest.param((128, 72), None, 0, (270, 480), marks=pytest.mark.slow),  # portrait
        ((96, 128), Fraction(4, 3), 1, (270, 480)),
        pytest.param((50, 400), None, 0, (480, 60), marks=pytest.mark.slow),
    ],
)
def test_aspect_is_right_within_a_pixel(tmp_path, size, aspect, quarters, shown):
    drawn = size if quarters == 0 else size[::-1]
    frames = [numbered_frame(0xFFF, drawn, quarters)] * 2
    source = write_mp4(tmp_path / "a.mp4", size=size, frames=frames, pixel_aspect=aspect)
    draw_pictures(tmp_path / "out" / "a", turn(source, quarters) if quarters else source)
    _, pages = read_mp4(tmp_path / "out" / "a.mp4")
    _, gif = read_gif(tmp_path / "out" / "a.gif")
    for page, scale in ((pages[0], 1.0), (gif[0], GIF_WIDTH / MP4_WIDTH)):
        part = video_part(page)
        assert abs(part.shape[1] - shown[0] * scale) <= 1 and abs(part.shape[0] - shown[1] * scale) <= 1
        assert part[: part.shape[0] // 2].mean() > 200 > part[part.shape[0] // 2 :].mean()  # upright: white is above
        assert page.shape[0] % 2 == page.shape[1] % 2 == 0


@pytest.mark.parametrize("codec", ["libvpx-vp9", pytest.param("libvpx", marks=pytest.mark.slow)])
def test_alpha_is_left_out_of_pictures(tmp_path, codec):
    """What is transparent has the colours that the network sees, and the frame keeps its edges."""
    source = tmp_path / "a.webm"
    with av.open(str(source), "w") as output:
        stream = output.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuva420p"
        stream.options = {"auto-alt-ref": "0"}
        for number in range(3):
            opaque = np.zeros((96, 160, 1), np.uint8)
            opaque[:, 80:] = 255
            pixels = np.concatenate([numbered_frame(0xFFF, (96, 160)), opaque], 2)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(source)) as container:
        assert container.streams.video[0].metadata.get("alpha_mode") == "1"
    draw_pictures(tmp_path / "out" / "a", source)
    for page in (read_mp4(tmp_path / "out" / "a.mp4")[1][0], read_gif(tmp_path / "out" / "a.gif")[1][0]):
        part = video_part(page)
        assert abs(part.shape[0] - part.shape[1] * 96 / 160) <= 1
        half = part[: part.shape[0] // 2]
        assert half[:, : half.shape[1] // 2].mean() > 200 and half[:, half.shape[1] // 2 :].mean() > 200


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001), Fraction(25), Fraction(8), Fraction(60)])
def test_gif_has_the_speed_of_the_video(fps):
    rate = pictures._Sampler(float(fps)).rate
    assert (fps / rate).denominator == 1 and rate <= Fraction(pictures.GIF_FPS)
    delays = gif_delays(60, rate, 60 / rate)
    ends = np.cumsum(delays) / 100
    assert np.abs(ends - np.arange(1, 61) / float(rate)).max() <= 0.005 + 1e-9
    assert min(delays) >= 6


@pytest.mark.parametrize("fps", [30, 24, Fraction(30000, 1001), 60])
def test_motion_is_even_where_times_are_rounded(fps):
    """Matroska has whole milliseconds."""
    sampler = pictures._Sampler(float(fps))
    frames = [(round(1000 * number / fps) / 1000, np.array(number)) for number in range(int(4 * fps))]
    assert [time_s for time_s, _ in sampler.watch(iter(frames))] == [time_s for time_s, _ in frames]
    assert {int(step) for step in np.diff([int(frame) for frame in sampler.frames])} == {int(fps / sampler.rate)}


@pytest.mark.parametrize(("seconds", "shown_ms"), [(1.0, 1000), pytest.param(5.6, 5000, marks=pytest.mark.slow)])
def test_gif_ends_with_the_video_and_at_five_seconds(tmp_path, seconds, shown_ms):
    frames = np.stack([numbered_frame(number, (32, 160)) for number in range(int(25 * seconds))])
    draw_pictures(tmp_path / "a", StoredVideo(frames, 25.0))
    durations, pages = read_gif(tmp_path / "a.gif")
    assert sum(durations) == shown_ms and all(duration % 10 == 0 for duration in durations)
    assert [read_number(page[:64]) for page in pages] == list(range(0, len(pages) * 2, 2))


def test_gif_names_the_seconds_that_it_shows(tmp_path, monkeypatch):
    moments: list[Moment | None] = []
    monkeypatch.setattr(pictures, "draw_panel", lambda *given: moments.append(given[2]) or draw_panel(*given))
    frames = np.stack([numbered_frame(number, (32, 160)) for number in range(40)])
    for span, seconds, shown, texts in (
        (None, 10.0, range(10, 30, 1), [None, "0:02.5 to 0:07.5 of 0:10"]),
        ((1.0, 9.0), 8.0, range(14, 34, 1), ["0:01 to 0:09 of 0:10", "0:03.5 to 0:08.5 of 0:10"]),
    ):
        moments.clear()
        draw_pictures(tmp_path / "a", StoredVideo(frames, 4.0), span, max_seconds=seconds, gif_from_s=2.5)
        assert [read_number(page[:64]) for page in read_gif(tmp_path / "a.gif")[1]] == list(shown)
        assert [moment and str(moment) for moment in moments] == texts
    sampler = pictures._Sampler(4.0, 60.0)  # a header was wrong
    assert len(list(sampler.watch((number / 4, frame) for number, frame in enumerate(frames)))) == 40
    assert [read_number(frame) for frame in sampler.frames] == [39] and sampler.start_s == 39 / 4


def test_one_frame_is_a_still(tmp_path):
    draw_pictures(tmp_path / "out" / "a", write_mp4(tmp_path / "a.mp4", 1, 25))
    times, pages = read_mp4(tmp_path / "out" / "a.mp4")
    assert times == pytest.approx([0.0, 0.96]) and np.array_equal(pages[0].shape, pages[1].shape)
    assert len(read_gif(tmp_path / "out" / "a.gif")[0]) == 1


@pytest.mark.parametrize(
    ("source_size", "shown"),
    [((1920, 1080), (480, 270)), ((224, 398), (270, 480)), ((2, 4000), (1, 480)), ((0, 0), (359, 480))],
)
def test_stored_frames_have_the_shape_of_their_source(tmp_path, source_size, shown):
    frames = np.full((1, 128, 171, 3), 250, np.uint8)
    draw_pictures(tmp_path / "a", StoredVideo(frames, 1.0, source_size))
    assert video_part(read_mp4(tmp_path / "a.mp4")[1][0]).shape[:2] == shown


def test_one_picture_an_hour_is_drawn(tmp_path):
    draw_pictures(tmp_path / "a", StoredVideo(np.zeros((2, 8, 64, 3), np.uint8), 1 / 3600))
    assert read_gif(tmp_path / "a.gif")[0] == [5000] and read_mp4(tmp_path / "a.mp4")[0] == [0.0]


def test_no_frame_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="got no frames, expected at least one. Give another video."):
        draw_pictures(tmp_path / "out" / "a", StoredVideo(np.empty((0, 8, 8, 3), np.uint8), 15.0))
    with pytest.raises(UserError, match="expected more than 0 s"):
        draw_pictures(tmp_path / "out" / "a", StoredVideo(np.zeros((3, 8, 8, 3), np.uint8), 15.0), span=(2.0, 2.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_moment_of_a_long_video_is_shown_and_named(tmp_path, monkeypatch):
    moments: list[Moment | None] = []
    monkeypatch.setattr(
        pictures, "draw_panel", lambda *given: moments.append(given[2]) or draw_panel(*given)
    )  # what is written
    source = write_mp4(tmp_path / "a.mp4", 60, 5, (32, 160), options={"g": "25"})
    frames = np.stack([numbered_frame(number, (32, 160)) for number in range(60)])
    for given in (source, StoredVideo(frames, 5.0)):
        moments.clear()
        draw_pictures(tmp_path / "out" / "a", given, span=(7.0, 9.0))
        assert [read_number(page[:96]) for page in read_mp4(tmp_path / "out" / "a.mp4")[1]] == list(range(35, 45))
        assert list(map(str, moments)) == ["0:07 to 0:09 of 0:12"] * 2
    moments.clear()
    draw_pictures(tmp_path / "out" / "a", source)
    assert len(read_mp4(tmp_path / "out" / "a.mp4")[0]) == 50
    assert list(map(str, moments)) == ["0:00 to 0:10 of 0:12", "0:00 to 0:05 of 0:12"]
    moments.clear()
    draw_pictures(tmp_path / "out" / "a", source, max_seconds=30.0)
    assert len(read_mp4(tmp_path / "out" / "a.mp4")[0]) == 60
    assert list(map(str, moments)) == ["None", "0:00 to 0:05 of 0:12"]


def test_time_is_written_as_players_do():
    assert [clock(s) for s in (0, 7.5, 61, 600, 3723.04)] == ["0:00", "0:07.5", "1:01", "10:00", "1:02:03"]


def test_true_label_decides_colours():
    def has(panel: np.ndarray, colour) -> bool:
        return bool((panel == colour).all(2).any())

    right = draw_panel(PREDICTION, 480, None)
    wrong = draw_panel(Prediction(PREDICTION.top, "archery"), 480, None)
    unknown = draw_panel(Prediction(PREDICTION.top, None), 480, None)
    assert has(right, GREEN) and not has(right, ORANGE)
    assert has(wrong, ORANGE) and not has(wrong, GREEN)
    assert not has(unknown, GREEN) and not has(unknown, ORANGE) and len(unknown) < len(right)


def test_bars_are_as_long_as_probabilities():
    for share in (0.0, 0.5, 1.0, float("nan")):
        panel = draw_panel(Prediction([("a", share)], None), 480, None)
        filled = (panel == BLUE).all(2).sum(1).max()
        assert filled == pytest.approx(0 if share != share else share * (480 - 32), abs=2)


def test_broken_source_leaves_earlier_pictures(tmp_path):
    source = write_mp4(tmp_path / "a.mp4", 6, 30, (48, 64))
    draw_pictures(tmp_path / "out" / "a", StoredVideo(np.zeros((2, 8, 8, 3), np.uint8), 15.0))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="a.mp4: no picture can be made of it: .*Give another video"):
        draw_pictures(tmp_path / "out" / "a", truncate(source))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out: .*Give another folder"):
        write_pictures(
            tmp_path / "out" / "a", StoredVideo(np.zeros((3, 8, 8, 3), np.uint8), 15.0), PREDICTION, span=None
        )


WRITE = """
import numpy as np
from pathlib import Path
from pipeline.common import cli
from train.pictures.prediction import Prediction, StoredVideo, write_pictures
frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
def main():
    write_pictures(Path({folder!r}) / "a", StoredVideo(frames, 20.0), Prediction([("a", 0.5)], None), span=None)
    return 0
raise SystemExit(cli.run(main))
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_fail(), reason="no C compiler")
@pytest.mark.parametrize("part", [".mp4", ".gif"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, part, number):
    calls = "write" if number == errno.ENOSPC else "open"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **failing(calls, number, part)}
    result = subprocess.run(
        [sys.executable, "-c", WRITE.format(folder=str(tmp_path))], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 74 and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert os.strerror(number).lower() in result.stderr.lower() and f"a{part}" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_long_video_makes_small_files(tmp_path):
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (15, 20, 3), np.uint8)
    field = np.asarray(Image.fromarray(still).resize((800, 600), Image.Resampling.BICUBIC)).astype(int)

    def moving():
        for number in range(180 * 30):
            x, y = int(200 + 200 * np.sin(number / 20)), int(150 + 150 * np.cos(number / 33))
            part = field[y : y + 240, x : x + 320] + rng.integers(-9, 10, (240, 320, 1))
            yield np.clip(part, 0, 255).astype(np.uint8)

    source = write_mp4(tmp_path / "a.mp4", fps=30, size=(240, 320), frames=moving())
    draw_pictures(tmp_path / "out" / "a", source, span=(90.0, 100.0))
    mp4, gif = (os.path.getsize(tmp_path / "out" / name) for name in ("a.mp4", "a.gif"))
    assert mp4 + gif < 4_000_000 and gif <= GIF_MOST_BYTES
    assert sum(read_gif(tmp_path / "out" / "a.gif")[0]) == 5000
