"""The configured network: its type, its frozen parts, and the learning rate of each part."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from parameters import parameter_values

from model import weights
from pipeline.common.errors import UserError
from train.experiment.sections import Model, Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network.build import NETWORKS, build_network

NARROW = {"stage_channels": (4, 4, 4, 4), "num_classes": 3}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_type_of_the_settings_is_built(name):
    network = build_network(Model(type=name, **NARROW))
    assert len(network.layer3) == (2 if name.endswith("18") else 6)
    assert ("layer1.0.conv1.0.3.weight" in weights.parameters(network)) == ("R2Plus1d" in name)


def test_max_pools_have_no_layout_for_gpus():
    with pytest.raises(UserError, match=r"MMAction2R2Plus1d34\): layout NTHWC has no max pool. Use layout NCTHW"):
        build_network(Model(type="MMAction2R2Plus1d34", layout="NTHWC", **NARROW))


def test_strides_unfit_for_the_type_are_a_user_mistake():
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    with pytest.raises(UserError, match=r"model \(type MC3d18\): stage_strides: got \[2, 2, 2\] for stage 2"):
        build_network(Model(type="MC3d18", stage_strides=strides, **NARROW))


def test_frozen_stages_keep_weights_and_statistics():
    ms.set_context(mode=ms.GRAPH_MODE)
    network = build_network(Model(type="R3d18", freeze_stages=3, **NARROW))  # stem, layer1, layer2
    step = TrainStep(
        NetworkWithLoss(network, nn.Identity()), make_optimizer(Optimizer(), network, [0.1] * 4), Optimizer()
    )
    step.set_train(True)
    before = parameter_values(network)
    rng = np.random.default_rng(0)
    for _ in range(2):
        clips = ms.Tensor(rng.standard_normal((2, 3, 4, 16, 16)).astype(np.float32))
        step(clips, ms.Tensor(np.array([0, 2], np.int32)))
    for name, parameter in weights.parameters(network).items():
        frozen = name.startswith(("stem.", "layer1.", "layer2."))
        assert (parameter.asnumpy().tobytes() == before[name].tobytes()) == frozen, name


def test_earlier_layers_learn_more_slowly():
    network = build_network(Model(type="R3d18", freeze_stages=1, **NARROW))
    settings = Optimizer(weight_decay=0.0, momentum=0.0, layer_lr_decay=0.5)
    optimizer = make_optimizer(settings, network, [0.1, 0.3])
    trainable = {id(parameter) for parameter in optimizer.parameters}
    names = {id(parameter): name for name, parameter in weights.parameters(network).items()}
    before = {names[id(p)]: p.asnumpy().copy() for p in optimizer.parameters}
    optimizer(tuple(ms.ops.ones_like(p) for p in optimizer.parameters))
    optimizer(tuple(ms.ops.ones_like(p) for p in optimizer.parameters))
    rates = {"fc": 1, "layer4": 0.5, "layer3": 0.25, "layer2": 0.125, "layer1": 0.0625}
    seen = set()
    for parameter in optimizer.parameters:
        name = names[id(parameter)]
        stage = name.split(".")[0]
        moved = before[name] - parameter.asnumpy()
        np.testing.assert_allclose(moved, (0.1 + 0.3) * rates[stage], rtol=1e-4, err_msg=name)
        seen.add(stage)
    assert seen == set(rates) and len(trainable) == len(network.trainable_params())
