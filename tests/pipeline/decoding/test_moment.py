"""A moment of a video comes upright, in its display aspect, with its own times; a bad file is one line and no hang."""

import os
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from make_videos import numbered_frame, read_number, truncate, turn, write_mp4
from paths import HELPERS, SHARED

from pipeline.common.errors import MachineError, UserError
from pipeline.decoding import child, moment
from pipeline.decoding.decode_moment import decode_moment
from pipeline.decoding.moment import MomentReader
from pipeline.decoding.moment_worker import Wanted
from pipeline.decoding.video_file import DecodeError
from pipeline.decoding.worker import READY


def moment_of(path: Path, start_s: float = 0.0, seconds: float = 10.0, largest: tuple[int, int] = (120, 120)):
    """Size, times and numbers of the frames of a moment, decoded in this process."""
    (shown, _), *frames = decode_moment(path, Wanted("", start_s, seconds, largest))
    size = {(shown["width"], shown["height"])} | {picture.shape[1::-1] for _, picture in frames}
    assert len(size) == 1
    numbers = [read_number(picture) for _, picture in frames]
    return size.pop(), [round(answer["time_s"], 4) for answer, _ in frames], numbers


def test_every_frame_comes_with_its_own_time(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", 6, 30, (64, 128), pts=[0, 1, 3, 4, 8, 9])
    times = [0.0, 0.0333, 0.1, 0.1333, 0.2667, 0.3]
    assert moment_of(path) == ((120, 60), times, list(range(6)))


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("start_s", [0.0, 1.02, 2.5])
def test_moment_begins_with_the_frame_shown_then(tmp_path, container, start_s):
    codec = "mpeg4" if container == "avi" else "h264"
    path = write_mp4(tmp_path / f"a.{container}", 100, 25, codec=codec, options={"g": "12"})
    first = int(start_s * 25)
    size, times, numbers = moment_of(path, start_s, 0.4)
    assert size == (120, 90) and numbers == list(range(first, int(np.ceil((start_s + 0.4) * 25 - 1e-6))))
    assert times[0] == 0.0 and times[1] == pytest.approx((first + 1) / 25 - start_s, abs=1e-3)


def test_moment_after_the_end_is_the_last_frame(tmp_path):
    assert moment_of(write_mp4(tmp_path / "a.mp4", 10, 10), 5.0)[1:] == ([0.0], [9])


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2), (120, 45)), (Fraction(1, 2), (80, 120)), (None, (120, 90))])
def test_pixels_that_are_not_square(tmp_path, aspect, size):
    path = write_mp4(tmp_path / "a.mp4", 3, 30, (96, 128), pixel_aspect=aspect)
    assert moment_of(path)[0] == size


def test_turned_video_is_upright(tmp_path):
    frames = [numbered_frame(number, (128, 96), rotate=1) for number in range(3)]
    path = turn(write_mp4(tmp_path / "a.mp4", size=(96, 128), frames=frames, pixel_aspect=Fraction(2)), 1)
    size, _, numbers = moment_of(path)
    assert size == (45, 120) and numbers == [0, 1, 2]


def test_fast_video_is_thinned_to_what_a_screen_shows(tmp_path):
    _, times, numbers = moment_of(write_mp4(tmp_path / "a.mp4", 24, 240))
    assert numbers == [0, 4, 8, 12, 16, 20] and times[1] == pytest.approx(1 / 60, abs=1e-3)


def test_times_that_do_not_rise_follow_the_header(tmp_path):
    path = SHARED / "cases" / "videos" / "stts_zero.mp4"
    if not path.exists():
        pytest.skip("this checkout has no real videos")
    _, times, _ = moment_of(path)
    assert times == pytest.approx(np.arange(20) / 30, abs=1e-3)
    assert moment_of(path, 0.21)[1] == pytest.approx([0.0, *(np.arange(7, 20) / 30 - 0.21)], abs=1e-3)


def test_broken_file_is_a_decode_error(tmp_path):
    with pytest.raises(DecodeError):
        moment_of(truncate(write_mp4(tmp_path / "a.mp4", 30)))
    (tmp_path / "b.mp4").write_text("#EXTM3U\nhttp://127.0.0.1/a.mp4\n")
    with pytest.raises(DecodeError):
        moment_of(tmp_path / "b.mp4")
    with pytest.raises(DecodeError, match="io: No such file"):
        moment_of(tmp_path / "c.mp4")


def test_child_of_a_stopped_parent_says_nothing(tmp_path, capfd):
    """A command that ends by a signal has said so; its decoder must not add that a pipe is broken."""
    wanted = Wanted(os.fsencode(write_mp4(tmp_path / "a.mp4", 30)).hex(), 0.0, 1.0, (480, 480))
    process = child.start("pipeline.decoding.moment_worker", asdict(wanted), [])
    assert process.stdout.readline() == READY + b"\n"
    process.stdout.close()
    assert process.wait(60) == 1 and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        pytest.param(
            "segfault", UserError, r"crash: signal 11 \(SIGSEGV\)\. Give another video\.", marks=pytest.mark.slow
        ),
        ("segfault-later", UserError, r"crash: signal 11 \(SIGSEGV\)\. Give another video\."),
        pytest.param("exit", UserError, "crash: exit status 7", marks=pytest.mark.slow),
        pytest.param("memory", UserError, "crash: needs more than 4 GiB of memory", marks=pytest.mark.slow),
        ("sleep-later", UserError, "timeout: not decoded within 0.3 s"),
        pytest.param(
            "unread",
            MachineError,
            "could not be read: Input/output error. Run the same command again",
            marks=pytest.mark.slow,
        ),
        pytest.param("raise-later", UserError, r"unreadable: no good\. Give another video\.", marks=pytest.mark.slow),
        pytest.param("print-later", None, "", marks=pytest.mark.slow),
    ],
)
def test_hostile_video_is_one_line_and_no_hang(monkeypatch, name, error, words):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *filter(None, sys.path)]))
    monkeypatch.setattr(moment, "_MOST_WAITED_S", 0.3 if name.startswith("sleep") else 60.0)
    monkeypatch.setattr(moment, "_MOST_WAITED_FOR_A_SECOND_S", 0.0)

    def read() -> list[tuple[float, np.ndarray]]:
        with MomentReader(Path(f"{name}.mp4"), 0.0, 1.0, (4, 4), worker="hostile_moment") as reader:
            return list(reader)

    if error is None:
        ((time_s, frame),) = read()
        assert time_s == 0.0 and (frame == 9).all() and frame.shape == (2, 4, 3)
        return
    with pytest.raises(error, match=words) as caught:
        read()
    assert "\n" not in str(caught.value)
