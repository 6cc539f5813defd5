"""Hold shards and ledgers against each other and against their own checksums.            (make verify)

    python -m pipeline.verify -c FILE [--repair]

Reads every byte that is stored.  Names each fault with its shard, its video, what was expected and what is there;
`--repair` decodes again what is damaged or missing, copies the rest, and fills the ledgers in anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import joblib
import pandas as pd

from pipeline.common import cli, recipe
from pipeline.common.errors import EXIT_OK, ShardError
from pipeline.common.locking import locked
from pipeline.common.recipe import Preprocess
from pipeline.common.text import some
from pipeline.execution import previous_plan
from pipeline.execution.plan import Task, check_recipe, plan_all, strays
from pipeline.execution.run import check_data_root, write_shards
from pipeline.ledger.schema import LEARNED, WAITING_STATUSES
from pipeline.ledger.table import fill_ledger, ledger_folder, ledger_path, read_ledgers, write_ledger
from pipeline.rebuild import known_outcomes
from pipeline.shards.hdf5 import open_finished, own
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import outcomes_table, read_account, read_outcomes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be.

    Attributes:
        shard: file name of the shard.
        video_id: the video it concerns; empty: the whole shard.
        what: what was expected and what is there.
        kind: shard (repair writes it anew), ledger (repair fills it in anew) or stray (no repair: a file to delete).
    """

    shard: str
    video_id: str
    what: str
    kind: str = "shard"

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.video_id, self.what) if part)


def check_shard(task: Task, table: pd.DataFrame, settings: Preprocess) -> list[Fault]:
    """Every fault of one shard, and of the ledger rows about it.

    Args:
        task: the shard, and what it was planned to hold.
        table: the ledger of its split, indexed by video_id.
        settings: the recipe.
    """
    name = task.path.name
    try:
        account = read_account(task.path)
        outcomes = outcomes_table([account])
        planned = [video.video_id for video in task.videos]
        if outcomes["video_id"].tolist() != planned:
            held = str(outcomes["video_id"].iloc[0]) if len(outcomes) else "nothing"
            return [Fault(name, "", f"holds other videos than planned: first {held}, expected {planned[0]}")]
        if account.split != task.split:
            return [Fault(name, "", f"is of split {account.split}, expected {task.split}")]
        found = [Fault(name, *fault) for fault in _check_layout(task.path, settings)]
        found += [Fault(name, *fault) for fault in _check_contents(task.path, outcomes)]
    except ShardError as error:
        return [Fault(name, "", str(error).removeprefix(f"{task.path}: "))]
    return found or [Fault(name, *fault, "ledger") for fault in _check_ledger(outcomes, table.loc[planned])]


def _check_layout(path: Path, settings: Preprocess) -> Iterator[tuple[str, str]]:
    """Faults of the HDF5 file itself: what is in it, where, and of what shape."""
    reader = ShardReader(path)
    with open_finished(path) as file:
        groups = {"frames", "jpeg"} if settings.codec == "jpeg" else {"frames"}
        for name in sorted(set(file) ^ (groups | {"index", "outcomes", "times_s"})):
            yield "", f"{'unexpected' if name in file else 'lacks'} {name}"
        for group in sorted(groups & set(file)):
            for video_id in sorted(set(file[group]) ^ set(reader.video_ids)):
                yield video_id, f"{'stored' if video_id in file[group] else 'not stored'}, against the index"
        for row, video_id in enumerate(reader.video_ids):
            for name, expected in reader.datasets(row).items():
                stored = own(file, name)
                actual = (str(stored.shape), str(stored.dtype), stored.id.get_offset())
                if actual != expected:
                    yield video_id, f"{name}: (shape, dtype, offset) is {actual}, expected {expected}"
        if "times_s" in file and reader.video_ids:
            stored, expected = own(file, "times_s"), reader.times_dataset()
            actual = (str(stored.shape), str(stored.dtype), stored.id.get_offset())
            if actual != expected:
                yield "", f"times_s: (shape, dtype, offset) is {actual}, expected {expected}"


def _check_contents(path: Path, outcomes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Faults of the stored bytes, and of their count."""
    reader = ShardReader(path)
    stored = outcomes.loc[outcomes["status"] == "ok"].set_index("video_id")["num_frames"]
    for video_id in sorted(set(stored.index) ^ set(reader.video_ids)):
        yield video_id, "has status ok but no frames" if video_id in stored.index else "has frames but not status ok"
    for row, video_id in enumerate(reader.video_ids):
        if video_id in stored.index and stored[video_id] != reader.num_frames[row]:
            yield video_id, f"{reader.num_frames[row]} frames, expected {stored[video_id]}"
        try:
            reader.verify(row)
        except ShardError as error:
            yield video_id, str(error).removeprefix(f"{path}: {video_id}: ")
    reader.close()


def _check_ledger(outcomes: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Ledger rows that do not say what their shard says."""
    rows = rows.reset_index()
    filled = fill_ledger(rows, outcomes[~known_outcomes.awaited(rows, outcomes)]).set_index("video_id")
    rows = rows.set_index("video_id")
    for column in LEARNED:
        for video_id in rows.index[rows[column].to_numpy() != filled[column].to_numpy()]:
            ours, told = rows.at[video_id, column], filled.at[video_id, column]
            yield str(video_id), f"the ledger's {column} is {ours!r}, the shard's {told!r}"


def check(ledgers: dict[str, pd.DataFrame], tasks: list[Task], settings: Preprocess) -> list[Fault]:
    """Every fault of a store."""
    tables = {split: table.set_index("video_id") for split, table in ledgers.items()}
    checked = joblib.Parallel(n_jobs=settings.jobs, backend="threading")(
        joblib.delayed(check_shard)(task, tables[task.split], settings) for task in tasks
    )
    stray = [
        Fault(name, "", "no ledger plans this shard; delete it", "stray")
        for name in strays(Path(settings.store), tasks)
    ]
    return [fault for faults in checked for fault in faults] + stray


def repair(ledgers: dict[str, pd.DataFrame], tasks: list[Task], faults: list[Fault], settings: Preprocess) -> None:
    """Write the faulty shards anew, copying what is sound in them, and fill the ledgers in."""
    broken = {fault.shard for fault in faults if fault.kind == "shard"}
    previous_plan.set_aside([task for task in tasks if task.path.name in broken], settings, only=broken)
    tasks = previous_plan.with_places(tasks, settings)
    write_shards([task for task in tasks if task.path.name in broken], settings)
    for split, table in ledgers.items():
        written = [task.path for task in tasks if task.split == split]
        if written:
            outcomes = read_outcomes(*written)
            table = fill_ledger(table, outcomes[~known_outcomes.awaited(table, outcomes)])
        write_ledger(ledger_path(settings, split), table)
    previous_plan.clear(tasks, settings)


def run(settings: Preprocess, *, mend: bool) -> int:
    """Check a store, mend it if asked to; returns an exit code.

    Raises:
        ShardError: there are faults, or some are left; or a damaged video could not be decoded again.
        UserError: it is to be mended, and data_root is not there.
    """
    if mend:
        check_data_root(settings)
    ledgers = read_ledgers(settings)
    tasks = plan_all(ledgers, settings)
    check_recipe(Path(settings.store), settings)
    faults = check(ledgers, tasks, settings)
    lost: list[str] = []
    if mend and any(fault.kind != "stray" for fault in faults):
        for fault in faults:
            log.info("mending: %s", fault)
        before = _stored(ledgers)
        with locked(Path(settings.store)), locked(ledger_folder(settings)):
            repair(read_ledgers(settings), tasks, faults, settings)
        ledgers = read_ledgers(settings)
        faults = check(ledgers, tasks, settings)
        lost = sorted(before - _stored(ledgers))
    for fault in faults:
        print(fault)
    if faults:
        hint = "" if mend else "; `make verify ARGS=--repair` decodes again what is damaged"
        raise ShardError(f"{settings.store}: {len(faults):,} faults in {len(tasks):,} shards{hint}")
    if lost:
        raise ShardError(
            f"{settings.store}: {len(lost):,} videos were damaged and cannot be decoded again: {some(lost)}; "
            "the ledgers say why, and all else is right"
        )
    size = sum(int(table["nbytes"].sum()) for table in ledgers.values())
    waiting = sum(int(table["status"].isin(WAITING_STATUSES).sum()) for table in ledgers.values())
    if waiting:
        print(f"{waiting:,} videos wait to be decoded; run `make preprocess`")
    held = f"{len(tasks):,} shards, {len(_stored(ledgers)):,} videos, {size / 1e9:.2f} GB"
    print(f"{held}: every checksum, count and place is right")
    return EXIT_OK


def _stored(ledgers: dict[str, pd.DataFrame]) -> set[str]:
    return {video_id for table in ledgers.values() for video_id in table["video_id"][table["status"] == "ok"]}


def main(argv: list[str] | None = None) -> int:
    """Verify the store that the configuration names."""
    made = cli.parser("pipeline.verify", __doc__ or "", sections={"preprocess": Preprocess})
    made.add_argument("--repair", action="store_true", help="decode again what is damaged or missing")
    args, document = cli.parse(made, argv)
    cli.set_up_logging()
    settings = recipe.load(document)
    repaired = f"shards in {settings.store}, and ledgers in {ledger_folder(settings)}"
    cli.say_target(repaired if args.repair else "nothing")
    return run(settings, mend=args.repair)


if __name__ == "__main__":
    cli.run(main)
