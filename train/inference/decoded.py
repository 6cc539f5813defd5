"""Decodes the videos that are to be predicted, in a process beside the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.process import Decoder, DecodeResult
from pipeline.shards.encoding import frames_of
from train.data.timeline import Timeline
from train.inference.inputs import Input


@dataclass(frozen=True)
class DecodedVideo:
    """The frames that a shard would give of a video, wherever it lies.

    Attributes:
        frames: (T, height, width, 3) uint8 RGB; the next video may overwrite them.
        times_s: (T,) float32, when each is shown, in seconds since the first.
        fps: frames per second.
        timeline: which source frames they are.
    """

    frames: NDArray[np.uint8]
    times_s: NDArray[np.float32]
    fps: float
    timeline: Timeline


def decode_videos(decoder: Decoder, inputs: Sequence[Input]) -> Iterator[DecodedVideo | DecodeResult]:
    """Decode videos in the decoder's process, each while the one before is looked at.

    Yields:
        The video; or, of one that cannot be decoded, why not.

    Raises:
        As `Decoder.decode`.
    """
    for result in decoder.decode([each.path for each in inputs]):
        yield result if result.encoded is None else _decoded(result)


def _decoded(result: DecodeResult) -> DecodedVideo:
    assert result.encoded is not None
    frames, facts = frames_of(result.encoded), result.facts
    columns = (facts["source_frames"], facts["source_fps"], len(frames), facts["fps"], facts["chosen_by"] == "time")
    timeline = Timeline(*(np.array([value]) for value in columns))
    return DecodedVideo(frames, result.encoded.times_s.copy(), float(facts["fps"]), timeline)
