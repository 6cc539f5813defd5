"""Decode every video of the ledgers once, into shards.                                 (make preprocess)

    python -m pipeline.preprocess -c FILE [--dry-run] [--accept-loss]

Reads `<manifests>/<dataset>/<split>.csv`, writes `<store>/<split>-*.h5` and then fills the ledgers in from the shards.
One task writes one shard under a temporary name and renames it when it is complete, so a run can be stopped at any
time and resumed: finished shards are skipped, and the bytes depend neither on the number of jobs nor on the machines.
"""

from __future__ import annotations

from pipeline.common import cli, recipe
from pipeline.common.errors import EXIT_OK
from pipeline.common.recipe import Preprocess
from pipeline.execution.run import preprocess_store, print_plan
from pipeline.ledger.table import ledger_folder


def main(argv: list[str] | None = None) -> int:
    """Preprocess what the configuration names."""
    parser = cli.parser("pipeline.preprocess", __doc__ or "", sections={"preprocess": Preprocess})
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and write nothing")
    parser.add_argument("--accept-loss", action="store_true",
                        help="write damaged shards without the videos that cannot be recovered")  # fmt: skip
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    settings = recipe.load(document)
    written = f"shards in {settings.store}, and ledgers in {ledger_folder(settings)}"
    cli.say_target("nothing" if args.dry_run else written)
    if args.dry_run:
        print_plan(settings)
        return EXIT_OK
    return preprocess_store(settings, accept_loss=args.accept_loss)


if __name__ == "__main__":
    cli.run(main)
