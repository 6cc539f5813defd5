"""`infer` decodes as preprocessing does: in a process of its own, within limits, with the pixels of a shard."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_videos import write_mp4
from paths import HELPERS

import train as _train  # noqa: F401  before mindspore

# isort: split
from pipeline.common.errors import EXIT_IO, MachineError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.execution.plan import PlannedVideo, Task
from pipeline.execution.write_shard import write_shard
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import Store
from train import infer

SETTINGS = Preprocess(height=16, width=20, video_timeout_s=0.6)


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_pixels_are_those_of_a_shard(tmp_path, codec):
    settings = replace(SETTINGS, codec=codec, data_root=str(tmp_path), video_timeout_s=60.0)
    path = write_mp4(tmp_path / "a.mp4", 30, 30)
    task = Task(tmp_path / "train-00000-of-00001.h5", "train", (PlannedVideo("a", "a.mp4"),))
    with Decoder(settings) as decoder:
        write_shard(task, settings, Store(tmp_path), decoder, lambda _outcome: None)
    frames, fps, timeline = infer.decode_video(path, replace(settings, data_root=str(tmp_path / "elsewhere")))
    assert fps == 15.0 and [values.tolist() for values in timeline] == [[30], [30.0], [15], [15.0], [False]]
    np.testing.assert_array_equal(frames, ShardReader(task.path).frames(0))


@pytest.mark.parametrize(
    ("how", "error", "code", "words"),
    [
        ("sleep", UserError, 2, "cannot be decoded: timeout: not decoded within 0.6 s. Give another video"),
        ("memory", UserError, 2, "cannot be decoded: crash: needs more than 4 GiB of memory. Give another video"),
        ("unread", MachineError, EXIT_IO, "could not be read: Input/output error. Run the same command again"),
    ],
)
def test_hostile_video_is_one_line_and_no_crash(monkeypatch, how, error, code, words):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *filter(None, sys.path)]))
    monkeypatch.setattr(infer, "Decoder", lambda settings: Decoder(settings, worker="hostile_worker"))
    began = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        infer.decode_video(Path(f"{how}-1.mp4"), SETTINGS)
    assert caught.value.exit_code == code
    assert time.monotonic() - began < 60
