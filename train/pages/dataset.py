"""The page of a dataset: what became of each video, durations and sizes, and what the network sees."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.errors import UserError
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.ledger import files
from pipeline.ledger.coverage import USABLE, summarise
from pipeline.ledger.schema import BAD_STATUSES
from pipeline.ledger.table import ledger_folder, ledger_path, read_split
from train.experiment.sections import Config
from train.pages import charts, numbers
from train.pages.blocks import Bars, Block, Note, Numbers, Page, Pictures, Section, Table
from train.pages.sheets import augmented_clips, class_sheets

_COLUMNS = (
    "video_id", "label", "label_id", "split", "path", "status", "reason", "codec", "source_width", "source_height",
    "source_fps", "source_frames", "source_bytes", "num_frames", "fps", "nbytes",
)  # fmt: skip
_MAX_ROWS = 30  # of a table of files or reasons
_FEW_CLASSES = 40  # of more, a chart shows how many videos they have


def dataset_page(config: Config, folder: Path) -> Page:
    """Describe the dataset of a configuration.

    Args:
        config: its `preprocess` and `data_loader` are used.
        folder: of the report; pictures go into its `files`.

    Raises:
        OSError: a picture cannot be written.
    """
    settings = config.preprocess
    page = Page(f"{settings.dataset}, {ledger_folder(settings)}")
    try:
        ledgers = _read(settings)
    except UserError as error:
        page.sections.append(Section("Videos", [Note(f"The ledgers cannot be read: {error}")]))
        return page
    if not ledgers:
        text = f"{ledger_folder(settings)} has no ledgers. Run `make manifests`."
        page.sections.append(Section("Videos", [Note(text)]))
        return page
    table = pd.concat(ledgers.values(), ignore_index=True)
    page.sections += [
        Section("Videos", _splits(settings, ledgers, table)),
        Section("Statuses and reasons", _reasons(table)),
        Section("Classes", _classes(folder, table)),
        Section("Durations, rates and sizes", _measures(folder, table)),
        Section("Slowest and worst files", _files(table)),
        Section("What the network sees", class_sheets(config, folder)),
        Section("Clips after augmentation", augmented_clips(config, folder)),
    ]
    return page


def _read(settings: Preprocess) -> dict[str, pd.DataFrame]:
    return {
        split: read_split(settings, split, _COLUMNS) for split in SPLITS if files.exists(ledger_path(settings, split))
    }


def _splits(settings: Preprocess, ledgers: dict[str, pd.DataFrame], table: pd.DataFrame) -> list[Block]:
    stored = table[table["status"] == "ok"]
    rate = stored["fps"].where(stored["fps"] > 0)
    tiles = [
        (numbers.count(len(table)), "videos listed"),
        (numbers.count(len(stored)), "stored"),
        (numbers.count(int(table["status"].eq("missing").sum())), "missing"),
        (numbers.count(int(table["status"].isin(BAD_STATUSES).sum())), "cannot be decoded"),
        (numbers.count(int(table.loc[table["label_id"] >= 0, "label_id"].nunique())), "classes"),
        (numbers.duration(float((stored["num_frames"] / rate).sum())), "stored video"),
        (numbers.nbytes(int(stored["nbytes"].sum())), "of frames in shards"),
    ]
    splits = summarise(settings.dataset, ledgers, 0)["splits"]
    rows = [
        [
            split, each["identity"], numbers.count(each["rows"]), numbers.count(each["statuses"].get("ok", 0)),
            numbers.count(sum(each["statuses"].get(status, 0) for status in USABLE[:2])),
            numbers.count(each["missing"]), numbers.count(each["bad"]),
            numbers.count(len(each["classes"])) if each["classes"] else numbers.MISSING,
        ]
        for split, each in splits.items()
    ]  # fmt: skip
    head = ["split", "videos", "listed", "stored", "waiting", "missing", "bad", "classes"]
    return [Numbers(tiles), Table(head, rows, names=2)]


def _reasons(table: pd.DataFrame) -> list[Block]:
    """Statuses, then reasons; reasons that differ only in numbers are one."""
    counts = table.groupby(["split", "status"], sort=False).size().unstack("split", fill_value=0)
    splits = [split for split in SPLITS if split in counts]
    totals = counts.sum(axis=1).sort_values(ascending=False)
    rows = [
        [status, numbers.count(int(totals[status])), *(numbers.count(int(counts[split][status])) for split in splits)]
        for status in totals.index
    ]
    blocks: list[Block] = [Table(["status", "videos", *splits], rows)]
    rest = table[table["reason"] != ""]
    if rest.empty:
        return [*blocks, Note("No video has a reason: all that were decoded are stored.")]
    kinds = rest["reason"].map(_without_numbers)
    groups = sorted(rest.groupby([rest["status"], kinds]), key=lambda group: -len(group[1]))
    shown = [
        [status, _cut(part["reason"].iloc[0]), part["video_id"].iloc[0], numbers.count(len(part))]
        for (status, _), part in groups[:_MAX_ROWS]
    ]
    blocks.append(Table(["status", "reason (of the first)", "first video", "videos"], shown, names=3))
    if len(groups) > _MAX_ROWS:
        blocks.append(Note(f"{numbers.count(len(groups) - _MAX_ROWS)} rarer reasons are in the ledgers."))
    return blocks


def _without_numbers(reason: str) -> str:
    return re.sub(r"\d+", "0", reason)


def _cut(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _classes(folder: Path, table: pd.DataFrame) -> list[Block]:
    """How many usable videos each class has."""
    labelled = table[table["label_id"] >= 0]
    if labelled.empty:
        return [Note("The videos have no labels.")]
    usable = labelled["status"].isin(USABLE)
    groups = labelled.assign(usable=usable).groupby("label", sort=False)["usable"]
    counts = groups.agg(["sum", "size"]).sort_values(["sum", "size"], ascending=False)
    most = max(int(counts["sum"].max()), 1)
    rows = [
        (str(label), have / most, numbers.count(have) + ("" if have == listed else f" of {numbers.count(listed)}"))
        for label, have, listed in zip(counts.index, counts["sum"].tolist(), counts["size"].tolist(), strict=True)
    ]
    blocks: list[Block] = []
    if len(counts) > _FEW_CLASSES:
        values = counts["sum"].to_numpy(np.float64)
        caption = f"Usable videos of each of {len(counts):,} classes: {values.min():,.0f} to {values.max():,.0f}."

        def plot(axes: charts.Axes, theme: charts.Theme) -> None:
            axes.stairs(values, fill=True, color=theme.series[0])
            axes.set_ylim(bottom=0)
            axes.set_xlabel("class, those with most videos first")
            axes.set_ylabel("usable videos")
            axes.grid(axis="x", visible=False)

        blocks.append(Pictures([charts.draw(folder, "classes", plot, alt=caption, caption=caption)]))
    return [*blocks, Bars(("class", "usable videos"), rows)]


def _measures(folder: Path, table: pd.DataFrame) -> list[Block]:
    """Charts of what is known of the files, and tables of their sizes and codecs."""
    known = table[(table["source_frames"] > 0) & (table["source_fps"] > 0)]
    seconds = (known["source_frames"] / known["source_fps"]).to_numpy()
    megabytes = table["source_bytes"][table["source_bytes"] > 0].to_numpy(np.float64) / 1e6
    stored = table["num_frames"][table["status"] == "ok"].to_numpy(np.float64)
    measures = (
        ("durations", seconds, "seconds", "Duration of the files"),
        ("rates", known["source_fps"].to_numpy(), "frames per second", "Frame rate of the files"),
        ("bytes", megabytes, "MB", "Size of the files"),
        ("stored", stored, "frames", "Stored frames of a video"),
    )
    pictures = []
    for name, values, unit, what in measures:
        values = values[np.isfinite(values)]
        if len(values):
            low, middle, high = (f"{value:,.3g}" for value in (values.min(), np.median(values), values.max()))
            caption = f"{what}: {low} to {high} {unit}, median {middle}." if low != high else f"{what}: {low} {unit}."
            pictures.append(charts.histogram(folder, name, values, unit=unit, alt=caption, caption=caption))
    if not pictures:
        return [Note("No file was decoded yet. Run `make preprocess`.")]
    blocks: list[Block] = [Pictures(pictures)]
    sizes = known.loc[known["source_width"] > 0, ["source_width", "source_height"]].value_counts()
    rows = [[f"{width} × {height}", _share(count, len(known))] for (width, height), count in sizes.head(12).items()]  # type: ignore[misc]
    codecs = table.loc[table["codec"] != "", "codec"].value_counts()
    rows += [[str(codec), _share(count, len(known))] for codec, count in codecs.head(8).items()]
    blocks.append(Table(["frame size in pixels, and codec", "videos"], rows))
    if len(sizes) > 12:
        blocks.append(Note(f"The {len(sizes) - 12:,} rarer frame sizes are in the ledgers."))
    return blocks


def _share(count: int, total: int) -> str:
    return f"{numbers.count(count)} ({numbers.percent(count / total if total else 0)})"


def _files(table: pd.DataFrame) -> list[Block]:
    """The files that took most decoding, and those that cannot be used."""
    pixels = table["source_frames"].astype(float) * table["source_width"] * table["source_height"]
    slowest = table.assign(pixels=pixels)[pixels > 0].nlargest(10, "pixels")
    blocks: list[Block] = []
    if len(slowest):
        rows = [
            [
                _name(row), f"{row.pixels / 1e6:,.1f}", f"{row.source_width} × {row.source_height}",
                numbers.count(row.source_frames), f"{row.source_fps:.4g}", numbers.nbytes(row.source_bytes),
            ]
            for row in slowest.itertuples()
        ]  # fmt: skip
        blocks += [
            Note("Slowest: the files with most pixels to decode. Decoding times are not stored."),
            Table(["file", "megapixels", "size", "frames", "frames/s", "bytes"], rows),
        ]
    bad = table[table["status"].isin((*BAD_STATUSES, "retry"))]
    if bad.empty:
        return [*blocks, Note("Worst: no file failed to decode.")]
    bad = bad.sort_values(["status", "video_id"]).head(_MAX_ROWS)
    rows = [[_name(row), row.status, _cut(row.reason), numbers.nbytes(row.source_bytes)] for row in bad.itertuples()]
    return [
        *blocks, Note("Worst: files that cannot be decoded."), Table(["file", "status", "reason", "bytes"], rows, 3),
    ]  # fmt: skip


def _name(row: object) -> str:
    return str(getattr(row, "path", "") or getattr(row, "video_id", ""))
