"""Weights by name: our parameters in torchvision's naming, and strict loading.

Cells carry torchvision's names, so only the leaves differ: MindSpore keeps a BatchNorm3d's parameters in an inner
`bn2d` as gamma, beta, moving_mean and moving_variance.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

_BATCH_NORM = {
    "bn2d.gamma": "weight",
    "bn2d.beta": "bias",
    "bn2d.moving_mean": "running_mean",
    "bn2d.moving_variance": "running_var",
}


class WeightsError(ValueError):
    """Weights that do not fit the network; nothing of them was loaded."""


def torchvision_name(name: str) -> str:
    """`stem.1.bn2d.gamma` -> `stem.1.weight`; names without a batch norm are the same in both."""
    for ours, theirs in _BATCH_NORM.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    return name


def parameters(network: nn.Cell) -> dict[str, Parameter]:
    """Every weight and buffer of a network by its place in it, in order.

    `Parameter.name` is not that place: MindSpore puts a prefix before it when another cell takes the network in.
    """
    return dict(network.parameters_and_names())


def assign(network: nn.Cell, weights: Mapping[str, NDArray], *, source: str) -> None:
    """Set every parameter of `network`, all or none.

    Args:
        network: takes the weights.
        weights: arrays by the network's own parameter names.
        source: where they come from, for the error message.

    Raises:
        WeightsError: a name is missing, unexpected or of another shape; the network is as it was.
    """
    wanted = parameters(network)
    faults = [f"missing {name} {tuple(wanted[name].shape)}" for name in wanted if name not in weights]
    faults += [f"unexpected {name}" for name in weights if name not in wanted]
    faults += [
        f"{name}: got {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in weights and tuple(weights[name].shape) != tuple(parameter.shape)
    ]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise WeightsError(f"{source} does not fit this network ({len(faults)} of {len(wanted)} parameters): {shown}")
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(np.ascontiguousarray(weights[name], dtype=np.float32)))
