"""One training step against PyTorch's: the 20-step loss curve of torchvision's network (resources/loss_curve.npz)."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import reference_weights
from mindspore import nn

from model import weights
from model.r2plus1d import r2plus1d_18
from train.config import Optimizer
from train.step import Loss, TrainStep, make_optimizer

CURVE = np.load(Path(__file__).parent / "resources" / "loss_curve.npz")


def losses_of(settings: Optimizer, num_steps: int) -> list[float]:
    ms.set_context(mode=ms.GRAPH_MODE)
    network = r2plus1d_18(num_classes=400)
    values = {name: reference_weights.weight(weights.torchvision_name(name), tuple(p.shape))
              for name, p in weights.parameters(network).items()}  # fmt: skip
    values["fc.weight"] *= np.float32(0.05)
    values["fc.bias"][:] = 0
    weights.assign(network, values, source="reference")
    optimizer = make_optimizer(settings, network, [0.001] * num_steps)
    step = TrainStep(Loss(network, nn.Identity(), settings.loss_scale), optimizer)
    step.set_train(True)
    losses = []
    for number in range(num_steps):
        clips, labels = reference_weights.training_batch(number)
        loss, logits = step(ms.Tensor(clips), ms.Tensor(labels))
        losses.append(float(loss.asnumpy()))
        assert logits.shape == (4, 400)
    return losses


def test_follows_pytorchs_loss_curve():
    # With a loss scale, which must cancel out.  PyTorch's own float32 and float64 curves part by 1.7e-5 in 5 steps.
    losses = losses_of(Optimizer(weight_decay=1e-4, loss_scale=1024.0), 5)
    np.testing.assert_allclose(losses, CURVE["loss64"][:5], rtol=5e-5)


@pytest.mark.slow
def test_follows_pytorchs_loss_curve_for_twenty_steps():
    # PyTorch's float32 and float64 curves part by 8e-4 here: the last digits grow with every step.
    losses = losses_of(Optimizer(weight_decay=1e-4, loss_scale=1.0), 20)
    np.testing.assert_allclose(losses, CURVE["loss64"], rtol=2e-3)


def test_weight_decay_reaches_every_parameter():
    # MindSpore alone would leave out the batch norms' gamma and beta.
    network = nn.SequentialCell(nn.Dense(2, 2), nn.BatchNorm1d(2))
    optimizer = make_optimizer(Optimizer(weight_decay=0.5, momentum=0.0), network, [0.1])
    parameters = optimizer.parameters
    before = [p.asnumpy().copy() for p in parameters]
    optimizer(tuple(ms.ops.zeros_like(p) for p in parameters))
    for old, parameter in zip(before, parameters, strict=True):
        np.testing.assert_allclose(parameter.asnumpy(), old * (1 - 0.1 * 0.5), rtol=1e-6)
    assert any("gamma" in p.name and np.abs(p.asnumpy()).max() > 0 for p in parameters)
