"""Decodes the videos that are to be predicted, each while the network works on the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
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


def decode_videos(inputs: Sequence[Input], settings: Preprocess) -> Iterator[DecodedVideo | DecodeResult]:
    """Decode videos in a process of their own, with the recipe and the limits of `preprocess`.

    Yields:
        The video; or, of one that cannot be decoded, why not.

    Raises:
        MachineError: several videos in a row could not be read, or the process does not start.
        OSError: this machine has no memory for the frames.
    """
    with Decoder(replace(settings, data_root="")) as decoder:
        for result in decoder.decode([each.path for each in inputs]):
            yield result if result.encoded is None else _decoded(result)


def _decoded(result: DecodeResult) -> DecodedVideo:
    assert result.encoded is not None
    frames, facts = frames_of(result.encoded), result.facts
    columns = (facts["source_frames"], facts["source_fps"], len(frames), facts["fps"], facts["chosen_by"] == "time")
    timeline = Timeline(*(np.array([value]) for value in columns))
    return DecodedVideo(frames, result.encoded.times_s.copy(), float(facts["fps"]), timeline)
