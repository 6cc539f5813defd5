"""The panel under the frames of a predicted video: the three best classes with bars, the true label, the moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from train.pictures.labels import Colour, TextBlock, fit, report_missing

SHOWN = 3  # classes
DARK, TRACK = (22, 24, 29), (52, 58, 70)
WHITE, GREY = (240, 242, 245), (160, 168, 180)
BLUE, GREEN, ORANGE = (88, 150, 236), (64, 185, 96), (240, 140, 70)
_SMALLEST = 9  # pixels of letters
_DESIGNED_WIDTH = 480  # the pixels below are of a panel of this width


@dataclass(frozen=True)
class Prediction:
    """What a network says of a video.

    Attributes:
        top: names of classes with their probabilities, best first.
        true_label: the name of its class; None: unknown.
    """

    top: list[tuple[str, float]]
    true_label: str | None


@dataclass(frozen=True)
class Moment:
    """The part of a video that a picture shows.

    Attributes:
        start_s: in seconds since the first frame of the video.
        end_s: likewise.
        video_s: length of the whole video; 0: unknown.
    """

    start_s: float
    end_s: float
    video_s: float

    def __str__(self) -> str:
        whole = f" of {clock(round(self.video_s))}" if self.video_s else ""
        return f"{clock(self.start_s)} to {clock(self.end_s)}{whole}"


def clock(seconds: float) -> str:
    """A time as a player shows it: 0:07, 1:02:03; with tenths if it is not whole: 0:07.5."""
    whole, tenths = divmod(round(10 * seconds), 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    clock = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{clock}.{tenths}" if tenths else clock


def texts_of(prediction: Prediction) -> list[str]:
    """The names that a panel writes."""
    names = [name for name, _ in prediction.top[:SHOWN]]
    return [*names, prediction.true_label] if prediction.true_label is not None else names


def draw_panel(prediction: Prediction, width: int, moment: Moment | None) -> NDArray[np.uint8]:
    """The panel, (height, width, 3) uint8 RGB; its height is what the texts need, and even.

    A character that no font has is reported in a warning.

    Args:
        prediction: what to show.
        width: pixels, at least 100.
        moment: the part of a longer video that is shown; None: it is shown whole.
    """
    report_missing(texts_of(prediction))
    scale = width / _DESIGNED_WIDTH
    letters = scale**0.7  # smaller letters would be hard to read
    edge, gap, bar, drop = (max(round(pixels * scale), least) for pixels, least in ((16, 6), (9, 4), (7, 3), (3, 2)))
    inner = width - 2 * edge
    parts: list[_Part] = []
    for rank, (name, probability) in enumerate(prediction.top[:SHOWN]):
        true = prediction.true_label is not None and name == prediction.true_label
        wrong = prediction.true_label is not None and rank == 0 and not true
        colour = GREEN if true else ORANGE if wrong else BLUE
        sizes = _sizes((22, 15) if rank == 0 else (16, 13), letters)
        number = fit(_percent(probability), inner, sizes)
        block = fit(name, inner - _percent_width(sizes, inner) - gap, sizes, 2, bold=rank == 0)
        parts.append(_Part(block, WHITE if rank == 0 or true else GREY, number, probability, colour))
    if prediction.true_label is not None:
        right = bool(prediction.top) and prediction.top[0][0] == prediction.true_label
        before, sizes = f"{'✓' if right else '✗'} true label:", _sizes((16, 13), letters)
        # A text of its own, because a name from right to left keeps its order only then.
        block = fit(prediction.true_label, inner - fit(before, inner, sizes).width - gap, sizes, 2)
        parts.append(_Part(block, GREEN if right else ORANGE, before=fit(before, inner, [block.size])))
    if moment is not None:
        parts.append(_Part(fit(str(moment), inner, _sizes((14, 12), letters)), GREY))
    height = 2 * edge + sum(part.block.height + (bar + drop if part.number else 0) for part in parts)
    height += gap * max(len(parts) - 1, 0)
    picture = Image.new("RGB", (width, height + height % 2), DARK)
    pen, y = ImageDraw.Draw(picture), edge
    for part in parts:
        left = edge
        if part.before is not None:
            part.before.draw(picture, edge, y + part.block.ascent - part.before.ascent, part.colour)
            left += part.before.width + gap
        part.block.draw(picture, left, y, part.colour)
        if part.number is not None:
            # On the baseline of the name's first line, whose letters may be of another font.
            place = y + part.block.ascent - part.number.ascent
            part.number.draw(picture, width - edge - part.number.width, place, part.colour)
        y += part.block.height
        if part.number is not None:
            share = min(max(part.share, 0.0), 1.0) if math.isfinite(part.share) else 0.0
            pen.rounded_rectangle((edge, y + drop, width - edge - 1, y + drop + bar - 1), bar // 2, TRACK)
            if (filled := round(share * inner)) > 0:
                radius = min(bar // 2, filled // 2)
                pen.rounded_rectangle((edge, y + drop, edge + filled - 1, y + drop + bar - 1), radius, part.bar)
            y += bar + drop
        y += gap
    return np.asarray(picture)


@dataclass(frozen=True)
class _Part:
    """A text of a panel, perhaps with words before it; with a number at the right and a bar under it, if a class."""

    block: TextBlock
    colour: Colour
    number: TextBlock | None = None
    share: float = 0.0
    bar: Colour = BLUE
    before: TextBlock | None = None


def _sizes(largest_and_smallest: tuple[int, int], scale: float) -> range:
    """Sizes of letters to try in a panel; never so small that they cannot be read."""
    largest, smallest = (round(pixels * scale) for pixels in largest_and_smallest)
    return range(max(largest, _SMALLEST + 2), max(smallest, _SMALLEST) - 1, -1)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _percent_width(sizes: range, inner: int) -> int:
    return fit(_percent(1.0), inner, sizes).width
