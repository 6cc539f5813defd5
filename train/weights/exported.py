"""Runs a .mindir or .onnx file that `make export` wrote, for export, evaluation and infer."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from train.experiment.sections import Config
from train.weights import sealed_json
from train.weights.sealed_json import JsonError


class ExportedError(UserError):
    """An exported file that is missing, corrupted, of another network or clips, or that needs a missing library."""


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


def require_onnx(path: Path) -> None:
    """Check that the libraries that write and run .onnx files are installed.

    Raises:
        ExportedError: one is not.
    """
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ExportedError(
                f"{path}: .onnx files need the package {name}, which is not installed. "
                "Run .venv/bin/python -m pip install -e '.[onnx]'."
            )


def run_mindir(path: Path) -> Callable[[NDArray], NDArray]:
    """A .mindir as a function of clips (N, 3, T, H, W) float32; N is that of the file."""
    graph = nn.GraphCell(ms.load(str(path)))
    return lambda clips: graph(Tensor(clips)).asnumpy()


def run_onnx(path: Path) -> Callable[[NDArray], NDArray]:
    """An .onnx as a function of clips (N, 3, T, H, W) float32; N is that of the file.

    Raises:
        ExportedError: onnxruntime is not installed, or cannot load the file.
    """
    require_onnx(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised too
    # Without a number onnxruntime takes every core of the machine, also those that this process must not use.
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    except Exception as error:  # onnxruntime's errors have no common class
        raise ExportedError(
            f"{path}: onnxruntime cannot load it: {(str(error).splitlines() or [repr(error)])[0]}. "
            "Run `make export` again."
        ) from None
    return lambda clips: session.run(None, {name: clips})[0]


RUNNERS = {".mindir": run_mindir, ".onnx": run_onnx}
"""How an exported file becomes a function, by the ending of its name."""


class ExportedNetwork:
    """An exported file as a function from normalised clips (N, 3, T, H, W) to logits (N, num_classes), for any N.

    Raises:
        ExportedError: see read_facts and run_onnx.
    """

    def __init__(self, path: Path) -> None:
        self.facts = read_facts(path)
        self._run = RUNNERS[path.suffix](path)
        self._batch_size = self.facts["input"]["shape"][0]

    def __call__(self, clips: Tensor) -> Tensor:
        """Logits; a file with a fixed batch size is run several times, its last batch filled with zeros."""
        array = clips.asnumpy()
        count, size = len(array), self._batch_size or len(array)
        array = np.concatenate([array, np.zeros((-count % size, *array.shape[1:]), array.dtype)])
        return Tensor(np.concatenate([self._run(array[at : at + size]) for at in range(0, count, size)])[:count])

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
