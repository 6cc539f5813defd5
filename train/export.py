"""Write the network as MINDIR, and check the file by running it.                            (make export)

    python -m train.export -c train/configs/sample.yaml [--export.pretrained_model=FILE]

The exported graph takes normalised clips (N, 3, T, H, W) float32 and gives logits (N, num_classes); a JSON beside it
says how to make such clips and what the classes are.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from pipeline import cli
from pipeline.settings import UserError, to_plain
from train import checkpoint, runtime
from train.config import SECTION_CLASSES, Config, load
from train.network import build_network
from train.run_folder import runs_root

log = logging.getLogger(__name__)

# Largest difference of a logit, relative to the largest logit, between the network and the file it was exported to.
TOLERANCE = 1e-4


class ExportError(UserError):
    """The exported file does not compute what the network does."""

    exit_code = cli.EXIT_UNEXPECTED


def export(network: nn.Cell, shape: tuple[int, int, int, int, int], path: Path) -> float:
    """Export for clips of `shape` (N, 3, T, H, W); returns the difference found by running the file.

    The file appears under its name only once it has been run and agrees.

    Raises:
        ExportError: the reloaded graph's logits differ by more than TOLERANCE.
    """
    network.set_train(False)
    clips = ms.Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    expected = network(clips).asnumpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.mindir")  # MindSpore insists on the ending
    try:
        ms.export(network, clips, file_name=str(temporary), file_format="MINDIR")
        temporary.chmod(0o644)
        found = nn.GraphCell(ms.load(str(temporary)))(clips).asnumpy()
        difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
        if not difference <= TOLERANCE:
            raise ExportError(f"{path}: not written: its logits differ by {difference:.2e} (allowed {TOLERANCE:g})")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def metadata(config: Config, state: dict, shape: tuple[int, ...], source: Path) -> dict:
    """What a user of the file needs: input layout, normalisation, clip length, recipe, classes."""
    normalize = config.data_loader.eval.map.find("VideoNormalize")
    return {
        "checkpoint": source.name,
        "input": {"name": "clips", "layout": "NCTHW", "shape": list(shape), "dtype": "float32"},
        "normalisation": {
            "scale": 1 / 255,
            "mean": normalize and normalize.mean,
            "std": normalize and normalize.std,
        },
        "clip": {
            "mode": config.data_loader.eval.dataset.seq_mode,
            "interval": config.data_loader.eval.dataset.frame_interval,
        },
        "recipe": config.preprocess.stored(),
        "model": to_plain(config.model),
        "classes": state.get("classes", []),
    }


def main(argv: list[str] | None = None) -> int:
    """Export and print where the file is."""
    _args, document = cli.parse(cli.parser(__doc__ or "", sections=SECTION_CLASSES), argv)
    cli.set_up_logging()
    config = load(document)
    runtime.start(config)
    source = Path(config.export.pretrained_model or checkpoint.newest(runs_root(config, document), "best"))
    network = build_network(config.model)
    state = checkpoint.load(source, network)
    options = config.export
    shape = (
        options.batch_size, options.input_channel, config.data_loader.eval.dataset.seq,
        options.image_height, options.image_width,
    )  # fmt: skip
    folder = source.parent.parent / "export" if source.parent.name == "ckpt" else source.parent
    path = folder / f"{options.file_name}.mindir"
    difference = export(network, shape, path)
    checkpoint.write_json(path.with_suffix(".json"), metadata(config, state, shape, source))
    size_mb = path.stat().st_size / 1e6
    print(f"{path}: {size_mb:.1f} MB, input {shape}, reloaded and run: largest difference {difference:.1e}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
