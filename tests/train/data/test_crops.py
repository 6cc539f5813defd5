"""Crops, flips and normalisation match the configuration and torchvision."""

import mindspore as ms
import numpy as np
import pytest

from train.data.crops import places
from train.experiment.transforms import MEAN, STD, Map, Operation, Transforms, standard_map
from train.network.normalize import Normalize


def test_normalise_is_torchvisions_preset():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    expected = ((clips / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 4, 1, 2, 3)
    normalised = Normalize(MEAN, STD)(ms.Tensor(clips)).asnumpy()
    assert normalised.dtype == np.float32 and normalised.shape == (2, 3, 3, 4, 5)
    np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left_out", ["VideoRescale", "VideoReOrder", "VideoNormalize"])
def test_a_map_that_does_not_normalise_is_refused(left_out):
    rest = (operation for operation in standard_map((8, 9), "none").operations if operation.type != left_out)
    with pytest.raises(ValueError, match=f"operations: {left_out} is missing"):
        Map(tuple(rest)).transforms((8, 9))


def test_a_map_is_resolved_once_into_what_it_does():
    assert standard_map((128, 171), "random", flip=0.5).transforms((128, 171)) == Transforms(
        crop=(112, 112), cut="random", flip_probability=0.5, mean=MEAN, std=STD
    )
    plain = tuple(operation for operation in standard_map((8, 9), "none").operations if operation.type != "VideoResize")
    assert Map(plain).transforms((8, 9)) == Transforms((8, 9), "none", 0.0, MEAN, STD)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Operation("VideoResize", size=(9, 8)), r"VideoResize: got size \[9, 8\], expected the stored size \[8, 9\]"),
        (
            Operation("VideoCenterCrop", size=(8, 10)),
            r"VideoCenterCrop: got size \[8, 10\], expected at most the stored size \[8, 9\]",
        ),
    ],
)
def test_sizes_that_do_not_match_shards_are_refused(operation, message):
    with pytest.raises(ValueError, match=message):
        Map((operation,)).transforms((8, 9))


def drawn(map_: Map, stored: tuple[int, int], count: int = 200):
    """The crops and flips of `count` clips with one view each."""
    draws = np.random.default_rng(0).random((count, 3))
    return places(map_.transforms(stored), stored, draws, np.zeros(count, np.int64))


def test_random_crops_reach_every_place_and_only_those():
    top, left, flip = drawn(standard_map((8, 9), "random", (6, 8)), (8, 9))
    assert set(top.tolist()) == {0, 1, 2}
    assert set(left.tolist()) == {0, 1}
    assert not flip.any()


@pytest.mark.parametrize(("stored", "expected"), [((128, 171), (8, 30)), ((113, 112), (0, 0)), ((112, 115), (0, 2))])
def test_centre_crops_are_torchvisions(stored, expected):
    # torchvision: int(round((size - crop) / 2)), which rounds halves to even
    top, left, flip = drawn(standard_map(stored, "centre"), stored, 1)
    assert (top[0], left[0], flip[0]) == (*expected, False)


def test_flips_have_their_probability_without_a_crop():
    top, left, flips = drawn(standard_map((4, 6), "none", flip=0.25), (4, 6), 2000)
    assert not top.any() and not left.any()
    assert 0.2 < np.mean(flips) < 0.3
