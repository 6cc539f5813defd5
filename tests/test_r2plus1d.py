import csv
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import reference_weights

from model import weights
from model.r2plus1d import R2Plus1d, mid_planes

RESOURCES = Path(__file__).parent / "resources"


@pytest.fixture(scope="module")
def network():
    return R2Plus1d(num_classes=400)


@pytest.fixture(scope="module")
def torchvision_shapes():
    with open(RESOURCES / "torchvision_r2plus1d_18_params.csv", newline="") as file:
        return {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in csv.DictReader(file)}


def load_reference(network):
    values = {name: reference_weights.weight(weights.torchvision_name(name), tuple(parameter.shape))
              for name, parameter in weights.parameters(network).items()}  # fmt: skip
    weights.assign(network, values, source="reference")


def test_has_torchvisions_parameters(network, torchvision_shapes):
    ours = {weights.torchvision_name(name): tuple(p.shape) for name, p in weights.parameters(network).items()}
    assert ours == torchvision_shapes
    assert sum(p.size for p in network.trainable_params()) == 31_505_325


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"), [(64, 64, 144), (64, 128, 230), (128, 256, 460), (256, 512, 921)]
)
def test_mid_planes_are_the_papers(inputs, outputs, expected):
    assert mid_planes(inputs, outputs) == expected


@pytest.mark.parametrize("shape", [(2, 3, 8, 56, 56), (1, 3, 16, 112, 112)])
def test_logits_are_torchvisions(network, shape):
    load_reference(network)
    network.set_train(False)
    logits = network(ms.Tensor(reference_weights.clip(shape))).asnumpy()
    expected = np.load(RESOURCES / "parity_logits.npz")[f"logits_{'x'.join(map(str, shape))}_seed0"]
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5


def test_weights_are_all_or_none(network):
    values = {name: p.asnumpy() for name, p in weights.parameters(network).items()}
    before = values["stem.0.weight"].copy()
    values["stem.0.weight"] = np.zeros_like(before)
    values["fc.bias"] = np.zeros(3)
    with pytest.raises(weights.WeightsError, match=r"fc.bias: got \(3,\), expected \(400,\)"):
        weights.assign(network, values, source="test")
    np.testing.assert_array_equal(network.stem[0].weight.asnumpy(), before)
