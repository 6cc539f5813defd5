"""Loads a file of weights or a .mindir as a function from stored clips to logits, for evaluation and infer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindspore import Tensor, nn

from train.experiment.sections import Config
from train.network.build import build_network
from train.network.normalize import Normalize
from train.weights.compatibility import warn_if_preprocessed_differently
from train.weights.load import load_weights
from train.weights.mindir import MindirNetwork


class Predictor(nn.Cell):
    """Normalisation and network in one graph: (N, T, H, W, 3) uint8 -> (N, num_classes) logits."""

    def __init__(self, network: nn.Cell, normalize: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def construct(self, clips: Tensor) -> Tensor:
        """(N, T, H, W, 3) uint8 -> (N, num_classes) logits."""
        return self.network(self.normalize(clips))


def load_predictor(config: Config, path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """Load a file with weights of the `model` section (train/weights/load.py), or a .mindir.

    Warns if the weights were trained with different preprocessing.

    Args:
        config: its `model`, `data_loader.eval` and `preprocess` sections are used.
        path: the file.

    Returns:
        A function from clips (N, T, H, W, 3) uint8 to logits (N, num_classes), and what was saved with the weights.

    Raises:
        UserError: the file is missing, corrupted or does not fit the settings.
    """
    transforms = config.data_loader.eval.transforms(config.preprocess.frame_size)
    normalize = Normalize(transforms.mean, transforms.std)
    if path.suffix == ".mindir":
        exported = MindirNetwork(path)
        exported.check(config, path)
        warn_if_preprocessed_differently(exported.facts, config.preprocess, path)
        return lambda clips: exported(normalize(clips)), exported.facts
    network = build_network(config.model)
    state = load_weights(path, network)
    warn_if_preprocessed_differently(state, config.preprocess, path)
    predictor = Predictor(network, normalize)
    predictor.set_train(False)
    return predictor, state
