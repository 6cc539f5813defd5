"""Checks a store against its checksums, its plan and the ledgers, and repairs it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import joblib
import pandas as pd

from pipeline.common.errors import EXIT_OK, REPAIR, LossError, ShardError
from pipeline.common.locking import locked
from pipeline.common.recipe import Preprocess, differences
from pipeline.execution import damaged, previous_plan
from pipeline.execution.plan import Task, check_recipe, check_store_of_ledgers, plan_all, strays
from pipeline.execution.run import check_data_root, fill_ledgers, raise_refused, write_shards
from pipeline.ledger.schema import LEARNED, WAITING_STATUSES
from pipeline.ledger.table import awaited, fill_ledger, ledger_folder, read_ledgers
from pipeline.shards.store import Shard, Store, outcomes_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Discrepancy:
    """One difference between a store and its plan, checksums or ledgers.

    Attributes:
        shard: file name of the shard.
        video_id: the video it concerns; empty: the whole shard.
        what: what was expected and what is there.
        kind: shard (repair writes it again), ledger (repair fills it in again) or stray (the user deletes the file).
    """

    shard: str
    video_id: str
    what: str
    kind: str = "shard"

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.video_id, self.what) if part)


def verify_store(settings: Preprocess, *, repair: bool, accept_loss: bool = False) -> int:
    """Check a store, print each discrepancy, and repair it if asked to.

    Args:
        settings: the recipe.
        repair: write broken shards again, and fill the ledgers in.
        accept_loss: repair shards also without videos that are damaged and cannot be decoded again.

    Returns:
        The exit code EXIT_OK.

    Raises:
        LossError: repair left some shards as they are, because videos would be lost.
        ShardError: there are discrepancies, or repair left some.
        UserError: ledgers are missing, the store is of another recipe, or for a repair data_root is missing.
    """
    if repair:
        check_data_root(settings)
    store = Store(Path(settings.store), with_structure=True)
    ledgers = read_ledgers(settings)
    tasks = plan_all(ledgers, settings)
    check_recipe(store, settings)
    refused: dict[Path, LossError] = {}
    with contextlib.ExitStack() as lock:
        if repair:
            check_store_of_ledgers(ledgers, settings, store)
            lock.enter_context(locked(store.folder))
            lock.enter_context(locked(ledger_folder(settings)))
            ledgers = read_ledgers(settings)
            tasks, refused = damaged.rescue(tasks, ledgers, settings, store, accept_loss=accept_loss)
        discrepancies = check_store(ledgers, tasks, settings, store)
        if repair and any(each.kind != "stray" for each in discrepancies):
            _repair(ledgers, tasks, discrepancies, settings, store, refused)
            ledgers = read_ledgers(settings)
            discrepancies = check_store(ledgers, tasks, settings, store)
    for each in discrepancies:
        print(each)
    if repair:
        damaged.remind_of_kept(store)
    raise_refused(refused, store)
    if discrepancies:
        what = f"{len(discrepancies):,} discrepancies in {len(tasks):,} shards"
        raise ShardError(store.folder, what, "fix what the lines above name" if repair else REPAIR)
    waiting = sum(int(table["status"].isin(WAITING_STATUSES).sum()) for table in ledgers.values())
    if waiting:
        print(f"{waiting:,} videos wait to be decoded. Run `make preprocess`.")
    size = sum(int(table["nbytes"].sum()) for table in ledgers.values())
    num_stored = sum(int(table["status"].eq("ok").sum()) for table in ledgers.values())
    total = f"{len(tasks):,} shards, {num_stored:,} videos, {size / 1e9:.2f} GB"
    print(f"{total}: all checksums, counts and offsets are correct")
    return EXIT_OK


def check_store(
    ledgers: dict[str, pd.DataFrame], tasks: list[Task], settings: Preprocess, store: Store
) -> list[Discrepancy]:
    """Every discrepancy of a store.

    Args:
        ledgers: by split.
        tasks: the plan.
        settings: the recipe; `jobs` shards are checked at once.
        store: its shards, with their structure.
    """
    tables = {split: table.set_index("video_id") for split, table in ledgers.items()}
    checked = joblib.Parallel(n_jobs=settings.jobs, backend="threading")(
        joblib.delayed(_check_task)(task, tables[task.split], settings, store) for task in tasks
    )
    planned = [each for discrepancies in checked for each in discrepancies]
    unplanned = "no ledger plans this shard; run `make manifests preprocess`, which keeps its videos"
    return planned + [Discrepancy(name, "", unplanned, "stray") for name in strays(store, tasks)]


def _check_task(task: Task, table: pd.DataFrame, settings: Preprocess, store: Store) -> list[Discrepancy]:
    """Every discrepancy of one shard, and of its rows in `table`, the ledger of its split indexed by video_id."""
    name = task.path.name
    try:
        shard = store.shard(task.path)
        planned = [video.video_id for video in task.videos]
        if shard.recipe != settings.to_json():
            return [Discrepancy(name, "", f"another recipe: {differences(settings.to_json(), shard.recipe)}")]
        if shard.planned() != planned:
            first = next(iter(shard.planned()), "none")
            return [Discrepancy(name, "", f"other videos than planned: first {first}, expected {planned[0]}")]
        if shard.split != task.split:
            return [Discrepancy(name, "", f"split {shard.split}, expected {task.split}")]
        outcomes = outcomes_table([shard])
        broken = [Discrepancy(name, *each) for each in shard.structure_errors or ()]
        broken += [Discrepancy(name, *each) for each in _check_frames(shard, outcomes)]
    except ShardError as error:
        return [Discrepancy(name, error.video_id, error.what)]
    return broken or [Discrepancy(name, *each, "ledger") for each in _check_ledger(outcomes, table.loc[planned])]


def _check_frames(shard: Shard, outcomes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Compare the stored bytes with their CRC-32, and their number with the outcomes."""
    reader = shard.reader()
    num_frames = outcomes.loc[outcomes["status"] == "ok"].set_index("video_id")["num_frames"].to_dict()
    for video_id in sorted(set(num_frames) ^ set(reader.video_ids)):
        yield video_id, "has status ok but no frames" if video_id in num_frames else "has frames but not status ok"
    for row, video_id in enumerate(reader.video_ids):
        expected = num_frames.get(video_id, reader.num_frames[row])
        if reader.num_frames[row] != expected:
            yield video_id, f"{reader.num_frames[row]} frames, expected {expected}"
        try:
            reader.verify(row)
        except ShardError as error:
            yield video_id, error.what
    reader.close()


def _check_ledger(outcomes: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Compare ledger rows with the outcomes in their shard."""
    rows = rows.reset_index()
    filled = fill_ledger(rows, outcomes[~awaited(rows, outcomes)]).set_index("video_id")
    rows = rows.set_index("video_id")
    for column in LEARNED:
        for video_id in rows.index[rows[column].to_numpy() != filled[column].to_numpy()]:
            ours, theirs = rows.at[video_id, column], filled.at[video_id, column]
            yield str(video_id), f"{column} is {ours!r} in the ledger, {theirs!r} in the shard"


def _repair(
    ledgers: dict[str, pd.DataFrame],
    tasks: list[Task],
    discrepancies: list[Discrepancy],
    settings: Preprocess,
    store: Store,
    refused: dict[Path, LossError],
) -> None:
    """Write the broken shards again, with copies of what is intact in them, and fill the ledgers in.

    Those in `refused` are left as they are; those that would lose videos are added to it.
    """
    for each in discrepancies:
        log.info("repairing: %s", each)
    broken = {each.shard for each in discrepancies if each.kind == "shard"}
    tasks = previous_plan.arrange(tasks, settings, store, refused, only=broken)
    todo = [task for task in tasks if task.path.name in broken and task.path not in refused]
    write_shards(todo, settings, store, refused)
    written = [task for task in tasks if task.path not in refused]
    fill_ledgers(ledgers, written, settings, store, keep_awaited=True)
    previous_plan.clear(written, settings, store)
