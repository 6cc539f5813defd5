"""Bring weights from one form into another, exactly.                            (make convert FROM=in TO=out)

    python -m train.convert r2plus1d_18-91a641e6.pth kinetics.ckpt [-c FILE] [--model.type=R2Plus1d18]

Reads torchvision's .pth (needs the extra `convert`), .safetensors, and MindSpore's .ckpt, ours or zjut_mindvideo's;
writes .ckpt for this project, or .safetensors in torchvision's names.  The endings say which.  The weights must be
those of the `model` section, every name and every shape; only `--train.head=new` leaves out the last layer, and
gives it fresh weights and model.num_classes classes.
"""

from __future__ import annotations

import logging
from pathlib import Path

import mindspore as ms
import numpy as np

from model import weights
from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.settings import build
from train.experiment.sections import Model, Train
from train.network.build import build_network
from train.weights import checkpoint
from train.weights.files import write_safetensors
from train.weights.load import MisfitError, load_weights

log = logging.getLogger(__name__)


def convert(source: Path, target: Path, model: Model, train: Train) -> str:
    """Convert; returns one line of what was done.

    Raises:
        UserError: the file cannot be read, or its weights do not fit; nothing is written.
    """
    if target.suffix not in (".ckpt", ".safetensors"):
        raise UserError(f"TO: got {target}, expected an ending of .ckpt or .safetensors (make convert FROM=in TO=out)")
    if source.resolve() == target.resolve():
        raise UserError(f"TO: got {target}, which is FROM itself")
    ms.set_seed(train.seed)  # of a new head
    np.random.seed(train.seed)
    network = build_network(model)
    try:
        facts = load_weights(source, network, head=train.head)
    except MisfitError as error:
        for fault in error.faults:
            log.error("%s", fault)
        raise
    kept = {key: facts[key] for key in ("classes", "videos", "recipe", "recipe_sha256") if facts.get(key)}
    if train.head == "new":
        kept = {}
    facts = {**kept, "model": model.type, "converted_from": source.name}
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".ckpt":
        checkpoint.save_weights(target, network, facts)
    else:
        arrays = {weights.torchvision_name(name): p.asnumpy() for name, p in weights.parameters(network).items()}
        write_safetensors(target, arrays, facts)
    count = sum(parameter.size for parameter in network.get_parameters())
    return f"{target}: {model.type}, {model.classes} classes, {count:,} values from {source}"


def main(argv: list[str] | None = None) -> int:
    """Convert, and print where the file is."""
    parser = cli.parser(
        "train.convert", __doc__ or "", sections={"model": Model, "train": Train}, config=None,
        common=("model.", "train.head", "train.seed"),
    )  # fmt: skip
    parser.add_argument("source", type=Path, metavar="FROM", help=".pth, .safetensors or .ckpt")
    parser.add_argument("target", type=Path, metavar="TO", help=".ckpt or .safetensors")
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    cli.say_target(f"{args.target}")
    print(convert(args.source, args.target, build(Model, document, "model"), build(Train, document, "train")))
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
