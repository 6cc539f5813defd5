"""What is known already of the videos of a ledger, from the ledger before it and from shards.

Rebuilding must not lose it: a `timeout` stays a `timeout` until someone asks (`--forget timeout`) or the file
changes.  A shard is believed about its own videos; a ledger's `ok` is worth as much as its shard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import shards
from pipeline.faults import ManifestError
from pipeline.ledger import fill, ledger_path, read, some
from pipeline.recipe import Preprocess, differences
from pipeline.schema import BAD_STATUSES, LEARNED

RETRY = "to be tried again: "  # begins the reason of a pending row whose bad outcome a rebuild must not bring back
_TOLD = ["video_id", *LEARNED]


@dataclass(frozen=True)
class Stored:
    """What the shards of one split say.

    Attributes:
        outcomes: video_id and the columns of LEARNED, one row a video.
        left_out: file names of shards that are not used.
        verdict: what was used and what was left out, in plain words.
    """

    outcomes: pd.DataFrame | None
    left_out: frozenset[str]
    verdict: list[str]


def earlier(settings: Preprocess, split: str, warnings: list[str]) -> pd.DataFrame | None:
    """The ledger that stands; None when there is none, or one that cannot be believed (`warnings` says so)."""
    path = ledger_path(settings, split)
    if not path.is_file():
        return None
    try:
        return read(path)
    except ManifestError as error:
        first = str(error).splitlines()[0]
        warnings.append(f"{first}: its rows are not used, and it is kept as {broken_path(path).name}")
        return None


def broken_path(path: Path) -> Path:
    """Where a ledger that does not hold to the schema is kept when it is rebuilt."""
    return path.with_name(f"{path.stem}.broken.csv")


def from_shards(settings: Preprocess, split: str) -> Stored:
    """What the shards of this recipe say of a split's videos."""
    reasons: dict[str, list[str]] = {}
    tables: list[pd.DataFrame] = []
    for path in sorted(Path(settings.store).glob(f"{split}-*-of-*.h5")):
        try:
            attributes = shards.read_attributes(path)
            if attributes["recipe_sha256"] == settings.fingerprint():
                tables.append(shards.read_outcomes(path))
                continue
            why = f"another recipe ({differences(settings.to_json(), str(attributes['recipe']))})"
        except shards.ShardError as error:
            why = str(error).removeprefix(f"{path}: ")
        reasons.setdefault(why, []).append(path.name)
    verdict = [f"shards left out: {some(names, 3)}: {why}" for why, names in reasons.items()]
    left_out = frozenset(name for names in reasons.values() for name in names)
    if not tables:
        return Stored(None, left_out, verdict)
    outcomes = pd.concat(tables, ignore_index=True)[_TOLD]
    verdict.insert(0, f"shards: {len(tables):,} of split {split}, which tell of {len(outcomes):,} videos")
    return Stored(outcomes, left_out, verdict)


def remember(
    fresh: pd.DataFrame, before: pd.DataFrame | None, stored: Stored, root: Path, forget: Collection[str] = ()
) -> pd.DataFrame:
    """`fresh` with what the earlier ledger and the shards learned of the same videos.

    Args:
        fresh: rows about which only label files and the disk have been asked.
        before: the earlier ledger.
        stored: what shards say; they know better than the earlier ledger.
        root: the folder of videos.
        forget: bad statuses whose videos are to be tried again.

    Raises:
        ManifestError: two shards hold one video.
    """
    ledger, retry = fresh, pd.Series(False, index=fresh.index)
    if before is not None:
        asked = before["status"].eq("pending") & before["reason"].str.startswith(RETRY)
        knows = ~before["status"].isin(("pending", "missing")) & ~before["shard"].isin(stored.left_out - {""})
        ledger = fill(ledger, _of(ledger, before[knows]))
        retry = fresh["video_id"].isin(before.loc[asked, "video_id"])
    if stored.outcomes is not None:
        # What was missing when a shard was written is looked up on the disk, which may have it now.
        told = stored.outcomes[stored.outcomes["status"] != "missing"]
        ledger = fill(ledger, _of(ledger, told))
    bad = ledger["status"].isin(BAD_STATUSES)
    return _again(ledger, fresh, (retry & bad) | ledger["status"].isin(list(forget)) | _replaced(ledger, bad, root))


def _replaced(ledger: pd.DataFrame, bad: pd.Series, root: Path) -> pd.Series:
    """Bad videos whose file has another size than the one that was tried: CVDF's replacements, downloads that went on."""
    replaced = pd.Series(False, index=ledger.index)
    for row in ledger[bad & ledger["path"].ne("") & ledger["source_bytes"].gt(0)].itertuples():
        with contextlib.suppress(OSError):  # gone since the folder was listed: not replaced
            replaced[row.Index] = (root / row.path).stat().st_size != row.source_bytes
    return replaced


def _of(ledger: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """The rows of `told` that are of videos in `ledger`: label files may have lost some since."""
    return told.loc[told["video_id"].isin(ledger["video_id"]), _TOLD].reset_index(drop=True)


def _again(ledger: pd.DataFrame, fresh: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    """`ledger` with the chosen rows as `fresh` has them, marked so that a rebuild does not undo it."""
    rows = chosen & fresh["status"].eq("pending")
    if not rows.any():
        return ledger
    again = fresh.loc[rows].copy()
    again["reason"] = RETRY + ledger.loc[rows, "status"]
    ledger = ledger.copy()
    for name in LEARNED:
        ledger[name] = ledger[name].where(~rows, again[name].reindex(ledger.index, fill_value=_zero(ledger[name])))
    return ledger.astype(fresh.dtypes.to_dict())


def _zero(column: pd.Series) -> object:
    """What stands for `unknown` in a column."""
    return np.zeros(1, column.dtype)[0] if pd.api.types.is_numeric_dtype(column) else ""
