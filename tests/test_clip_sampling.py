import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from train.clip_sampling import clip_indices

MODES = ["part", "interval", "random", "uniform", "discrete", "average"]


@examples(deadline=None)  # other work on the machine is no fault
@given(
    mode=st.sampled_from(MODES),
    num_frames=st.integers(1, 400),
    clip_len=st.integers(1, 64),
    interval=st.integers(1, 8),
    num_clips=st.integers(1, 10),
    data=st.data(),
)
def test_every_index_is_a_frame_of_the_video(mode, num_frames, clip_len, interval, num_clips, data):
    clip = data.draw(st.integers(0, num_clips - 1))
    options = {
        "num_frames": num_frames,
        "clip_len": clip_len,
        "interval": interval,
        "clip": clip,
        "num_clips": num_clips,
    }
    indices = clip_indices(mode, **options, rng=np.random.default_rng(data.draw(st.integers(0, 9))))
    assert indices.shape == (clip_len,)
    assert indices.dtype == np.int64
    assert 0 <= indices.min() and indices.max() < num_frames
    long_enough = num_frames > (clip_len - 1) * (interval if mode in ("interval", "random", "uniform") else 1)
    if long_enough:
        steps = np.diff(indices)
        assert (steps > 0).all()
        if mode in ("part", "interval", "random", "uniform"):
            assert (steps == (1 if mode == "part" else interval)).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_clip_is_a_function_of_its_generator(mode):
    def draw(seed: int):
        options = {"num_frames": 300, "clip_len": 16, "interval": 2}
        return clip_indices(mode, **options, rng=np.random.default_rng([seed, 3])).tolist()

    assert draw(1) == draw(1)
    assert (draw(1) != draw(2)) == (mode != "uniform")


def uniform(num_frames: int, clip_len: int, num_clips: int) -> list[int]:
    options = {"num_frames": num_frames, "clip_len": clip_len, "interval": 1, "num_clips": num_clips}
    rng = np.random.default_rng(0)
    return [int(clip_indices("uniform", **options, clip=clip, rng=rng)[0]) for clip in range(num_clips)]


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "num_clips", "starts"),
    [
        (150, 16, 5, [0, 33, 67, 100, 134]),  # torchvision's UniformClipSampler: floor(linspace(0, 134, 5))
        (150, 16, 1, [0]),
        (20, 16, 5, [0, 1, 2, 3, 4]),
        (16, 16, 3, [0, 0, 0]),
        (5, 16, 2, [0, 0]),
    ],
)
def test_uniform_starts_are_torchvisions(num_frames, clip_len, num_clips, starts):
    assert uniform(num_frames, clip_len, num_clips) == starts


def test_short_videos_play_in_a_loop():
    options = {"num_frames": 3, "clip_len": 7, "interval": 1, "rng": np.random.default_rng(0)}
    assert clip_indices("part", **options).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_average_takes_one_frame_of_each_part():
    indices = clip_indices("average", num_frames=100, clip_len=10, interval=1, rng=np.random.default_rng(4))
    assert (indices // 10).tolist() == list(range(10))
    assert set(np.diff(indices)) <= {9, 10, 11}


@examples(deadline=None)  # other work on the machine is no fault
@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 12), st.integers(0, 5))
def test_random_clips_are_the_first_of_a_permutation_of_all_windows(num_frames, clip_len, num_clips, seed):
    options = {"num_frames": num_frames, "clip_len": clip_len, "interval": 1, "num_clips": num_clips}
    starts = [
        int(clip_indices("random", **options, clip=clip, rng=np.random.default_rng(seed))[0])
        for clip in range(num_clips)
    ]
    windows = max(num_frames - clip_len + 1, 1)
    assert len(set(starts)) == min(num_clips, windows)
    assert set(starts) <= set(range(windows))


@examples(deadline=None)  # other work on the machine is no fault
@given(st.sampled_from(["discrete", "average"]), st.integers(1, 20), st.integers(1, 64), st.integers(0, 5))
def test_a_short_video_runs_forward_where_frames_are_repeated(mode, num_frames, clip_len, seed):
    options = {"num_frames": num_frames, "clip_len": clip_len, "interval": 1}
    indices = clip_indices(mode, **options, rng=np.random.default_rng(seed))
    assert (np.diff(indices) >= 0).all()
    if mode == "average" and clip_len >= num_frames:
        assert set(indices.tolist()) == set(range(num_frames))
