import numpy as np
import pytest

from train.config import Dataset, Loader, Map, Operation
from train.views import Views

STORED = (128, 171)


def views(crop="VideoCenterCrop", size=(112, 112), stored=STORED, seed=0, **options) -> Views:
    return Views(Loader(Dataset(**options), Map((Operation(crop, size=size),))), stored, seed)


def test_three_crops_of_each_clip_lie_along_the_longer_side():
    chosen = views(num_clips=2, num_crops=3, seq_mode="uniform")
    assert chosen.num_views == 6
    cuts = [chosen.cut(12 + view, num_frames=150) for view in range(6)]
    assert [(cut.top, cut.left) for cut in cuts] == [(8, 0), (8, 30), (8, 59)] * 2
    starts = [int(cut.frames[0]) for cut in cuts]
    assert starts == [0, 0, 0, 134, 134, 134]
    tall = views(num_crops=3, stored=(171, 128), seq_mode="uniform")
    assert [(tall.cut(view, 150).top, tall.cut(view, 150).left) for view in range(3)] == [(0, 8), (30, 8), (59, 8)]


@pytest.mark.parametrize("mode", ["part", "interval", "discrete", "average", "random"])
def test_the_crops_of_a_clip_are_of_the_same_frames(mode):
    chosen = views(num_clips=4, num_crops=3, seq_mode=mode)
    frames = [chosen.cut(24 + view, num_frames=150).frames.tolist() for view in range(12)]
    assert all(frames[view] == frames[view - view % 3] for view in range(12))
    assert len({tuple(each) for each in frames}) == 4


def test_random_clips_of_a_video_are_all_different_and_others_every_epoch():
    chosen = views("VideoRandomCrop", num_clips=5, seq_mode="random")
    starts = [{int(chosen.cut(5 * 7 + clip, 20, epoch).frames[0]) for clip in range(5)} for epoch in range(20)]
    assert all(each == {0, 1, 2, 3, 4} for each in starts)  # 20 frames have five windows of 16
    orders = {tuple(int(chosen.cut(35 + clip, 20, epoch).frames[0]) for clip in range(5)) for epoch in range(20)}
    assert len(orders) > 10


def test_a_view_is_a_function_of_seed_epoch_and_sample():
    def drawn(seed: int, epoch: int, sample: int):
        cut = views("VideoRandomCrop", seed=seed, seq_mode="part").cut(sample, 150, epoch)
        return (*cut.frames.tolist(), cut.top, cut.left)

    keys = [(seed, epoch, sample) for seed in range(3) for epoch in range(3) for sample in range(3)]
    assert [drawn(*key) for key in keys] == [drawn(*key) for key in keys]
    assert len({drawn(*key) for key in keys}) == len(keys)
    first = views("VideoRandomCrop", seq_mode="part")
    assert np.unique([first.cut(sample, 150).left for sample in range(200)]).size > 40
