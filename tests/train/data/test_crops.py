"""Crops, flips and normalisation are those that the configuration and torchvision name."""

import mindspore as ms
import numpy as np
import pytest

from pipeline.common.errors import UserError
from train.data.crops import CropAndFlip
from train.experiment.transforms import Map, Operation
from train.network.normalize import Normalize

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
NORMALISING = (
    Operation("VideoRescale", shift=0.0),
    Operation("VideoReOrder", order=(3, 0, 1, 2)),
    Operation("VideoNormalize", mean=MEAN, std=STD),
)


def test_normalise_is_torchvisions_preset():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    expected = ((clips / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 4, 1, 2, 3)
    found = Normalize.of(Map(NORMALISING))(ms.Tensor(clips)).asnumpy()
    assert found.dtype == np.float32 and found.shape == (2, 3, 3, 4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left_out", range(3))
def test_a_map_that_does_not_normalise_is_refused(left_out):
    rest = tuple(operation for number, operation in enumerate(NORMALISING) if number != left_out)
    with pytest.raises(UserError, match=f"{NORMALISING[left_out].type} is missing"):
        Normalize.of(Map(rest))


def places(transform: CropAndFlip, stored: tuple[int, int], count: int = 200):
    """What `count` clips draw; each is the only view of its clip."""
    return transform.places(stored, np.random.default_rng(0).random((count, 3)), np.zeros(count, np.int64))


def test_random_crops_reach_every_place_and_only_those():
    transform = CropAndFlip.of(Map((Operation("VideoRandomCrop", size=(6, 8)),)), stored=(8, 9))
    top, left, flip = places(transform, (8, 9))
    assert set(top.tolist()) == {0, 1, 2}
    assert set(left.tolist()) == {0, 1}
    assert not flip.any()


@pytest.mark.parametrize(("stored", "expected"), [((128, 171), (8, 30)), ((113, 112), (0, 0)), ((112, 115), (0, 2))])
def test_centre_crops_are_torchvisions(stored, expected):
    # torchvision: int(round((size - crop) / 2)), which rounds halves to even
    transform = CropAndFlip.of(Map((Operation("VideoCenterCrop", size=(112, 112)),)), stored)
    top, left, flip = places(transform, stored, 1)
    assert (top[0], left[0], flip[0]) == (*expected, False)


def test_flips_have_their_probability_without_a_crop():
    transform = CropAndFlip.of(Map((Operation("VideoRandomHorizontalFlip", prob=0.25),)), stored=(4, 6))
    assert transform.crop == (4, 6)
    flips = places(transform, (4, 6), 2000)[2]
    assert 0.2 < np.mean(flips) < 0.3
