"""Writes the network as MINDIR or ONNX for train.export, and checks the file by running it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn
from numpy.typing import NDArray

from model.r2plus1d import VideoResNet
from pipeline.common.errors import EXIT_UNEXPECTED, UserError
from pipeline.common.files import unfinished
from pipeline.common.settings import to_plain
from train.experiment.sections import Config
from train.weights.exported import RUNNERS, facts_path, require_onnx
from train.weights.sealed_json import replacing_pair

# Largest allowed difference of a logit between the network and its exported file, relative to the largest logit.
TOLERANCE = 1e-4

Shape = tuple[int | None, int, int, int, int]
"""Input (N, 3, T, H, W) of an exported network; N is None if it takes any number of clips."""


class ExportError(UserError):
    """The exported file does not compute the same logits as the network."""

    exit_code = EXIT_UNEXPECTED


def export(network: VideoResNet, shape: Shape, path: Path, facts: dict[str, Any]) -> float:
    """Export, run the file on random clips, and write `facts` beside it; returns the largest difference.

    The file gets its name only after it was run and its logits agree.  If the process is killed, an earlier export is
    still there, or both files are new.

    Args:
        network: exported in evaluation mode.
        shape: of the clips.
        path: ends in .mindir or .onnx, which is the format.
        facts: what a user of the file needs to know; the file's SHA-256 is added.

    Raises:
        ExportError: the reloaded graph's logits differ by more than TOLERANCE.
        ExportedError: the libraries for .onnx files are not installed.
    """
    write = {".mindir": _write_mindir, ".onnx": _write_onnx}[path.suffix]
    if path.suffix == ".onnx":
        require_onnx(path)
    network.set_train(False)
    path.parent.mkdir(parents=True, exist_ok=True)

    def facts_of(digest: str) -> dict[str, Any]:
        return {**facts, "sha256": digest}

    # MindSpore requires the ending.
    with replacing_pair(path, facts_path(path), facts_of, path.suffix) as temporary:
        write(network, shape, temporary, facts)
        temporary.chmod(0o644)
        difference = _difference(network, RUNNERS[path.suffix](temporary), shape)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path}: not written, because its logits differ by {difference:.2e} (allowed {TOLERANCE:g}). "
                "Try the other format (export.file_formate)."
            )
    return difference


def _difference(network: nn.Cell, run: Callable[[NDArray], NDArray], shape: Shape) -> float:
    """Largest difference of a logit between the network and a file, relative to the largest logit.

    A file that takes any number of clips is run with 3 and with 1.
    """
    sizes = (3, 1) if shape[0] is None else (shape[0],)
    clips = np.random.default_rng(0).standard_normal((sizes[0], *shape[1:])).astype(np.float32)
    expected = network(ms.Tensor(clips)).asnumpy()
    differences = [np.abs(run(clips[:size]) - expected[:size]).max() for size in sizes]
    return float(max(differences) / max(np.abs(expected).max(), 1e-12))


def example_clips(shape: Shape) -> ms.Tensor:
    """Clips from which MindSpore traces a network: zeros of `shape`, or only the shape if it takes any number."""
    return ms.Tensor(shape=list(shape), dtype=ms.float32) if shape[0] is None else ms.ops.zeros(shape, ms.float32)


def write_with_mindspore(network: nn.Cell, shape: Shape, path: Path, file_format: str) -> None:
    """`ms.export` to any path: it refuses spaces, quotes and letters beyond ASCII, so it gets the folder by number.

    Args:
        network: exported as it is.
        shape: of the clips.
        path: the file; its folder must exist.
        file_format: MINDIR or AIR.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    name = f".export.{os.getpid()}.tmp.{file_format.lower()}"
    try:
        with unfinished(path.with_name(name)):
            target = f"/proc/self/fd/{folder}/{name}"
            ms.export(network, example_clips(shape), file_name=target, file_format=file_format)
            path.with_name(name).replace(path)
    finally:
        os.close(folder)


def _write_mindir(network: VideoResNet, shape: Shape, path: Path, facts: dict[str, Any]) -> None:
    write_with_mindspore(network, shape, path, "MINDIR")


def _write_onnx(network: VideoResNet, shape: Shape, path: Path, facts: dict[str, Any]) -> None:
    import onnx

    from train.weights.onnx_graph import build_onnx

    onnx.save(build_onnx(network, shape, facts), str(path))


def metadata(config: Config, state: dict[str, Any], shape: Shape, source: Path) -> dict[str, Any]:
    """What a user of the file needs to know: input shape, normalisation, clip length, recipe, classes."""
    transforms = config.data_loader.eval.transforms(config.preprocess.frame_size)
    return {
        "checkpoint": source.name,
        "input": {"layout": "NCTHW", "shape": list(shape), "dtype": "float32"},
        "normalisation": {
            "scale": 1 / 255,
            "mean": list(transforms.mean),
            "std": list(transforms.std),
        },
        "clip": {
            "num_frames": shape[2],
            "mode": config.data_loader.eval.dataset.seq_mode,
            "interval": config.data_loader.eval.dataset.frame_interval,
        },
        "recipe": state.get("recipe") or config.preprocess.stored(),
        "model": to_plain(config.model),
        "classes": state.get("classes", []),
    }
