"""Writes the sample dataset: videos, label CSVs, and rows with defects on purpose; the same bytes each time."""

from __future__ import annotations

import csv
import json
import os
import shutil
import string
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from pipeline.common.errors import UserError
from pipeline.common.locking import locked_file
from pipeline.common.recipe import SPLITS
from pipeline.sample_videos.motion import CLASSES, Motion, draw_motion, motion_frames

VERSION = 1  # raise it when a frame, a name or a count changes
SEED = 400
MARKER = "sample.json"  # written last; a folder that has it is a finished sample
DEFECTS = ("missing", "truncated", "audio only")

# (H, W, frames/s, weight): most are typical of Kinetics resized to a short side of 256.
_FORMATS: tuple[tuple[int, int, Fraction, int], ...] = (
    (256, 340, Fraction(30), 10),
    (256, 340, Fraction(30000, 1001), 2),
    (240, 320, Fraction(25), 2),
    (340, 256, Fraction(30), 1),
    (224, 398, Fraction(24), 1),
)
_CLIP_SECONDS = 10  # as in all of Kinetics' label files
_CHARACTERS = string.ascii_letters + string.digits + "_-"


@dataclass(frozen=True)
class SampleVideo:
    """One row of a label CSV, and the content of its file.

    Attributes:
        split: train, val or test.
        youtube_id: 11 characters of YouTube's alphabet.
        time_start: seconds; the row ends 10 s later.
        label: one of `CLASSES`.
        motion: what is drawn.
        size: (H, W) in pixels.
        fps: frames per second.
        num_frames: frames in the file.
        defect: one of `DEFECTS`; "" for a good file.
    """

    split: str
    youtube_id: str
    time_start: int
    label: str
    motion: Motion
    size: tuple[int, int]
    fps: Fraction
    num_frames: int
    defect: str = ""

    @property
    def file(self) -> str:
        """Path relative to the sample's folder."""
        return f"{self.split}/{self.youtube_id}_{self.time_start:06d}_{self.time_start + _CLIP_SECONDS:06d}.mp4"


def plan_sample(counts: dict[str, int]) -> list[SampleVideo]:
    """The videos of the sample: good ones by split, with the classes in turn, then train's defective ones.

    A video depends only on its split and index, so each split of a smaller sample is the beginning of a larger one's.

    Args:
        counts: split -> number of good videos.
    """
    videos = [_video(split, index) for split in SPLITS for index in range(counts[split])]
    return videos + [_video("train", 10**6 + index, defect) for index, defect in enumerate(DEFECTS)]


def _video(split: str, index: int, defect: str = "") -> SampleVideo:
    rng = np.random.default_rng([SEED, SPLITS.index(split), index])
    weights = np.array([weight for *_, weight in _FORMATS])
    height, width, fps, _ = _FORMATS[rng.choice(len(_FORMATS), p=weights / weights.sum())]
    return SampleVideo(
        split=split,
        youtube_id=_youtube_id(rng, index),
        time_start=int(rng.integers(0, 600)),
        label=list(CLASSES)[index % len(CLASSES)],
        motion=draw_motion(rng),
        size=(height, width),
        fps=fps,
        num_frames=round(rng.uniform(2.0, 3.5) * fps),
        defect=defect,
    )


def _youtube_id(rng: np.random.Generator, index: int) -> str:
    """Eleven characters; some ids are of the kinds that spreadsheets, shells and CSV readers misread."""
    letters = "".join(rng.choice(list(_CHARACTERS), 11))
    digits = "".join(str(digit) for digit in rng.integers(0, 10, 11))
    kind = index % 40
    if kind == 3:
        return "-" + letters[1:]  # looks like an option
    if kind == 12:
        return "0" + digits[1:]  # a number that would lose its leading zero
    if kind == 21:
        return digits[:8] + "e" + digits[9:]  # a number in scientific notation
    return letters


def write_video(path: Path, video: SampleVideo) -> None:
    """Draw a video and encode it as H.264 in mp4, or write what its defect requires.

    One encoder thread: x264's output depends on how many there are.
    """
    if video.defect == "missing":
        return
    if video.defect == "audio only":
        _write_audio(path, video)
        return
    import av  # not at the top: drawing frames does not need FFmpeg

    cv2.setNumThreads(1)
    height, width = video.size
    frames = motion_frames(video.label, video.motion, video.num_frames, video.size, float(video.fps))
    # The index comes first (faststart), so that a file cut in half still opens.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=video.fps, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    if video.defect == "truncated":
        os.truncate(path, path.stat().st_size // 2)


def _write_audio(path: Path, video: SampleVideo) -> None:
    """Write an mp4 with a tone and no picture."""
    import av

    rate = 16000
    seconds = np.arange(round(rate * video.num_frames / video.fps)) / rate
    tone = (0.2 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)[None]  # (channels, samples)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_labels(folder: Path, split: str, videos: Sequence[SampleVideo]) -> None:
    """The label CSV of a split, in the columns of the official files; test has no labels."""
    with open(folder / f"kinetics-sample_{split}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        times = ["youtube_id", "time_start", "time_end", "split"]
        writer.writerow(times if split == "test" else ["label", *times, "is_cc"])
        for video in videos:
            row = [video.youtube_id, video.time_start, video.time_start + _CLIP_SECONDS, split]
            writer.writerow(row if split == "test" else [video.label, *row, 0])


def make_sample(out: Path, counts: dict[str, int], jobs: int = -1) -> bool:
    """Make the sample at `out` unless it exists; the folder appears complete or not at all.

    Args:
        out: folder to make.
        counts: split -> number of good videos.
        jobs: processes; -1: one for each core.

    Returns:
        False if the finished sample existed already.

    Raises:
        UserError: `out` has other files, or a sample of other counts or version; nothing is changed.
        LockedError: another process is making this sample.
        OSError: the disk is full or fails.
    """
    marker = {"version": VERSION, **counts}
    out = out.resolve()  # a folder cannot be renamed over a link
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{out}: a part of this path is a file, not a folder. Choose another folder with --out."
        ) from None
    with locked_file(out.parent / f".{out.name}.lock", f"{out}: {{}} is making this sample."):
        if _is_finished(out, marker):
            return False
        partial = out.parent / f".{out.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        partial.mkdir()  # ours from its first moment: a link planted here would lead elsewhere
        try:
            _fill(partial, plan_sample(counts), jobs)
            (partial / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
            os.rename(partial, out)  # replaces an empty folder and fails on any other
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # do not leave it on a full disk
    return True


def _is_finished(out: Path, marker: dict[str, int]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        existing = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # none, or another program's
        existing = None
    if not isinstance(existing, dict) or "version" not in existing:
        raise UserError(
            f"{out}: Already exists and is not a sample dataset. Nothing was changed. Choose another folder with --out."
        )
    if existing != marker:
        raise UserError(
            f"{out}: another sample dataset: got {existing}, expected {marker}. Remove it or choose another --out."
        )
    return True


def _fill(folder: Path, videos: Sequence[SampleVideo], jobs: int) -> None:
    for split in SPLITS:
        (folder / split).mkdir()
        _write_labels(folder, split, [video for video in videos if video.split == split])
    tasks = (joblib.delayed(write_video)(folder / video.file, video) for video in videos)
    done = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
    for _ in tqdm(done, total=len(videos), desc="sample", unit="video", disable=None):
        pass
