"""A network that `make export` wrote as .mindir, put to use again by evaluation and inference."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from pipeline.common.errors import UserError
from train.experiment.sections import Config


class ExportedError(UserError):
    """A .mindir that is missing, damaged, or made for other clips than the settings give."""


def facts_path(path: Path) -> Path:
    """`net.mindir` -> `net.mindir.json`, where `make export` writes what a user of the file needs to know."""
    return path.with_name(f"{path.name}.json")


def read_facts(path: Path) -> dict[str, Any]:
    """What `make export` wrote beside an exported file, after comparing the file with its SHA-256.

    Raises:
        ExportedError: either file is missing or damaged.
    """
    beside = facts_path(path)
    if not path.is_file():
        raise ExportedError(f"{path}: no such file")
    if not beside.is_file():
        raise ExportedError(f"{beside}: missing; make export writes it, and it says what {path.name} expects")
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
        expected, _batch_size = facts["sha256"], facts["input"]["shape"][0]
    except (ValueError, LookupError, TypeError) as error:
        raise ExportedError(f"{beside}: damaged: {error!r}") from None
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ExportedError(f"{path}: damaged: its SHA-256 is not the one in {beside.name}")
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
        """Logits; a file of a fixed batch is run as often as needed, and its last batch filled up with zeros."""
        size = self._batch_size
        if size is None:
            return self._graph(clips)
        array = clips.asnumpy()
        count = len(array)
        array = np.concatenate([array, np.zeros((-count % size, *array.shape[1:]), array.dtype)])
        logits = [self._graph(Tensor(array[at : at + size])).asnumpy() for at in range(0, count, size)]
        return Tensor(np.concatenate(logits)[:count])

    def check(self, config: Config, path: Path) -> None:
        """Refuse settings whose clips are not those the file was made for.

        Raises:
            ExportedError: naming both; or the JSON beside the file does not say what it was made for.
        """
        loader = config.data_loader.eval
        transforms = loader.transforms(config.preprocess.frame_size)
        here = {
            "clip (T, H, W)": [loader.dataset.seq, *transforms.crop],
            "mean": list(transforms.mean),
            "std": list(transforms.std),
            "model.type": config.model.type,
            "classes": config.model.classes,
        }
        try:
            there = {
                "clip (T, H, W)": self.facts["input"]["shape"][2:],
                "mean": self.facts["normalisation"]["mean"],
                "std": self.facts["normalisation"]["std"],
                "model.type": self.facts["model"]["type"],
                "classes": self.facts["model"]["num_classes"],
            }
        except (KeyError, TypeError) as error:
            raise ExportedError(f"{facts_path(path)}: damaged: {error!r}") from None
        for key, mine in here.items():
            if there[key] != mine:
                raise ExportedError(f"{path}: exported for {key} {there[key]}, but the settings give {mine}")
