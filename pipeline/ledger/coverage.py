"""Counts the videos of a dataset that are found, missing and bad, by split and by class.

`summarise` returns a dictionary, which `--json` prints; `text` makes the table for people from it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.common.text import some
from pipeline.ledger.schema import BAD_STATUSES, STATUSES, WAITING_STATUSES
from pipeline.ledger.table import videos_name

USABLE = (*WAITING_STATUSES, "ok")  # waiting or decoded: the videos for training and evaluation
_SHOWN = 10  # classes in the text; --json has all of them


def summarise(dataset: str, ledgers: dict[str, pd.DataFrame], min_per_class: int) -> dict[str, Any]:
    """Coverage of every split, as JSON-able values.

    Args:
        dataset: its name.
        ledgers: by split.
        min_per_class: classes with fewer usable videos in a labelled split are listed under `few`.

    Returns:
        {dataset, splits: {split: {rows, found, missing, bad, statuses, identity, classes, few}}}.  `found` counts the
        videos that are on disk or stored, bad ones too; `classes` are in order of label_id.
    """
    splits = {}
    for split, ledger in ledgers.items():
        counts = ledger["status"].value_counts()
        statuses = {status: int(counts[status]) for status in STATUSES if status in counts}
        missing = statuses.get("missing", 0)
        classes = _classes(ledger)
        splits[split] = {
            "rows": len(ledger),
            "found": len(ledger) - missing,
            "missing": missing,
            "bad": sum(count for status, count in statuses.items() if status in BAD_STATUSES),
            "statuses": statuses,
            "identity": videos_name(dataset, ledger, USABLE),
            "classes": classes,
            "few": [entry["label"] for entry in classes if entry["usable"] < min_per_class],
        }
    return {"dataset": dataset, "min_per_class": min_per_class, "splits": splits}


def _classes(ledger: pd.DataFrame) -> list[dict[str, Any]]:
    """Counts of each class of a split; none for a split without labels."""
    labelled = ledger[ledger["label_id"] >= 0]
    if labelled.empty:
        return []
    missing, bad = labelled["status"].eq("missing"), labelled["status"].isin(BAD_STATUSES)
    flags = pd.DataFrame(
        {"label_id": labelled["label_id"], "rows": 1, "found": ~missing, "missing": missing, "bad": bad}
    )
    flags["usable"] = labelled["status"].isin(USABLE)
    counts = flags.groupby("label_id").sum().astype("int64")
    names = labelled.drop_duplicates("label_id").set_index("label_id")["label"]
    return [
        {"label_id": int(label_id), "label": str(names[label_id]), **{str(k): int(v) for k, v in row.items()}}
        for label_id, row in zip(counts.index, counts.to_dict("records"), strict=True)
    ]


def text(summary: dict[str, Any]) -> str:
    """The table for people: a line for each split with the name of its videos, then classes that lack most videos."""
    lines = [f"{'split':<6} {'rows':>9} {'found':>9} {'missing':>9} {'bad':>7} {'classes':>8}  videos"]
    for split, part in summary["splits"].items():
        lines.append(
            f"{split:<6} {part['rows']:>9,} {part['found']:>9,} {part['missing']:>9,} {part['bad']:>7,} "
            f"{len(part['classes']) or '-':>8}  {part['identity']}"
        )
    for split, part in summary["splits"].items():
        bad = {status: count for status, count in part["statuses"].items() if status in BAD_STATUSES}
        if bad:
            lines.append(f"{split}: bad: " + ", ".join(f"{status} {count:,}" for status, count in bad.items()))
        lines += _worst(split, part["classes"])
    return "\n".join(lines)


def _worst(split: str, classes: list[dict[str, Any]]) -> list[str]:
    """Lines for the most incomplete classes of a split."""
    incomplete = [entry for entry in classes if entry["usable"] < entry["rows"]]
    if not incomplete:
        return []
    incomplete.sort(key=lambda entry: (entry["usable"] / entry["rows"], entry["label"]))
    lines = [f"{split}: {len(incomplete):,} of {len(classes):,} classes lack videos; the most incomplete are:"]
    for entry in incomplete[:_SHOWN]:
        lines.append(
            f"  {entry['label']:<40} {entry['usable']:>6,} of {entry['rows']:>6,} usable, "
            f"{entry['missing']:,} missing, {entry['bad']:,} bad"
        )
    return lines


def warnings(summary: dict[str, Any]) -> list[str]:
    """A line for each labelled split that has classes with too few usable videos."""
    least = summary["min_per_class"]
    return [
        f"{split}: {len(part['few']):,} classes have fewer than {least} usable videos: {some(part['few'], _SHOWN)}"
        for split, part in summary["splits"].items()
        if part["few"]
    ]
