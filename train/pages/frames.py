"""Takes frames out of the shards for the pictures of a report: sheets as JPEG, and clips as MP4."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.common.errors import ShardError, UserError, machine_fault
from pipeline.common.recipe import Preprocess
from pipeline.shards.reader import ShardReader
from train.data.videos import read_videos
from train.pages.blocks import Note
from train.pictures.video_writer import Mp4Writer

Frames = NDArray[np.uint8]

_OPEN_SHARDS = 32
_GAP, _GREY = 4, 128  # pixels between pictures of a sheet, visible on light and dark pages
_QUALITY = 85  # of JPEGs
_MAX_HEIGHT = 192  # of a shown frame: larger ones are shrunk
_MIN_HEIGHT = 96  # smaller ones are enlarged by a whole number
_WIDEST = 3.0  # heights; wider frames are less high


class StoredFrames:
    """The stored frames of a split's videos.

    Args:
        settings: the recipe that the shards must have.
        split: the split.

    Attributes:
        videos: the stored videos.

    Raises:
        UserError: the ledger is missing, none of its videos is stored, or a shard that it names is missing.
    """

    def __init__(self, settings: Preprocess, split: str) -> None:
        self.videos = read_videos(settings, split)
        self._settings = settings
        self._numbers = {video_id: number for number, video_id in enumerate(self.videos.video_ids)}
        self._open: OrderedDict[int, ShardReader] = OrderedDict()

    def number_of(self, video_id: str) -> int | None:
        """The number of a video; None if it is not stored."""
        return self._numbers.get(video_id)

    def source_size(self, video: int) -> tuple[int, int]:
        """(height, width) of the source of a video, which has its shape; 0: unknown."""
        height, width = self.videos.source_sizes[video].tolist()
        return height, width

    def take(
        self, video: int, frames: Sequence[int], place: tuple[int, int] = (0, 0), crop: tuple[int, int] | None = None,
        *, flip: bool = False, unread: list[str],
    ) -> Frames | None:  # fmt: skip
        """Frames of a video, (T, H, W, 3); None if they cannot be read.

        Args:
            video: its number in `videos`.
            frames: T numbers of stored frames.
            place: (top, left) of the crop.
            crop: (H, W); None: the whole frame.
            flip: mirrored left and right.
            unread: gets a line with the reason if the frames cannot be read.
        """
        try:
            return self._take(video, frames, place, crop, flip)
        except (UserError, OSError) as error:
            unread.append(reason(error))
            return None

    def _take(
        self, video: int, frames: Sequence[int], place: tuple[int, int], crop: tuple[int, int] | None, flip: bool
    ) -> Frames:
        out = np.empty((len(frames), *(crop or self._settings.frame_size), 3), np.uint8)
        reader = self._reader(int(self.videos.shard_of[video]))
        row = reader.row_of(self.videos.video_ids[video])
        if max(frames) >= reader.num_frames[row]:
            what = f"got {reader.num_frames[row]} frames, expected {self.videos.num_frames[video]} from the ledger"
            raise ShardError(reader.path, what, "run `make manifests`", self.videos.video_ids[video])
        reader.copy_clip(row, frames, *place, out, flip=flip)
        return out

    def _reader(self, shard: int) -> ShardReader:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.videos.shards[shard]
        reader = self._open[shard] = ShardReader(path)
        if reader.recipe_sha256 != self._settings.fingerprint():
            del self._open[shard]
            what = "made with another recipe than this configuration's `preprocess` section"
            raise ShardError(path, what, "use the configuration it was made with")
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return reader


def open_frames(settings: Preprocess, split: str) -> StoredFrames | Note:
    """The stored frames of a split, or a sentence about why there are no pictures of them."""
    try:
        return StoredFrames(settings, split)
    except (UserError, OSError) as error:
        return Note(f"No pictures: {reason(error)}")


def reason(error: UserError | OSError) -> str:
    """An error as a sentence."""
    return str(error) if isinstance(error, UserError) else f"{machine_fault(error)}."


def unread_note(unread: Sequence[str]) -> list[Note]:
    """A sentence about the videos that could not be read; none if all were."""
    return [Note(f"{len(unread):,} clips could not be read, the first because: {unread[0]}")] if unread else []


def shown_size(size: tuple[int, int], source_size: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """(H, W) at which frames of (H, W) are shown, large enough to see and small enough to mail.

    Args:
        size: of the frames.
        source_size: (height, width) that has the shape in which they are shown; 0: their own.
    """
    height, width = size
    factor = max(1, -(-_MIN_HEIGHT // height)) if height <= _MAX_HEIGHT else _MAX_HEIGHT / height
    if not all(source_size):
        return max(round(height * factor), 1), max(round(width * factor), 1)
    high, aspect = height * factor, source_size[1] / source_size[0]
    wide = high * min(aspect, _WIDEST)
    return max(round(wide / aspect), 1), max(round(wide), 1)


def shown(
    frames: Frames, box: tuple[int, int, int, int] | None = None, source_size: tuple[int, int] = (0, 0)
) -> Frames:
    """Frames (T, H, W, 3) in the size of `shown_size`.

    Args:
        frames: the frames.
        box: (top, left, height, width) in pixels of a frame; what is outside is darker, and a line is around it.
        source_size: as of `shown_size`.
    """
    height, width = shown_size((frames.shape[1], frames.shape[2]), source_size)
    down = height * width < frames.shape[1] * frames.shape[2]
    method = cv2.INTER_AREA if down else cv2.INTER_CUBIC
    large = np.stack([cv2.resize(each, (width, height), interpolation=method) for each in frames])
    if box is not None and tuple(box[2:]) != frames.shape[1:3]:
        scale = (height / frames.shape[1], width / frames.shape[2])
        top, left, rows, columns = (round(value * scale[number % 2]) for number, value in enumerate(box))
        dark = (0.45 * large).astype(np.uint8)
        dark[:, top : top + rows, left : left + columns] = large[:, top : top + rows, left : left + columns]
        for each in dark:
            cv2.rectangle(each, (left, top), (left + columns - 1, top + rows - 1), (255, 214, 64), 1)
        large = dark
    return large.astype(np.uint8)


def sheet_of(rows: Sequence[Sequence[Frames]]) -> Frames:
    """Pictures (H, W, 3) in rows and columns with grey between them, each in the middle of a place for the largest."""
    height, width = (max(picture.shape[side] for row in rows for picture in row) for side in (0, 1))
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    sheet = np.full(size, _GREY, np.uint8)
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            rows_high, columns_wide = picture.shape[:2]
            top = number * (height + _GAP) + (height - rows_high) // 2
            left = column * (width + _GAP) + (width - columns_wide) // 2
            sheet[top : top + rows_high, left : left + columns_wide] = picture
    return sheet


def write_jpeg(path: Path, picture: Frames) -> None:
    """Write a picture (H, W, 3)."""
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), _QUALITY, "RGB", "420"))


def write_mp4(path: Path, frames: Frames, fps: float) -> None:
    """Write frames (T, H, W, 3) as H.264, which every browser plays; odd sides get one pixel more.

    Raises:
        OSError: the file cannot be written.
    """
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with Mp4Writer(path, frames.shape[2], frames.shape[1], fps) as file:
        for number, frame in enumerate(frames):
            file.add(frame, number / fps)
