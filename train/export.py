"""Export the network as MINDIR or ONNX, and check the file by running it.                   (make export)

    python -m train.export -c train/configs/sample.yaml [--export.file_formate=ONNX] [--export.batch_size=dynamic]

The exported graph takes normalised clips (N, 3, T, H, W) float32 and returns logits (N, num_classes).  The JSON beside
it describes how to make such clips and names the classes; an ONNX file also holds this as metadata.  AIR is Ascend's
format, which only Ascend's tools can run, so it is written on an Ascend device only and not checked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import mindspore as ms

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from train.device.select import start_device
from train.experiment.load import SECTION_CLASSES, load_config
from train.network.build import build_network
from train.runs.run_folder import runs_root
from train.weights import checkpoint
from train.weights.export import Shape, _input, export, metadata
from train.weights.load import load_weights
from train.weights.mindir import facts_path

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Export, check the file, and print its path."""
    _args, document = cli.parse(cli.parser(__doc__ or "", sections=SECTION_CLASSES), argv)
    cli.set_up_logging()
    config = load_config(document)
    options = config.export
    device = start_device(config)
    if options.file_formate == "AIR" and device != "Ascend":
        raise UserError(
            f"export.file_formate: got AIR, which only an Ascend device can write; this device is {device}. "
            "Use MINDIR or ONNX."
        )
    source = Path(options.pretrained_model or checkpoint.newest(runs_root(config, document), "best"))
    network = build_network(replace(config.model, layout="NCTHW"))  # every runtime knows its operators
    state = load_weights(source, network)
    shape: Shape = (
        None if options.batch_size == "dynamic" else options.batch_size, options.input_channel,
        config.data_loader.eval.dataset.seq, options.image_height, options.image_width,
    )  # fmt: skip
    folder = source.parent.parent / "export" if source.parent.name == "ckpt" else source.parent
    path = folder / f"{options.file_name}.{options.file_formate.lower()}"
    facts = metadata(config, state, shape, source)
    if options.file_formate == "AIR":
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.export(network.set_train(False), _input(shape), file_name=str(path), file_format="AIR")
        checkpoint.write_json(facts_path(path), facts)
        check = "not checked, because only Ascend's tools can run it"
    else:
        check = f"reloaded and run: largest difference {export(network, shape, path, facts):.1e}"
    size_mb = path.stat().st_size / 1e6
    print(f"{path}: {size_mb:.1f} MB, input {list(shape)}, {check}")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
