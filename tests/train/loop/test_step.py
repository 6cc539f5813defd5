"""Training steps match PyTorch's 20-step loss curve (resources/loss_curve.npz), and numpy for each option."""

import mindspore as ms
import numpy as np
import pytest
import reference_weights
from make_training import TinyNetwork
from mindspore import nn
from parameters import parameter_values
from paths import RESOURCES

from model import weights
from model.r2plus1d import r2plus1d_18
from train.experiment.sections import Optimizer
from train.loop import step as loop_step
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network.precision import set_amp_level

CURVE = np.load(RESOURCES / "loss_curve.npz")


def losses_of(settings: Optimizer, num_steps: int) -> list[float]:
    ms.set_context(mode=ms.GRAPH_MODE)
    network = r2plus1d_18(num_classes=400)
    values = {name: reference_weights.weight(weights.torchvision_name(name), tuple(p.shape))
              for name, p in weights.parameters(network).items()}  # fmt: skip
    values["fc.weight"] *= np.float32(0.05)
    values["fc.bias"][:] = 0
    weights.assign(network, values, source="reference")
    optimizer = make_optimizer(settings, network, [0.001] * num_steps)
    step = TrainStep(NetworkWithLoss(network, nn.Identity()), optimizer, settings)
    step.set_train(True)
    losses = []
    for number in range(num_steps):
        clips, labels = reference_weights.training_batch(number)
        loss, logits = step(ms.Tensor(clips), ms.Tensor(labels))
        losses.append(float(loss.asnumpy()))
        assert logits.shape == (4, 400)
    return losses


def test_follows_pytorchs_loss_curve():
    # With a loss scale, which must cancel out.  PyTorch's float32 and float64 curves differ by 1.7e-5 after 5 steps.
    losses = losses_of(Optimizer(weight_decay=1e-4, loss_scale=1024.0), 3)
    np.testing.assert_allclose(losses, CURVE["loss64"][:3], rtol=5e-5)


@pytest.mark.slow
def test_follows_pytorchs_loss_curve_for_twenty_steps():
    # PyTorch's float32 and float64 curves differ by 8e-4 here: rounding errors grow with every step.
    losses = losses_of(Optimizer(weight_decay=1e-4, loss_scale=1.0), 20)
    np.testing.assert_allclose(losses, CURVE["loss64"], rtol=2e-3)


def test_weight_decay_reaches_every_parameter():
    # By default MindSpore leaves out the batch norms' gamma and beta.
    network = nn.SequentialCell(nn.Dense(2, 2), nn.BatchNorm1d(2))
    optimizer = make_optimizer(Optimizer(weight_decay=0.5, momentum=0.0), network, [0.1])
    parameters = optimizer.parameters
    before = [p.asnumpy().copy() for p in parameters]
    optimizer(tuple(ms.ops.zeros_like(p) for p in parameters))
    for old, parameter in zip(before, parameters, strict=True):
        np.testing.assert_allclose(parameter.asnumpy(), old * (1 - 0.1 * 0.5), rtol=1e-6)
    assert any("gamma" in p.name and np.abs(p.asnumpy()).max() > 0 for p in parameters)


# A linear layer under softmax, small enough to be written in numpy.
LR = 0.5
RNG = np.random.default_rng(0)
START = RNG.standard_normal((3, 4)).astype(np.float32)
BATCHES = [(RNG.standard_normal((2, 4)).astype(np.float32), RNG.integers(0, 3, 2).astype(np.int32)) for _ in range(4)]


def linear_step(label_smoothing: float = 0.0, group_size: int = 1, **options) -> TrainStep:
    network = nn.Dense(4, 3, weight_init=ms.Tensor(START), has_bias=False)
    settings = Optimizer(**{"momentum": 0.0, "weight_decay": 0.0, **options})
    optimizer = make_optimizer(settings, network, [LR] * 9)
    step = TrainStep(
        NetworkWithLoss(network, nn.Identity(), label_smoothing), optimizer, settings, group_size=group_size
    )
    step.set_train(True)
    return step


def weight_of(step: TrainStep) -> np.ndarray:
    return step.loss.network.weight.asnumpy().copy()


def run_step(step: TrainStep, clips: np.ndarray, labels: np.ndarray, last: bool = True) -> float:
    loss, _logits = step(ms.Tensor(clips), ms.Tensor(labels), last)
    return float(loss.asnumpy())


def loss_and_gradient(weight: np.ndarray, clips: np.ndarray, labels: np.ndarray, smoothing: float = 0.0):
    logits = (clips @ weight.T).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    return -(targets * np.log(probabilities)).sum(1).mean(), (probabilities - targets).T @ clips / len(labels)


@pytest.mark.parametrize("loss_scale", [1.0, 1000.0, "dynamic"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_scale_cancels_and_labels_are_smoothed(loss_scale, smoothing):
    step = linear_step(smoothing, loss_scale=loss_scale)
    loss, gradient = loss_and_gradient(START, *BATCHES[0], smoothing)
    assert run_step(step, *BATCHES[0]) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(weight_of(step), START - LR * gradient, rtol=1e-5, atol=1e-6)


def test_batch_group_is_one_step_on_the_mean_gradient():
    step = linear_step(group_size=2)
    expected = START
    for first, second in (BATCHES[:2], BATCHES[2:]):  # twice: the sums are cleared in between
        before = weight_of(step)
        run_step(step, *first, last=False)
        np.testing.assert_array_equal(weight_of(step), before)
        run_step(step, *second, last=True)
        gradient = (loss_and_gradient(expected, *first)[1] + loss_and_gradient(expected, *second)[1]) / 2
        expected = expected - LR * gradient
        np.testing.assert_allclose(weight_of(step), expected, rtol=1e-5, atol=1e-6)
    assert step.optimizer.global_step.asnumpy().tolist() == [2]


def test_dropped_features_give_no_logits_nor_gradient():
    network = TinyNetwork()
    settings = Optimizer(weight_decay=0.0)
    step = TrainStep(NetworkWithLoss(network, nn.Identity()), make_optimizer(settings, network, [0.1] * 2), settings)
    step.set_train(True)
    before = network.fc.weight.asnumpy().copy()
    clips, factors = RNG.standard_normal((2, 3, 4, 16, 16)).astype(np.float32), np.array([[2, 0, 0, 0]] * 2, np.float32)
    step(ms.Tensor(clips), ms.Tensor(np.array([0, 1], np.int32)), True, ms.Tensor(factors))
    moved = (network.fc.weight.asnumpy() != before).any(axis=0)
    assert moved.tolist() == [True, False, False, False]


def test_clipping_shortens_only_long_gradients():
    gradient = loss_and_gradient(START, *BATCHES[0])[1]
    length = np.linalg.norm(gradient)
    for clip_norm in (length / 3, length * 3):
        step = linear_step(clip_norm=float(clip_norm), loss_scale=512.0)
        run_step(step, *BATCHES[0])
        moved = np.linalg.norm(START - weight_of(step)) / LR
        assert moved == pytest.approx(min(clip_norm, length), rel=1e-4)


def test_weight_average_follows_and_replaces_weights():
    step = linear_step(ema_decay=0.75)
    average = START
    for batch in BATCHES[:2]:
        run_step(step, *batch)
        average = 0.75 * average + 0.25 * weight_of(step)
    last = weight_of(step)
    step.swap_average()
    np.testing.assert_allclose(weight_of(step), average, rtol=1e-6)
    step.swap_average()
    np.testing.assert_array_equal(weight_of(step), last)
    run_step(step, *BATCHES[2])  # and the average continues
    average = 0.75 * average + 0.25 * weight_of(step)
    step.swap_average()
    np.testing.assert_allclose(weight_of(step), average, rtol=1e-6)


def test_non_finite_step_changes_only_count_and_scale(monkeypatch):
    monkeypatch.setattr(loop_step, "DYNAMIC_SCALE_WINDOW", 2)
    step = linear_step(loss_scale="dynamic", momentum=0.9, ema_decay=0.5)
    kept = (step.loss.network.weight, step.optimizer.moments[0], step.average[0])
    run_step(step, *BATCHES[2])  # from here on the average differs from the weights
    bad = np.full((2, 4), np.inf, np.float32)
    scales, left_out = [], []
    for clips in (bad, BATCHES[0][0], bad, BATCHES[1][0], BATCHES[2][0]):
        before = [p.asnumpy().copy() for p in kept]
        run_step(step, clips, BATCHES[0][1])
        unchanged = [np.array_equal(old, p.asnumpy()) for old, p in zip(before, kept, strict=True)]
        assert unchanged == [clips is bad] * 3
        scales.append(float(step.scale.asnumpy()))
        left_out.append(int(step.left_out.asnumpy()))
    assert left_out == [1, 0, 1, 0, 0]
    assert scales == [2.0**15, 2.0**15, 2.0**14, 2.0**14, 2.0**15]
    assert step.optimizer.global_step.asnumpy().tolist() == [6]


def test_pynative_mode_makes_the_same_step():
    in_graph = linear_step(momentum=0.9, clip_norm=0.5)
    run_step(in_graph, *BATCHES[0])
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        step = linear_step(momentum=0.9, clip_norm=0.5)
        run_step(step, *BATCHES[0])
        np.testing.assert_allclose(weight_of(step), weight_of(in_graph), rtol=1e-6)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def steps_in_each_precision() -> dict[str, tuple]:
    """One step of the same tiny network from the same weights: loss, then (weights and statistics) after it."""
    rng = np.random.default_rng(1)
    clips, labels = rng.standard_normal((8, 3, 4, 16, 16)).astype(np.float32), np.arange(8, dtype=np.int32) % 3
    start, results = {}, {}
    for level in ("O0", "O2", "O3"):
        network = TinyNetwork()
        start = start or parameter_values(network)
        weights.assign(network, start, source="test")
        set_amp_level(network, level)
        settings = Optimizer(loss_scale=128.0)
        step = TrainStep(NetworkWithLoss(network, nn.Identity()), make_optimizer(settings, network, [0.1]), settings)
        step.set_train(True)
        loss = run_step(step, clips, labels)
        results[level] = (loss, parameter_values(network))
    results["start"] = (0.0, start)
    return results


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_half_precision_step_is_close_state_is_float32(steps_in_each_precision, level):
    loss, after = steps_in_each_precision[level]
    expected_loss, expected = steps_in_each_precision["O0"]
    start = steps_in_each_precision["start"][1]
    assert loss == pytest.approx(expected_loss, rel=5e-3) and loss != expected_loss
    assert {value.dtype for value in after.values()} == {np.dtype(np.float32)}
    for kind, close in (("moving_variance", 0.99999), ("moving_mean", 0.9999), ("weight", 0.999)):
        moved, expected_move = (
            np.concatenate([(values[name] - start[name]).ravel() for name in start if name.endswith(kind)])
            for values in (after, expected)
        )
        cosine = moved @ expected_move / np.linalg.norm(moved) / np.linalg.norm(expected_move)
        assert cosine > close, kind
    statistics = np.concatenate([after[name] for name in start if name.endswith("moving_variance")])
    assert (statistics != statistics.astype(np.float16)).any(), "statistics are rounded to float16"
