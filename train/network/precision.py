"""Sets which cells of a network compute in float16, by `train.amp_level`."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from model import channels_last


def set_amp_level(network: nn.Cell, level: str) -> None:
    """Let a network compute in float16, in place; its parameters stay float32, and so do batch norms' statistics.

    MindSpore's `auto_mixed_precision` would wrap the batch norms, which would rename every parameter in checkpoints.

    Args:
        network: convolutions, batch norms, linear layers.
        level: O0: nothing; O2: convolutions and linear layers; O3: also everything between them: batch norms read and
            write float16, which halves the activations that the backward pass needs.
    """
    if level == "O0":
        return
    for _name, cell in network.cells_and_names():
        if isinstance(cell, (nn.Conv3d, channels_last.Conv, nn.Dense)):
            cell.to_float(ms.float16)
        elif isinstance(cell, (nn.BatchNorm3d, channels_last.BatchNorm)) and level == "O2":
            cell.to_float(ms.float32)
