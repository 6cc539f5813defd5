"""What is known already of a ledger's videos: from the ledger that stands, and from shards.

Rebuilding must not lose it: a `timeout` stays a `timeout` until someone asks (`--forget timeout`) or its file
changes.  A shard is believed about its own videos; a ledger's `ok` is worth as much as its shard.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.errors import ShardError
from pipeline.common.recipe import Preprocess, differences
from pipeline.common.tables import InputError
from pipeline.common.text import some
from pipeline.ledger.schema import BAD_STATUSES, COLUMNS, LEARNED, STORED_COLUMNS, WAITING_STATUSES
from pipeline.ledger.table import blank_rows, fill_ledger, ledger_path, read_ledger
from pipeline.shards.store import Account, outcomes_table, read_account


@dataclass(frozen=True)
class StoredOutcomes:
    """What the shards of one split say.

    Attributes:
        outcomes: one row a video, as `ledger.fill` takes them.
        names: file names of the shards that are of this recipe and whole.
        verdict: what was used and what was left out, in plain words.
    """

    outcomes: pd.DataFrame
    names: frozenset[str]
    verdict: list[str]


def from_ledger(settings: Preprocess, split: str) -> tuple[pd.DataFrame | None, list[str]]:
    """The ledger that stands, if there is one; and a warning when it is broken and cannot be used."""
    path = ledger_path(settings, split)
    if not path.is_file():
        return None, []
    try:
        return read_ledger(path), []
    except InputError as error:
        kept = f"Its outcomes now come from shards only, and it is kept as {broken_path(path).name}."
        return None, [f"{error.message} {kept}"]


def broken_path(path: Path) -> Path:
    """Where a broken ledger is kept when a new one takes its place."""
    return path.with_name(f"{path.stem}.broken.csv")


def from_shards(settings: Preprocess, split: str, num_rows: int) -> StoredOutcomes:
    """What the shards of this recipe say of a split's videos.

    Shards of the plan that a ledger of `num_rows` rows has are believed first; those of an older plan count for
    videos that no newer shard was meant to hold, or that were missing when it was made.
    """
    current = f"-of-{-(-num_rows // settings.videos_per_shard):05d}.h5"
    paths = sorted(Path(settings.store).glob(f"{split}-*-of-*.h5"))
    paths.sort(key=lambda path: not path.name.endswith(current))
    accounts: dict[str, Account] = {}
    left_out: dict[str, list[str]] = {}
    for path in paths:
        account, why = _read_shard(path, settings)
        if account is None:
            left_out.setdefault(why, []).append(path.name)
        else:
            accounts[path.name] = account
    verdict = [f"shards: {split}: left out {some(names, 2)}: {why}" for why, names in left_out.items()]
    if not accounts:
        return StoredOutcomes(blank_rows(0).assign(video_id=pd.Series(dtype="str")), frozenset(), verdict)
    outcomes = outcomes_table(accounts.values())
    outcomes = outcomes.sort_values("status", key=lambda status: status.eq("missing"), kind="stable")
    outcomes = outcomes.drop_duplicates("video_id", ignore_index=True)
    older = sum(not name.endswith(current) for name in accounts)
    note = f", {older:,} of them of an older plan" if older else ""
    verdict.insert(0, f"shards: {split}: {len(accounts):,}{note}, which were to hold {len(outcomes):,} videos")
    return StoredOutcomes(outcomes, frozenset(accounts), verdict)


def _read_shard(path: Path, settings: Preprocess) -> tuple[Account | None, str]:
    """What a shard says, or why it is left out."""
    try:
        account = read_account(path)
    except ShardError as error:
        return None, str(error).replace(f"{path}: ", "")
    if account.recipe_sha256 != settings.fingerprint():
        return None, f"another recipe ({differences(settings.to_json(), account.recipe)})"
    return account, ""


def remember(fresh: pd.DataFrame, before: pd.DataFrame | None, stored: StoredOutcomes, root: str) -> pd.DataFrame:
    """`fresh`, which knows label files and disk only, with what the ledger before it and shards know.

    Args:
        fresh: a ledger of `pending` and `missing` rows.
        before: the ledger that stands.
        stored: what shards say.
        root: data_root; empty when the disk was not looked at, and paths are the earlier ledger's.
    """
    ledger = fresh if before is None else _copy(fresh, before, keep_paths=not root)
    lost = ledger["shard"].ne("") & ~ledger["shard"].isin(stored.names)
    again = lost & ledger["status"].eq("ok")
    ledger.loc[lost, list(STORED_COLUMNS)] = blank_rows(1).loc[0, list(STORED_COLUMNS)].tolist()
    ledger.loc[again, "status"] = np.where(ledger.loc[again, "path"].ne(""), "pending", "missing")
    outcomes = stored.outcomes
    if outcomes.empty:
        return ledger
    outcomes = outcomes[outcomes["video_id"].isin(ledger["video_id"])]
    return fill_ledger(ledger, outcomes[~awaited(ledger, outcomes)])


def awaited(ledger: pd.DataFrame, outcomes: pd.DataFrame) -> NDArray[np.bool_]:
    """Which outcomes, all of videos of the ledger, are of one that waits to be decoded, and so are out of date.

    A file that came after its shard was made is to be decoded; so is one that is to be tried again.
    """
    rows = pd.Index(ledger["video_id"]).get_indexer(pd.Index(outcomes["video_id"]))
    bad, gone = outcomes["status"].isin(BAD_STATUSES), outcomes["status"].eq("missing")
    asked = ledger["status"].eq("retry").to_numpy()[rows]
    here = (ledger["path"].ne("") & ledger["status"].ne("ok")).to_numpy()[rows]  # an ok is worth as much as its shard
    return (bad & asked | gone & here).to_numpy()


def same_ids(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two ledgers are of the same videos, as most rebuilds are."""
    return len(one) == len(other) and bool(
        (one["video_id"].to_numpy(object) == other["video_id"].to_numpy(object)).all()
    )


def _copy(fresh: pd.DataFrame, before: pd.DataFrame, keep_paths: bool) -> pd.DataFrame:
    """`fresh` with the learned columns of the same videos in `before`."""
    if same_ids(fresh, before):
        rows = np.arange(len(fresh))
    else:
        rows = pd.Index(fresh["video_id"]).get_indexer(pd.Index(before["video_id"]))
    known = (rows >= 0) & before["status"].ne("missing").to_numpy()
    if not keep_paths:  # a video that was pending and is gone is missing now
        known &= ~before["status"].isin(WAITING_STATUSES).to_numpy() | fresh["path"].ne("").to_numpy()[rows]
    ledger, rows = fresh.copy(), rows[known]
    for name in (*LEARNED, "path") if keep_paths else LEARNED:
        kind = "object" if COLUMNS[name] == "str" else COLUMNS[name]
        values = fresh[name].to_numpy(kind, copy=True)
        values[rows] = before[name].to_numpy(kind)[known]
        ledger[name] = pd.Series(values, dtype=COLUMNS[name])
    return ledger


def mark_retries(ledger: pd.DataFrame, root: str, forget: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """Mark as `retry` the bad videos that someone asks for, and those whose file is not the one that was bad."""
    bad = ledger[ledger["status"].isin(BAD_STATUSES)]
    reasons: dict[int, str] = {}
    for row, status, path, size in zip(bad.index, bad["status"], bad["path"], bad["source_bytes"], strict=True):
        if status in forget:
            reasons[row] = f"was {status}, asked for"
        elif root and path and size and (now := os.path.getsize(os.path.join(root, path))) != size:
            reasons[row] = f"was {status}, and the file had {size} bytes and has {now}"
    rows = list(reasons)
    if not rows:
        return ledger, []
    ledger = ledger.copy()
    ledger.loc[rows, list(LEARNED)] = blank_rows(len(rows)).to_numpy()
    ledger.loc[rows, "reason"] = list(reasons.values())
    gone = ledger.index.isin(rows) & ledger["path"].eq("")
    ledger.loc[rows, "status"] = "retry"
    ledger.loc[gone, ["status", "reason"]] = ["missing", ""]
    said = some(f"{ledger.at[row, 'video_id']} ({why})" for row, why in reasons.items())
    return ledger.astype(COLUMNS), [f"{len(rows):,} bad videos are to be tried again: {said}"]
