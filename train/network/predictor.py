"""What scores stored clips: a network behind its normalisation, out of a file of any form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindspore import Tensor, nn

from train.experiment.sections import Config
from train.network.build import build_network
from train.network.normalize import Normalize
from train.weights.compatibility import warn_of_other_frames
from train.weights.load import load_weights
from train.weights.mindir import MindirNetwork


class Predictor(nn.Cell):
    """Normalisation and network in one graph: (N, T, H, W, 3) uint8 -> (N, num_classes) logits."""

    def __init__(self, network: nn.Cell, normalize: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def construct(self, clips: Tensor) -> Tensor:
        """Logits of a batch of stored clips."""
        return self.network(self.normalize(clips))


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
    transforms = config.data_loader.eval.transforms(config.preprocess.frame_size)
    normalize = Normalize(transforms.mean, transforms.std)
    if path.suffix == ".mindir":
        exported = MindirNetwork(path)
        exported.check(config, path)
        warn_of_other_frames(exported.facts, config.preprocess, path)
        return lambda clips: exported(normalize(clips)), exported.facts
    network = build_network(config.model)
    state = load_weights(path, network)
    warn_of_other_frames(state, config.preprocess, path)
    predictor = Predictor(network, normalize)
    predictor.set_train(False)
    return predictor, state
