"""Copies of a network's parameters, for tests that compare them before and after."""

import numpy as np
from mindspore import nn

from model import weights


def parameter_values(network: nn.Cell) -> dict[str, np.ndarray]:
    """The value of each parameter and running statistic, by its name."""
    return {name: parameter.asnumpy().copy() for name, parameter in weights.parameters(network).items()}
