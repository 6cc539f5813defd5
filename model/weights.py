"""Maps parameter names between this project, torchvision and zjut_mindvideo, and loads weights strictly.

Cells have torchvision's names, so only the last parts differ: MindSpore keeps a BatchNorm3d's parameters in an inner
`bn2d` as gamma, beta, moving_mean and moving_variance.  zjut_mindvideo has the same last parts but other cells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

Head = Literal["same", "new"]

_SHOWN = 5  # problems in the text of an error
_FLOATS = {"float16", "bfloat16", "float32", "float64"}  # what `assign` takes

_BATCH_NORM = {
    "bn2d.gamma": "weight",
    "bn2d.beta": "bias",
    "bn2d.moving_mean": "running_mean",
    "bn2d.moving_variance": "running_var",
}
# Our cells and zjut_mindvideo's; the first match is used.  `1` and `2` number the two convolutions of a block.
_ZJUT = (
    (r"stem\.(.+)", r"conv1.\1"),
    (r"fc\.(.+)", r"classifier.\1"),
    (r"(layer\d\.\d+)\.conv([12])\.0\.3\.(.+)", r"\1.conv12.conv\2_1.features.0.\3"),
    (r"(layer\d\.\d+)\.conv([12])\.0\.(.+)", r"\1.conv12.conv\2_0.features.\3"),
    (r"(layer\d\.\d+)\.conv([12])\.1\.(.+)", r"\1.conv12.conv\2_1.features.1.\3"),
    (r"(layer\d\.\d+)\.conv3\.(.+)", r"\1.conv3.features.\2"),
    (r"(layer\d\.\d+)\.downsample\.(.+)", r"\1.down_sample.features.\2"),
)
# Entries of a checkpoint that are not the network's: PyTorch's batch counters, MindSpore's optimizer.
_NOT_THE_NETWORKS = re.compile(
    r".*\.num_batches_tracked|moments\..+|learning_rate|momentum|global_step|epoch_num|step_num"
)


class WeightsError(ValueError):
    """Weights that do not fit the network; none of them was loaded.

    Attributes:
        problems: one line for each name that is missing, unexpected, of another shape or corrupted.
    """

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        more = len(problems) - _SHOWN
        super().__init__(f"{message}: {'; '.join(problems[:_SHOWN])}" + (f"; and {more} more" if more > 0 else ""))
        self.problems = tuple(problems)


def torchvision_name(name: str) -> str:
    """`stem.1.bn2d.gamma` -> `stem.1.weight`; names without a batch norm are the same in both."""
    for ours, theirs in _BATCH_NORM.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    return name


def zjut_name(name: str) -> str:
    """`layer1.0.conv1.0.0.weight` -> `layer1.0.conv12.conv1_0.features.0.weight`, zjut_mindvideo's name."""
    for pattern, replacement in _ZJUT:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


NAMINGS: dict[str, Callable[[str], str]] = {
    "this project's": lambda name: name,
    "torchvision's": torchvision_name,
    "zjut_mindvideo's": zjut_name,
}


def parameters(network: nn.Cell) -> dict[str, Parameter]:
    """Every weight and buffer of a network by its path in the network, in order.

    `Parameter.name` is not this path: MindSpore adds a prefix when the network is put into another cell.
    `wide_...`, which model/channels_last.py needs within a step, is not included.
    """
    return {name: parameter for name, parameter in network.parameters_and_names() if ".wide_" not in name}


def to_own_names(network: nn.Cell, weights: Mapping[str, NDArray]) -> tuple[dict[str, NDArray], str, list[str]]:
    """Weights under `network`'s own names.

    Args:
        network: has the names to map to.
        weights: arrays by the names in their file, in any of NAMINGS.

    Returns:
        The arrays, where a name that the network does not have is unchanged; the naming of NAMINGS that fits most of
        them; and the names that were left out because they never belong to a network.  If the file has a parameter in
        two namings, the result has it twice, the second time under a name that no network has.
    """
    left_out = [name for name in weights if _NOT_THE_NETWORKS.fullmatch(name)]
    candidates = {
        naming: {their(name): name for name in parameters(network)} for naming, their in NAMINGS.items()
    }  # fmt: skip
    naming = max(candidates, key=lambda each: len(candidates[each].keys() & weights.keys()))
    own = candidates[naming]
    named = {own[name]: array for name, array in weights.items() if name in own}
    for name, array in weights.items():
        if name not in own and name not in left_out:
            named[f"{name} (once more)" if name in named else name] = array
    return named, naming, left_out


def assign(network: nn.Cell, weights: Mapping[str, NDArray], *, source: str, head: Head = "same") -> None:
    """Set every parameter of `network`, all or none.

    Args:
        network: gets the weights.
        weights: arrays by the network's own parameter names.
        source: their file, for the error message.
        head: `new` leaves the last layer, `fc`, unchanged and ignores the weights for it.

    Raises:
        WeightsError: a name is missing, unexpected or of another shape, or a value is no finite float; the
            network is unchanged.
    """
    wanted = parameters(network)
    if head == "new":
        wanted = {name: parameter for name, parameter in wanted.items() if not name.startswith("fc.")}
        weights = {name: array for name, array in weights.items() if not name.startswith("fc.")}
    problems = [f"missing {name} {tuple(wanted[name].shape)}" for name in wanted if name not in weights]
    problems += [f"unexpected {name} {tuple(weights[name].shape)}" for name in weights if name not in wanted]
    problems += [
        f"{name}: got {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in weights and tuple(weights[name].shape) != tuple(parameter.shape)
    ]
    if problems:
        count = f"{len(problems)} error{'s' if len(problems) > 1 else ''}"
        raise WeightsError(f"{source} does not fit this network{_hint(problems, weights)} ({count})", problems)
    problems = [problem for name in wanted if (problem := _bad_values(name, weights[name]))]
    if problems:
        raise WeightsError(f"{source} is corrupted ({len(problems)} of {len(wanted)} parameters)", problems)
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(np.ascontiguousarray(weights[name], dtype=np.float32)))


def other_floats(network: nn.Cell, weights: Mapping[str, NDArray], head: Head = "same") -> str:
    """How many of the arrays that `assign` takes are of floats other than float32, by type; empty for none."""
    counts = Counter(
        weights[name].dtype.name
        for name in parameters(network)
        if name in weights and weights[name].dtype != np.float32 and not (head == "new" and name.startswith("fc."))
    )
    return ", ".join(f"{count} arrays are {kind}" for kind, count in sorted(counts.items()))


def _bad_values(name: str, array: NDArray) -> str:
    """Why an array cannot come from training, in one line, or an empty string; finds many flipped bits."""
    if array.dtype.name not in _FLOATS:
        return f"{name} holds {array.dtype}, expected float32"
    if array.dtype.name == "bfloat16":  # numpy cannot compare them
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        return f"{name} holds values that are not finite"
    if array.dtype == np.float64 and array.size and np.abs(array).max() > np.finfo(np.float32).max:
        return f"{name} holds values that are too large for float32"
    if name.endswith("moving_variance") and array.size and array.min() < 0:
        return f"{name} holds a negative variance"
    return ""


def _hint(problems: list[str], weights: Mapping[str, NDArray]) -> str:
    """What to do if only the number of classes differs."""
    if (
        all(problem.startswith(("fc.weight: got", "fc.bias: got")) for problem in problems)
        and weights["fc.weight"].ndim
    ):
        return (
            f"; only the classes differ: set model.num_classes to {len(weights['fc.weight'])}, or train.head to new to "
            "train your own"
        )
    return ""
