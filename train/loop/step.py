"""One optimizer step of the trainer as one graph: normalise, forward, loss, backward, average, clip, update."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from train.experiment.sections import Optimizer

DYNAMIC_SCALE_START = 2.0**16
DYNAMIC_SCALE_WINDOW = 2000  # steps without an overflow until the scale is doubled

add = ops.MultitypeFuncGraph("add")
multiply = ops.MultitypeFuncGraph("multiply")
sum_of_squares = ops.MultitypeFuncGraph("sum_of_squares")
accumulate = ops.MultitypeFuncGraph("accumulate")
clear = ops.MultitypeFuncGraph("clear")
move_average = ops.MultitypeFuncGraph("move_average")
exchange = ops.MultitypeFuncGraph("exchange")


@add.register("Tensor", "Tensor")
def _add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


@multiply.register("Tensor", "Tensor")
def _multiply(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


@sum_of_squares.register("Tensor")
def _sum_of_squares(gradient: Tensor) -> Tensor:
    return ops.square(gradient).sum()


@accumulate.register("Tensor", "Tensor")
def _accumulate(total: Tensor, gradient: Tensor) -> Tensor:
    return ops.assign_add(total, gradient)


@clear.register("Tensor")
def _clear(total: Tensor) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))


@exchange.register("Tensor", "Tensor")
def _exchange(a: Tensor, b: Tensor) -> Tensor:
    copy = a * 1.0  # to the bit
    ops.assign(a, b)
    return ops.assign(b, copy)


@move_average.register("Tensor", "Tensor", "Tensor")
def _move_average(decay: Tensor, average: Tensor, weight: Tensor) -> Tensor:
    return ops.assign(average, average * decay + weight * (1 - decay))


class NetworkWithLoss(nn.Cell):
    """Mean softmax cross-entropy of a batch of stored clips."""

    def __init__(self, network: nn.Cell, normalize: nn.Cell, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize
        self.cross_entropy = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def construct(
        self, clips: Tensor, labels: Tensor, scale: Tensor, dropout_factors: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, T, H, W, 3) uint8 and (N,) int32 -> loss times `scale`, loss, logits (N, K) float32."""
        clips = self.normalize(clips)
        logits = self.network(clips) if dropout_factors is None else self.network(clips, dropout_factors)
        logits = logits.astype(ms.float32)
        loss = self.cross_entropy(logits, labels)
        return loss * scale, loss, logits


class Exchange(nn.Cell):
    """Exchanges the values of two lists of parameters.

    It is a graph because in MindSpore 2.10 a graph no longer updates a parameter that got new data by `set_data` after
    the graph was compiled.
    """

    def __init__(self, ours: ParameterTuple, theirs: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.ours, self.theirs = ours, theirs
        self.all = ops.HyperMap()

    def construct(self) -> bool:
        """Exchange the values; always returns True."""
        self.all(exchange, self.ours, self.theirs)
        return True


class TrainStep(nn.Cell):
    """Forward, backward and update of one batch, or of a group of batches whose gradients are averaged.

    A step whose gradients are not all finite changes no weight and no average; the learning-rate schedule counts it.

    Args:
        loss: computes the loss and the logits.
        optimizer: from `make_optimizer`.
        settings: the `optimizer` section.
        group_size: batches of one optimizer step.
        world: number of devices whose gradients are averaged (data parallel).

    Attributes:
        scale: the loss is multiplied by it before the backward pass.
        left_out: int32, updates skipped in a row so far because gradients were not finite.
        average: moving average of the weights, empty without `ema_decay`.
    """

    def __init__(
        self,
        loss: NetworkWithLoss,
        optimizer: nn.Optimizer,
        settings: Optimizer,
        *,
        group_size: int = 1,
        world: int = 1,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.optimizer = optimizer
        self.group_size = group_size
        self.gradients = ms.value_and_grad(loss, None, optimizer.parameters, has_aux=True)
        self.totals = optimizer.parameters.clone(prefix="totals", init="zeros") if group_size > 1 else ()
        self.reducer = nn.DistributedGradReducer(optimizer.parameters, True, world) if world > 1 else nn.Identity()
        self.dynamic = settings.loss_scale == "dynamic"
        if self.dynamic:
            self.scale = Parameter(Tensor(DYNAMIC_SCALE_START, ms.float32), name="loss_scale", requires_grad=False)
            self.steps_without_overflow = Parameter(
                Tensor(0, ms.int32), name="steps_without_overflow", requires_grad=False
            )
        else:
            self.scale = Tensor(settings.loss_scale, ms.float32)
        self.left_out = Parameter(Tensor(0, ms.int32), name="left_out", requires_grad=False)
        self.clip_norm = settings.clip_norm
        self.ema_decay = None if settings.ema_decay is None else Tensor(settings.ema_decay, ms.float32)
        self.average = optimizer.parameters.clone(prefix="average", init="same") if settings.ema_decay else ()
        self.exchange = Exchange(optimizer.parameters, self.average)
        self.all = ops.HyperMap()

    def construct(
        self, clips: Tensor, labels: Tensor, last: bool = True, dropout_factors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Train on one batch; returns its loss, and logits (N, K) float32.

        With `last`, the batch completes its group and the weights are updated.  `dropout_factors` is dropout
        (train/loop/dropout.py) or None.
        """
        (_scaled, loss, logits), gradients = self.gradients(clips, labels, self.scale, dropout_factors)
        if self.group_size > 1:
            if not last:
                self.all(accumulate, self.totals, gradients)
                return loss, logits
            gradients = self.all(add, self.totals, gradients)
            self.all(clear, self.totals)
        gradients = self.all(ops.partial(multiply, 1 / (self.scale * self.group_size)), gradients)
        gradients = self.reducer(gradients)
        finite = ms.amp.all_finite(gradients)
        if self.clip_norm is not None:
            norm = ops.sqrt(ops.addn(self.all(sum_of_squares, gradients)))
            gradients = self.all(ops.partial(multiply, ops.minimum(self.clip_norm / (norm + 1e-6), 1.0)), gradients)
        if finite:
            self.optimizer(gradients)
            if self.ema_decay is not None:
                self.all(ops.partial(move_average, self.ema_decay), self.average, self.optimizer.parameters)
            ops.assign(self.left_out, Tensor(0, ms.int32))
        else:
            ops.assign_add(self.optimizer.global_step, Tensor([1], ms.int32))
            ops.assign_add(self.left_out, Tensor(1, ms.int32))
        if self.dynamic:
            self.adjust_scale(finite)
        return loss, logits

    def adjust_scale(self, finite: Tensor) -> None:
        """Halve the loss scale after an overflow; double it after many steps without one."""
        steps = ops.select(finite, self.steps_without_overflow + 1, 0)
        grown = ops.select(steps == DYNAMIC_SCALE_WINDOW, self.scale * 2, self.scale)
        ops.assign(self.scale, ops.select(finite, grown, ops.maximum(self.scale / 2, 1.0)))
        ops.assign(self.steps_without_overflow, steps % DYNAMIC_SCALE_WINDOW)

    def state(self) -> dict[str, Parameter]:
        """What a resumed run needs besides the network's weights: moments, step, loss scale, average.

        It does not include learning rates and momentum, which are in the configuration, the sums inside a group, which
        are zero between steps, and the number of skipped updates.
        """
        excluded = {id(parameter) for parameter in [*self.loss.network.get_parameters(), *self.totals, self.left_out]}
        return {
            parameter.name: parameter
            for parameter in self.get_parameters()
            if id(parameter) not in excluded and not parameter.name.startswith(("learning_rate", "momentum"))
        }

    def swap_average(self) -> None:
        """Exchange the weights and their moving average; does nothing without `ema_decay`."""
        if self.ema_decay is not None:
            self.exchange()


def make_optimizer(settings: Optimizer, network: nn.Cell, rates: list[float]) -> nn.Momentum:
    """Momentum SGD over every trainable parameter.

    The parameters are passed as a group, because otherwise MindSpore applies no weight decay to gamma and beta;
    torchvision and zjut_mindvideo's published recipe do.
    """
    return nn.Momentum(
        params=_groups(network, rates, settings.layer_lr_decay),
        learning_rate=Tensor(np.array(rates, np.float32)),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        loss_scale=1.0,  # TrainStep divides by the scale before it averages and clips
        use_nesterov=False,
    )


def _groups(network: nn.Cell, rates: list[float], decay: float) -> list[dict[str, Any]]:
    """Groups of trainable parameters: one without `decay`, else one with its rates for each stage, head first."""
    if decay == 1.0:
        return [{"params": network.trainable_params()}]
    stages = [stage.trainable_params() for stage in reversed(network.stages)]
    return [
        {"params": parameters, "lr": Tensor(np.array(rates, np.float32) * decay**depth)}
        for depth, parameters in enumerate(stages)
        if parameters  # a frozen stage has none
    ]
