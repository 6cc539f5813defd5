"""Build, rebuild, check and compare ledgers: `python -m pipeline.manifests -c FILE`  (make manifests).

The outer join of label CSVs, videos on disk and shards: every CSV row ends in a ledger with a status.
"""

from __future__ import annotations

from pipeline.faults import Fault, ManifestError
from pipeline.ledger import class_names, fill, identity, ledger_path, read, write
from pipeline.schema import BAD_STATUSES, COLUMNS, STATUSES, validate

__all__ = [
    "BAD_STATUSES", "COLUMNS", "STATUSES", "Fault", "ManifestError", "class_names", "fill", "identity",
    "ledger_path", "read", "validate", "write",
]  # fmt: skip
