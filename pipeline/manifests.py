"""Build, rebuild, check and compare ledgers: `python -m pipeline.manifests -c FILE`  (make manifests).

The outer join of label CSVs, videos on disk and shards: every CSV row ends in a ledger with a status.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline import cli, recipe
from pipeline.build import build, join
from pipeline.faults import Fault, ManifestError
from pipeline.ledger import class_names, fill, identity, ledger_path, read, write, write_table
from pipeline.matching import by_split
from pipeline.recipe import Preprocess
from pipeline.schema import BAD_STATUSES, COLUMNS, STATUSES, validate

__all__ = [
    "BAD_STATUSES", "COLUMNS", "STATUSES", "Fault", "ManifestError", "build", "class_names", "fill", "identity",
    "ledger_path", "read", "validate", "write",
]  # fmt: skip

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Build or rebuild the ledgers of a dataset."""
    made = cli.parser(__doc__ or "", sections={"preprocess": Preprocess})
    _, document = cli.parse(made, argv)
    cli.set_up_logging()
    settings = recipe.load(document)
    built = join(settings)
    for line in built.verdict:
        log.info(line)
    for line in built.warnings:
        log.warning("warning: %s", line)
    for split, ledger in built.ledgers.items():
        validate(ledger, str(ledger_path(settings, split)))
    for split, ledger in built.ledgers.items():
        path = ledger_path(settings, split)
        write(path, ledger)
        counts = ", ".join(f"{status} {count:,}" for status, count in ledger["status"].value_counts().items())
        print(f"{path}: {len(ledger):,} rows: {counts}")
    for split, rows in by_split(built.extra):
        write_table(ledger_path(settings, split).with_name(f"{split}.extra.csv"), rows)
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
