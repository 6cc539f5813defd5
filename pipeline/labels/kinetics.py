"""Checks Kinetics' label rows, and recognises the release and form of a label CSV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from pipeline.common.recipe import SPLITS
from pipeline.common.tables import BadValue, collect, expect, full_matches, label_checks
from pipeline.common.text import some
from pipeline.common.video_id import ID_PATTERN, ID_RULE, video_ids
from pipeline.labels.split_words import SPLIT_RULE


def _seconds(column: pd.Series) -> pd.Series:
    """A column of times as float64, each distinct text converted once; nan where the text is not a number."""
    codes, values = pd.factorize(column)
    seconds = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy("float64")
    return pd.Series(seconds[codes], index=column.index)


def kinetics_rows(raw: pd.DataFrame, bad_values: list[BadValue]) -> pd.DataFrame:
    """Check rows that name a YouTube segment; float times are rounded down, as ActivityNet's crawler does."""
    times = (np.floor(_seconds(raw[name])) for name in ("time_start", "time_end"))
    start, end = (values.where(np.isfinite(values) & values.abs().lt(1e9), -1) for values in times)
    unlabelled = raw["split"].eq("test")
    rules: dict[str, Any] = {
        "youtube_id": expect(ID_RULE, lambda ids: full_matches(ID_PATTERN, ids)),
        "time_start": expect("seconds, at least 0", lambda _: start.ge(0)),
        "time_end": expect("whole seconds after time_start", lambda _: end.gt(start)),
        "label": label_checks(unlabelled),
        "split": expect(SPLIT_RULE, lambda split: split.isin(SPLITS)),
    }
    schema = pa.DataFrameSchema({name: pa.Column(None, rule) for name, rule in rules.items()})
    bad_values += collect(schema, raw, raw["file"].iloc[0], raw["row"].to_list())
    table = raw[["youtube_id", "label", "split", "file", "row"]].copy()
    table["time_start"], table["time_end"] = start.astype("int64"), end.astype("int64")
    table["video_id"] = video_ids(table["youtube_id"], table["time_start"], table["time_end"])
    table["path"] = ""
    return table


def release_of(path: Path, names: list[str], num_classes: int) -> str:
    """The form and release of a label CSV in words, from its name, columns and number of classes."""
    if "youtube_id" not in names:
        return "own videos (path,label)"
    stem = path.stem.lower()
    digits = re.search(r"(?:kinetics|k)[-_]?([4-7]00)(?!\d)", stem)
    release = digits.group(1) if digits else str(num_classes) if num_classes in (400, 600, 700) else ""
    if path.parent.name == "annotations":
        source = "CVDF's annotations"
    elif stem.startswith("kinetics-"):
        source = "ActivityNet crawler's form"
    elif stem == "validate" or (path.parent / "validate.csv").is_file():
        source = "DeepMind tarball's form"
    else:
        source = "Kinetics columns"
    labelled = f"{num_classes} classes" if num_classes else "without labels"
    flag = ", with is_cc" if "is_cc" in names else ""
    return f"{source}{f', Kinetics-{release}' if release else ''}, {len(names)} columns{flag}, {labelled}"


def shared_ids(table: pd.DataFrame) -> list[str]:
    """A warning for YouTube ids with segments in train and val: different clips of the same video."""
    ids = {split: set(rows.tolist()) for split, rows in table.groupby("split")["youtube_id"]}
    both = sorted(ids.get("train", set()) & ids.get("val", set()))
    return [f"{len(both):,} YouTube ids have segments in train and in val: {some(both)}"] if both else []
