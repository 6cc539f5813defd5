"""What is already known of a ledger's videos, from the existing ledger and from shards.

A rebuild must keep it: a `timeout` stays a `timeout` until a user asks (`--forget timeout`) or its file changes.
A shard decides about its own videos; the `ok` of a ledger counts only while its shard exists.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.errors import FormatError, ShardError
from pipeline.common.recipe import Preprocess, differences
from pipeline.common.tables import InputError, texts_of
from pipeline.common.text import some
from pipeline.ledger.files import exists
from pipeline.ledger.schema import BAD_STATUSES, COLUMNS, LEARNED, STORED_COLUMNS, WAITING_STATUSES
from pipeline.ledger.table import awaited, blank_rows, fill_ledger, ledger_path, read_ledger
from pipeline.shards.store import EARLIER, Shard, Store, outcomes_table, shards_in


@dataclass(frozen=True)
class StoredOutcomes:
    """The outcomes in the shards of one split.

    Attributes:
        outcomes: one row a video, as for `fill_ledger`.
        names: file names of the shards that are of this recipe and intact.
        damaged: file names of those that are damaged, also of an earlier plan: what a ledger knows of them is kept.
        verdict: what was used and what was left out, in plain words.
    """

    outcomes: pd.DataFrame
    names: frozenset[str]
    damaged: frozenset[str]
    verdict: list[str]


def from_ledger(settings: Preprocess, split: str) -> tuple[pd.DataFrame | None, list[str]]:
    """The existing ledger, if there is one; and a warning when it is invalid and cannot be used."""
    path = ledger_path(settings, split)
    if not exists(path):
        return None, []
    try:
        return read_ledger(path), []
    except InputError as error:
        kept = f"Its outcomes now come from shards only, and it is kept as {broken_path(path).name}."
        return None, [f"{error.message} {kept}"]


def broken_path(path: Path) -> Path:
    """Where an invalid ledger is kept when a new one replaces it."""
    return path.with_name(f"{path.stem}.broken.csv")


def from_shards(store: Store, settings: Preprocess, split: str, num_rows: int) -> StoredOutcomes:
    """The outcomes of a split's videos in the shards of this recipe.

    Shards of the plan of a ledger of `num_rows` rows come first; those of an older plan count for videos that no newer
    shard was planned to hold, or that were missing when it was written.
    """
    current = f"-of-{-(-num_rows // settings.videos_per_shard):05d}.h5"
    pattern = f"{split}-*-of-*.h5"
    paths = [path for path in store.paths() if fnmatch.fnmatchcase(path.name, pattern)]
    earlier = [path for path in shards_in(store.folder / EARLIER) if fnmatch.fnmatchcase(path.name, pattern)]
    damaged = frozenset(f"{path.name.split('.')[0]}.h5" for path in [*paths, *earlier] if _is_damaged(store, path))
    paths.sort(key=lambda path: not path.name.endswith(current))
    shards: dict[str, Shard] = {}
    left_out: dict[str, list[str]] = {}
    for path in paths:
        shard, why = _read_shard(store, path, settings)
        if shard is None:
            left_out.setdefault(why, []).append(path.name)
        else:
            shards[path.name] = shard
    verdict = [f"shards: {split}: left out {some(names, 2)}: {why}" for why, names in left_out.items()]
    if not shards:
        return StoredOutcomes(blank_rows(0).assign(video_id=pd.Series(dtype="str")), frozenset(), damaged, verdict)
    outcomes = outcomes_table(shards.values())
    outcomes = outcomes.sort_values("status", key=lambda status: status.eq("missing"), kind="stable")
    outcomes = outcomes.drop_duplicates("video_id", ignore_index=True)
    older = sum(not name.endswith(current) for name in shards)
    note = f", {older:,} of them of an older plan" if older else ""
    verdict.insert(0, f"shards: {split}: {len(shards):,}{note}, planned to hold {len(outcomes):,} videos")
    return StoredOutcomes(outcomes, frozenset(shards), damaged, verdict)


def _is_damaged(store: Store, path: Path) -> bool:
    """Whether a shard is damaged; one of another format is not.

    Raises:
        OSError: it cannot be read now, so nothing is known of its content.
    """
    try:
        store.shard(path)
    except FormatError:
        return False
    except ShardError:
        return True
    return False


def _read_shard(store: Store, path: Path, settings: Preprocess) -> tuple[Shard | None, str]:
    """A shard, or why it is left out."""
    try:
        shard = store.shard(path)
    except ShardError as error:
        return None, f"{error.what}; {error.action}"
    if shard.recipe_sha256 != settings.fingerprint():
        return None, f"another recipe ({differences(settings.to_json(), shard.recipe)})"
    return shard, ""


def remember(fresh: pd.DataFrame, before: pd.DataFrame | None, stored: StoredOutcomes, root: str) -> pd.DataFrame:
    """`fresh`, which comes from label files and disk only, with what the existing ledger and shards know.

    Args:
        fresh: a ledger of `pending` and `missing` rows.
        before: the existing ledger.
        stored: outcomes in shards.
        root: data_root; empty when the disk was not scanned, and paths are the existing ledger's.
    """
    ledger = fresh if before is None else _copy(fresh, before, keep_paths=not root)
    lost = ledger["shard"].ne("") & ~ledger["shard"].isin(stored.names | stored.damaged)
    again = lost & ledger["status"].eq("ok")
    ledger.loc[lost, list(STORED_COLUMNS)] = blank_rows(1).loc[0, list(STORED_COLUMNS)].tolist()
    ledger.loc[again, "status"] = np.where(ledger.loc[again, "path"].ne(""), "pending", "missing")
    outcomes = stored.outcomes
    if outcomes.empty:
        return ledger
    outcomes = outcomes[outcomes["video_id"].isin(ledger["video_id"])]
    ledger = fill_ledger(ledger, outcomes[~awaited(ledger, outcomes)])
    gone = ledger["status"].eq("retry") & ledger["path"].eq("")  # could not be read, and now there is no file
    ledger.loc[gone, ["status", "reason"]] = ["missing", ""]
    return ledger


def same_ids(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two ledgers have the same videos, as in most rebuilds."""
    return len(one) == len(other) and bool((texts_of(one["video_id"]) == texts_of(other["video_id"])).all())


def _copy(fresh: pd.DataFrame, before: pd.DataFrame, keep_paths: bool) -> pd.DataFrame:
    """`fresh` with the learned columns of the same videos in `before`."""
    if same_ids(fresh, before):
        rows = np.arange(len(fresh))
    else:
        rows = pd.Index(fresh["video_id"]).get_indexer(pd.Index(before["video_id"]))
    known = (rows >= 0) & before["status"].ne("missing").to_numpy()
    if not keep_paths:  # a video that was pending and has no file any more is missing now
        known &= ~before["status"].isin(WAITING_STATUSES).to_numpy() | fresh["path"].ne("").to_numpy()[rows]
    ledger, rows = fresh.copy(), rows[known]
    for name in (*LEARNED, "path") if keep_paths else LEARNED:
        kind = "object" if COLUMNS[name] == "str" else COLUMNS[name]
        values = fresh[name].to_numpy(kind, copy=True)
        values[rows] = before[name].to_numpy(kind)[known]
        ledger[name] = pd.Series(values, dtype=COLUMNS[name])
    return ledger


def mark_retries(ledger: pd.DataFrame, root: str, forget: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """Mark as `retry` the bad videos of the statuses in `forget`, and those whose file has changed.

    Returns:
        The ledger; and a line about them, if there are any.
    """
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
    names = some(f"{ledger.at[row, 'video_id']} ({why})" for row, why in reasons.items())
    return ledger.astype(COLUMNS), [f"{len(rows):,} bad videos will be tried again: {names}"]
