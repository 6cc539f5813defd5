"""Train or evaluate on several devices of this machine, one process each.          (make train DEVICES=N, make eval)

    python -m train.msrun --devices 2 [--port 8118] -c train/configs/sample.yaml [...]

msrun starts and watches the processes.  Its own exit code is 1 for every error, and on Ctrl-C it kills the processes
before they can save.  So each process writes down its exit code, which this command returns, and SIGTERM and Ctrl-C are
sent to the processes instead of msrun.  Logs are in runs/msrun.  All other arguments are passed to train.train, or to
train.evaluate with --program=evaluate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.common import cli
from train.device.launch import launch


def main(argv: list[str] | None = None) -> int:
    """Train or evaluate on several devices; returns the exit code of the first process that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m train.msrun", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--devices", type=int, required=True, help="number of processes, one for each device")
    parser.add_argument("--program", choices=("train", "evaluate"), default="train", help="what to run (default train)")
    parser.add_argument("--port", type=int, default=8118, help="TCP port where they meet (default %(default)s)")
    args, words = parser.parse_known_args(cli.with_args(argv))
    if args.devices < 1:
        parser.error(f"--devices: got {args.devices}, expected at least 1")
    cli.set_up_logging()
    cli.say_target("logs of the processes in runs/msrun")
    program = ["-m", f"train.{args.program}", "--train.run_distribute=true", *words]
    action = "Resume with --resume auto." if args.program == "train" else "Start the evaluation again."
    return launch(program, devices=args.devices, port=args.port, log_dir=Path("runs/msrun"), action=action)


if __name__ == "__main__":
    cli.run(main, resumes=False)
