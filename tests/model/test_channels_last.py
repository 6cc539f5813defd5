"""Both layouts of a network give the same results on the CPU, where model/channels_last.py only moves channels."""

import re

import mindspore as ms
import numpy as np
import pytest
import reference_weights
from mindspore import nn

from model import channels_last, weights
from model.r2plus1d import mc3_18, r2plus1d_18, r2plus1d_50, r3d_18
from pipeline.common.errors import UserError
from train import export
from train.experiment.sections import Model, Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network import build
from train.network.build import build_network
from train.network.precision import set_amp_level
from train.weights import checkpoint

NARROW = {"num_classes": 5, "stage_channels": (8, 8, 16, 16)}  # mid-planes 5, 18, 28, 36: all are padded


def network_of(layout: str, make=r2plus1d_18, **options):
    """With weights computed from their names, so that they are the same in both layouts."""
    made = make(**{**NARROW, **options})
    values = {name: reference_weights.weight(name, tuple(p.shape)) for name, p in weights.parameters(made).items()}
    values |= {name: abs(value) + 0.5 for name, value in values.items() if name.endswith("variance")}
    weights.assign(made, values, source="test")
    if layout == "NTHWC":
        channels_last.to_nthwc(made)
    return made


@pytest.fixture
def pynative():
    """A forward pass or two take less time than their graphs take to compile."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def clips() -> ms.Tensor:
    return ms.Tensor(reference_weights.clip((2, 3, 4, 24, 24)))


def tensors_close(ours, theirs, tolerance=2e-5) -> bool:
    ours, theirs = ours.asnumpy(), theirs.asnumpy()
    return np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-3)


@pytest.mark.parametrize("make", [r2plus1d_18, pytest.param(r2plus1d_50, marks=pytest.mark.slow)])
def test_logits_are_the_same_in_both_layouts(pynative, clips, make):
    outputs = []
    for layout in ("NCTHW", "NTHWC"):
        network = network_of(layout, make)
        network.set_train(False)
        outputs.append(network(clips))
    assert tensors_close(outputs[1], outputs[0])


def test_parameters_keep_their_objects_and_names():
    network = r2plus1d_18(**NARROW)
    before = weights.parameters(network)
    channels_last.to_nthwc(network)
    after = weights.parameters(network)
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert [p.name for p in network.trainable_params()] == [p.name for p in r2plus1d_18(**NARROW).trainable_params()]
    padded = {name: p.shape[0] for name, p in network.parameters_and_names() if name.endswith("wide_mean")}
    assert padded["stem.1.wide_mean"] == 8 and len(padded) == 17  # of 5 planes; and of two convolutions of 8 blocks
    assert all(size % channels_last.PLANES == 0 for size in padded.values())


def test_midplanes_are_padded_to_multiples_of_eight():
    network = r2plus1d_18()
    channels_last.to_nthwc(network)
    sizes = {p.shape[0] for name, p in network.parameters_and_names() if name.endswith("wide_mean")}
    assert sizes == {48, 232, 464, 928}


@pytest.fixture(scope="module", params=["pynative", pytest.param("graph", marks=pytest.mark.slow)])
def steps(clips, request):
    """Two training steps in each layout: gradients of the first, and weights and statistics after the second."""
    found, before = {}, ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    for layout in ("NCTHW", "NTHWC"):
        network = network_of(layout)
        network.freeze(1)
        settings = Optimizer(weight_decay=0.0)
        step = TrainStep(
            NetworkWithLoss(network, nn.Identity()), make_optimizer(settings, network, [0.01] * 2), settings
        )
        step.set_train(True)
        labels = ms.Tensor(np.array([1, 3], np.int32))
        losses = [float(step(clips, labels)[0])]
        moments = {name: p for name, p in step.state().items() if "moments" in name}
        named = {name: ms.Tensor(p.asnumpy().copy()) for name, p in moments.items()}  # after one step: the gradients
        losses.append(float(step(clips, labels)[0]))
        found[layout] = named, losses, weights.parameters(network), network, step.state()
    ms.set_context(mode=before)
    return found


def test_gradients_are_the_same_in_both_layouts(steps):
    ours, theirs = steps["NTHWC"][0], steps["NCTHW"][0]
    assert ours.keys() == theirs.keys() and len(ours) == 16 * 6 + 3 * 3 + 2
    for name in theirs:
        assert ours[name].shape == theirs[name].shape
        assert tensors_close(ours[name], theirs[name], 3e-4), name


def test_training_gives_same_weights_and_statistics(steps):
    ours, theirs = steps["NTHWC"], steps["NCTHW"]
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)
    for name in theirs[2]:
        assert tensors_close(ours[2][name], theirs[2][name], 3e-5), name
    before = {name: reference_weights.weight(name, p.shape) for name, p in ours[2].items() if "moving_mean" in name}
    for name, value in before.items():  # frozen ones are unchanged, the others are not
        assert np.array_equal(ours[2][name].asnumpy(), value) == name.startswith("stem"), name


def test_planes_of_zeros_stay_zero(steps):
    network = steps["NTHWC"][3]
    wide = {name: p.asnumpy() for name, p in network.parameters_and_names() if name.endswith("wide_mean")}
    for name, values in wide.items():
        norm = name.replace("wide_mean", "bn2d.moving_mean")
        assert not values[weights.parameters(network)[norm].size :].any(), name
    assert any(values.any() for values in wide.values())


@pytest.mark.parametrize(("saved", "loaded"), [("NTHWC", "NCTHW"), ("NCTHW", "NTHWC")])
def test_a_checkpoint_is_of_no_layout(steps, saved, loaded, tmp_path):
    *_, network, training = steps[saved]
    position = {"step": int(training["global_step"].asnumpy().item()), "epoch": 0, "best": -1.0}
    path = checkpoint.save(tmp_path, "one", network, training, position)
    other, settings = network_of(loaded), Optimizer(weight_decay=0.0)
    other.freeze(1)
    state = TrainStep(
        NetworkWithLoss(other, nn.Identity()), make_optimizer(settings, other, [0.01] * 2), settings
    ).state()
    checkpoint.load(path, other, state)
    checkpoint.save(tmp_path, "two", other, state, position)
    for ending in (".ckpt", ".optimizer.ckpt"):
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()


def test_an_export_is_of_no_layout(tmp_path, monkeypatch):
    exported = []
    monkeypatch.setattr(export, "export", lambda network, _shape, path, _facts: (path.touch(), exported.append(network))
                        and 0.0)  # fmt: skip
    trained = network_of("NTHWC")
    checkpoint.save_weights(tmp_path / "weights.ckpt", trained, {})
    words = [
        "-c",
        "train/configs/sample.yaml",
        "--device_target=CPU",
        f"--export.pretrained_model={tmp_path}/weights.ckpt",
    ]
    model = ["--model.layout=NTHWC", "--model.num_classes=5", "--model.stage_channels=[8, 8, 16, 16]",
             "--model.stage_strides=null"]  # fmt: skip
    assert export.main([*words, *model]) == 0
    (network,) = exported
    assert not network.channels_last and any(isinstance(cell, nn.Conv3d) for _, cell in network.cells_and_names())
    ours, theirs = weights.parameters(trained), weights.parameters(network)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name].asnumpy(), theirs[name].asnumpy()) for name in ours)


@pytest.mark.parametrize("make", [r3d_18, mc3_18])
def test_full_3d_convolutions_are_refused_unchanged(make):
    network = make(**NARROW)
    with pytest.raises(ValueError, match="layout NTHWC needs"):
        channels_last.to_nthwc(network)
    assert not any(
        isinstance(cell, (channels_last.Conv, channels_last.BatchNorm)) for _, cell in network.cells_and_names()
    )


def test_half_precision_reaches_this_layouts_cells(pynative, clips):
    outputs = []
    for level in ("O0", "O2", "O3"):
        network = network_of("NTHWC")
        set_amp_level(network, level)
        network.set_train(False)
        logits = network(clips).asnumpy()
        outputs.append(logits)
        assert not np.array_equal(logits, outputs[0]) or level == "O0"
        assert np.abs(logits - outputs[0]).max() < 0.03 * np.abs(outputs[0]).max()
    assert not np.array_equal(*outputs[1:])


def test_layout_is_a_setting_and_auto_on_cpu_is_plain():
    def cells(**options) -> set[type]:
        made = build_network(Model(**{"stage_channels": (4, 4, 4, 4), "num_classes": 5, **options}))
        return {type(cell) for _, cell in made.cells_and_names()}

    assert nn.Conv3d in cells() and channels_last.Conv not in cells()
    assert channels_last.Conv in cells(layout="NTHWC") and nn.Conv3d not in cells(layout="NTHWC")
    with pytest.raises(UserError, match=r"model \(type R3d18\): layout NTHWC needs"):
        build_network(Model(type="R3d18", layout="NTHWC"))


def test_layout_auto_on_gpu_is_channels_last_if_able(monkeypatch):
    made = []
    monkeypatch.setattr(build.ms, "get_context", lambda _key: "GPU")
    monkeypatch.setattr(build.channels_last, "to_nthwc", made.append)
    for name, count in (("R3d18", 0), ("R2Plus1d18", 1)):
        build_network(Model(type=name, stage_channels=(4, 4, 4, 4)))
        assert len(made) == count


def test_other_settings_have_other_compile_cache_keys():
    texts = {str(build_network(Model(layout="NTHWC", stage_channels=(4, 4, 4, 4), stage_strides=strides)))
             for strides in (None, ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2)))}  # fmt: skip
    assert len({re.sub(r"0x[0-9a-f]+", "", text) for text in texts}) == 2


def test_an_odd_number_of_frames(pynative):
    outputs = []
    for layout in ("NCTHW", "NTHWC"):
        network = network_of(layout)
        network.set_train(False)
        outputs.append(network(ms.Tensor(reference_weights.clip((1, 3, 5, 16, 24)))))
    assert tensors_close(outputs[1], outputs[0])
