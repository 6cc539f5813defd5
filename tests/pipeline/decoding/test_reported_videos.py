"""Small videos like those of bug reports: each frame is stored once, or the loss is named, with both decoders."""

# The files are not part of the repository: they are in `../shared/cases/videos`, if that folder exists.

from __future__ import annotations

import pytest
from make_videos import read_number
from paths import SHARED

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video
from pipeline.decoding.video_file import DecodeError

VIDEOS = SHARED / "cases" / "videos"
pytestmark = [
    pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no videos of bug reports: {VIDEOS} is not there"),
    pytest.mark.usefixtures("either_decoder"),
]

# file -> frames of the source, stored frames at 15 frames/s, the rule by which they are chosen
STORED = {
    "444_10bit_h264.mkv": (12, 6, ""),
    "fullrange709_h264.mp4": (4, 2, ""),
    "hevc_from_cra.mkv": (50, 25, ""),
    "interlaced_mbaff.mp4": (30, 15, ""),
    "mirrored_hflip.mp4": (8, 4, ""),
    "null_frames.avi": (15, 13, "time"),
    "packed_one_nvop_more.avi": (24, 12, ""),
    "starts_at_two_hours.mkv": (60, 30, ""),
    "stts_zero.mp4": (20, 10, ""),
    "vfr_slow_then_fast.mkv": (220, 90, "time"),
    "vp8_altref.webm": (90, 45, ""),
    "webm_default_duration_1ms.webm": (60, 30, "time"),
}
FIRST = {"hevc_from_cra.mkv": 25}  # the number on the first frame that can be decoded
WITHOUT_NUMBERS = ("fullrange709_h264.mp4", "mirrored_hflip.mp4")
NOT_STORED = {
    "encrypted_cenc.mp4": "unreadable: the video is encrypted",
    "fmp4_cut_at_fragment.mp4": "truncated: file has 8445 of 15715 bytes",
}


def test_every_reported_video_is_known() -> None:
    assert sorted(path.name for path in VIDEOS.iterdir()) == sorted({**STORED, **NOT_STORED})


@pytest.mark.parametrize("name", STORED)
def test_reported_video_is_stored_frame_by_frame(name: str, either_decoder: str) -> None:
    every = decode_video(VIDEOS / name, Preprocess(fps="source", height=64, width=96))
    some = decode_video(VIDEOS / name, Preprocess(fps=15.0, height=64, width=96))
    assert (every.source.source_frames, len(some.frames), some.chosen_by) == STORED[name]
    assert either_decoder == "decord" or every.decoder == some.decoder == "pyav"
    if name not in WITHOUT_NUMBERS:
        first = FIRST.get(name, 0)
        assert [read_number(frame) for frame in every.frames] == list(range(first, first + len(every.frames)))


@pytest.mark.parametrize("name", NOT_STORED)
def test_loss_in_a_reported_video_is_named(name: str) -> None:
    with pytest.raises(DecodeError, match=NOT_STORED[name]):
        decode_video(VIDEOS / name, Preprocess())
