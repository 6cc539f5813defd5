"""Networks match torchvision's and zjut_mindvideo's in every parameter, so that published weights can be loaded."""

import csv
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import reference_weights
from paths import RESOURCES, ROOT

from model import complexity, weights
from model.r2plus1d import mc3_18, mid_planes, r2plus1d_18, r2plus1d_34, r2plus1d_50, r3d_18, r3d_34

TORCHVISIONS = {  # their parameters with 400 classes
    "r2plus1d_18": (r2plus1d_18, 31_505_325),
    "r3d_18": (r3d_18, 33_371_472),
    "mc3_18": (mc3_18, 11_695_440),
}
NARROW = {"num_classes": 5, "stage_channels": (4, 4, 8, 8)}


@pytest.fixture(scope="module")
def networks():
    """Each of torchvision's networks, with weights computed from torchvision's names."""
    made = {name: make(num_classes=400) for name, (make, _) in TORCHVISIONS.items()}
    for network in made.values():
        values = {name: reference_weights.weight(weights.torchvision_name(name), tuple(parameter.shape))
                  for name, parameter in weights.parameters(network).items()}  # fmt: skip
        weights.assign(network, values, source="reference")
        network.set_train(False)
    return made


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    with open(path, newline="") as file:
        return {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in csv.DictReader(file)}


def own_shapes(network, name_of=weights.torchvision_name) -> dict[str, tuple[int, ...]]:
    return {name_of(name): tuple(p.shape) for name, p in weights.parameters(network).items()}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_has_torchvisions_parameters(networks, name):
    assert own_shapes(networks[name]) == shapes_of(RESOURCES / f"torchvision_{name}_params.csv")
    assert complexity.num_parameters(networks[name]) == TORCHVISIONS[name][1]


def test_has_zjut_mindvideos_parameters(networks):
    expected = shapes_of(RESOURCES / "zjut_r2plus1d18_params.csv")
    assert own_shapes(networks["r2plus1d_18"], weights.zjut_name) == expected


def test_the_papers_midplanes():
    network = r2plus1d_18(midplanes="paper", bn_eps=1e-3)
    assert complexity.num_parameters(network) == 33_370_839
    assert network.layer2[0].conv1[0][0].out_channels == 230  # counted from 64 -> 128
    assert network.layer2[0].conv2[0][0].out_channels == 288  # counted from 128 -> 128
    assert {cell.eps for _, cell in network.cells_and_names() if isinstance(cell, ms.nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (r2plus1d_18, [2, 2, 2, 2]), (r2plus1d_34, [3, 4, 6, 3]), (r2plus1d_50, [3, 4, 6, 3]),
        (r3d_18, [2, 2, 2, 2]), (r3d_34, [3, 4, 6, 3]), (mc3_18, [2, 2, 2, 2]),
    ],
)  # fmt: skip
def test_stages_blocks_and_shortcuts(make, blocks):
    network = make(**NARROW)
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert [len(stage) for stage in stages] == blocks
    widens = make is r2plus1d_50
    for stage, channels, before in zip(stages, (4, 4, 8, 8), (4, 4, 4, 8), strict=True):
        names = own_shapes(stage)
        assert ("0.downsample.0.weight" in names) == (widens or stage is not network.layer1)
        assert "1.downsample.0.weight" not in names
        assert ("0.conv3.0.weight" in names) == widens
        if widens:
            first_in = before if stage is network.layer1 else 4 * before
            assert names["0.conv1.0.0.weight"] == (mid_planes(first_in, channels), first_in, 1, 3, 3)
            assert names["1.conv2.0.3.weight"] == (channels, mid_planes(4 * channels, channels), 3, 1, 1)
            assert names["1.conv3.0.weight"] == (4 * channels, channels, 1, 1, 1)
    assert network.fc.weight.shape == (5, 32 if widens else 8)


def test_the_deeper_networks_parameters():
    # Each block's convolutions by hand; a split pair has as many parameters as a whole one, except for rounding.
    widths, classes = (16, 32, 64, 128), 400

    def batch_norms(channels):
        return 2 * channels

    def r3d(blocks):
        total, before = widths[0] * 3 * 3 * 49 + batch_norms(widths[0]) + (widths[-1] + 1) * classes, widths[0]
        for channels, number in zip(widths, blocks, strict=True):
            total += 27 * before * channels + (2 * number - 1) * 27 * channels**2 + 2 * number * batch_norms(channels)
            total += (before * channels + batch_norms(channels)) if before != channels else 0
            before = channels
        return total

    def bottleneck(before, channels, shortcut):
        mid = mid_planes(before, channels)
        total = 9 * mid * (before + channels) + 2 * (3 * mid * channels) + 2 * batch_norms(mid)
        total += 2 * batch_norms(channels) + 4 * channels**2 + batch_norms(4 * channels)
        return total + (4 * before * channels + batch_norms(4 * channels) if shortcut else 0)

    def r2plus1d_50_total():
        stem_mid, before = 45 * widths[0] // 64, widths[0]
        total = stem_mid * 3 * 49 + batch_norms(stem_mid) + widths[0] * stem_mid * 3 + batch_norms(widths[0])
        total += (4 * widths[-1] + 1) * classes
        for channels, number in zip(widths, (3, 4, 6, 3), strict=True):
            for index in range(number):
                total += bottleneck(before, channels, shortcut=index == 0)
                before = 4 * channels
        return total

    def found(make, **options):
        return complexity.num_parameters(make(stage_channels=widths, num_classes=classes, **options))

    assert found(r3d_18) == r3d((2, 2, 2, 2))
    assert found(r3d_34) == r3d((3, 4, 6, 3))
    assert found(r2plus1d_34, midplanes="paper") == pytest.approx(r3d((3, 4, 6, 3)), rel=0.01)
    assert found(r2plus1d_50) == r2plus1d_50_total()


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"), [(64, 64, 144), (64, 128, 230), (128, 256, 460), (256, 512, 921)]
)
def test_mid_planes_are_the_papers(inputs, outputs, expected):
    assert mid_planes(inputs, outputs) == expected


def test_multiply_adds_are_torchvisions(networks):
    # torchvision's documentation: 40.52, 40.70 and 43.34 "GFLOPS" of 16x112x112 clips.
    found = {name: round(complexity.multiply_adds(network) / 1e9, 2) for name, network in networks.items()}
    assert found == {"r2plus1d_18": 40.52, "r3d_18": 40.7, "mc3_18": 43.34}


@pytest.mark.slow  # 420 million weights are drawn
def test_cost_of_each_network_is_printed_as_in_readme(capsys):
    complexity.main()
    assert capsys.readouterr().out in (ROOT / "model" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("r2plus1d_18", (2, 3, 8, 56, 56)), ("r2plus1d_18", (1, 3, 16, 112, 112)),
        ("r3d_18", (2, 3, 8, 56, 56)), ("mc3_18", (2, 3, 8, 56, 56)),
    ],
)  # fmt: skip
def test_logits_are_torchvisions(networks, name, shape):
    logits = networks[name](ms.Tensor(reference_weights.clip(shape))).asnumpy()
    resource = "parity_logits.npz" if name == "r2plus1d_18" else f"parity_logits_{name}.npz"
    expected = np.load(RESOURCES / resource)[f"logits_{'x'.join(map(str, shape))}_seed0"]
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5


def test_a_spatial_stage_has_no_temporal_stride():
    with pytest.raises(ValueError, match=r"got \[2, 2, 2\] for stage 2, .* no temporal convolution"):
        mc3_18(**NARROW, stage_strides=((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 2, 2)))


def test_initial_weights_are_the_papers():
    ms.set_seed(0)
    np.random.seed(0)
    network = r2plus1d_18(num_classes=400)
    spatial, temporal = network.layer4[1].conv1[0][0].weight.asnumpy(), network.layer4[1].conv1[0][3].weight.asnumpy()
    assert spatial.std() == pytest.approx((2 / (1152 * 9)) ** 0.5, rel=0.01)
    assert temporal.std() == pytest.approx((2 / (512 * 3)) ** 0.5, rel=0.01)
    head = network.fc.weight.asnumpy()
    assert np.abs(head).max() <= (3 / 512) ** 0.5 < 1.001 * np.abs(head).max()
    assert head.std() == pytest.approx((1 / 512) ** 0.5, rel=0.01)
    assert not network.fc.bias.asnumpy().any()


def test_dropout_multiplies_features_before_fc():
    network = r3d_18(**NARROW)
    network.set_train(False)
    clips = ms.Tensor(reference_weights.clip((2, 3, 2, 8, 8)))
    logits, bias = network(clips).asnumpy(), network.fc.bias.asnumpy()
    kept = np.zeros((2, network.fc.in_channels), np.float32)
    kept[1] = 2  # the first clip's features become 0, the second's twice as large
    np.testing.assert_allclose(
        network(clips, ms.Tensor(kept)).asnumpy(), [bias, 2 * logits[1] - bias], rtol=1e-4, atol=1e-6
    )


def test_weights_are_all_or_none(networks):
    network = networks["r2plus1d_18"]
    values = {name: p.asnumpy() for name, p in weights.parameters(network).items()}
    before = values["stem.0.weight"].copy()
    values["stem.0.weight"] = np.zeros_like(before)
    values["fc.bias"] = np.zeros(3)
    with pytest.raises(weights.WeightsError, match=r"fc.bias: got \(3,\), expected \(400,\)"):
        weights.assign(network, values, source="test")
    np.testing.assert_array_equal(network.stem[0].weight.asnumpy(), before)
