"""The sample's classes can only be distinguished by the order of frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.sample_videos.motion import CLASSES, draw_motion, motion_frames
from train.experiment.sections import Model, Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network.build import build_network
from train.network.normalize import Normalize
from train.network.predictor import Predictor

ms = pytest.importorskip("mindspore")

LABELS = list(CLASSES)
PAIRS = list(zip(LABELS[::2], LABELS[1::2], strict=True))
NUM_TRAIN, NUM_VAL, VIDEO_FRAMES, CLIP_FRAMES, CROP = 320, 96, 38, 8, 56
BATCH, PEAK_RATE = 8, 0.05  # as in sample.yaml, as its network is
EPOCHS = 32
Videos = NDArray[np.uint8]  # (V, T, 64, 86, 3); video i shows class i % 8


@pytest.mark.parametrize(("label", "backwards"), PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_one_class_of_a_pair_is_the_other_backwards(label: str, backwards: str, seed: int) -> None:
    motion = draw_motion(np.random.default_rng(seed))
    frames = motion_frames(label, motion, 12, (64, 86), 15.0)
    np.testing.assert_array_equal(motion_frames(backwards, motion, 12, (64, 86), 15.0), frames[::-1])
    assert (frames[0] != frames[-1]).any()  # a picture without motion would pass the line above


def draw_videos(split: int, count: int) -> Videos:
    """Videos as the sample's shards would hold them, without files or codec."""
    return np.stack([
        motion_frames(
            LABELS[index % 8], draw_motion(np.random.default_rng([split, index])), VIDEO_FRAMES, (64, 86), 15.0
        )
        for index in range(count)
    ])  # fmt: skip


def random_clip(video: Videos, rng: np.random.Generator, shuffled: bool) -> Videos:
    """A random clip (8, 56, 56, 3), every second frame; `shuffled` only loses the order of its frames."""
    start = rng.integers(VIDEO_FRAMES - 2 * CLIP_FRAMES + 2)
    frames = start + 2 * (rng.permutation(CLIP_FRAMES) if shuffled else np.arange(CLIP_FRAMES))
    top, left = rng.integers(64 - CROP + 1), rng.integers(86 - CROP + 1)
    return video[frames, top : top + CROP, left : left + CROP]


def pair_accuracy(shuffled: bool) -> float:
    """Train a narrow net, then score which of the two classes of the true pair it prefers; chance is 0.5."""
    ms.set_context(mode=ms.GRAPH_MODE)  # the default mode takes several times as long
    ms.set_seed(0)
    train, val = draw_videos(0, NUM_TRAIN), draw_videos(1, NUM_VAL)
    strides = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    network = build_network(Model(stage_channels=(24, 32, 48, 64), stage_strides=strides, num_classes=8))
    normalize = Normalize((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    steps = EPOCHS * NUM_TRAIN // BATCH
    rates = [PEAK_RATE * min((step + 1) / 40, (1 + math.cos(math.pi * step / steps)) / 2) for step in range(steps)]
    settings = Optimizer(weight_decay=1e-4)
    step = TrainStep(NetworkWithLoss(network, normalize), make_optimizer(settings, network, rates), settings)
    step.set_train(True)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(NUM_TRAIN) for _ in range(EPOCHS)])
    for ids in order.reshape(steps, BATCH):
        clips = np.stack([random_clip(train[index], rng, shuffled) for index in ids])
        step(ms.Tensor(clips), ms.Tensor((ids % 8).astype(np.int32)))
    predict = Predictor(network, normalize)
    predict.set_train(False)
    ids = np.arange(NUM_VAL)
    clips = np.stack([random_clip(video, rng, shuffled) for video in val])
    logits = np.concatenate([predict(ms.Tensor(part)).asnumpy() for part in np.split(clips, NUM_VAL // BATCH)])
    mine = logits[ids, ids % 8]
    other = logits[ids, ids % 8 ^ 1]
    return float((mine > other).mean())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_frame_order_separates_the_classes_of_a_pair() -> None:
    assert pair_accuracy(shuffled=False) >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_net_blind_to_frame_order_cannot_separate_pair() -> None:
    # 96 fair coins fall outside these bounds once in 20,000 times.
    assert 0.3 <= pair_accuracy(shuffled=True) <= 0.7
