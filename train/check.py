"""Check config, ledgers, weights and device before hours of decoding.       (make train and make eval run this first)

    python -m train.check -c FILE [--for=VERB] [--with-ledgers] [--ckpt FILE] [flags of the verb]

Decoding Kinetics takes days, so what would stop training or evaluation after it is reported before it starts: once
before `make manifests`, and with `--with-ledgers` after it.  Writes nothing, and prints nothing if all is well.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.files import existing_folder
from pipeline.common.settings import Document
from train.data.ledger_fit import check_ledgers
from train.data.videos import class_names, count_classes
from train.device.request import check_request
from train.evaluation.plan import check_protocols
from train.evaluation.protocols import protocols_of
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.experiment.sections import Config
from train.inference import flags

_OUT = {
    "eval": "--eval.output_dir (make: OUT=DIR)",
    "features": "--output-dir (make: OUT=DIR)",
    "infer": "--infer.output_dir (make: OUT=DIR), or draw nothing with --no-pictures",
}
_COMMON_KEYS = ("device_target", "train.pre_trained", "train.pretrained_model")


def main(argv: list[str] | None = None) -> int:
    """Check everything that can be known now.

    Raises:
        UserError: training or evaluation would be refused later.
    """
    parser = cli.parser("train.check", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _add_purpose(parser)
    parser.add_argument("--with-ledgers", action="store_true", help="also compare with the ledgers")
    parser.add_argument("--devices", type=int, default=1, help="processes that will train together (default 1)")
    parser.add_argument("--resume", metavar="auto|FILE", help="as in train.train")
    parser.add_argument("--ckpt", help="a file of weights or a run folder that must exist")
    words = cli.with_args(argv)
    _add_flags(parser, words)
    args, document = cli.parse(parser, words)
    config = load_config(document, warns=not args.with_ledgers)
    check_request(config)
    if args.ckpt and not Path(args.ckpt).exists():
        raise UserError(f"{args.ckpt}: checkpoint not found. Give another one with CKPT=.")
    if args.purpose == "train":
        check_writable(Path(config.train.ckpt_path), "Set train.ckpt_path to another folder.")
        if args.with_ledgers:
            _check_training(config, document, args)
    else:
        _check_evaluation(config, document, args)
    return EXIT_OK


def _add_purpose(parser: argparse.ArgumentParser) -> None:
    verbs = ("train", "eval", "features", "infer")
    parser.add_argument("--for", dest="purpose", choices=verbs, default="train", help="what will be done")


def _add_flags(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Add the flags of the verb in `--for`, so that a wrong one is found now, too."""
    purpose = argparse.ArgumentParser(add_help=False)
    _add_purpose(purpose)
    verb = purpose.parse_known_args(words)[0].purpose
    if verb == "features":
        parser.add_argument("--output-dir", help="as in train.features")
    elif verb == "infer":
        flags.add_flags(parser)


def check_writable(folder: Path, action: str) -> None:
    """Check that a folder, or the nearest folder above it that exists, can be written, by writing there.

    Raises:
        UserError: it cannot; the message ends with `action`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".check-", dir=existing_folder(folder)):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}. {action}") from None


def _check_training(config: Config, document: Document, args: argparse.Namespace) -> None:
    config = with_num_classes(config, lambda: count_classes(config))
    waiting = check_ledgers(config, trains=True, world=args.devices)
    if not waiting:  # training itself comes next, and checks the rest
        return
    from train.loop.resume import check_before_decoding  # these take MindSpore's seconds
    from train.network.batch_limit import check_batch
    from train.network.build import build_network
    from train.weights.compatibility import check_class_names
    from train.weights.load import load_weights

    check_before_decoding(config, document, class_names(config), args.resume, world=args.devices)
    network = build_network(config.model)
    check_batch(network, config, "train")
    if config.train.eval_epochs:
        check_batch(network, config, "eval", _clip_lengths(config))
    if config.train.pre_trained:
        path = Path(config.train.pretrained_model)
        facts = load_weights(path, network, head=config.train.head)
        if config.train.head == "same":
            check_class_names(facts, class_names(config) or [], path, config.preprocess.dataset)


def _check_evaluation(config: Config, document: Document, args: argparse.Namespace) -> None:
    from train.network.predictor import load_predictor  # these take MindSpore's seconds
    from train.runs.choose import weights_of
    from train.weights.checkpoint import run_of
    from train.weights.compatibility import check_class_names
    from train.weights.record import read_record, with_network

    names = class_names(config) if args.with_ledgers else None  # before `make manifests` they may be out of date
    section = config.infer if args.purpose == "infer" else config.eval
    path = weights_of(args.ckpt or section.pretrained_model, config, document, names)
    config = with_network(config, document, read_record(path), path)
    check_protocols(protocols_of(config.eval.protocols, config.data_loader.eval.dataset), config)
    folder = run_of(path) or path.parent
    if not (args.purpose == "infer" and args.no_pictures):
        check_writable(Path(section.output_dir or folder), f"Give another folder with {_OUT[args.purpose]}.")
    if not args.with_ledgers:
        return
    config = with_num_classes(config, lambda: count_classes(config))
    if check_ledgers(config, trains=False):
        _, facts = load_predictor(config, path, _clip_lengths(config))
        check_class_names(facts, names or [], path, config.preprocess.dataset)


def _clip_lengths(config: Config) -> list[int]:
    """Frames of the clips that the protocols take."""
    options = config.data_loader.eval.dataset
    return [each.clip_len or options.seq for each in protocols_of(config.eval.protocols, options).values()]


if __name__ == "__main__":
    cli.run(main, resumes=False)
