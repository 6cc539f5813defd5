"""Writes names in any script into pictures: wrapped or smaller where they are long, never cut, never as empty boxes.

DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic, Arabic, Hebrew and some emoji.  For other
characters a font that is installed on this machine is taken, such as Noto.  A character that no font has is drawn as
`?`, and `report_missing` names it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

from pipeline.common.text import some, visible
from train.pictures.directions import RIGHT_TO_LEFT, base_level, levels

log = logging.getLogger(__name__)

Colour = tuple[int, int, int]

_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_REGULAR, _BOLD = _DEJAVU / "DejaVuSans.ttf", _DEJAVU / "DejaVuSans-Bold.ttf"
_STYLES = ("bold", "black", "light", "thin", "medium", "italic", "oblique", "condensed", "mono", "ui")
_BOXES = ("lastresort", "blank", "tofu")  # parts of the names of fonts that have boxes for characters
_NO_INK = ("Zs", "Cf")  # categories of spaces, and of marks such as a joiner
_JOINER = "\u200d"
_UNSEEN = {_JOINER, "\u200c", "\u00ad", *(chr(number) for number in range(0xFE00, 0xFE10))}  # no font needs a glyph
# Vowels of Thai and Lao that are written before and after the letter to which they belong.
_VOWELS_BEFORE = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"
_VOWELS_AFTER = "\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3\u0ec6"
# Small kana, and marks that repeat or lengthen what is before them: no line begins with one.
_NEVER_FIRST = (
    "\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087"
    "\u30a1\u30a3\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7\u30fc\u3005"
)
_HANGUL = range(0xAC00, 0xD7A4)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAGS = range(0x1F1E6, 0x1F200)
_PICTOGRAPHS = range(0x1F000, 0x20000)
_EM = 100  # pixels of letters that are only measured
_reported: set[str] = set()


class _Run(NamedTuple):
    """Text of one font and one direction."""

    text: str
    font: Path
    right_to_left: bool


class TextBlock(NamedTuple):
    """Text in lines, ready to be drawn.

    Attributes:
        lines: the runs of each line, from left to right.
        size: of the letters, in pixels.
        width: of the widest line, in pixels.
        ascent: pixels of a line above its baseline.
        line_height: pixels from one line to the next.
    """

    lines: tuple[tuple[_Run, ...], ...]
    size: int
    width: int
    ascent: int
    line_height: int

    @property
    def height(self) -> int:
        """Pixels of all lines."""
        return self.line_height * len(self.lines)

    def draw(self, picture: Image.Image, left: int, top: int, colour: Colour) -> None:
        """Draw it with its upper left corner at a place."""
        pen = ImageDraw.Draw(picture)
        for number, line in enumerate(self.lines):
            x, baseline = float(left), top + self.ascent + number * self.line_height
            for run in line:
                font = _font(run.font, self.size)
                pen.text((x, baseline), run.text, colour, font, anchor="ls", direction=_direction(run))
                x += _width(run, self.size)


def fit(text: str, width: int, sizes: Iterable[int], max_lines: int = 1, bold: bool = False) -> TextBlock:
    """Lay out a text: as large as it fits in one line, else in more.

    Args:
        text: in any script; other white space becomes spaces, and characters that act on a terminal are escaped.
        width: the most pixels of a line.
        sizes: of the letters in pixels, largest first.
        max_lines: lines that it may take at a size that is not the smallest; at the smallest it takes what it needs.
        bold: whether DejaVu's letters are bold.
    """
    clusters = _clusters(_plain(text))
    base = base_level(clusters)
    first = _BOLD if bold else _REGULAR
    fonts = [_font_of(cluster, first) for cluster in clusters]
    pairs = [(cluster, font) if font else ("?", first) for cluster, font in zip(clusters, fonts, strict=True)]
    size, lines = _largest(pairs, base, width, list(sizes), max_lines)
    metrics = [_font(path, size).getmetrics() for path in {_REGULAR, *(run.font for line in lines for run in line)}]
    ascent, descent = (max(values) for values in zip(*metrics, strict=True))
    widest = max(math.ceil(sum(_width(run, size) for run in line)) for line in lines)
    return TextBlock(lines, size, widest, ascent, ascent + descent)


def _largest(
    pairs: list[tuple[str, Path]], base: int, width: int, sizes: list[int], max_lines: int
) -> tuple[int, tuple[tuple[_Run, ...], ...]]:
    """The size of letters, and the runs of each line."""
    least = len(_wrapped(pairs, width, sizes[-1]))
    size, wrapped = next(
        (size, wrapped)
        for size in (sizes if least <= max_lines else sizes[-1:])
        if len(wrapped := _wrapped(pairs, width, size)) <= least
    )
    return size, tuple(tuple(_visual_runs(line, base)) for line in wrapped)


def missing_characters(texts: Iterable[str]) -> list[str]:
    """The characters of some texts that no font of this machine has, each once; they are drawn as `?`."""
    clusters = [cluster for text in texts for cluster in _clusters(_plain(text))]
    return list(dict.fromkeys(cluster for cluster in clusters if _font_of(cluster, _REGULAR) is None))


def report_missing(texts: Iterable[str]) -> None:
    """Warn in one line of the characters that no font of this machine has; of each once in the life of this process."""
    unknown = [cluster for cluster in missing_characters(texts) if cluster not in _reported]
    if unknown:
        _reported.update(unknown)
        log.warning(
            "Labels show '?' for characters of which no font here has outlines: %s. "
            "Install a font that has them, such as Noto%s%s.",
            some(f"{cluster} ({' '.join(f'U+{ord(character):04X}' for character in cluster)})" for cluster in unknown),
            " (for emoji Symbola)" if any(ord(cluster[0]) in _PICTOGRAPHS for cluster in unknown) else "",
            "" if _can_shape() else ", and the library FriBidi (libfribidi0) for letters that are joined",
        )


def safe_for_matplotlib(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Texts without characters that no font has, and the font families for matplotlib that have all the others.

    The families are the value of `fontfamily`; their fonts are added to matplotlib's list.
    """
    drawn, paths = [], {_REGULAR: None}
    for text in texts:
        clusters = _clusters(_plain(text))
        fonts = [_font_of(cluster, _REGULAR) for cluster in clusters]
        paths.update(dict.fromkeys(font for font in fonts if font))
        drawn.append("".join(one if font else "?" for one, font in zip(clusters, fonts, strict=True)))
    return drawn, [_family(path) for path in paths]


def wrapped(text: str, width: float) -> str:
    """A text for matplotlib in lines that are at most `width` times as wide as the size of its letters."""
    lines = _wrapped(_in_fonts(text), round(width * _EM), _EM)
    return "\n".join("".join(cluster for cluster, _ in line) for line in lines)


def width_of(text: str) -> float:
    """How many times as wide as the size of its letters the widest line of a text for matplotlib is."""
    return max(_measure(_in_fonts(line), _EM) for line in text.split("\n")) / _EM


def _in_fonts(text: str) -> list[tuple[str, Path]]:
    """What a reader takes for a character, each with its font."""
    return [(cluster, _font_of(cluster, _REGULAR) or _REGULAR) for cluster in _clusters(_plain(text))]


def _plain(text: str) -> str:
    """One line of composed characters, none of which acts on what is around it."""
    return visible(" ".join(unicodedata.normalize("NFC", text).split()))


def _clusters(text: str) -> list[str]:
    """What a reader takes for one character and no line may part: a letter with its marks, or joined emoji."""
    clusters: list[str] = []
    for character in text:
        last = clusters[-1] if clusters else ""
        if last.strip() and ord(character) in _SKIN_TONES:
            continue  # a font of one colour would draw a box beside the emoji
        flags = ord(character) in _FLAGS and len(last) == 1 and ord(last) in _FLAGS
        follows = unicodedata.category(character)[0] == "M" or character in _UNSEEN
        vowel = character in _VOWELS_AFTER or (last and last[-1] in _VOWELS_BEFORE and character != " ")
        if last and (follows or flags or vowel or last[-1] == _JOINER):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


@functools.cache
def _can_shape() -> bool:
    """Whether letters can be joined and ordered as Arabic and Hindi need: Pillow loads FriBidi of the system for it."""
    return bool(features.check("raqm"))


@functools.lru_cache(4096)
def _font_of(cluster: str, first: Path) -> Path | None:
    """The font for a character with its marks: `first` if it has all of them, else an installed one; None: none has.

    Args:
        cluster: what `_clusters` gives.
        first: the font to look into first.
    """
    needed = {ord(character) for character in cluster if character not in _UNSEEN}
    shaped = [unicodedata.bidirectional(one) in RIGHT_TO_LEFT or unicodedata.category(one)[0] == "M" for one in cluster]
    if any(shaped) and not _can_shape():
        return None
    fonts = (path for path in (first, _REGULAR, *_installed()) if needed <= _characters(path))
    return next((path for path in fonts if all(_has_outline(path, character) for character in needed)), None)


@functools.cache
def _installed() -> list[Path]:
    """The fonts of this machine, those of Noto Sans and of regular weight first."""

    def order(path: Path) -> tuple[bool, bool, int, str]:
        name = path.stem.lower()
        return any(style in name for style in _STYLES), "notosans" not in name, len(name), str(path)

    paths = {Path(name) for name in font_manager.findSystemFonts()}
    return sorted((path for path in paths if path.suffix.lower() in (".ttf", ".otf", ".ttc")), key=order)


@functools.cache
def _characters(path: Path) -> frozenset[int]:
    """The characters that a font lists; none if it cannot be read, or has pixels or boxes instead of letters."""
    try:
        font = FT2Font(str(path))
        if not font.scalable or any(part in path.stem.lower() for part in _BOXES):
            return frozenset()
        return frozenset(font.get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.lru_cache(4096)
def _has_outline(path: Path, character: int) -> bool:
    """Whether a font draws a character that it lists; one of colours in layers draws nothing in a single colour."""
    if unicodedata.category(chr(character)) in _NO_INK:
        return True
    try:
        glyph = _face(path).load_char(character)
    except RuntimeError:
        return False
    return glyph.width > 0 and glyph.height > 0


@functools.lru_cache(8)
def _face(path: Path) -> FT2Font:
    return FT2Font(str(path))


@functools.lru_cache(256)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(str(path), size)
    with contextlib.suppress(OSError, ValueError, NotImplementedError):  # it has one weight
        font.set_variation_by_name("Regular")  # that of CJK fonts of all weights is the thinnest otherwise
    return font


@functools.cache
def _family(path: Path) -> str:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # some fonts have only a medium weight
    font_manager.fontManager.addfont(path)
    return FT2Font(str(path)).family_name


@functools.lru_cache(4096)
def _width(run: _Run, size: int) -> float:
    return _font(run.font, size).getlength(run.text, direction=_direction(run))


def _direction(run: _Run) -> str | None:
    """Without FriBidi there are only runs from left to right, and Pillow takes no direction."""
    return None if not _can_shape() else "rtl" if run.right_to_left else "ltr"


def _visual_runs(pairs: list[tuple[str, Path]], base: int) -> list[_Run]:
    """The runs of a line as they stand from left to right: what has a higher level is turned as a whole.

    Args:
        pairs: characters with their fonts, in the order in which they are read.
        base: level of the line.
    """
    runs: list[tuple[_Run, int]] = []
    for (cluster, font), level in zip(pairs, levels([cluster for cluster, _ in pairs], base), strict=True):
        if runs and runs[-1][0].font == font and runs[-1][1] == level:
            runs[-1] = (runs[-1][0]._replace(text=runs[-1][0].text + cluster), level)
        else:
            runs.append((_Run(cluster, font, level % 2 == 1), level))
    return [run for run, _ in _turned(_turned(runs, 2), 1)]


def _turned(runs: list[tuple[_Run, int]], least: int) -> list[tuple[_Run, int]]:
    """The same with the runs of each part of at least this level in the other order."""
    parts = itertools.groupby(runs, lambda run: run[1] >= least)
    return [run for is_turned, part in parts for run in (reversed(list(part)) if is_turned else part)]


def _wrapped(pairs: list[tuple[str, Path]], width: int, size: int) -> list[list[tuple[str, Path]]]:
    """Characters in lines, in the order in which they are read.

    Lines are broken at spaces, between Chinese and Japanese characters, and inside words that are wider than a line.
    """
    lines: list[list[tuple[str, Path]]] = [[]]
    for word in _words(pairs):
        if _measure(lines[-1] + word, size) <= width:
            lines[-1] += word
            continue
        if lines[-1]:
            lines.append([])
        if _measure(word, size) <= width:
            lines[-1] += word
            continue
        for pair in word:
            if lines[-1] and _measure([*lines[-1], pair], size) > width:
                lines.append([])
            lines[-1].append(pair)
    return [line[: -1 if line and line[-1][0] == " " else None] for line in lines]


def _words(pairs: list[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    """Parts that stay in one line if they can, each with the space after it."""
    word: list[tuple[str, Path]] = []
    for place, pair in enumerate(pairs):
        word.append(pair)
        following = pairs[place + 1][0] if place + 1 < len(pairs) else " "
        opens = unicodedata.category(pair[0][0]) in ("Ps", "Pi")  # a bracket, which no line ends with
        mark = unicodedata.category(following[0]) in ("Pe", "Pf", "Po", "Pd") or following[0] in _NEVER_FIRST
        between = following != " " and not opens and not mark and (_is_wide(pair[0]) or _is_wide(following))
        if pair[0] == " " or between:
            yield word
            word = []
    if word:
        yield word


def _is_wide(cluster: str) -> bool:
    """Whether it is a Chinese or Japanese character or an emoji, between which lines may be broken."""
    return unicodedata.east_asian_width(cluster[0]) in "WF" and ord(cluster[0]) not in _HANGUL


def _measure(line: list[tuple[str, Path]], size: int) -> float:
    """Pixels of a line without the space at its end."""
    if line and line[-1][0] == " ":
        line = line[:-1]
    return sum(_width(run, size) for run in _visual_runs(line, base=0))
