"""The published evaluation protocols as data: which clips and crops of a video count, and how they are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.data.clip_sampling import clip_indices
from train.data.timeline import num_resampled, resampled
from train.experiment.sections import WITHOUT_STEP, Config, Dataset


@dataclass(frozen=True)
class Protocol:
    """One way to turn videos into one number.

    Attributes:
        frames: where a clip's frames come from.  windows: consecutive frames of the video resampled to `fps`, as in
            torchvision; stored: every `frame_interval`-th stored frame; zjut: random source frames of one clip, as
            zjut_mindvideo's `average` (or `discrete`, if `seq_mode` says so); settings: as the keys of
            `data_loader.eval.dataset` say.
        clip_len: frames of a clip; None: `data_loader.eval.dataset.seq`.
        fps: frames per second that `windows` resamples to.
        num_clips: clips of a video.
        starts: where they start among all windows: spread: floor(linspace(0, W - 1, num_clips)); middle: the one in the
            middle.  With frames zjut, clip k is the one drawn with seed k.
        short: a video shorter than a clip has no clip (none), or repeats from its beginning (loop).
        num_crops: crops of a clip: 1 in the centre, or 3 along the side with more space.
        rounding: of half a pixel at a centre crop: round as torchvision (to even), or floor.
        average: a video's score is the mean of its views' softmax, or the softmax of their mean logits.
        level: the headline counts clips (a video without clip is left out), or videos (it counts as wrong).
        stored: (H, W) of the stored frames that it needs; None: any.
        published: top-1 and top-5 in % by `model.type`, on the validation split of Kinetics-400, of PUBLISHED_FOR.
    """

    frames: Literal["windows", "stored", "zjut", "settings"]
    num_clips: int
    clip_len: int | None = 16
    fps: float = 15.0
    starts: Literal["spread", "middle"] = "spread"
    short: Literal["none", "loop"] = "loop"
    num_crops: Literal[1, 3] = 1
    rounding: Literal["round", "floor"] = "round"
    average: Literal["softmax", "logits"] = "softmax"
    level: Literal["clip", "video"] = "video"
    stored: tuple[int, int] | None = None
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)


PROTOCOLS: dict[str, Protocol] = {
    # torchvision's references and model pages: UniformClipSampler over all windows of 16 frames at 15 fps.
    "torchvision-clip": Protocol("windows", 5, short="none", level="clip", published={
        "R2Plus1d18": (57.50, 78.81), "R3d18": (52.75, 75.45), "MC3d18": (53.90, 76.29),
    }),
    "torchvision-video": Protocol("windows", 5, short="none", published={
        "R2Plus1d18": (67.463, 86.175), "R3d18": (63.200, 83.479), "MC3d18": (63.960, 84.130),
    }),
    # The authors' code in Caffe2 and its port to PyTorch (facebookresearch/VMZ).
    "vmz": Protocol("windows", 10, rounding="floor", published={"R2Plus1d18": (68.5, 87.5)}),
    "vmz-pt": Protocol("windows", 10, average="logits", stored=(128, 174)),
    # zjut_mindvideo scores one random clip of each video: here five times, with the seeds 0 to 4.
    "zjut": Protocol("zjut", 5, clip_len=None, level="clip", published={"R2Plus1d18": (57.3, 79.6)}),
    # SlowFast's and mmaction2's test: 10 clips spread evenly, three crops each.
    "views-10x3": Protocol("stored", 10, clip_len=None, num_crops=3),
    "one-clip": Protocol("stored", 1, clip_len=None, starts="middle"),
}  # fmt: skip


PUBLISHED_FOR = (128, 171, 112, 112)
"""What all published numbers are of: height and width of frames, height and width of crops."""
PUBLISHED_LENGTHS = (16, 64)
"""And the frames of a clip: 64 in zjut_mindvideo's README, 16 in its configuration and in all other protocols."""

OWN = "configured"
"""The name under which the keys of `data_loader.eval.dataset` are scored where `eval.protocols` names nothing."""


def protocols_of(names: Sequence[str], dataset: Dataset) -> dict[str, Protocol]:
    """The protocols of `eval.protocols`, each once; without names, the one that `dataset` describes."""
    own = Protocol("settings", dataset.num_clips, clip_len=None, num_crops=dataset.num_crops)
    return {name: PROTOCOLS[name] for name in names} or {OWN: own}


def clips_seen(protocols: Iterable[Protocol], config: Config) -> list[dict[str, float | str]]:
    """The distinct `seq` of the clips that protocols take of stored frames, with `frame_interval` or `seq_mode`.

    Clips without one step, such as those of seq_mode average, have their `seq_mode`; those whose step is another one in
    each video have neither.
    """
    clips = []
    for protocol in protocols:
        seq = protocol.clip_len or config.data_loader.eval.dataset.seq
        clip = {"seq": seq, **_step(protocol, config)}
        if clip not in clips:
            clips.append(clip)
    return clips


def _step(protocol: Protocol, config: Config) -> dict[str, float | str]:
    """`frame_interval`, stored frames from one frame of a clip to the next; or `seq_mode`; or nothing."""
    dataset, fps = config.data_loader.eval.dataset, config.preprocess.fps
    if protocol.frames == "windows":
        return {} if fps == "source" else {"frame_interval": fps / protocol.fps}
    mode = dataset.seq_mode if protocol.frames == "settings" else "uniform"
    if protocol.frames == "zjut":
        mode = zjut_mode(dataset)
    if mode in WITHOUT_STEP:
        return {"seq_mode": mode}
    return {"frame_interval": 1 if mode == "part" else dataset.frame_interval}


def zjut_mode(dataset: Dataset) -> Literal["average", "discrete"]:
    """Which of zjut_mindvideo's two ways to choose frames protocol zjut takes."""
    return "discrete" if dataset.seq_mode == "discrete" else "average"


def starts_of(windows: NDArray[np.int64], num_clips: int) -> NDArray[np.int64]:
    """(N, num_clips) starts spread evenly over `windows`, (N,): floor(linspace(0, windows - 1, num_clips)).

    Whole numbers: torchvision's float32 gives the same, because (W - 1) / 4 and (W - 1) / 9 are rounded so that the
    multiples that are whole stay whole.
    """
    return np.arange(num_clips) * (windows[:, None] - 1) // max(num_clips - 1, 1)


def windows_of(
    num_frames: NDArray[np.int64], source_fps: NDArray[np.float64], fps: float, clip_len: int, num_clips: int
) -> NDArray[np.int64]:
    """The clips of N videos as source frames (N, num_clips, clip_len).

    A video without a window has the frames of its first window, which loops.
    """
    available = num_resampled(num_frames, source_fps, fps)
    positions = starts_of(np.maximum(available - clip_len + 1, 1), num_clips)[..., None] + np.arange(clip_len)
    positions %= np.maximum(available, 1)[:, None, None]  # only acts on short videos
    return np.minimum(resampled(positions, source_fps, fps), num_frames[:, None, None] - 1)


def zjut_frames(mode: str, num_frames: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """The random clip that zjut_mindvideo takes of N videos, as source frames (N, clip_len).

    Args:
        mode: average: a step of floor(num_frames / clip_len) from a start below it; discrete: different frames.
        num_frames: (N,) frames of the files.
        draws: (N, clip_len) in [0, 1).
    """
    clip_len = draws.shape[1]
    if mode == "discrete":
        nothing = np.zeros(len(num_frames), np.int64)
        return clip_indices("discrete", num_frames=num_frames, clip_len=clip_len, interval=1, draws=draws, clip=nothing)
    step = num_frames // clip_len
    start = (draws[:, 0] * np.maximum(step, 1)).astype(np.int64)
    return start[:, None] + step[:, None] * np.arange(clip_len)


def source_frames(
    protocol: str, num_source_frames: int, source_fps: float, *, clip_len: int = 16, num_clips: int = 5
) -> list[list[int]]:
    """The source frames of each clip that a protocol takes of one video.

    Args:
        protocol: name of a protocol whose clips are windows of the source, such as torchvision-video.
        num_source_frames: frames of the video file.
        source_fps: their rate.
        clip_len: frames of a clip.
        num_clips: clips of a video.

    Returns:
        `num_clips` lists of `clip_len` frame numbers; an empty list if the video is too short to have a clip.

    Raises:
        KeyError: no protocol has this name.
        ValueError: the clips of this protocol depend on how frames are stored.
    """
    chosen = PROTOCOLS[protocol]
    if chosen.frames != "windows":
        raise ValueError(f"protocol: got {protocol}, expected one whose clips are windows of the source")
    count, rate = np.array([num_source_frames]), np.array([source_fps], np.float64)
    if chosen.short == "none" and num_resampled(count, rate, chosen.fps)[0] < clip_len:
        return []
    return windows_of(count, rate, chosen.fps, clip_len, num_clips)[0].tolist()
