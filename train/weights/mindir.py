"""Runs a .mindir file that `make export` wrote, for evaluation and infer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from pipeline.common.errors import UserError
from train.experiment.sections import Config
from train.weights import sealed_json
from train.weights.sealed_json import JsonError


class ExportedError(UserError):
    """A .mindir that is missing, corrupted, or exported for other clips than those of the settings."""


def facts_path(path: Path) -> Path:
    """`net.mindir` -> `net.mindir.json`, which `make export` writes for users of the file."""
    return path.with_name(f"{path.name}.json")


def read_facts(path: Path) -> dict[str, Any]:
    """What `make export` wrote beside an exported file, after the file was compared with its SHA-256.

    Raises:
        ExportedError: one of the two files is missing or corrupted.
    """
    json_path = facts_path(path)
    if not path.is_file():
        raise ExportedError(f"{path}: file not found. Run `make export`.")
    if not json_path.is_file():
        raise ExportedError(f"{json_path}: missing; it describes the input of {path.name}. Run `make export` again.")
    try:
        facts = sealed_json.read(json_path, path)
        expected, _batch_size = facts["sha256"], facts["input"]["shape"][0]
    except JsonError as error:
        raise ExportedError(f"{json_path}: corrupted: {error}. Run `make export` again.") from None
    except (LookupError, TypeError) as error:
        raise ExportedError(f"{json_path}: corrupted: {error!r}. Run `make export` again.") from None
    if sealed_json.sha256(path) != expected:
        raise ExportedError(f"{path}: corrupted: its SHA-256 differs from {json_path.name}. Run `make export` again.")
    return facts


class MindirNetwork:
    """A .mindir as a function from normalised clips (N, 3, T, H, W) to logits (N, num_classes), for any N.

    Raises:
        ExportedError: see read_facts.
    """

    def __init__(self, path: Path) -> None:
        self.facts = read_facts(path)
        self._graph = nn.GraphCell(ms.load(str(path)))
        self._batch_size = self.facts["input"]["shape"][0]

    def __call__(self, clips: Tensor) -> Tensor:
        """Logits; a file with a fixed batch size is run several times, its last batch filled with zeros."""
        size = self._batch_size
        if size is None:
            return self._graph(clips)
        array = clips.asnumpy()
        count = len(array)
        array = np.concatenate([array, np.zeros((-count % size, *array.shape[1:]), array.dtype)])
        logits = [self._graph(Tensor(array[at : at + size])).asnumpy() for at in range(0, count, size)]
        return Tensor(np.concatenate(logits)[:count])

    def check(self, config: Config, path: Path) -> None:
        """Check that the settings give the clips that the file was exported for.

        Raises:
            ExportedError: they differ, or the JSON beside the file is corrupted.
        """
        loader = config.data_loader.eval
        transforms = loader.transforms(config.preprocess.frame_size)
        given = {
            "clip (T, H, W)": [loader.dataset.seq, *transforms.crop],
            "mean": list(transforms.mean),
            "std": list(transforms.std),
            "model.type": config.model.type,
            "classes": config.model.classes,
        }
        try:
            exported = {
                "clip (T, H, W)": self.facts["input"]["shape"][2:],
                "mean": self.facts["normalisation"]["mean"],
                "std": self.facts["normalisation"]["std"],
                "model.type": self.facts["model"]["type"],
                "classes": self.facts["model"]["num_classes"],
            }
        except (KeyError, TypeError) as error:
            raise ExportedError(f"{facts_path(path)}: corrupted: {error!r}. Run `make export` again.") from None
        for key, value in given.items():
            if exported[key] != value:
                raise ExportedError(
                    f"{path}: exported for {key} {exported[key]}, but the settings give {value}. "
                    "Use the settings of the export, or run `make export` again."
                )
