"""Plans an evaluation: every distinct view that some protocol takes of a video, once, and who counts it how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from train.data.clip_sampling import clip_indices
from train.data.crops import places
from train.data.random_draws import Draws
from train.data.timeline import Timeline, num_resampled, stored_of
from train.data.views import Cuts, PlannedViews, Views
from train.evaluation.protocols import Protocol, windows_of, zjut_frames, zjut_mode
from train.experiment.sections import WITHOUT_STEP, Config, Dataset, Loader


class Count(NamedTuple):
    """What is counted by itself: a protocol, or one seed of a protocol that draws its clips.

    Attributes:
        name: of the protocol.
        protocol: the protocol.
        seed: of its clips; 0 where nothing is drawn.
    """

    name: str
    protocol: Protocol
    seed: int


@dataclass(frozen=True)
class Pass:
    """Views of one clip length, which can share batches.

    Attributes:
        loader: `data_loader.eval` with this clip length.
        views: the views, each once; those of a video follow each other in an order that its frames decide.
        times: by number of the `Count`, how often each view counts there, (S,) int64.
    """

    loader: Loader
    views: PlannedViews
    times: dict[int, NDArray[np.int64]]


@dataclass(frozen=True)
class Plan:
    """The views of an evaluation.

    Attributes:
        counts: what is counted.
        passes: one for each clip length.
        inexact: for each of `counts`, which videos (N,) lack a stored frame that the protocol names: they show the
            nearest.
        short: for each of `counts`, which videos (N,) are shorter than a clip.
    """

    counts: list[Count]
    passes: list[Pass]
    inexact: list[NDArray[np.bool_]]
    short: list[NDArray[np.bool_]]


class _Chosen(NamedTuple):
    """M views of one protocol: videos (M,) and cuts; and for each of the N videos whether it is exact, or short."""

    videos: NDArray[np.int64]
    cuts: Cuts
    exact: NDArray[np.bool_]
    short: NDArray[np.bool_]


def check_protocols(protocols: Mapping[str, Protocol], config: Config) -> None:
    """Check that the stored frames can give what protocols need.

    Raises:
        UserError: a protocol needs frames of another size, or more frames per second.
    """
    settings = config.preprocess
    for name, protocol in protocols.items():
        if protocol.stored not in (None, settings.frame_size):
            raise UserError(
                f"eval.protocols: {name} needs stored frames of {protocol.stored}, but preprocess.height and "
                f"preprocess.width give {settings.frame_size}. Remove it, or store the videos in that size."
            )
        if protocol.frames == "windows" and settings.fps != "source" and settings.fps < protocol.fps:
            raise UserError(
                f"eval.protocols: {name} needs {protocol.fps:g} frames per second, but preprocess.fps stores "
                f"{settings.fps:g}. Remove it, or store the videos at that rate."
            )


def check_lengths(protocols: Mapping[str, Protocol], config: Config, timeline: Timeline, where: str) -> None:
    """Check that some video is long enough for a clip of each published protocol.

    Args:
        protocols: by name.
        config: its `data_loader.eval` is used.
        timeline: of all videos.
        where: name of the videos, for the message.

    Raises:
        UserError: all are too short.
    """
    dataset = config.data_loader.eval.dataset
    for name, protocol in protocols.items():
        if protocol.frames == "settings" or not _short(protocol, dataset, timeline).all():
            continue
        rate = f" at {protocol.fps:g} per second" if protocol.frames == "windows" else ""
        action = "" if protocol.clip_len else ", or set a smaller data_loader.eval.dataset.seq"
        raise UserError(
            f"eval.protocols: every video of {where} is shorter than a clip of {name}, "
            f"{protocol.clip_len or dataset.seq} frames{rate}. Remove it{action}."
        )


def _short(protocol: Protocol, dataset: Dataset, timeline: Timeline) -> NDArray[np.bool_]:
    """Which videos (N,) are shorter than a clip."""
    known, clip_len = timeline.known(), protocol.clip_len or dataset.seq
    if protocol.frames == "windows":
        return num_resampled(known.source_frames, known.source_fps, protocol.fps) < clip_len
    if protocol.frames == "zjut":
        return known.source_frames < clip_len
    single = protocol.frames == "settings" and dataset.seq_mode in ("part", *WITHOUT_STEP)
    return timeline.stored_frames <= (clip_len - 1) * (1 if single else dataset.frame_interval)


def make_plan(protocols: Mapping[str, Protocol], config: Config, timeline: Timeline, videos: NDArray[np.int64]) -> Plan:
    """Plan the views of some videos.

    Args:
        protocols: by name.
        config: its `data_loader.eval`, `preprocess` and `train.seed` are used.
        timeline: of all videos.
        videos: (N,) numbers of the videos to look at, rising; their views do not depend on the others.
    """
    counts = [
        Count(name, protocol, seed)
        for name, protocol in protocols.items()
        for seed in range(protocol.num_clips if protocol.frames == "zjut" else 1)
    ]
    by_length: dict[int, dict[int, _Chosen]] = {}
    every = []
    for number, count in enumerate(counts):
        clip_len = count.protocol.clip_len or config.data_loader.eval.dataset.seq
        chosen = _choose(count, clip_len, config, timeline.of(videos), videos)
        by_length.setdefault(clip_len, {})[number] = chosen
        every.append(chosen)
    passes = [_merged(clip_len, each, config) for clip_len, each in by_length.items()]
    return Plan(counts, passes, [~each.exact for each in every], [each.short for each in every])


def _choose(count: Count, clip_len: int, config: Config, timeline: Timeline, videos: NDArray[np.int64]) -> _Chosen:
    """The views that a protocol takes of `videos`, whose frames are `timeline`."""
    protocol, loader, settings = count.protocol, config.data_loader.eval, config.preprocess
    exact, short = np.ones(len(videos), bool), _short(protocol, loader.dataset, timeline)
    if protocol.frames == "settings":
        views = Views(loader, settings.frame_size, config.train.seed, settings.fps)
        samples = (videos[:, None] * views.num_views + np.arange(views.num_views)).ravel()
        owners = np.repeat(np.arange(len(videos)), views.num_views)
        return _Chosen(videos[owners], views.cuts(samples, timeline.of(owners)), exact, short)
    if protocol.frames == "stored":
        frames = _spread_over_stored(protocol, clip_len, loader.dataset.frame_interval, timeline.stored_frames)
    else:
        known = timeline.known()
        if protocol.frames == "zjut":
            draws = Draws(count.seed, each=clip_len).of(videos)
            source = zjut_frames(zjut_mode(loader.dataset), known.source_frames, draws)[:, None]
        else:
            source = windows_of(known.source_frames, known.source_fps, protocol.fps, clip_len, protocol.num_clips)
        frames, exact = stored_of(known, source, settings.fps)
    if protocol.short == "none":
        kept, exact = np.flatnonzero(~short), exact | short  # a video without a clip lacks no frame
    else:
        kept = np.arange(len(videos))
    clips = frames[kept].reshape(-1, clip_len)
    owners = np.repeat(kept, frames.shape[1] * protocol.num_crops)
    crops = np.tile(np.arange(protocol.num_crops), len(clips))
    where = places(
        loader.transforms(settings.frame_size), settings.frame_size, np.ones((len(owners), 3)), crops,
        protocol.num_crops, half_pixel=protocol.rounding,
    )  # fmt: skip
    return _Chosen(videos[owners], Cuts(np.repeat(clips, protocol.num_crops, axis=0), *where), exact, short)


def _spread_over_stored(
    protocol: Protocol, clip_len: int, interval: int, num_frames: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Clips (N, num_clips, clip_len) of stored frames; short videos repeat."""
    num_clips = protocol.num_clips
    # The middle one of three is the one in the middle.
    of, clips = (3, np.array([1])) if protocol.starts == "middle" else (num_clips, np.arange(num_clips))
    frames = clip_indices(
        "uniform",
        num_frames=np.repeat(num_frames, num_clips), clip_len=clip_len, interval=interval,
        draws=np.zeros((0, 0)), clip=np.tile(clips, len(num_frames)), num_clips=of,
    )  # fmt: skip
    return frames.reshape(len(num_frames), num_clips, clip_len)


def _merged(clip_len: int, chosen: dict[int, _Chosen], config: Config) -> Pass:
    """One pass with the distinct views of several protocols.

    Their order depends on videos and frames only, so that a protocol's views come in the same order whichever other
    protocols are scored with it.
    """
    loader = config.data_loader.eval
    videos = np.concatenate([each.videos for each in chosen.values()])
    frames = np.concatenate([each.cuts.frames for each in chosen.values()])
    parts = zip(*(each.cuts[1:] for each in chosen.values()), strict=True)
    top, left, flip = (np.concatenate(part) for part in parts)
    mixed = _mixed(frames, top, left, flip)
    order = np.lexsort((mixed, left, top, frames[:, 0], videos))
    videos, frames, top, left, flip = (each[order] for each in (videos, frames, top, left, flip))
    new = np.ones(len(order), bool)
    same = (videos[1:] == videos[:-1]) & (top[1:] == top[:-1]) & (left[1:] == left[:-1]) & (flip[1:] == flip[:-1])
    new[1:] = ~(same & (frames[1:] == frames[:-1]).all(axis=1))
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(new) - 1
    views = PlannedViews(
        loader.transforms(config.preprocess.frame_size).crop,
        videos[new], Cuts(frames[new], top[new], left[new], flip[new]),
    )  # fmt: skip
    times, first = {}, 0
    for number, each in chosen.items():
        times[number] = np.bincount(place[first : first + len(each.videos)], minlength=int(new.sum()))
        first += len(each.videos)
    return Pass(replace(loader, dataset=replace(loader.dataset, seq=clip_len, shuffle=False)), views, times)


def _mixed(frames: NDArray[np.int64], *columns: NDArray[Any]) -> NDArray[np.uint64]:
    """A number of each row of frames (N, T) and columns (N,), nearly always another one for another row."""
    num_frames = frames.shape[1]
    factors = np.random.SeedSequence(0).generate_state(num_frames + len(columns), np.uint64) | np.uint64(1)
    # No array of all columns is made: at 20,000 videos its pages would take longer than everything else here.
    mixed: NDArray[np.uint64] = np.ascontiguousarray(frames, np.int64).view(np.uint64) @ factors[:num_frames]
    for column, factor in zip(columns, factors[num_frames:], strict=True):
        mixed += column.astype(np.uint64) * factor
    return mixed
