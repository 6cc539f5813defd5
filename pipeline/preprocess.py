"""Ledgers to shards: every video decoded once.                                        (make preprocess)

    python -m pipeline.preprocess -c FILE [--dry-run]

Reads `<manifests>/<dataset>/<split>.csv`, writes `<store>/<split>-*.h5` and then fills the ledgers in from the shards.
One task writes one shard under a temporary name and publishes it whole, so a run can be stopped at any instant and
gone on with: finished shards are skipped, and the bytes depend neither on the number of jobs nor on the machines.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.common import cli, recipe
from pipeline.common.errors import EXIT_OK
from pipeline.common.recipe import Preprocess
from pipeline.execution.plan import check_recipe, is_finished, plan_shards
from pipeline.execution.run import preprocess_store
from pipeline.ledger.schema import WAITING_STATUSES
from pipeline.ledger.table import ledger_folder, read_ledgers


def main(argv: list[str] | None = None) -> int:
    """Preprocess what the configuration names."""
    made = cli.parser("pipeline.preprocess", __doc__ or "", sections={"preprocess": Preprocess})
    made.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    args, document = cli.parse(made, argv)
    cli.set_up_logging()
    settings = recipe.load(document)
    written = f"shards in {settings.store}, and ledgers in {ledger_folder(settings)}"
    cli.say_target("nothing" if args.dry_run else written)
    if args.dry_run:
        check_recipe(Path(settings.store), settings)
        for split, table in read_ledgers(settings).items():
            todo = [task for task in plan_shards(table, settings, split) if not is_finished(task, settings)]
            pending = int(table["status"].isin(WAITING_STATUSES).sum())
            print(f"{split}: {len(table):,} videos, {pending:,} to decode, {len(todo)} shards to write")
            for task in todo[:5]:
                print(f"  {task.path}: {len(task.videos)} videos, first {task.videos[0].video_id}")
        return EXIT_OK
    return preprocess_store(settings)


if __name__ == "__main__":
    cli.run(main)
