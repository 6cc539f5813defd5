"""Make the sample dataset: eight classes that differ only in motion, in the form of Kinetics.

    python -m pipeline.sample [--out data/sample]        (make sample)

Writes `<out>/{train,val,test}/{youtube_id}_{start:06d}_{end:06d}.mp4` and
`<out>/kinetics-sample_{train,val,test}.csv`, the same bytes each time.  Three more rows of train are defective on
purpose: one file is missing, one is truncated, one has sound only.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.common.cli import run, say_target, set_up_logging, with_args
from pipeline.common.errors import UserError
from pipeline.common.recipe import SPLITS
from pipeline.sample_videos.dataset import DEFECTS, make_sample
from pipeline.sample_videos.motion import CLASSES

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sample dataset; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sample", description="Make the sample dataset.", allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("data/sample"), help="folder to make (default %(default)s)")
    for split, count in zip(SPLITS, (320, 96, 16), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"{split} videos (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=-1, help="processes, -1: one for each core (default %(default)s)")
    args = parser.parse_args(with_args(argv))
    counts = {split: getattr(args, split) for split in SPLITS}
    if min(counts.values()) < 0 or args.jobs == 0:
        raise UserError(
            f"got counts {counts} and --jobs {args.jobs}, expected counts of at least 0 and jobs other than 0"
        )
    set_up_logging()
    say_target(f"{args.out}")
    if not make_sample(args.out, counts, args.jobs):
        log.info("%s: the sample exists already. Nothing was changed.", args.out)
    total = " + ".join(f"{counts[split]} {split}" for split in SPLITS)
    print(f"{args.out}: {total} videos of {len(CLASSES)} classes, and {len(DEFECTS)} defective rows in train")
    return 0


if __name__ == "__main__":
    run(main)
