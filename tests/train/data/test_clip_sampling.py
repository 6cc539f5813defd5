"""Which frames make a clip: torchvision's rules, equally likely starts, short videos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.clip_sampling import as_ranges, clip_indices, num_draws

MODES = ["part", "interval", "random", "uniform", "discrete", "average"]


def indices_of(mode, num_frames, *, seed=0, clip=(0,), clip_len=16, interval=1, num_clips=1) -> np.ndarray:
    """(N, T) frames of the clips numbered `clip` of one video, whose draws are all the same."""
    drawn = np.random.default_rng(seed).random(num_draws(mode, clip_len=clip_len, num_clips=num_clips))
    return clip_indices(
        mode,
        num_frames=np.full(len(clip), num_frames),
        clip_len=clip_len,
        interval=interval,
        draws=np.tile(drawn, (len(clip), 1)),
        clip=np.array(clip),
        num_clips=num_clips,
    )


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
    options = {"clip_len": clip_len, "interval": interval, "num_clips": num_clips}
    (indices,) = indices_of(mode, num_frames, seed=data.draw(st.integers(0, 9)), clip=(clip,), **options)
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
def test_clip_depends_on_its_own_draws_only(mode):
    def draw(seed: int) -> list[int]:
        return indices_of(mode, 300, seed=seed, interval=2)[0].tolist()

    assert draw(1) == draw(1)
    assert (draw(1) != draw(2)) == (mode != "uniform")
    drawn = np.random.default_rng(0).random((3, num_draws(mode, clip_len=16, num_clips=4)))
    num_frames, clip = np.array([300, 7, 40]), np.array([3, 0, 2])
    options = {"clip_len": 16, "interval": 2, "num_clips": 4}
    together = clip_indices(mode, num_frames=num_frames, draws=drawn, clip=clip, **options)
    for row, part in enumerate(together):
        one = slice(row, row + 1)
        alone = clip_indices(mode, num_frames=num_frames[one], draws=drawn[one], clip=clip[one], **options)
        assert alone[0].tolist() == part.tolist()


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
    indices = indices_of("uniform", num_frames, clip=range(num_clips), clip_len=clip_len, num_clips=num_clips)
    assert indices[:, 0].tolist() == starts


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 12))
def test_uniform_starts_are_evenly_spread_rounded_down(num_frames, clip_len, num_clips):
    indices = indices_of("uniform", num_frames, clip=range(num_clips), clip_len=clip_len, num_clips=num_clips)
    assert indices[:, 0].tolist() == np.linspace(0, max(num_frames - clip_len, 0), num_clips).astype(int).tolist()


def test_short_videos_play_in_a_loop():
    assert indices_of("part", 3, clip_len=7)[0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_average_takes_one_frame_of_each_part():
    (indices,) = indices_of("average", 100, clip_len=10, seed=4)
    assert (indices // 10).tolist() == list(range(10))
    assert set(np.diff(indices)) <= {9, 10, 11}


@pytest.mark.parametrize("mode", ["part", "interval", "random"])
def test_every_start_is_as_likely_as_any_other(mode):
    starts = np.concatenate([indices_of(mode, 20, seed=seed, clip=(2,), num_clips=3)[:, 0] for seed in range(1000)])
    counts = np.bincount(starts)
    assert len(counts) == 5 and 140 < counts.min() and counts.max() < 260


def test_discrete_takes_every_frame_as_often():
    counts = np.bincount(np.concatenate([indices_of("discrete", 8, clip_len=2, seed=seed)[0] for seed in range(2000)]))
    assert len(counts) == 8 and 400 < counts.min() and counts.max() < 600


@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 12), st.integers(0, 5))
def test_random_clips_start_a_permutation_of_windows(num_frames, clip_len, num_clips, seed):
    options = {"clip": range(num_clips), "clip_len": clip_len, "num_clips": num_clips, "seed": seed}
    starts = indices_of("random", num_frames, **options)[:, 0].tolist()
    windows = max(num_frames - clip_len + 1, 1)
    assert len(set(starts)) == min(num_clips, windows)
    assert set(starts) <= set(range(windows))


@given(st.sampled_from(["discrete", "average"]), st.integers(1, 20), st.integers(1, 64), st.integers(0, 5))
def test_short_video_with_repeated_frames_runs_forward(mode, num_frames, clip_len, seed):
    (indices,) = indices_of(mode, num_frames, clip_len=clip_len, seed=seed)
    assert (np.diff(indices) >= 0).all()
    if mode == "average" and clip_len >= num_frames:
        assert set(indices.tolist()) == set(range(num_frames))


def test_frames_that_are_equally_far_apart_are_a_range():
    frames = np.array([[3, 4, 5], [0, 4, 8], [5, 5, 5], [4, 3, 2], [0, 1, 0], [1, 2, 4]])
    ranges = as_ranges(frames)
    assert ranges[:2] == [range(3, 6), range(0, 12, 4)]
    assert ranges[2:] == frames[2:].tolist()
    assert as_ranges(np.array([[7], [0]])) == [range(7, 8), range(1)]
    assert as_ranges(np.zeros((0, 4), np.int64)) == []
