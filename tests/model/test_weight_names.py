"""Weights are found under any common prefix, and a misfit begins with its likely cause and what to set."""

import re

import numpy as np
import pytest
from mindspore import nn

from model import weights
from model.r2plus1d import r2plus1d_18, r2plus1d_34, r2plus1d_50, r3d_18
from model.weights import WeightsError, likely_causes, to_own_names

NARROW = {"stage_channels": (4, 6, 8, 10), "num_classes": 5}


@pytest.fixture(scope="module")
def network() -> nn.Cell:
    return r2plus1d_18(**NARROW)


def arrays_of(network: nn.Cell, name_of=weights.torchvision_name) -> dict[str, np.ndarray]:
    return {
        name_of(name): np.zeros(parameter.shape, np.float32) for name, parameter in weights.parameters(network).items()
    }


def misfit(network: nn.Cell, arrays: dict[str, np.ndarray], **options) -> str:
    named, *_ = to_own_names(network, arrays)
    with pytest.raises(WeightsError) as caught:
        weights.assign(network, named, source="x.pth", **options)
    text = str(caught.value)
    assert text.startswith("x.pth does not fit this network. Likely cause: "), text
    return text.removeprefix("x.pth does not fit this network. Likely cause: ")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "backbone.", "model.net."])
@pytest.mark.parametrize("name_of", [weights.torchvision_name, weights.zjut_name])
def test_a_common_prefix_is_taken_off(prefix, name_of, network):
    arrays = {f"{prefix}{name}": array for name, array in arrays_of(network, name_of).items()}
    arrays |= {f"{prefix}stem.1.num_batches_tracked": np.zeros((), np.int64), "n_averaged": np.zeros((), np.int64)}
    named, described, left_out = to_own_names(network, arrays)
    assert named.keys() == weights.parameters(network).keys()
    assert described.endswith(f" names after {prefix!r}") and len(left_out) == 2


def test_what_lies_outside_the_prefix_is_unexpected(network):
    arrays = {f"model.{name}": array for name, array in arrays_of(network).items()}
    named, *_ = to_own_names(network, arrays | {"criterion.weight": np.zeros(3)})
    assert named.keys() - weights.parameters(network).keys() == {"criterion.weight"}


def test_two_networks_in_one_file_are_not_mixed(network):
    arrays = {f"{who}.{name}": array for who in ("student", "teacher") for name, array in arrays_of(network).items()}
    assert misfit(network, arrays).startswith("some of its names begin with 'teacher.' and others do not")


def test_half_a_prefix_is_named(network):
    names = list(arrays := arrays_of(network))
    mixed = {name if number < 100 else f"module.{name}": arrays[name] for number, name in enumerate(names)}
    assert misfit(network, mixed).startswith("some of its names begin with 'module.' and others do not")


@pytest.mark.parametrize(
    ("build", "options", "cause"),
    [
        (r2plus1d_34, {}, "the file has R2Plus1d's convolutions in 3+4+6+3 blocks, this network R2Plus1d's "
                          "convolutions in 2+2+2+2 blocks: set model.type to R2Plus1d34 ("),
        (r2plus1d_50, {}, "the file has R2Plus1d's convolutions in 3+4+6+3 blocks with bottlenecks, this"),
        (r3d_18, {}, "the file has R3d's convolutions in 2+2+2+2 blocks, this network R2Plus1d's"),
        (r2plus1d_18, {"midplanes": "paper"}, "it has the other mid-planes: set model.midplanes to paper ("),
        (r2plus1d_18, {"stage_channels": (8, 6, 8, 10)}, "its stages have (8, 6, 8, 10) channels, here (4, 6, 8, 10): "
                                                         "set model.stage_channels to [8, 6, 8, 10] ("),
        (r2plus1d_18, {"stage_strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))}, "its stage 1 has a stride, "),
        (r2plus1d_18, {"num_classes": 7}, "only the classes differ: the file has 7, this network 5: set "
                                          "model.num_classes to 7, or train.head to new to train your own ("),
    ],
)  # fmt: skip
def test_a_misfit_begins_with_its_likely_cause(build, options, cause, network):
    assert misfit(network, arrays_of(build(**(NARROW | options)))).startswith(cause)


@pytest.mark.parametrize("part", ["layer[12]|stem", "layer[34]|fc", "fc"])
def test_a_part_of_the_network_is_no_other_network(part, network):
    mine = {name: array for name, array in arrays_of(r2plus1d_18(**NARROW)).items() if re.match(part, name)}
    cause = f"the file has only {len(mine)} of the network's 187 parameters: the others may be in other files, such"
    assert misfit(network, mine).startswith(cause)


def test_a_missing_last_layer_is_named(network):
    mine = {name: array for name, array in arrays_of(r2plus1d_18(**NARROW)).items() if not name.startswith("fc.")}
    assert misfit(network, mine).startswith("the file has no last layer: set train.head to new to train your own (2 ")


def test_two_causes_are_both_named(network):
    text = misfit(network, arrays_of(r2plus1d_18(**(NARROW | {"midplanes": "paper", "num_classes": 7}))))
    assert "set model.midplanes to paper; the file has 7, this network 5: set model.num_classes to 7" in text


def test_the_cause_is_seen_from_the_other_side_too(network):
    theirs = {name: tuple(parameter.shape) for name, parameter in weights.parameters(network).items()}
    for options, cause in (
        ({"midplanes": "paper"}, "set model.midplanes to shared"),
        ({"stage_strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))}, "its stage 1 has stride [1, 1, 1], because"),
    ):
        mine = weights.parameters(r2plus1d_18(**(NARROW | options)))
        (found,) = likely_causes({name: tuple(parameter.shape) for name, parameter in mine.items()}, theirs)
        assert cause in found
    for build in (r3d_18, r2plus1d_50):  # what the right type brings with it is not advised
        mine = weights.parameters(build(**NARROW))
        (found,) = likely_causes({name: tuple(parameter.shape) for name, parameter in mine.items()}, theirs)
        assert found.endswith(": set model.type to R2Plus1d18")


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["blocks.0.conv.conv_t.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight", "blocks.5.proj.weight"],
         "this is a network of PyTorchVideo, whose R(2+1)D has bottleneck blocks"),
        (["conv1.weight", "layer1.0.conv1.weight"], "its names are those of another network: got 'conv1.weight', "
                                                    "expected 'stem.0.weight'"),
    ],
)  # fmt: skip
def test_other_programs_networks_are_named(names, cause, network):
    assert misfit(network, {name: np.zeros((2, 2), np.float32) for name in names}).startswith(cause)
