"""Views of a video for training and evaluation: which frames, which crops, repeatable for a seed."""

import json

import numpy as np
import pytest
from paths import ROOT

from pipeline.decoding.resample import kept_frames
from train.data.timeline import Timeline
from train.data.views import Views
from train.evaluation.protocols import source_frames
from train.experiment.sections import Dataset, Loader
from train.experiment.transforms import standard_map

STORED = (128, 171)


def views(cut="centre", size=(112, 112), stored=STORED, seed=0, **options) -> Views:
    return Views(Loader(Dataset(**options), standard_map(stored, cut, size)), stored, seed)


def unknown_source(num_frames: np.ndarray) -> Timeline:
    """The frames of videos of whose source nothing is known."""
    zero = np.zeros(len(num_frames))
    return Timeline(zero.astype(np.int64), zero, num_frames, zero, zero > 0)


def cut(chosen: Views, samples: list[int], num_frames: int = 150, epoch: int = 0):
    """(frames, top, left, flip) of each sample, as Python numbers."""
    cuts = chosen.cuts(np.array(samples), unknown_source(np.full(len(samples), num_frames)), epoch)
    return list(zip(*(each.tolist() for each in cuts), strict=True))


def test_three_crops_of_a_clip_lie_along_the_long_side():
    chosen = views(num_clips=2, num_crops=3, seq_mode="uniform")
    assert chosen.num_views == 6
    cuts = cut(chosen, list(range(12, 18)))
    assert [(top, left) for _frames, top, left, _flip in cuts] == [(8, 0), (8, 30), (8, 59)] * 2
    starts = [frames[0] for frames, *_place in cuts]
    assert starts == [0, 0, 0, 134, 134, 134]
    tall = views(num_crops=3, stored=(171, 128), seq_mode="uniform")
    assert [place[1:3] for place in cut(tall, [0, 1, 2])] == [(0, 8), (30, 8), (59, 8)]


@pytest.mark.parametrize("mode", ["part", "interval", "discrete", "average", "random"])
def test_the_crops_of_a_clip_are_of_the_same_frames(mode):
    chosen = views(num_clips=4, num_crops=3, seq_mode=mode)
    frames = [each[0] for each in cut(chosen, list(range(24, 36)))]
    assert all(frames[view] == frames[view - view % 3] for view in range(12))
    assert len({tuple(each) for each in frames}) == 4


def test_random_clips_differ_in_a_video_and_by_epoch():
    chosen = views("random", num_clips=5, seq_mode="random")
    starts = [tuple(each[0][0] for each in cut(chosen, list(range(35, 40)), 20, epoch)) for epoch in range(20)]
    assert all(set(each) == {0, 1, 2, 3, 4} for each in starts)  # 20 frames have five windows of 16
    assert len(set(starts)) > 10
    others = [tuple(each[0][0] for each in cut(chosen, list(range(40, 45)), 20, epoch)) for epoch in range(20)]
    assert sum(one == other for one, other in zip(starts, others, strict=True)) < 4


def test_random_windows_are_torchvisions_of_the_source():
    frames, rate = 260, 30000 / 1001
    kept, _ = kept_frames(frames, rate, 15)
    timeline = Timeline(*(np.full(400, value) for value in (frames, rate, len(kept), 15.0, False)))
    loader = Loader(Dataset(seq_mode="random", num_clips=5), standard_map(STORED, "random"))
    new, old = (Views(loader, STORED, 0, 15.0) for _ in range(2))
    old.clip_policy = 1
    cuts, samples = new.cuts(np.arange(400), timeline), range(400)
    windows = source_frames("torchvision-video", frames, rate, num_clips=130 - 16 + 1)  # each window once
    shown = {tuple(kept[list(cuts.frames[sample])].tolist()) for sample in samples}
    assert shown <= set(map(tuple, windows)) and len(shown) > 90
    before = old.cuts(np.arange(400), timeline).frames
    assert (before[:, 0].max(), cuts.frames[:, 0].max()) == (len(kept) - 16, 130 - 16)  # 131 frames are stored
    short = Timeline(*(np.full(5, value) for value in (6, 7.5, 6, 7.5, False)))  # 12 frames of 15 a second
    assert new.cuts(np.arange(5), short).frames[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0, 1, 1]


def test_random_windows_are_torchvisions_in_all_cases():
    cases = json.loads((ROOT / "tests/resources/torchvision_clip_indices.json").read_text())
    with_clip = [case for case in cases if case["source_frame_of_clips"]]
    assert len(with_clip) == 137
    for case in with_clip:
        frames, rate, seq = (case[key] for key in ("source_frames", "source_fps", "clip_len"))
        kept, fps = kept_frames(frames, rate, 15)
        timeline = Timeline(*(np.full(15, value) for value in (frames, rate, len(kept), fps, False)))
        loader = Loader(Dataset(seq_mode="random", num_clips=5, seq=seq), standard_map(STORED, "random"))
        cuts = Views(loader, STORED, 0, 15.0).cuts(np.arange(15), timeline)
        every = source_frames("torchvision-video", frames, rate, clip_len=seq, num_clips=1000)
        assert {tuple(kept[clip].tolist()) for clip in cuts.frames} <= set(map(tuple, every)), case


def test_a_view_is_a_function_of_seed_epoch_and_sample():
    def drawn(seed: int, epoch: int, samples: list[int]):
        return cut(views("random", seed=seed, seq_mode="part"), samples, epoch=epoch)

    keys = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    alone = [str(drawn(*key, [sample])) for key in keys for sample in (0, 1, 2)]
    assert [str([each]) for key in keys for each in drawn(*key, [0, 1, 2])] == alone
    assert len(set(alone)) == len(keys) * 3
    first = views("random", seq_mode="part")
    lefts = {left for _frames, _top, left, _flip in cut(first, list(range(200)))}
    assert len(lefts) > 40
