"""Where the pictures of a prediction go, and which seconds of a video they show."""

import os
from pathlib import Path
from typing import Any

import pytest

from train.inference import drawing
from train.inference.drawing import Drawing
from train.pictures.prediction import GIF_SECONDS, Prediction


@pytest.mark.parametrize(
    ("duration_s", "moment_s", "span", "gif_from_s"),
    [(4.0, 3.0, None, 0.0), (9.0, 1.0, None, 0.0), (9.0, 4.0, None, 1.5), (60.0, 30.0, (25.0, 35.0), 2.5),
     (60.0, 1.0, (0.0, 10.0), 0.0), (60.0, 58.0, (50.0, 60.0), 5.0)],
)  # fmt: skip
def test_pictures_show_the_moment(duration_s, moment_s, span, gif_from_s, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(drawing, "write_pictures", lambda *_, **options: calls.append(options) or [])
    draw(tmp_path, "a", duration_s=duration_s, moment_s=moment_s)
    assert calls == [{"span": span, "max_seconds": 10.0, "gif_from_s": gif_from_s}]
    start_s = (span or (0.0,))[0] + gif_from_s
    assert start_s <= moment_s <= start_s + GIF_SECONDS


@pytest.mark.parametrize(
    ("within_s", "moment_s", "span", "gif_from_s"),
    [((0.0, 60.0), 1.0, (0.0, 10.0), 0.0), ((12.0, 16.0), 13.0, (12.0, 16.0), 0.0),
     ((12.0, 40.0), 13.0, (12.0, 22.0), 0.0), ((12.0, 20.0), 19.0, (12.0, 20.0), 3.0),
     ((12.0, 40.0), 39.0, (30.0, 40.0), 5.0)],
)  # fmt: skip
def test_pictures_show_nothing_of_another_segment(within_s, moment_s, span, gif_from_s, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(drawing, "write_pictures", lambda *_, **options: calls.append(options) or [])
    draw(tmp_path, "a", duration_s=60.0, moment_s=moment_s, within_s=within_s)
    assert calls == [{"span": span, "max_seconds": 10.0, "gif_from_s": gif_from_s}]


def draw(folder: Path, name: str, **times: Any) -> list[Path]:
    return Drawing(folder, 10.0).draw(name, Path("a.mp4"), Prediction([("a", 1.0)], None), **times)


def test_name_of_a_picture_always_fits(tmp_path, monkeypatch):
    """Whatever file system allows the name of a video allows those of its pictures, with their temporary names."""
    stems = []
    monkeypatch.setattr(drawing, "write_pictures", lambda stem, *_, **__: stems.append(stem) or [])
    names = ["x/1", "y/1", "-v", "%d", "x" * 251, "x" * 250 + "y", "x/" + "\u6253" * 83, "\udcff" * 251]
    for name in names:
        draw(tmp_path, name, duration_s=1.0, moment_s=0.5)
    assert [os.path.relpath(stem, tmp_path) for stem in stems[:4]] == [f"{name}-predicted" for name in names[:4]]
    assert len(set(stems)) == len(names)
    for stem in stems:
        stem.with_name(f".{stem.name}-timeline.png.{2**22}.tmp").touch()
