"""Videos of any length are decoded in pieces with the frames of a shard, in memory that does not grow."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_videos import write_mp4
from paths import SHARED
from processes import peak_of

from pipeline.common.recipe import Preprocess
from pipeline.decoding import container
from pipeline.decoding.process import Decoder
from pipeline.shards.encoding import frames_of

SETTINGS = Preprocess(height=16, width=20)


def whole(decoder: Decoder, path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    (result,) = decoder.decode([path])
    assert result.encoded is not None, result.reason
    return frames_of(result.encoded).copy(), result.encoded.times_s.copy(), result.facts


def in_pieces(decoder: Decoder, path: Path, size: int) -> tuple[np.ndarray, np.ndarray, dict]:
    frames, times_s, facts = [], [], {}
    for result in decoder.decode_pieces(path, size):
        assert result.encoded is not None, result.reason
        assert len(result.encoded.times_s) == size or result.facts["is_last"]
        frames.append(frames_of(result.encoded).copy())
        times_s.append(result.encoded.times_s.copy())
        facts = result.facts
    return np.concatenate(frames), np.concatenate(times_s), facts


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def decoder(request):
    with Decoder(replace(SETTINGS, codec=request.param)) as decoder:
        yield decoder


@pytest.mark.parametrize(("fps", "size"), [(30, 15), (30000 / 1001, 7), (10, 100), (25, 1)])
def test_pieces_are_the_frames_of_a_shard(tmp_path, decoder, fps, size):
    path = write_mp4(tmp_path / "a.mp4", 30, fps)
    frames, times_s, facts = whole(decoder, path)
    parts, times_of_parts, facts_of_parts = in_pieces(decoder, path, size)
    np.testing.assert_array_equal(parts, frames)
    np.testing.assert_array_equal(times_of_parts, times_s)
    assert {key: facts_of_parts[key] for key in ("fps", "chosen_by", "source_fps", "source_frames")} == {
        key: facts[key] for key in ("fps", "chosen_by", "source_fps", "source_frames")
    }
    assert facts_of_parts["duration_s"] == pytest.approx(times_s[-1] + 1 / facts["fps"])


def test_rate_that_varies_gives_the_same_frames(tmp_path, decoder):
    path = write_mp4(tmp_path / "a.mp4", 20, 30, pts=[0, 1, 2, 3, 9, 10, 11, *range(20, 33)])
    frames, times_s, facts = whole(decoder, path)
    parts, times_of_parts, _ = in_pieces(decoder, path, 4)
    assert facts["chosen_by"] == "time"
    np.testing.assert_array_equal(parts, frames)
    np.testing.assert_array_equal(times_of_parts, times_s)


def test_bad_file_ends_and_the_next_one_is_whole(tmp_path, decoder, monkeypatch):
    good = write_mp4(tmp_path / "good.mp4", 30, 30)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    for path, status in ((bad, "unreadable"), (tmp_path / "gone.mp4", "io")):
        (result,) = decoder.decode_pieces(path, 5)
        assert (result.status, result.encoded) == (status, None)
    assert len(in_pieces(decoder, good, 5)[0]) == 15
    monkeypatch.setattr(container, "MAX_DURATION_S", 0.5)  # of this process; pieces have a limit of their own
    assert len(in_pieces(decoder, good, 5)[0]) == 15


def test_child_that_dies_ends_the_video_not_the_next(tmp_path, decoder):
    path = write_mp4(tmp_path / "a.mp4", 30, 30)
    pieces = decoder.decode_pieces(path, 3)
    next(pieces)
    os.kill(decoder._child.pid, signal.SIGKILL)
    results = list(pieces)
    assert results[-1].status == "crash" and results[-1].encoded is None
    assert len(in_pieces(decoder, path, 4)[0]) == 15


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "videos").is_dir(), reason="no real videos")
def test_real_videos_have_the_same_frames_in_pieces():
    with Decoder(SETTINGS) as decoder:
        for path in sorted((SHARED / "videos").iterdir()):
            (result,) = decoder.decode([path])
            if result.encoded is None:
                *_, last = decoder.decode_pieces(path, 32)
                assert (last.status, last.reason) == (result.status, result.reason), path
                continue
            frames, times_s = frames_of(result.encoded).copy(), result.encoded.times_s.copy()
            parts, times_of_parts, _ = in_pieces(decoder, path, 32)
            np.testing.assert_array_equal(parts, frames, err_msg=path.name)
            np.testing.assert_array_equal(times_of_parts, times_s, err_msg=path.name)


def write_long(path: Path, seconds: int, fps: int = 30) -> Path:
    """A tiny video with as many packets as a real one of that length."""
    picture = np.zeros((16, 16, 3), np.uint8)
    options = {"preset": "ultrafast", "g": "250"}
    return write_mp4(path, fps=fps, size=(16, 16), options=options, frames=(picture for _ in range(seconds * fps)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for seconds in (10, 7200):
        path = write_long(tmp_path / f"{seconds}.mp4", seconds)
        with Decoder(SETTINGS) as decoder:
            num_frames = 0
            for result in decoder.decode_pieces(path, 64):
                num_frames += len(result.encoded.times_s)
                if result.facts["is_last"]:
                    peaks.append(peak_of(decoder._child.pid))
        assert num_frames == 15 * seconds
    assert peaks[1] - peaks[0] < 60 << 20, peaks
