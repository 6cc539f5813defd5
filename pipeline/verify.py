"""Check every shard against its checksums, its plan and the ledgers.                      (make verify)

    python -m pipeline.verify -c FILE [--repair [--accept-loss]]

Reads every stored byte.  Prints each discrepancy with its shard, its video, what was expected and what is there.
`--repair` decodes corrupted and missing videos again, copies all others, and fills the ledgers in again.
"""

from __future__ import annotations

from pipeline.common import cli, recipe
from pipeline.common.recipe import Preprocess
from pipeline.execution.verification import verify_store
from pipeline.ledger.table import ledger_folder


def main(argv: list[str] | None = None) -> int:
    """Verify the store that the configuration names."""
    parser = cli.parser("pipeline.verify", __doc__ or "", sections={"preprocess": Preprocess})
    parser.add_argument("--repair", action="store_true", help="decode corrupted and missing videos again")
    parser.add_argument("--accept-loss", action="store_true",
                        help="with --repair: also without the videos that cannot be recovered")  # fmt: skip
    args, document = cli.parse(parser, argv)
    if args.accept_loss and not args.repair:
        parser.error("--accept-loss only applies to --repair. Add --repair.")
    cli.set_up_logging()
    settings = recipe.load(document)
    repaired = f"shards in {settings.store}, and ledgers in {ledger_folder(settings)}"
    cli.say_target(repaired if args.repair else "nothing")
    return verify_store(settings, repair=args.repair, accept_loss=args.accept_loss)


if __name__ == "__main__":
    cli.run(main)
