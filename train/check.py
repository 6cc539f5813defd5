"""Hold what is asked for against what is there, before anything is decoded for it.    (make train and make eval, first)

    python -m train.check -c FILE [--ckpt FILE] [flags of train.train]

Decoding Kinetics takes days; a mistyped key of the training must not wait for it.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from train.device.request import check_request
from train.experiment.load import SECTION_CLASSES, load_config

_COMMON_KEYS = ("device_target", "train.pre_trained", "train.pretrained_model")


def main(argv: list[str] | None = None) -> int:
    """Check what the configuration and the flags ask for; nothing is said if all can be had."""
    parser = cli.parser("train.check", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    parser.add_argument("--resume", help="as of train.train")
    parser.add_argument("--ckpt", help="weights that are to be used")
    args, document = cli.parse(parser, argv)
    check_request(load_config(document))
    if args.ckpt and not Path(args.ckpt).is_file():
        raise UserError(f"{args.ckpt}: no such checkpoint")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
