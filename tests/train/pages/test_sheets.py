"""The sheets show the frames and crops that evaluation and training take, each in its place."""

import numpy as np
import pytest
from make_store import frames_of, make_split

from train.data.videos import read_videos
from train.data.views import Views
from train.pages import sheets
from train.pages.frames import shown


@pytest.fixture
def written(monkeypatch) -> dict[str, np.ndarray]:
    """The sheets by name, as they are before JPEG changes their pixels."""
    pictures: dict[str, np.ndarray] = {}
    monkeypatch.setattr(sheets, "write_jpeg", lambda path, sheet: pictures.update({path.stem: sheet}))
    return pictures


def tile(sheet: np.ndarray, row: int, column: int, size: tuple[int, int]) -> np.ndarray:
    """A picture of a sheet."""
    top, left = row * (size[0] + 4), column * (size[1] + 4)
    return sheet[top : top + size[0], left : left + size[1]]


def test_class_sheet_shows_what_evaluation_sees(config, written, tmp_path):
    make_split(config.preprocess, "train", 7)  # classes 0, 1, 2; video n has 12 + n % 5 frames
    sheets.class_sheets(config, tmp_path)
    assert sorted(written) == ["class-0000", "class-0001", "class-0002"]
    for row, number in enumerate((0, 3, 6)):
        frames = frames_of(number, 12 + number % 5, config.preprocess)
        pictures = shown(
            frames[[0, 2, 3]], (0, 2, 16, 16), (256, 340)
        )  # with num_clips 1, `uniform` takes the first frames
        for column, picture in enumerate(pictures):
            assert (tile(written["class-0000"], row, column, picture.shape[:2]) == picture).all()


def test_augmented_sheet_shows_clips_of_training(config, written, tmp_path):
    make_split(config.preprocess, "train", 4)
    sheets.augmented_clips(config, tmp_path)
    videos = read_videos(config.preprocess, "train")
    views = Views(config.data_loader.train, (16, 20), config.train.seed, config.preprocess.fps)
    assert sorted(written) == [f"augmented-{video}" for video in range(4)]
    lefts = set()
    for video in range(4):
        stored = frames_of(video, 12 + video % 5, config.preprocess)
        for epoch in range(3):
            one = np.array([video])
            (frames,), (top,), (left,), (flip,) = views.cuts(one, videos.timeline.of(one), epoch)
            clip = stored[frames][:, top : top + 16, left : left + 16]
            for column, picture in enumerate(shown(clip[:, :, ::-1] if flip else clip)):
                assert (tile(written[f"augmented-{video}"], epoch, column, picture.shape[:2]) == picture).all()
            lefts.add((int(left), bool(flip)))
    assert len(lefts) > 3, "crops differ"
