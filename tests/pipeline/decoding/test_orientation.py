"""A video is stored as a player shows it, in all eight orientations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from make_videos import numbered_frame, read_number, write_mp4

from pipeline.common.recipe import Preprocess
from pipeline.decoding.decode import decode_video

# Display matrix a, b, c, d, where pixel (x, y) is shown at (ax + cy, bx + dy); and what to store of an upright picture.
ORIENTATIONS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((1, 0, 0, 1), lambda upright: upright),
    "left and right": ((-1, 0, 0, 1), lambda upright: upright[:, ::-1]),
    "up and down": ((1, 0, 0, -1), lambda upright: upright[::-1]),
    "half turn": ((-1, 0, 0, -1), lambda upright: upright[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda upright: np.rot90(upright, 1)),
    "counter-clockwise": ((0, -1, 1, 0), lambda upright: np.rot90(upright, 3)),
    "transposed": ((0, 1, 1, 0), lambda upright: upright.transpose(1, 0, 2)),
    "other diagonal": ((0, -1, -1, 0), lambda upright: upright[::-1, ::-1].transpose(1, 0, 2)),
}
NUMBERS = [1234, 77, 3001]


def write_oriented(path: Path, name: str) -> Path:
    """Numbered frames of 160 x 128, stored so that they are upright where the display matrix is followed."""
    (a, b, c, d), stored = ORIENTATIONS[name]
    pictures = [stored(numbered_frame(number, (160, 128))) for number in NUMBERS]
    plain = write_mp4(path.with_name("plain.mp4"), frames=pictures, size=pictures[0].shape[:2])
    one = 1 << 16
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        copy.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    return path


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("suffix", [".mp4", pytest.param(".mkv", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_video_is_stored_as_a_player_shows_it(tmp_path: Path, name: str, suffix: str) -> None:
    video = decode_video(write_oriented(tmp_path / f"a{suffix}", name), Preprocess(fps="source", height=160, width=128))
    assert [read_number(frame) for frame in video.frames] == NUMBERS
    drawn = np.stack([numbered_frame(number, (160, 128)) for number in NUMBERS])
    assert np.abs(video.frames.astype(int) - drawn).mean() < 12
    assert (video.source.source_height, video.source.source_width) == (160, 128)


def test_mirrored_matroska_is_not_left_to_decord(tmp_path: Path) -> None:
    assert decode_video(write_oriented(tmp_path / "a.mkv", "left and right"), Preprocess()).decoder == "pyav"
    assert decode_video(write_oriented(tmp_path / "b.mkv", "half turn"), Preprocess()).decoder == ""
