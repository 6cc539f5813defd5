"""One optimizer step as one graph: normalise, forward, loss, backward, update."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from train.config import Optimizer


class Loss(nn.Cell):
    """Mean softmax cross-entropy of a batch of stored clips, times the loss scale, and the logits."""

    def __init__(self, network: nn.Cell, normalize: nn.Cell, loss_scale: float) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize
        self.loss_scale = loss_scale
        self.cross_entropy = nn.CrossEntropyLoss()

    def construct(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, H, W, 3) uint8 and (N,) int32 -> scaled loss, logits (N, K)."""
        logits = self.network(self.normalize(clips))
        return self.cross_entropy(logits, labels) * self.loss_scale, logits


class TrainStep(nn.Cell):
    """Forward, backward and update in one graph; returns the unscaled loss and the logits."""

    def __init__(self, loss: Loss, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.optimizer = optimizer
        self.gradients = ms.value_and_grad(loss, None, optimizer.parameters, has_aux=True)

    def construct(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step; the optimizer divides the gradients by its loss scale."""
        (loss, logits), gradients = self.gradients(clips, labels)
        self.optimizer(gradients)
        return loss / self.loss.loss_scale, logits


def make_optimizer(settings: Optimizer, network: nn.Cell, rates: list[float]) -> nn.Momentum:
    """Momentum SGD over every trainable parameter.

    The parameters go in as a group: without one MindSpore leaves gamma and beta out of weight decay, and torchvision
    and the seed's published recipe do not.
    """
    return nn.Momentum(
        params=_groups(network, rates, settings.layer_lr_decay),
        learning_rate=Tensor(np.array(rates, np.float32)),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        loss_scale=settings.loss_scale,
        use_nesterov=False,
    )


def _groups(network: nn.Cell, rates: list[float], decay: float) -> list[dict[str, Any]]:
    """Trainable parameters; with a decay, a group and its rates for each stage of a VideoResNet, the head's first."""
    if decay == 1.0:
        return [{"params": network.trainable_params()}]
    stages = [stage.trainable_params() for stage in reversed(network.stages)]
    return [
        {"params": parameters, "lr": Tensor(np.array(rates, np.float32) * decay**depth)}
        for depth, parameters in enumerate(stages)
        if parameters  # a frozen stage has none
    ]
