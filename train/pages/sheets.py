"""Sheets of stored frames: what the network sees of each class, and clips as training crops and mirrors them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data.views import Cuts, Views
from train.experiment.sections import Config, Loader
from train.pages.blocks import Block, Note, Picture, Pictures
from train.pages.frames import Frames, StoredFrames, open_frames, sheet_of, shown, unread_note, write_jpeg

_FEW_CLASSES = 50  # their sheets show three moments of each video, those of more classes one
_VIDEOS_FEW, _VIDEOS_MANY = 3, 4  # of a sheet
_MAX_SHEETS = 1000
_SHEET_WIDTH = 380  # pixels of the page, at most
_AUGMENTED_VIDEOS, _EPOCHS, _MOMENTS = 4, 3, 4


def class_sheets(config: Config, folder: Path) -> list[Block]:
    """A sheet of each class with frames of its training videos, and the crop of evaluation drawn into them.

    Args:
        config: its `preprocess` and `data_loader` are used.
        folder: of the report.

    Raises:
        OSError: a sheet cannot be written.
    """
    stored = open_frames(config.preprocess, config.data_loader.train.dataset.split)
    if isinstance(stored, Note):
        return [stored]
    videos, loader = stored.videos, config.data_loader.eval
    every = np.unique(videos.label_ids[videos.label_ids >= 0]).tolist()
    classes = every[:_MAX_SHEETS]
    few = len(classes) <= _FEW_CLASSES
    chosen = {label: _spread(np.flatnonzero(videos.label_ids == label), _VIDEOS_FEW if few else _VIDEOS_MANY)
              for label in classes}  # fmt: skip
    if not classes:
        chosen = {-1: _spread(np.arange(len(videos.video_ids)), _VIDEOS_FEW)}
    order = np.concatenate(list(chosen.values()))
    order = order[np.argsort(videos.shard_of[order], kind="stable")]  # each shard is opened once
    crop, cuts = _middle_views(config, loader, stored, order)
    taken: dict[int, list[Frames]] = {}
    unread: list[str] = []
    for number, video in enumerate(order.tolist()):
        moments = _moments(cuts.frames[number], 3 if few else 1)
        box = (int(cuts.top[number]), int(cuts.left[number]), *crop)
        frames = stored.take(video, moments, unread=unread)
        if frames is not None:
            taken[video] = list(shown(frames, box, stored.source_size(video)))
    pictures = []
    for number, (label, members) in enumerate(chosen.items()):
        rows = [taken[video] for video in members.tolist() if video in taken]
        if not rows:
            continue
        if not few:  # two by two
            flat = [picture for row in rows for picture in row]
            rows = [flat[start : start + 2] for start in range(0, len(flat), 2)]
        name = videos.class_names[label] if label >= 0 else "videos without labels"
        pictures.append(_sheet(folder, f"class-{number:04d}", rows, f"Frames of the class {name}", name, ""))
    across = "From left to right: the first, middle and last frame of a clip that evaluation takes." if few else ""
    text = (
        f"Stored frames of {videos.name}. The bright part is what the network sees in evaluation: {crop[1]} × {crop[0]}"
        f" of {config.preprocess.width} × {config.preprocess.height} pixels. {across}"
    )
    left_out = len(every) - len(classes)
    more = [Note(f"The other {left_out:,} classes have no sheet here.")] if left_out else []
    return [Note(text), Pictures(pictures), *more, *unread_note(unread)]


def augmented_clips(config: Config, folder: Path) -> list[Block]:
    """What training takes of a few videos in three epochs: other moments, crops and mirrored ones.

    Args:
        config: its `preprocess`, `data_loader.train` and `train.seed` are used.
        folder: of the report.

    Raises:
        OSError: a sheet cannot be written.
    """
    loader = config.data_loader.train
    stored = open_frames(config.preprocess, loader.dataset.split)
    if isinstance(stored, Note):
        return [stored]
    videos, unread = stored.videos, list[str]()
    chosen = _spread(np.arange(len(videos.video_ids)), _AUGMENTED_VIDEOS)
    views = Views(loader, config.preprocess.frame_size, config.train.seed, config.preprocess.fps)
    epochs = [views.cuts(chosen * views.num_views, videos.timeline.of(chosen), epoch) for epoch in range(_EPOCHS)]
    pictures = []
    for number, video in enumerate(chosen.tolist()):
        clips = [_clip(stored, video, cuts, number, views.crop, unread) for cuts in epochs]
        if rows := [clip for clip in clips if clip]:
            name = videos.class_names[label] if (label := int(videos.label_ids[video])) >= 0 else "no label"
            alt = f"Clips of one video in {_EPOCHS} epochs"
            pictures.append(_sheet(folder, f"augmented-{number}", rows, alt, name, videos.video_ids[video]))
    seq = loader.dataset.seq
    text = (
        f"What training gets of a video in the epochs 1 to {_EPOCHS}, from top to bottom: {min(_MOMENTS, seq)} of the "
        f"{seq} frames of a clip, as cropped and mirrored, in the shape that the network gets."
    )
    return [Note(text), Pictures(pictures), *unread_note(unread)]


def _clip(
    stored: StoredFrames, video: int, cuts: Cuts, number: int, crop: tuple[int, int], unread: list[str]
) -> list[Frames]:
    """The shown frames of a clip as training takes it; none if it cannot be read."""
    moments, flip = _moments(cuts.frames[number], min(_MOMENTS, cuts.frames.shape[1])), bool(cuts.flip[number])
    place = (int(cuts.top[number]), int(cuts.left[number]))
    frames = stored.take(video, moments, place, crop, flip=flip, unread=unread)
    return [] if frames is None else list(shown(frames))


def _sheet(folder: Path, name: str, rows: list[list[Frames]], alt: str, class_name: str, caption: str) -> Picture:
    sheet = sheet_of(rows)
    write_jpeg(folder / "files" / f"{name}.jpg", sheet)
    width = min(sheet.shape[1], _SHEET_WIDTH)
    size = (width, round(width * sheet.shape[0] / sheet.shape[1]))
    return Picture(f"files/{name}.jpg", size, alt, caption, (class_name,))


def _middle_views(
    config: Config, loader: Loader, stored: StoredFrames, videos: NDArray[np.int64]
) -> tuple[tuple[int, int], Cuts]:
    """The crop's (H, W), and the view in the middle of each of some videos, as evaluation takes it."""
    views = Views(loader, config.preprocess.frame_size, config.train.seed, config.preprocess.fps)
    options = loader.dataset
    middle = options.num_clips // 2 * options.num_crops + options.num_crops // 2
    return views.crop, views.cuts(videos * views.num_views + middle, stored.videos.timeline.of(videos))


def _moments(frames: NDArray[np.int64], number: int) -> list[int]:
    """`number` of a clip's frames (T,), equally far apart; one: that in the middle."""
    places = np.linspace(0, len(frames) - 1, number).round().astype(int) if number > 1 else [len(frames) // 2]
    return frames[places].tolist()


def _spread(videos: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Up to `number` of some videos, equally far apart."""
    return videos[np.unique(np.linspace(0, len(videos) - 1, number).round().astype(int))] if len(videos) else videos
