"""Export the network as MINDIR or ONNX, and check the file by running it.                   (make export)

    python -m train.export -c train/configs/sample.yaml [--export.file_formate=ONNX] [--export.batch_size=dynamic]

The exported graph takes normalised clips (N, 3, T, H, W) float32 and returns logits (N, num_classes).  The JSON beside
it describes how to make such clips and names the classes; an ONNX file also holds this as metadata.  AIR is Ascend's
format, which only Ascend's tools can run, so it is written on an Ascend device only and not checked.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.files import write_json
from train.data.videos import class_names, count_classes
from train.device import signals
from train.device.select import start_device
from train.experiment.load import SECTION_CLASSES, with_num_classes
from train.loop.health import memory_errors_in_one_line
from train.network.build import build_network
from train.runs.choose import weights_of
from train.runs.command_line import parse
from train.weights.checkpoint import run_of
from train.weights.compatibility import saved_classes
from train.weights.export import Shape, export, metadata, write_with_mindspore
from train.weights.exported import facts_path
from train.weights.load import load_weights
from train.weights.record import read_record, with_input, with_network

log = logging.getLogger(__name__)

_COMMON_KEYS = ("model.type", "model.num_classes", "train.ckpt_path", "export.", "data_loader.eval.dataset.seq")


def main(argv: list[str] | None = None) -> int:
    """Export, check the file, and print its path."""
    parser = cli.parser("train.export", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document, config = parse(parser, argv, "export")
    options = config.export
    device = start_device(config)
    if options.file_formate == "AIR" and device != "Ascend":
        raise UserError(
            f"export.file_formate: got AIR, which only an Ascend device can write; this device is {device}. "
            "Use MINDIR or ONNX."
        )
    source = weights_of(options.pretrained_model, config, document, class_names(config))
    run = run_of(source)
    folder = source.parent if run is None else run / "export"
    cli.say_target(f"{folder}")
    record = read_record(source)
    config = with_input(with_network(config, document, record, source), document, record, source)
    config = with_num_classes(config, lambda: count_classes(config) or saved_classes(record))
    network = build_network(replace(config.model, layout="NCTHW"))  # every runtime knows its operators
    state = load_weights(source, network)
    shape: Shape = (
        None if options.batch_size == "dynamic" else options.batch_size, options.input_channel,
        config.data_loader.eval.dataset.seq, options.image_height, options.image_width,
    )  # fmt: skip
    path = folder / f"{options.file_name}.{options.file_formate.lower()}"
    facts = metadata(config, state, shape, source)
    if options.file_formate == "AIR":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_with_mindspore(network.set_train(False), shape, path, "AIR")
        write_json(facts_path(path), facts)
        check = "not checked, because only Ascend's tools can run it"
    else:
        size = options.batch_size
        with memory_errors_in_one_line("export.batch_size", size, "Give a smaller number, or smaller clips."):
            difference = export(network, shape, path, facts)
        check = f"reloaded and run: largest difference {difference:.1e}"
    size_mb = path.stat().st_size / 1e6
    print(f"{path}: {size_mb:.1f} MB, input {list(shape)}, {check}")
    return EXIT_OK


if __name__ == "__main__":
    signals.run(main)
