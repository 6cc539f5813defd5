"""The errors of an evaluation that are worst or most confident, as clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.recipe import SPLITS
from train.experiment.sections import Config
from train.pages import numbers
from train.pages.blocks import Block, Note, Picture, Pictures, Section, Table
from train.pages.eval_files import CorruptedError, Evaluation, rows_of
from train.pages.frames import StoredFrames, open_frames, shown, unread_note, write_jpeg, write_mp4

_ERRORS = 8  # clips of each kind
_CLIP_S = 5.0  # at most, of a clip
_MAX_FRAMES = 150
_CLIP_HEIGHT = 192  # pixels of the page


@dataclass(frozen=True)
class _Error:
    """A video that is classified wrong: its names, the probability of the wrong class, and the loss."""

    video_id: str
    label: str
    predicted: str
    confidence: float
    loss: float


def errors_of(evaluation: Evaluation, config: Config | None, folder: Path) -> list[Section]:
    """Sections with the errors of highest loss, and of highest confidence."""
    titles = ("Worst errors", "Most confident errors")
    try:
        wrong = _wrong(evaluation.folder / "videos.csv")
    except FileNotFoundError as error:
        return [Section("Errors", [Note(f"{error.filename} is missing. Run `make eval` again.")])]
    except CorruptedError as error:
        return [Section("Errors", [Note(str(error))])]
    if not wrong:
        return [Section("Errors", [Note("No labelled video is classified wrong.")])]
    chosen = (
        sorted(wrong, key=lambda each: -each.loss)[:_ERRORS],
        sorted(wrong, key=lambda each: -each.confidence)[:_ERRORS],
    )
    about = ("by the loss", "by the probability of the wrong class")
    stored = _stored(evaluation, config)
    clips: dict[str, Picture | None] = {}
    unread: list[str] = []
    sections = []
    for title, errors, by in zip(titles, chosen, about, strict=True):
        rows = [
            [each.video_id, each.label, each.predicted, numbers.percent(each.confidence), numbers.decimal(each.loss)]
            for each in errors
        ]
        blocks: list[Block] = [Note(f"{len(errors)} of {len(wrong):,} wrong videos, {by}.")]
        if isinstance(stored, Note):
            blocks.append(stored)
        else:
            for each in errors:
                if each.video_id not in clips:
                    clips[each.video_id] = _clip(stored, each, folder, len(clips), unread)
            pictures = [clip for each in errors if (clip := clips[each.video_id]) is not None]
            blocks += [Pictures(pictures)] if pictures else []
        blocks.append(Table(["video", "label", "predicted", "probability", "loss"], rows, names=3))
        sections.append(Section(title, blocks))
    return [*sections, Section("Missing clips", unread_note(unread))] if unread else sections


def _wrong(path: Path) -> list[_Error]:
    """The labelled videos whose prediction is wrong."""
    columns = ("label_id", "predicted_id_1", "views", "loss", "probability_1", "video_id", "label", "predicted_1")

    def error_of(label: str, best: str, views: str, loss: str, probability: str, *names: str) -> _Error | None:
        if int(label) < 0 or int(views) <= 0 or int(label) == int(best):
            return None
        video_id, label_name, predicted = names
        # The loss is empty where it was not finite.
        return _Error(video_id, label_name, predicted, float(probability), float(loss) if loss else math.inf)

    return [error for error in rows_of(path, columns, error_of) if error is not None]


def _stored(evaluation: Evaluation, config: Config | None) -> StoredFrames | Note:
    """The stored frames of the evaluated split."""
    if config is None:
        return Note("No clips: the run's config.yaml is missing or cannot be read.")
    try:
        split = evaluation.summary["settings"]["dataset"]["split"]
    except (LookupError, TypeError):
        split = None
    if split not in SPLITS:
        return Note("No clips: summary.json names no split. Run `make eval` again.")
    return open_frames(config.preprocess, split)


def _clip(stored: StoredFrames, error: _Error, folder: Path, number: int, unread: list[str]) -> Picture | None:
    """The seconds in the middle of a stored video as MP4, with a frame of it as picture; None if it cannot be read."""
    videos = stored.videos
    video = stored.number_of(error.video_id)
    if video is None:
        unread.append(f"{error.video_id}: the ledger does not list it as stored. Run `make eval` again.")
        return None
    have, rate = int(videos.num_frames[video]), float(videos.timeline.stored_fps[video]) or 15.0
    length = max(1, min(have, round(_CLIP_S * rate), _MAX_FRAMES))
    first = (have - length) // 2
    frames = stored.take(video, range(first, first + length), unread=unread)
    if frames is None:
        return None
    frames = shown(frames, source_size=stored.source_size(video))
    name = f"files/error-{number:02d}"
    write_mp4(folder / f"{name}.mp4", frames, rate)
    write_jpeg(folder / f"{name}.jpg", frames[length // 2])
    share = numbers.percent(error.confidence).replace(" ", "\u00a0")  # no line is broken there
    caption = f"{share}, loss\u00a0{numbers.decimal(error.loss)}"
    alt = f"Clip of a video of the class {error.label} that is taken for {error.predicted}"
    size = (round(_CLIP_HEIGHT * frames.shape[2] / frames.shape[1]), _CLIP_HEIGHT)
    return Picture(f"{name}.jpg", size, alt, caption, (error.label, error.predicted), video=f"{name}.mp4")
