"""The configured network, alone and behind its normalisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from model import nthwc, r2plus1d
from pipeline.common.errors import UserError
from train import pretrained
from train.augment import Normalize
from train.config import Config, Model
from train.exported import MindirNetwork
from train.origin import warn_of_other_frames


class Predictor(nn.Cell):
    """Normalisation and network in one graph: (N, T, H, W, 3) uint8 -> (N, num_classes) logits."""

    def __init__(self, network: nn.Cell, normalize: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def construct(self, clips: Tensor) -> Tensor:
        """Logits of a batch of stored clips."""
        return self.network(self.normalize(clips))


NETWORKS = {
    "R2Plus1d18": r2plus1d.r2plus1d_18,
    "R2Plus1d34": r2plus1d.r2plus1d_34,
    "R2Plus1d50": r2plus1d.r2plus1d_50,
    "R3d18": r2plus1d.r3d_18,
    "R3d34": r2plus1d.r3d_34,
    "MC3d18": r2plus1d.mc3_18,
}
"""The networks by `model.type`."""


def build_network(settings: Model) -> r2plus1d.VideoResNet:
    """The network of the `model` section, with fresh weights.

    Raises:
        UserError: its strides or its layout do not suit its type.
    """
    layout = settings.layout
    if layout == "auto":
        on_gpu = ms.get_context("device_target") == "GPU"
        layout = "NTHWC" if on_gpu and settings.type.startswith("R2Plus1d") else "NCTHW"
    try:
        network = NETWORKS[settings.type](
            num_classes=settings.num_classes,
            stage_channels=settings.stage_channels,
            stage_strides=settings.stage_strides,
            midplanes=settings.midplanes,
            bn_eps=settings.bn_eps,
        )
        if layout == "NTHWC":
            nthwc.to_nthwc(network)
    except ValueError as error:
        raise UserError(f"model (type {settings.type}): {error}") from None
    network.freeze(settings.freeze_stages)
    return network


def load_predictor(config: Config, path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """What scores stored clips, out of a .ckpt, .safetensors or .pth of the `model` section, or out of a .mindir.

    It warns when the weights were trained on frames of another recipe.

    Args:
        config: its `model`, `data_loader.eval` and `preprocess` sections count.
        path: the file.

    Returns:
        A function from clips (N, T, H, W, 3) uint8 to logits (N, num_classes), and what was saved with the weights.

    Raises:
        UserError: the file is missing, damaged or does not fit the settings.
    """
    normalize = Normalize.of(config.data_loader.eval.map)
    if path.suffix == ".mindir":
        exported = MindirNetwork(path)
        exported.check(config, path)
        warn_of_other_frames(exported.facts, config.preprocess, path)
        return lambda clips: exported(normalize(clips)), exported.facts
    network = build_network(config.model)
    state = pretrained.load(path, network)
    warn_of_other_frames(state, config.preprocess, path)
    predictor = Predictor(network, normalize)
    predictor.set_train(False)
    return predictor, state


def check_classes(settings: Model, label_ids: NDArray[np.int32], class_names: list[str], where: str) -> None:
    """Refuse labels the network has no logit for.

    Args:
        settings: the `model` section.
        label_ids: (V,) of the videos, -1 where unlabelled.
        class_names: label of each label_id.
        where: which ledger they are from, for the message.

    Raises:
        UserError: naming both numbers.
    """
    highest = int(label_ids.max(initial=-1))
    if highest >= settings.num_classes:
        raise UserError(
            f"model.num_classes: got {settings.num_classes}, but {where} has label_id {highest}; "
            f"set it to {max(len(class_names), highest + 1)}"
        )
