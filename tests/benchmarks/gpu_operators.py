"""Every operator of training and evaluation once: what it gives on one device is compared with what a CPU gave.

A case is a function or one of the project's own cells.  It gives its outputs, and where it has them its gradients and
the statistics it keeps.  In float16 it has the same inputs, which float16 holds exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import train  # noqa: F401  before mindspore

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from model import channels_last
from model.r2plus1d import SpatialMaxPool, batch_norm, conv
from train.experiment.sections import Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network.normalize import Normalize

Format = Literal["float32", "TF32", "float16"]
FORMATS: tuple[Format, ...] = ("float32", "TF32", "float16")
Arrays = list[np.ndarray]

# How far a case may be off by its kind and the format: of the largest number of each array.
TOLERANCES = {
    "exact": {"float32": 1e-6, "TF32": 1e-6, "float16": 1e-6},
    "simple": {"float32": 1e-5, "TF32": 1e-5, "float16": 5e-3},
    "norm": {"float32": 1e-4, "TF32": 1e-4, "float16": 5e-3},
    "product": {"float32": 1e-4, "TF32": 3e-3, "float16": 5e-3},
    "steps": {"float32": 1e-3, "TF32": 5e-3, "float16": 5e-3},
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: of the operators.
        kind: of the tolerance.
        run: gives the arrays; it is called with whether to compute in float16.
        formats: in which it makes sense.
    """

    name: str
    kind: str
    run: Callable[[bool], Arrays]
    formats: tuple[Format, ...] = FORMATS

    def arrays(self, number_format: Format) -> Arrays:
        """Run it; a CPU computes in float32."""
        return self.run(number_format == "float16" and ms.get_context("device_target") == "GPU")


def draw(name: str, *shape: int) -> np.ndarray:
    """Normal numbers in float32, a function of the name, which float16 holds exactly."""
    numbers = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return numbers.astype(np.float16).astype(np.float32)


def flat(values: Any) -> Arrays:
    """Whatever a graph gave, as arrays; float16 as float32."""
    if isinstance(values, tuple | list):
        return [array for value in values for array in flat(value)]
    array = values.asnumpy()
    return [array.astype(np.float32) if array.dtype == np.float16 else array]


def difference(ours: Arrays, expected: Arrays) -> float:
    """The largest one, relative to the largest number of its array; infinite where shapes, NaN or infinity differ."""
    if len(ours) != len(expected):
        return float("inf")
    worst = 0.0
    for one, other in zip(ours, expected, strict=True):
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return float("inf")
        one, other = (np.where(np.isfinite(array), array, 0).astype(np.float64) for array in (one, other))
        worst = max(worst, float(np.abs(one - other).max(initial=0) / max(np.abs(other).max(initial=0), 1e-6)))
    return worst


# --- functions -------------------------------------------------------------------------------------------------------
def arithmetic(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return a + b, a - b, a * b, a / b, -a, a * 1.5, ops.square(a), ops.addn([a, b, a])


def functions(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return ops.sqrt(a), ops.exp(a), ops.log(b), ops.reciprocal(b), ops.abs(a)


def choices(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return (ops.maximum(a, b), ops.minimum(a, b), ops.select(a > b, a, b), (a == a).astype(ms.float32),
            ops.isfinite(a / (b - b)).astype(ms.float32), ops.zeros_like(a))  # fmt: skip


def reductions(a: Tensor) -> tuple[Tensor, ...]:
    return a.sum(), a.sum(1), a.mean((2, 3)), ops.square(a).sum(), ops.relu(a)


def shapes(a: Tensor) -> tuple[Tensor, ...]:
    return (a.transpose(0, 2, 3, 1), a.reshape(4, -1), ops.concat((a, a * 2), 1), a[:2, 1:],
            ops.slice(a, (0, 0, 1, 0), (4, 2, 3, 5)), ops.Pad(((0, 0), (0, 3), (0, 0), (1, 0)))(a))  # fmt: skip


def clips(a: Tensor) -> tuple[Tensor, ...]:
    return a.transpose(0, 2, 3, 4, 1), a.transpose(0, 4, 1, 2, 3), a.mean((2, 3, 4))


def conversions(pixels: Tensor, a: Tensor) -> tuple[Tensor, ...]:
    return pixels.astype(ms.float32), pixels.astype(ms.float16), a.astype(ms.float16), a.astype(ms.float16) * 2


def whole_numbers(a: Tensor) -> tuple[Tensor, ...]:
    return a + 1, a % 3, a == 4, a < 4, ops.gather(a, a[:2], 0)


def matmul(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return (ops.matmul(a, b), ops.MatMul(transpose_b=True)(a, b.transpose(1, 0)), ops.MatMul(transpose_a=True)(b, b))


class Gradients(nn.Cell):
    """The gradients of half the sum of squares of a function's outputs: each output is its own cotangent."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], num_inputs: int) -> None:
        super().__init__(auto_prefix=False)
        self.function = function
        self.gradient = ms.grad(self.energy, tuple(range(num_inputs)))

    def energy(self, *inputs: Tensor) -> Tensor:
        total = 0.0
        for out in self.function(*inputs):
            total = total + 0.5 * ops.square(out.astype(ms.float32)).sum()
        return total

    def construct(self, *inputs: Tensor) -> Any:
        return self.gradient(*inputs)


def of_function(
    function: Callable[..., tuple[Tensor, ...]], *inputs: np.ndarray, gradient: bool = False
) -> Callable[[bool], Arrays]:
    """What a function gives, as a graph, and its gradients."""

    def run(half: bool) -> Arrays:
        given = [Tensor(x, ms.float16) if half and x.dtype == np.float32 else Tensor(x) for x in inputs]
        arrays = flat(ms.jit(function)(*given))
        return arrays + (flat(Gradients(function, len(given))(*given)) if gradient else [])

    return run


# --- cells -----------------------------------------------------------------------------------------------------------
class WithGradients(nn.Cell):
    """A cell's output and, of its weighted sum, the gradients for input and parameters, in one forward pass."""

    def __init__(self, cell: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell
        parameters = ms.ParameterTuple(cell.trainable_params())
        self.gradients = ms.value_and_grad(self.weighted, 0, parameters, has_aux=True)

    def weighted(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        out = self.cell(x)
        return (out.astype(ms.float32) * weights).sum(), out

    def construct(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Any]:
        (_sum, out), gradients = self.gradients(x, weights)
        return out, gradients


def of_cell(
    make: Callable[[], nn.Cell], name: str, x: np.ndarray, out: tuple[int, ...], *, training: bool = True
) -> Callable[[bool], Arrays]:
    """Output, gradients and kept statistics of a cell whose parameters are functions of `name`."""

    def run(half: bool) -> Arrays:
        cell = make()
        for parameter in cell.get_parameters():
            if "moving" not in parameter.name:
                scale = np.float32(0.2 if parameter.ndim > 1 else 0.5)
                values = draw(f"{name}.{parameter.name.rsplit('.', 1)[-1]}", *parameter.shape) * scale
                parameter.set_data(Tensor(values, parameter.dtype))
        if half and not isinstance(cell, channels_last.BatchNorm | nn.BatchNorm3d):
            cell.to_float(ms.float16)
        given = Tensor(x, ms.float16 if half else ms.float32)
        arrays = flat(WithGradients(cell).set_train(training)(given, Tensor(draw(f"{name}.weights", *out))))
        moving = [each for each in cell.get_parameters() if "moving" in each.name and "wide" not in each.name]
        return arrays + [each.asnumpy() for each in moving]

    return run


def norm_cases() -> Iterator[Case]:
    """Batch norms of both layouts, with the ReLU after them, and with activations whose squares float16 cannot hold."""
    large = np.clip(draw("large", 4, 2, 6, 6, 16) * 2e4, -3e4, 3e4).astype(np.float16).astype(np.float32)
    for name, planes, relu, x in (
        ("norm", 0, False, draw("norm", 2, 4, 10, 10, 16)), ("norm, ReLU", 0, True, draw("relu", 2, 4, 10, 10, 16)),
        ("norm, ReLU, padded", 3, True, draw("padded", 2, 8, 5, 5, 48)), ("norm, large", 0, False, large),
    ):  # fmt: skip
        make = partial(of_norm, x.shape[-1] - planes, planes, relu)
        for training in (True, False):
            key = f"NTHWC {name}, {'training' if training else 'evaluation'}"
            yield Case(key, "norm", of_cell(make, name, x, x.shape, training=training))
    for name, x in (("norm", draw("norm", 2, 16, 4, 5, 5)), ("norm, large", large.transpose(0, 4, 1, 2, 3).copy())):
        for training in (True, False):
            key = f"NCTHW {name}, {'training' if training else 'evaluation'}"
            yield Case(key, "norm", of_cell(partial(batch_norm, 16, 1e-5), name, x, x.shape, training=training))


def of_norm(channels: int, planes: int, relu: bool) -> nn.Cell:
    return channels_last.BatchNorm(batch_norm(channels, 1e-5), planes, relu)


def of_conv(options: tuple[Any, ...], planes: tuple[int, int]) -> nn.Cell:
    return channels_last.Conv(conv(*options), *planes)


def of_plain_conv(options: tuple[Any, ...]) -> nn.Cell:
    return nn.SequentialCell(conv(*options))


def conv_cases() -> Iterator[Case]:
    """The convolutions of R(2+1)D in both layouts, and those of R3D."""
    space, stem, in_time = (2, 4, 10, 10, 16), (2, 4, 16, 16, 3), (2, 8, 5, 5, 48)
    for name, options, planes, x, out in (
        ("in space", (16, 45, (1, 3, 3), (1, 1, 1)), (0, 3), space, (2, 4, 10, 10, 48)),
        ("in space, stride", (16, 24, (1, 3, 3), (1, 2, 2)), (0, 0), space, (2, 4, 5, 5, 24)),
        ("stem", (3, 45, (1, 7, 7), (1, 2, 2)), (0, 3), stem, (2, 4, 8, 8, 48)),
        ("in time", (45, 64, (3, 1, 1), (1, 1, 1)), (3, 0), in_time, (2, 8, 5, 5, 64)),
        ("in time, stride", (45, 64, (3, 1, 1), (2, 1, 1)), (3, 0), in_time, (2, 4, 5, 5, 64)),
        ("shortcut", (16, 32, (1, 1, 1), (2, 2, 2)), (0, 0), space, (2, 2, 5, 5, 32)),
    ):
        make = partial(of_conv, options, planes)
        yield Case(f"NTHWC convolution {name}", "product", of_cell(make, name, draw(name, *x), out))
    for name, options, x, out in (
        ("in space", (16, 45, (1, 3, 3), (1, 2, 2)), (2, 16, 4, 10, 10), (2, 45, 4, 5, 5)),
        ("stem", (3, 45, (1, 7, 7), (1, 2, 2)), (2, 3, 4, 16, 16), (2, 45, 4, 8, 8)),
        ("in time", (45, 64, (3, 1, 1), (2, 1, 1)), (2, 45, 8, 5, 5), (2, 64, 4, 5, 5)),
        ("of R3D", (16, 24, (3, 3, 3), (2, 2, 2)), (2, 16, 4, 10, 10), (2, 24, 2, 5, 5)),
    ):
        make = partial(of_plain_conv, options)
        yield Case(f"NCTHW convolution {name}", "product", of_cell(make, f"3d {name}", draw(name, *x), out))


# --- whole steps -----------------------------------------------------------------------------------------------------
class Small(nn.Cell):
    """A convolution, a batch norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.SequentialCell(conv(3, 8, (1, 3, 3), (1, 2, 2)), batch_norm(8, 1e-5), nn.ReLU())
        self.fc = nn.Dense(8, 5)

    def construct(self, x: Tensor, dropout_factors: Tensor | None = None) -> Tensor:
        x = self.features(x).mean((2, 3, 4))
        return self.fc(x if dropout_factors is None else x * dropout_factors)


def of_steps(options: Optimizer) -> Callable[[bool], Arrays]:
    """Losses of three training steps, the weights after them, and their average where there is one."""

    def run(_half: bool) -> Arrays:
        network = Small()
        for parameter in network.trainable_params():
            values = draw(f"small.{parameter.name}", *parameter.shape) * np.float32(0.3)
            parameter.set_data(Tensor(values))
        loss = NetworkWithLoss(network, nn.Identity())
        step = TrainStep(loss, make_optimizer(options, network, [0.1] * 3), options).set_train(True)
        labels = Tensor(np.array([0, 3, 1, 4], np.int32))
        losses = [step(Tensor(draw(f"clips{n}", 4, 3, 2, 8, 8)), labels)[0].asnumpy() for n in range(3)]
        return losses + [each.asnumpy() for each in (*network.trainable_params(), *step.average)]

    return run


def cross_entropy(_half: bool) -> Arrays:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    labels = Tensor(np.array([1, 0, 9, 4], np.int32))
    return flat(ms.jit(ms.value_and_grad(loss, 0))(Tensor(draw("logits", 4, 10)), labels))


def normalize(_half: bool) -> Arrays:
    pixels = np.random.default_rng(5).integers(0, 256, (2, 3, 6, 5, 3), dtype=np.uint8)
    return flat(Normalize((0.4, 0.5, 0.3), (0.2, 0.25, 0.3))(Tensor(pixels)))


def cases() -> list[Case]:
    """Every case."""
    a, b, wide = draw("a", 4, 5, 6, 7), draw("b", 4, 5, 6, 7), draw("wide", 2, 3, 4, 5, 6)
    positive = [(np.abs(each) + 0.5).astype(np.float16).astype(np.float32) for each in (a, b)]
    pixels, whole = np.arange(96, dtype=np.uint8).reshape(2, 48), np.arange(1, 7, dtype=np.int32)
    every = [
        Case(function.__name__, "simple", of_function(function, *inputs, gradient=True))
        for function, inputs in (
            (arithmetic, (a, positive[1])), (functions, positive), (reductions, (a,)), (shapes, (a,)), (clips, (wide,)),
        )
    ]  # fmt: skip
    pool = of_cell(SpatialMaxPool, "pool", np.abs(draw("pool", 2, 4, 3, 9, 9)), (2, 4, 3, 5, 5))
    dense = of_cell(partial(nn.Dense, 512, 40), "dense", draw("dense", 8, 512), (8, 40))
    once: tuple[Format, ...] = ("float32", "TF32")  # they have no float16
    return [
        *every,
        Case("choices", "simple", of_function(choices, a, b)),
        Case("conversions", "exact", of_function(conversions, pixels, a), once),
        Case("whole_numbers", "exact", of_function(whole_numbers, whole), once),
        Case("normalize", "simple", normalize, once),
        Case("cross_entropy", "simple", cross_entropy, once),
        Case("matmul", "product", of_function(matmul, draw("m", 16, 512), draw("n", 512, 40))),
        Case("linear layer", "product", dense),
        Case("max pool", "simple", pool, once),
        *conv_cases(),
        *norm_cases(),
        Case("training steps", "steps", of_steps(Optimizer(weight_decay=1e-4)), once),
        Case("training steps, every option", "steps",
             of_steps(Optimizer(loss_scale="dynamic", clip_norm=1.0, ema_decay=0.9)), once),
    ]  # fmt: skip
