"""Source frames are found among the stored ones, as preprocess chose them."""

import numpy as np
import pytest
from make_store import make_split, settings_for

from pipeline.decoding.resample import kept_frames
from pipeline.ledger.table import ledger_path, write_ledger
from train.data.timeline import Timeline, stored_of
from train.data.videos import read_videos

RATES = [7.5, 10, 14.97, 15, 17.5, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60000 / 1001, 62.5, 120]


def timeline(frames: int, fps: float, stored: int, stored_fps: float, *, by_time: bool = False) -> Timeline:
    return Timeline(*(np.array([value]) for value in (frames, float(fps), stored, stored_fps, by_time)))


@pytest.mark.parametrize("fps", [15, 12.5, 30, "source"])
def test_every_stored_frame_is_found_by_its_source(fps):
    for rate in RATES:
        kept, stored_fps = kept_frames(301, rate, fps)
        frames, exact = stored_of(timeline(301, rate, len(kept), stored_fps), kept[None], fps)
        assert frames[0].tolist() == list(range(len(kept))) and exact.all(), rate


def test_frames_that_are_not_stored_give_the_nearest():
    kept, stored_fps = kept_frames(100, 30, 10)  # 0, 3, 6 ...
    frames, exact = stored_of(timeline(100, 30, len(kept), stored_fps), np.array([[1, 2, 3, 98, 99]]), 10)
    assert frames.tolist() == [[0, 1, 1, 33, 33]] and not exact.any()


def test_videos_stored_by_time_are_found_by_time():
    frames, exact = stored_of(timeline(300, 30, 140, 15.0), np.array([[0, 30, 279, 299]]), 15)
    assert frames.tolist() == [[0, 15, 139, 139]] and not exact.any()


def test_frames_chosen_by_time_are_never_exact():
    wanted = np.array([[0, 30, 298]])  # of 150 stored frames, as many as the rule gives
    for by_time in (False, True):
        frames, exact = stored_of(timeline(300, 30, 150, 15.0, by_time=by_time), wanted, 15)
        assert frames.tolist() == [[0, 15, 149]] and exact.all() != by_time
    frames, exact = stored_of(timeline(90, 12.5, 90, 12.5, by_time=True), np.array([[0, 7, 89]]), 15)
    assert frames.tolist() == [[0, 7, 89]] and exact.all(), "all frames of a slow source are stored"


def test_ledgers_say_which_frames_were_chosen_by_time(tmp_path):
    settings = settings_for(tmp_path)
    table = make_split(settings, "val", 3)
    assert not read_videos(settings, "val").timeline.by_time.any()
    table["chosen_by"] = ["", "time", ""]
    write_ledger(ledger_path(settings, "val"), table)
    assert read_videos(settings, "val").timeline.by_time.tolist() == [False, True, False]


def test_an_unknown_source_is_the_stored_frames():
    known = timeline(0, 0.0, 50, 15.0).known()
    frames, exact = stored_of(known, np.array([[0, 7, 49]]), 15)
    assert frames.tolist() == [[0, 7, 49]] and exact.all()
