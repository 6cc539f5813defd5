"""Weights of any origin into a network: ours, torchvision's or the seed's, from .ckpt, .safetensors or .pth."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mindspore import nn

from model import weights
from pipeline.common.errors import UserError
from train.weights import checkpoint
from train.weights.files import read_pth, read_safetensors

log = logging.getLogger(__name__)


class MisfitError(UserError):
    """Weights of another network; `faults` has a line for each name that does not fit."""

    def __init__(self, error: weights.WeightsError, facts: dict[str, Any]) -> None:
        super().__init__(f"{error}; it was saved from model.type {facts['model']}" if "model" in facts else str(error))
        self.faults = error.faults


def load_weights(path: Path, network: nn.Cell, *, head: weights.Head = "same") -> dict[str, Any]:
    """Load a file's weights, all or none; returns what was saved with them, such as the classes (else nothing).

    Args:
        path: its ending says the form; its names may be any that model/weights.py knows.
        network: takes the weights.
        head: `new` leaves the network's last layer as it is.

    Raises:
        UserError: the file is missing, damaged, of another form, or (MisfitError) does not fit.
    """
    if path.suffix not in (".ckpt", ".safetensors", ".pth"):
        raise UserError(
            f"{path}: got {path.suffix or 'no ending'!r}, expected one of .ckpt, .safetensors, .pth (infer and eval: "
            "or .mindir)"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    facts: dict[str, Any] = {}
    if path.suffix == ".ckpt":
        facts = checkpoint.read_state(path)
        if not facts:  # such as another program's; our training writes both
            log.warning(
                "warning: %s stands alone: the .json that training writes beside it has its SHA-256 and its classes; "
                "without, damage and other classes cannot be told", path,
            )  # fmt: skip
        arrays = checkpoint.read_parameters(path, facts)
    elif path.suffix == ".safetensors":
        arrays, facts = read_safetensors(path)
    else:
        arrays = read_pth(path)
    arrays, naming, left_out = weights.to_own_names(network, arrays)
    log.info("%s: %d arrays in %s names", path, len(arrays), naming)
    if left_out:
        log.info("%s: left out, not the network's: %d, such as %s", path, len(left_out), left_out[0])
    try:
        weights.assign(network, arrays, source=str(path), head=head)
    except weights.WeightsError as error:
        raise MisfitError(error, facts) from None
    return facts
