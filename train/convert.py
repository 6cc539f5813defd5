"""Convert weights from one file format to another without changing a value.     (make convert FROM=in TO=out)

    python -m train.convert r2plus1d_18-91a641e6.pth kinetics.ckpt [-c FILE] [--model.type=R2Plus1d18]
    python -m train.convert theirs.pth ours.ckpt --class-order=label_map.txt

Reads PyTorch's .pth, .pt, .pth.tar and .bin, Lightning's .ckpt, .safetensors, and MindSpore's .ckpt, with the names of
this project, torchvision, zjut_mindvideo or mmaction2.  Writes .ckpt for this project, or .safetensors or .pth with
torchvision's names.  The ending of TO is its format.  Every name and shape must match the network: that recorded with a
.ckpt of this project, else the `model` section.  Only with `--train.head=new` the last layer is not read: it gets new
random weights for model.num_classes classes.

`--class-order` puts the outputs of weights that name their classes into the order of a list; weights without names get
those of the list, in its order.
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
from train.experiment.sections import Config, Model, Train
from train.network.build import build_network
from train.weights import checkpoint, sealed_json
from train.weights.class_order import order_classes, read_class_order
from train.weights.files import write_safetensors
from train.weights.load import MisfitError, load_weights
from train.weights.pytorch import write_pth
from train.weights.record import network_of, read_record, with_network

log = logging.getLogger(__name__)


def convert(source: Path, target: Path, model: Model, train: Train, class_order: Path | None = None) -> str:
    """Convert; returns one line that describes the new file.

    Args:
        source: the file to read.
        target: the file to write.
        model: the network of both.
        train: `head` and `seed` are used.
        class_order: a list of class names (train/weights/class_order.py).

    Raises:
        UserError: the file cannot be read, or its weights do not fit; nothing is written.
    """
    if target.suffix not in (".ckpt", ".safetensors", ".pth"):
        raise UserError(
            f"TO: got {target}, expected a name that ends in .ckpt, .safetensors or .pth. "
            "Run `make convert FROM=in TO=out.ckpt`."
        )
    if source.is_dir():
        raise UserError(f"FROM: got {source}, a folder, expected a file. Run `make convert FROM=in TO=out.ckpt`.")
    if source.resolve() == target.resolve():
        raise UserError(f"TO: got {target}, which is FROM too. Choose another name for TO.")
    if class_order is not None and train.head == "new":
        raise UserError("--class-order: a new head (train.head=new) has no classes. Remove one of the two.")
    names = read_class_order(class_order) if class_order is not None else []
    _check_replaceable(target)
    ms.set_seed(train.seed)  # for the random weights of a new head
    np.random.seed(train.seed)
    network = build_network(model)
    try:
        facts = load_weights(source, network, head=train.head)
    except MisfitError as error:
        for problem in error.problems:
            log.error("%s", problem)
        raise
    kept = {key: facts[key] for key in ("classes", "videos", "recipe", "recipe_sha256", "views") if facts.get(key)}
    if train.head == "new":
        kept = {}
    if names and target.suffix == ".pth" and not kept.get("classes"):
        raise UserError(
            f"--class-order: {source} does not name its classes, and {target} has no place for names. Write a .ckpt or "
            "a .safetensors."
        )
    if names:
        log.info("%s: %s", source, order_classes(network, kept.get("classes") or [], names, source))
        kept["classes"] = names
    facts = {**kept, "model": model.type, "network": network_of(model), "converted_from": source.name}
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".ckpt":
        checkpoint.save_weights(target, network, facts)
    else:
        arrays = {weights.torchvision_name(name): p.asnumpy() for name, p in weights.parameters(network).items()}
        if target.suffix == ".safetensors":
            write_safetensors(target, arrays, facts)
        else:
            # PyTorch's batch norms also have a counter, without which load_state_dict fails; inference ignores it.
            for name in [name for name in arrays if name.endswith(".running_var")]:
                arrays[f"{name.removesuffix('running_var')}num_batches_tracked"] = np.zeros((), np.int64)
            write_pth(target, arrays)
            if kept.get("classes"):
                log.info("%s: this format has no place for class names; they are only in %s", target, source)
    count = sum(parameter.size for parameter in network.get_parameters())
    return f"{target}: {model.type}, {model.classes} classes, {count:,} values from {source}"


def _check_replaceable(target: Path) -> None:
    """Check that no file is lost which is not the result of an earlier conversion.

    Raises:
        UserError: `target` or the JSON beside it belongs to something else.
    """
    action = "Choose another name for TO, or move it away."
    if target.exists() and not target.is_file():
        raise UserError(f"TO: {target} is not a file. {action}")
    if target.with_name(f"{target.stem}.optimizer{target.suffix}").is_file():
        raise UserError(f"TO: {target} is a checkpoint of a training, which could not be resumed then. {action}")
    json_path = target.with_suffix(".json")
    if target.suffix == ".ckpt" and json_path.exists():
        try:
            ours = "sha256" in sealed_json.read(json_path)
        except (sealed_json.JsonError, IsADirectoryError):
            ours = False
        if not ours:
            raise UserError(f"TO: {json_path}, which would be replaced, does not describe weights. {action}")


def main(argv: list[str] | None = None) -> int:
    """Convert, and print the new file's path."""
    parser = cli.parser(
        "train.convert", __doc__ or "", sections={"model": Model, "train": Train}, config=None,
        common=("model.", "train.head", "train.seed"),
    )  # fmt: skip
    parser.add_argument("source", type=Path, metavar="FROM", help=".pth, .pt, .pth.tar, .bin, .safetensors or .ckpt")
    parser.add_argument("target", type=Path, metavar="TO", help=".ckpt, .safetensors or .pth")
    parser.add_argument(
        "--class-order", type=Path, metavar="FILE", help="class names in the order that TO shall have, one a line"
    )
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    cli.say_target(f"{args.target}")
    model, train = build(Model, document, "model"), build(Train, document, "train")
    if train.head == "same" and args.source.suffix == ".ckpt" and args.source.is_file():
        model = with_network(Config(model=model), document, read_record(args.source), args.source).model
    print(convert(args.source, args.target, model, train, args.class_order))
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main, resumes=False)
