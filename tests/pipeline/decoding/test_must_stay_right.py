"""Videos of rare kinds that were always right stay so with both decoders: gray of 12 bit, cropped sides, timecodes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from make_videos import numbered_frame, read_number, write_mp4

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video
from pipeline.decoding.frames import DecodedVideo

SIZE, FRAMES = (96, 128), 6


def decoded(path: Path, decoder: str) -> DecodedVideo:
    """The video in its own size, by the decoder that was chosen; its frames show 0, 1, 2, ..."""
    video = decode_video(path, Preprocess(fps="source", height=SIZE[0], width=SIZE[1]))
    assert video.decoder == {"decord": "", "pyav": "pyav"}[decoder]
    assert (video.source.source_height, video.source.source_width) == SIZE
    assert [read_number(frame) for frame in video.frames] == list(range(FRAMES))
    return video


def test_gray_of_12_bit_is_stored(tmp_path: Path, either_decoder: str) -> None:
    video = decoded(write_mp4(tmp_path / "a.mkv", FRAMES, size=SIZE, codec="hevc", pix_fmt="gray12le"), either_decoder)
    assert video.source.source_bit_depth == 12
    luma = numbered_frame(0, SIZE) @ (0.299, 0.587, 0.114)
    for channel in range(3):
        assert np.abs(video.frames[0, ..., channel] - luma).mean() < 3


def test_picture_cropped_on_all_sides_is_stored(tmp_path: Path, either_decoder: str) -> None:
    # FFmpeg crops on the left in steps of 64 pixels only.
    cut = {"left": 64, "right": 16, "top": 8, "bottom": 24}
    sides = ((cut["top"], cut["bottom"]), (cut["left"], cut["right"]), (0, 0))
    padded = [np.pad(numbered_frame(number, SIZE), sides, constant_values=255) for number in range(FRAMES)]
    whole = write_mp4(tmp_path / "whole.mp4", size=padded[0].shape[:2], frames=padded)
    settings = ":".join(f"crop_{side}={pixels}" for side, pixels in cut.items())
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cropped.mp4"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        crop = BitStreamFilterContext(f"h264_metadata={settings}", stream, copy)
        for packet in source.demux(stream):
            for cropped in crop.filter(packet if packet.size else None):
                cropped.stream = copy
                target.mux(cropped)
    frame = decoded(tmp_path / "cropped.mp4", either_decoder).frames[0]
    assert np.abs(frame - numbered_frame(0, SIZE).astype(int)).mean() < 4


def test_video_with_a_timecode_track_is_stored(tmp_path: Path, either_decoder: str) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.metadata["timecode"] = "10:00:00:00"
        for number in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(numbered_frame(number, SIZE), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
    assert decoded(path, either_decoder).times_s == pytest.approx(np.arange(FRAMES) / 30)
