"""Loads weights into a network from any file of weights that model/weights.py has the names of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mindspore import nn

from model import weights
from pipeline.common.errors import UserError
from pipeline.common.text import printable
from train.weights import checkpoint
from train.weights.files import read_safetensors
from train.weights.pytorch import ENDINGS, is_pytorch, read_pth

log = logging.getLogger(__name__)


class MisfitError(UserError):
    """Weights of another network; `problems` has a line for each name that does not fit."""

    def __init__(self, error: weights.WeightsError, facts: dict[str, Any]) -> None:
        super().__init__(f"{error}; the file has model.type {facts['model']}" if "model" in facts else str(error))
        self.problems = error.problems


def load_weights(path: Path, network: nn.Cell, *, head: weights.Head = "same") -> dict[str, Any]:
    """Load a file's weights, all or none; returns what was saved with them, such as the classes (may be empty).

    Args:
        path: its ending is the format; its names may be any that model/weights.py knows.
        network: gets the weights.
        head: `new` leaves the network's last layer unchanged.

    Raises:
        UserError: the file is missing, corrupted, of another format, or (MisfitError) does not fit.
    """
    if not path.is_file():
        raise UserError(f"{path}: checkpoint not found")
    of_pytorch = is_pytorch(path)
    if path.suffix not in (".ckpt", ".safetensors") and not of_pytorch:
        raise UserError(
            f"{path}: got {path.suffix or 'no ending'!r}, expected a file of weights that ends in .ckpt, .safetensors, "
            f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} (infer and eval also take .mindir and .onnx)"
        )
    facts: dict[str, Any] = {}
    if of_pytorch:
        arrays, where = read_pth(path)
        if where:
            log.info("%s: the weights are those in %s", path, where)
    elif path.suffix == ".ckpt":
        facts = checkpoint.read_state(path)
        if not facts:  # for example another program's file; our training writes both
            log.warning(
                "warning: %s: No .json next to this checkpoint: its checksum and classes cannot be verified.", path
            )
        arrays = checkpoint.read_parameters(path, facts)
    else:
        arrays, facts = read_safetensors(path)
    arrays = {printable(name): array for name, array in arrays.items()}  # a name that changes is no network's
    arrays, naming, left_out = weights.to_own_names(network, arrays)
    log.info("%s: %d arrays with %s", path, len(arrays), naming)
    if left_out:
        log.info(
            "%s: %d entries ignored that are no weights of a network, such as %s", path, len(left_out), left_out[0]
        )
    try:
        weights.assign(network, arrays, source=str(path), head=head)
    except weights.WeightsError as error:
        raise MisfitError(error, facts) from None
    if naming.startswith("mmaction2's") and getattr(network, "bn_eps", 1e-3) != 1e-3:
        log.warning(
            "warning: %s: mmaction2 trained these weights with epsilon 1e-3 in batch norms, here it is %g. Set "
            "model.bn_eps to 1e-3.",
            path, network.bn_eps,
        )  # fmt: skip
    if converted := weights.other_floats(network, arrays, head):
        log.info("%s: %s; converted to float32", path, converted)
    return facts
