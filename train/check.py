"""Check config, weights and device before hours of decoding.                (make train and make eval run this first)

    python -m train.check -c FILE [--ckpt FILE] [flags of train.train]

Decoding Kinetics takes days, so a mistyped training key is reported before it starts.  Prints nothing if all is well.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from train.device.request import check_request
from train.experiment.load import SECTION_CLASSES, load_config

_COMMON_KEYS = ("device_target", "train.pre_trained", "train.pretrained_model")


def main(argv: list[str] | None = None) -> int:
    """Check the configuration, the weights and the device.

    Raises:
        UserError: one of them cannot be used here.
    """
    parser = cli.parser("train.check", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    parser.add_argument("--resume", help="accepted as in train.train, not checked")
    parser.add_argument("--ckpt", help="a file of weights that must exist")
    args, document = cli.parse(parser, argv)
    check_request(load_config(document))
    if args.ckpt and not Path(args.ckpt).is_file():
        raise UserError(f"{args.ckpt}: checkpoint not found. Give another one with CKPT=FILE.")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
