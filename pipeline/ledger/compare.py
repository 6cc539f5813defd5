"""Compares ledgers: `diff` with another version of them, `leaks` with another release's videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.files import open_to_read
from pipeline.common.recipe import SPLITS
from pipeline.common.tables import CSV_ERRORS, InputError, check_lines, csv_problem
from pipeline.common.text import some
from pipeline.ledger.schema import COLUMNS
from pipeline.ledger.table import read_ledger, read_ledgers_at


def diff(ours: dict[str, pd.DataFrame], other: Path) -> dict[str, Any]:
    """How the ledgers differ from those of `other`, a ledger or a folder of them.

    Returns:
        {split: {rows_here, rows_there, only_here, only_there, changed: {column: [[video_id, here, there]]}}}
    """
    result = {}
    theirs = _theirs(other)
    for split in [split for split in SPLITS if split in ours or split in theirs]:
        if split not in theirs or (split not in ours and not other.is_dir()):
            continue
        here, there = (_keyed(side.get(split)) for side in (ours, theirs))
        common = here.index.intersection(there.index)
        changed = {}
        for name in list(COLUMNS)[1:]:
            values_here, values_there = here.loc[common, name], there.loc[common, name]
            differ = (values_here != values_there).to_numpy()
            if differ.any():
                values = (values_here[differ].tolist(), values_there[differ].tolist())
                changed[name] = list(zip(common[differ], *values, strict=True))
        result[split] = {
            "rows_here": len(here),
            "rows_there": len(there),
            "only_here": here.index.difference(there.index).tolist(),
            "only_there": there.index.difference(here.index).tolist(),
            "changed": changed,
        }
    return result


def _keyed(ledger: pd.DataFrame | None) -> pd.DataFrame:
    table = ledger if ledger is not None else pd.DataFrame({name: [] for name in COLUMNS})
    return table.set_index("video_id")


def _theirs(other: Path) -> dict[str, pd.DataFrame]:
    if other.is_dir():
        return read_ledgers_at({split: other / f"{split}.csv" for split in SPLITS})
    ledger = read_ledger(other)
    return {str(split): rows.reset_index(drop=True) for split, rows in ledger.groupby("split")}


def diff_text(result: dict[str, Any]) -> str:
    """`diff` as text: counts, and the first few of each."""
    lines = []
    for split, part in result.items():
        lines.append(f"{split}: {part['rows_here']:,} rows here, {part['rows_there']:,} there")
        for key, words in (("only_here", "only here"), ("only_there", "only there")):
            if part[key]:
                lines.append(f"  {words}: {len(part[key]):,}: {some(part[key])}")
        for name, rows in part["changed"].items():
            shown = "; ".join(f"{video_id}: {here!r} here, {there!r} there" for video_id, here, there in rows[:3])
            lines.append(f"  {name}: {len(rows):,} differ: {shown}")
        if not (part["only_here"] or part["only_there"] or part["changed"]):
            lines.append("  no difference")
    return "\n".join(lines)


def leaks(ours: dict[str, pd.DataFrame], other: Path) -> dict[str, Any]:
    """YouTube ids that are both in our ledgers and in another release's ledger or label CSV.

    Returns:
        {split: {num_ids, shared: [youtube_id, ...]}}

    Raises:
        InputError: `other` is missing, or has no column youtube_id.
    """
    try:
        with open_to_read(other) as file:
            theirs = pd.read_csv(
                file, dtype=str, na_filter=False, usecols=["youtube_id"], encoding="utf-8-sig", skip_blank_lines=False
            )
    except FileNotFoundError:
        raise InputError(f"{other}: no such file. Give --leaks a ledger or a label CSV.") from None
    except IsADirectoryError:
        raise InputError(f"{other}: a folder. Give --leaks a CSV with a column youtube_id.") from None
    except ValueError as error:
        check_lines(other, None)
        known = isinstance(error, CSV_ERRORS)
        problem = csv_problem(error) if known else "no column youtube_id"
        raise InputError(f"{other}: {problem}. Give --leaks a CSV with a column youtube_id.") from None
    check_lines(other, len(theirs) + 1)
    ids = set(theirs["youtube_id"]) - {""}
    return {
        split: {"num_ids": ledger["youtube_id"].nunique(), "shared": sorted(ids & set(ledger["youtube_id"]))}
        for split, ledger in ours.items()
    }


def leaks_text(result: dict[str, Any], other: Path) -> str:
    """`leaks` as text: the counts, then every shared id on a line with its split."""
    counts = [
        f"{split}: {len(part['shared']):,} of {part['num_ids']:,} YouTube ids are in {other}"
        for split, part in result.items()
    ]
    return "\n".join([*counts, *(f"{split} {name}" for split, part in result.items() for name in part["shared"])])


def class_changes(before: list[str], after: list[str]) -> list[str]:
    """A warning if a rebuild numbers classes differently than the ledgers there were, as after a misspelt label.

    Args:
        before: label of each label_id, 0 first; empty where no ledger had the id.
        after: the same for the new ledgers.
    """
    old, new = ({label: number for number, label in enumerate(labels) if label} for labels in (before, after))
    moved = [label for label in old if label in new and old[label] != new[label]]
    added, gone = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    if not before or not (moved or added or gone):
        return []
    changes = {"labels are new": added, "labels are gone": gone, "labels have another number": moved}
    parts = [f"{len(labels):,} {words}: {some(map(repr, labels))}" for words, labels in changes.items() if labels]
    action = f"Weights trained on the earlier ledgers {'do not fit' if moved else 'still fit'}."
    return [f"The class list changed. {'. '.join(parts)}. {action}"]
