"""Loads weights or an export as a function from stored clips to logits, or to features, for eval, infer, features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mindspore import Tensor, nn

from model.r2plus1d import VideoResNet
from pipeline.common.errors import UserError
from train.experiment.sections import Config
from train.network.batch_limit import check_batch
from train.network.build import build_network
from train.network.normalize import Normalize
from train.weights.compatibility import warn_if_preprocessed_differently
from train.weights.exported import RUNNERS, ExportedNetwork
from train.weights.load import load_weights


class Predictor(nn.Cell):
    """Normalisation and network in one graph: (N, T, H, W, 3) uint8 -> (N, num_classes) logits."""

    def __init__(self, network: nn.Cell, normalize: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def construct(self, clips: Tensor) -> Tensor:
        """(N, T, H, W, 3) uint8 -> (N, num_classes) logits."""
        return self.network(self.normalize(clips))


def load_predictor(
    config: Config, path: Path, clip_lengths: Iterable[int] = ()
) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """Load a file with weights of the `model` section (train/weights/load.py), or a .mindir or .onnx of `make export`.

    Warns if the weights were trained with different preprocessing.

    Args:
        config: its `model`, `data_loader.eval` and `preprocess` sections are used.
        path: the file.
        clip_lengths: numbers of frames of the clips; without any: `data_loader.eval.dataset.seq`.

    Returns:
        A function from clips (N, T, H, W, 3) uint8 to logits (N, num_classes), and what was saved with the weights.

    Raises:
        UserError: the file is missing, corrupted or does not fit the settings, or a batch is too large for a GPU.
    """
    transforms = config.data_loader.eval.transforms(config.preprocess.frame_size)
    normalize = Normalize(transforms.mean, transforms.std)
    if path.suffix in RUNNERS:
        exported = ExportedNetwork(path)
        exported.check(config, path)
        warn_if_preprocessed_differently(exported.facts, config.preprocess, path)
        return lambda clips: exported(normalize(clips)), exported.facts
    network, state = _load_network(config, path, clip_lengths)
    return Predictor(network, normalize).set_train(False), state


class FeatureExtractor(Predictor):
    """Everything but the network's last layer: (N, T, H, W, 3) uint8 -> (N, dim) features, of which `fc` makes logits.

    Attributes:
        dim: features of a clip.
    """

    def __init__(self, network: VideoResNet, normalize: nn.Cell) -> None:
        super().__init__(network, normalize)
        self.dim: int = network.fc.in_channels
        network.fc = nn.Identity()


def load_feature_extractor(config: Config, path: Path) -> tuple[FeatureExtractor, dict[str, Any]]:
    """Load weights as a function to the features before the last layer.

    Args:
        config: as for `load_predictor`.
        path: the weights; an export has no features.

    Returns:
        The function, and what was saved with the weights.

    Raises:
        UserError: as `load_predictor`, or the file is an export.
    """
    if path.suffix in RUNNERS:
        raise UserError(
            f"{path}: got an export, which gives only logits, expected weights. "
            "Give the checkpoint that it was made from (make: CKPT=FILE)."
        )
    transforms = config.data_loader.eval.transforms(config.preprocess.frame_size)
    network, state = _load_network(config, path)
    extractor = FeatureExtractor(network, Normalize(transforms.mean, transforms.std))
    return extractor.set_train(False), state


def _load_network(config: Config, path: Path, clip_lengths: Iterable[int] = ()) -> tuple[VideoResNet, dict[str, Any]]:
    """The network of the `model` section with a file's weights, and what was saved with them."""
    network = build_network(config.model)
    check_batch(network, config, "eval", clip_lengths)
    state = load_weights(path, network)
    warn_if_preprocessed_differently(state, config.preprocess, path)
    return network, state
