"""Hold what is asked for against what is there, before anything is decoded for it.    (make train and make eval, first)

    python -m train.check -c FILE [--ckpt FILE] [flags of train.train]

Decoding Kinetics takes days; a mistyped key of the training must not wait for it.
"""

from __future__ import annotations

from pathlib import Path

import train
from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from train.config import SECTION_CLASSES, Config, load


class DeviceError(UserError):
    """The device asked for cannot be used on this machine."""


def check_request(config: Config) -> None:
    """Refuse what cannot be had.

    Raises:
        DeviceError: a GPU is asked for, and cannot be used here.
        UserError: a file of weights is not there.
    """
    if config.device_target == "GPU" and train.GPU_FAULT:
        raise DeviceError(f"device_target: got GPU, but {train.GPU_FAULT}; or use --device_target=CPU")
    if config.train.pre_trained and not Path(config.train.pretrained_model).is_file():
        raise UserError(f"train.pretrained_model: got {config.train.pretrained_model!r}, which is not there")


def main(argv: list[str] | None = None) -> int:
    """Check what the configuration and the flags ask for; nothing is said if all can be had."""
    parser = cli.parser(__doc__ or "", sections=SECTION_CLASSES)
    parser.add_argument("--resume", help="as of train.train")
    parser.add_argument("--ckpt", help="weights that are to be used")
    args, document = cli.parse(parser, argv)
    check_request(load(document))
    if args.ckpt and not Path(args.ckpt).is_file():
        raise UserError(f"{args.ckpt}: no such checkpoint")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
