"""What a page is made of, as plain data, and how it becomes HTML; every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.common.files import write_text
from pipeline.common.text import visible

PAGES = {"index.html": "Dataset", "run.html": "Run", "evaluation.html": "Evaluation"}
"""The file of each page, and its title."""


@dataclass(frozen=True)
class Note:
    """A sentence, such as why something is missing."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Numbers:
    """A few large numbers: (value, what it counts)."""

    values: Sequence[tuple[str, str]]
    kind: str = "numbers"


@dataclass(frozen=True)
class Table:
    """A table; its first `names` columns are texts, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    kind: str = "table"


def table_of_runs(head: Sequence[str], rows: Sequence[Sequence[str]], names: int, num_runs: int) -> Table:
    """A table whose first column is the letter of a run; of one run it has no such column."""
    first = 0 if num_runs > 1 else 1
    return Table(head[first:], [row[first:] for row in rows], names - first)


@dataclass(frozen=True)
class Bars:
    """Bars with a name and a text: (name, share 0..1, text)."""

    head: tuple[str, str]
    rows: Sequence[tuple[str, float, str]]
    kind: str = "bars"


@dataclass(frozen=True)
class Heat:
    """A square of shaded numbers: rows of (number, shade 0..1), named at both sides."""

    names: Sequence[str]
    rows: Sequence[Sequence[tuple[str, float]]]
    kind: str = "heat"


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
        file: its path in the report.
        size: (width, height) in pixels of the page; the file may have twice as many.
        alt: what it shows, for those who do not see it.
        caption: what stands below it, after the names.
        names: of classes, with an arrow between two; each keeps its own direction of writing.
        dark: the file for dark pages; empty: the same.
        video: an MP4 of which the picture is one frame; empty: none.
    """

    file: str
    size: tuple[int, int]
    alt: str
    caption: str = ""
    names: tuple[str, ...] = ()
    dark: str = ""
    video: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures beside each other as far as the page is wide."""

    pictures: Sequence[Picture]
    kind: str = "pictures"


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when their title is clicked."""

    title: str
    blocks: Sequence[Block]
    kind: str = "folded"


Block = Note | Numbers | Table | Bars | Heat | Pictures | Folded


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    blocks: Sequence[Block]


@dataclass
class Page:
    """A page: what it is about, in one line, and its parts."""

    about: str
    sections: list[Section] = field(default_factory=list)


def write_pages(folder: Path, pages: dict[str, Page], made: str) -> None:
    """Write the pages of a report.

    Args:
        folder: of the report.
        pages: by file name, a key of PAGES.
        made: when and from what, for the foot of each page.

    Raises:
        OSError: a file cannot be written.
    """
    template = _environment().get_template("page.html")
    for file, page in pages.items():
        write_text(folder / file, template.render(page=page, file=file, pages=PAGES, made=made))


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A value as it is shown: marks of direction, control characters and lone surrogates are made visible."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
