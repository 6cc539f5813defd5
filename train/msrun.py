"""Train on several devices: MindSpore's msrun, and what it lacks.                            (make train DEVICES=N)

    python -m train.msrun --devices 2 [--port 8118] -c train/configs/sample.yaml [...]

msrun starts and watches the processes.  It ends with 1 whatever they end with, and on Ctrl-C it kills them before they
can save.  So each of them notes its exit code, which becomes this command's, and SIGTERM and Ctrl-C go to them instead
of to msrun.  Logs are in runs/msrun; all other arguments are those of train.train.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.common import cli
from train.device.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Train on several devices."""
    parser = argparse.ArgumentParser(
        prog="python -m train.msrun", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--devices", type=int, required=True, help="processes to start, one a device")
    parser.add_argument("--port", type=int, default=8118, help="where they meet (default %(default)s)")
    args, words = parser.parse_known_args(argv)
    if args.devices < 1:
        parser.error(f"--devices: got {args.devices}, expected at least 1")
    cli.set_up_logging()
    cli.say_target("logs of the processes in runs/msrun")
    program = ["-m", "train.train", "--train.run_distribute=true", *words]
    return launch(program, devices=args.devices, port=args.port, log_dir=Path("runs/msrun"))


if __name__ == "__main__":
    cli.run(main)
