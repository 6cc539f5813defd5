"""A long video is looked at window by window: a change is found where it is, in memory that does not grow."""

import subprocess
import sys

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
import mindspore as ms
import numpy as np
import pytest
from make_videos import write_mp4
from paths import HELPERS, ROOT

from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder, DecodeResult
from train.inference import long_video
from train.inference.drawing import Presentation
from train.inference.inputs import Input
from train.inference.long_video import Scan, Windows, scan, segments_of

NAMES = ["dark", "bright"]
SETTINGS = Preprocess(height=16, width=20)


def windows_of(window_s: float, **changes) -> Windows:
    options = {"clip_len": 4, "step_s": None, "interval": 2, "top": 1, "left": 2, "crop": (12, 12), **changes}
    return Windows(window_s, **options)


def by_brightness(clips: ms.Tensor) -> ms.Tensor:
    """The stand-in of a network: the class of a clip is its brightness."""
    assert clips.shape[1:] == (4, 12, 12, 3) and clips.shape[0] == 3
    level = clips.asnumpy().mean((1, 2, 3, 4)) / 255
    return ms.Tensor(np.stack([-20 * (level - 0.5), 20 * (level - 0.5)], axis=1).astype(np.float32))


@pytest.fixture(scope="module")
def decoder():
    with Decoder(SETTINGS) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """2.6 s dark, then 3.4 s bright, at 25 frames/s."""
    pictures = [np.full((32, 40, 3), level, np.uint8) for level in [20] * 65 + [230] * 85]
    return write_mp4(tmp_path_factory.mktemp("long") / "joined.mp4", 150, 25, (32, 40), frames=pictures)


@pytest.mark.parametrize("window_s", [0.2, 0.5, 1.0, 30.0])
def test_change_is_found_within_one_window(decoder, joined, window_s):
    windows = windows_of(window_s)
    found = scan(decoder.decode_pieces(joined, 8), windows, by_brightness, 3)
    segments = segments_of(found, windows, NAMES)
    assert segments[0].start_s == 0 and segments[-1].end_s == pytest.approx(6.0, abs=0.1)
    assert len(found.scores) == len(found.middles_s) and not found.repeats
    if window_s < 30:
        assert [each.label for each in segments] == NAMES and min(each.score for each in segments) > 0.7
        assert abs(segments[0].end_s - 2.6) <= window_s and segments[0].end_s == segments[1].start_s


def test_pieces_and_their_length_change_nothing(decoder, joined):
    scans = [scan(decoder.decode_pieces(joined, size), windows_of(0.3), by_brightness, 3) for size in (1, 7, 500)]
    for other in scans[1:]:
        np.testing.assert_array_equal(other.scores, scans[0].scores)
        np.testing.assert_array_equal(other.middles_s, scans[0].middles_s)


def test_clips_are_in_the_middle_of_windows():
    windows = windows_of(1.0)  # a clip is 0.7 s long at 10 frames/s
    assert windows.middles_s(3.4).tolist() == pytest.approx([0.5, 1.5, 2.5, 3.2])
    assert windows.count(3.0) == 3 and windows.count(0.1) == 1
    np.testing.assert_allclose(windows.clip_times_s(1.5, 3.4, 10), [1.15, 1.35, 1.55, 1.75])
    np.testing.assert_allclose(windows.clip_times_s(3.2, 3.4, 10), [2.7, 2.9, 3.1, 3.3])
    np.testing.assert_allclose(windows.clip_times_s(0.1, 3.4, 10), [0.0, 0.2, 0.4, 0.6])
    np.testing.assert_allclose(windows.clip_times_s(0.2, 0.5, 10), [0.0, 0.2, 0.4, 0.1], atol=1e-9)  # repeats
    np.testing.assert_allclose(windows_of(1.0, step_s=0.05).clip_times_s(1.5, 3.4, 10), [1.375, 1.425, 1.475, 1.525])


def test_frames_of_a_clip_are_those_shown_then(decoder, tmp_path, monkeypatch):
    pictures = [np.full((32, 40, 3), 4 * number, np.uint8) for number in range(60)]
    path = write_mp4(tmp_path / "a.mp4", 60, 15, (32, 40), frames=pictures)
    clips = []

    def keep(batch: ms.Tensor) -> ms.Tensor:
        clips.extend(np.rint(batch.asnumpy().mean((2, 3, 4)) / 4).astype(int).tolist())
        return ms.Tensor(np.zeros((len(batch), 2), np.float32))

    scan(decoder.decode_pieces(path, 10), windows_of(1.0), keep, 1)
    assert clips == [[4, 6, 8, 10], [19, 21, 23, 25], [34, 36, 38, 40], [49, 51, 53, 55]]


def test_short_video_repeats_and_a_bad_one_says_why(decoder, tmp_path):
    one = write_mp4(tmp_path / "one.mp4", 1, 30, (32, 40))
    found = scan(decoder.decode_pieces(one, 8), windows_of(1.0), by_brightness, 3)
    assert isinstance(found, Scan) and found.repeats and len(found.scores) == 1
    (tmp_path / "bad.mp4").write_bytes(b"x" * 100)
    found = scan(decoder.decode_pieces(tmp_path / "bad.mp4", 8), windows_of(1.0), by_brightness, 3)
    assert isinstance(found, DecodeResult) and found.status == "unreadable"


def test_what_comes_before_damage_is_predicted(decoder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (100, 32, 40, 3), np.uint8)
    path = write_mp4(tmp_path / "damaged.mp4", 100, 25, (32, 40), frames=noise)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    middle = start + (data.index(b"moov") - start) * 6 // 10
    data[middle : middle + 2000] = bytes(255 - value for value in data[middle : middle + 2000])
    path.write_bytes(data)
    windows = windows_of(0.5)
    found = scan(decoder.decode_pieces(path, 8), windows, by_brightness, 3)
    assert isinstance(found, Scan) and found.failure is not None and found.failure.status == "truncated"
    assert 1.0 <= found.duration_s < 2.6 and found.duration_s == 0.5 * len(found.scores)  # of 4 s
    row = long_video._row(Input(path), found, windows, Presentation(NAMES, 2, None))
    assert row.reason.endswith(f"; predicted until {found.duration_s:.2f} s") and row.status == "truncated"
    assert row.segments[-1].end_s == found.duration_s and row.views_s == [(0.0, found.duration_s)]
    assert isinstance(scan(decoder.decode_pieces(path, 200), windows, by_brightness, 3), DecodeResult)  # no window


def test_only_the_frames_of_a_clip_are_kept(decoder, joined, monkeypatch):
    held = []
    add = long_video._Frames.add
    monkeypatch.setattr(
        long_video._Frames, "add", lambda self, *args: (add(self, *args), held.append(len(self._pieces)))
    )
    scan(decoder.decode_pieces(joined, 4), windows_of(0.5), by_brightness, 3)
    assert len(held) == 23 and max(held) <= 5, held  # 8 frames are a clip


MEASURE = """
import sys
sys.path[:0] = sys.argv[1:3]
import train
import numpy as np, mindspore as ms
from pathlib import Path
from processes import peak_of
from test_long_video import SETTINGS, windows_of
from test_pieces import write_long
from pipeline.decoding.process import Decoder
from train.inference.long_video import scan
path = write_long(Path(sys.argv[4], "long.mp4"), int(sys.argv[3]))
predict = lambda clips: ms.Tensor(np.zeros((len(clips), 400), np.float32))
before = peak_of("self")
with Decoder(SETTINGS) as decoder:
    found = scan(decoder.decode_pieces(path, 64), windows_of(1.0), predict, 16)
    print(len(found.scores), peak_of("self") + peak_of(decoder._child.pid))
"""


@pytest.mark.slow
def test_two_hours_take_the_memory_of_ten_seconds(tmp_path):
    places = [str(ROOT / "tests" / folder) for folder in ("train/inference", "pipeline/decoding")]
    totals = {}
    for seconds in (10, 7200):
        words = [sys.executable, "-c", MEASURE, *places, str(seconds), str(tmp_path)]
        environment = {"PYTHONPATH": f"{ROOT}:{HELPERS}", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        count, totals[seconds] = map(int, done.stdout.split()[-2:])
        assert count == seconds
    assert totals[7200] - totals[10] < 100 << 20, totals
