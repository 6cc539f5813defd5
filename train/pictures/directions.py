"""Where lines of mixed direction turn: Unicode's rules for names that are partly written from right to left.

Pillow orders the characters of one font only, and a line may need several.
"""

from __future__ import annotations

import unicodedata

RIGHT_TO_LEFT = ("R", "AL")
"""Unicode's kinds of letters that are written from right to left."""

_LETTERS_AND_NUMBERS = ("L", "R", "EN", "AN")
_PAIRS = "()[]{}⟨⟩（）［］｛｝「」『』【】〈〉《》〔〕"
_BRACKETS = dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))


def base_level(clusters: list[str]) -> int:
    """1 if the first letter is written from right to left, else 0."""
    kinds = (unicodedata.bidirectional(cluster[0]) for cluster in clusters)
    return next((int(kind in RIGHT_TO_LEFT) for kind in kinds if kind in ("L", *RIGHT_TO_LEFT)), 0)


def levels(clusters: list[str], base: int) -> list[int]:
    """The level of each character of a line by Unicode's rules W2 to I2: of odd ones, right is where they begin.

    Args:
        clusters: characters in the order in which they are read; none of them is a mark of direction.
        base: level of the line.
    """
    kinds = [unicodedata.bidirectional(cluster[0]) for cluster in clusters]
    strong = around = "R" if base else "L"
    for place, kind in enumerate(kinds):
        strong = kind if kind in ("L", *RIGHT_TO_LEFT) else strong
        kinds[place] = "R" if kind == "AL" else "AN" if kind == "EN" and strong == "AL" else kind
    for place in range(1, len(kinds) - 1):  # the point in 2.5
        beside = kinds[place - 1]
        if beside == kinds[place + 1] and (beside, kinds[place]) in (("EN", "ES"), ("EN", "CS"), ("AN", "CS")):
            kinds[place] = beside
    for places in (range(len(kinds)), range(len(kinds) - 1, -1, -1)):  # the sign in 50 %
        before = ""
        for place in places:
            kinds[place] = before = "EN" if kinds[place] == "ET" and before == "EN" else kinds[place]
    strong = around
    for place, kind in enumerate(kinds):
        strong = kind if kind in "LR" else strong
        kinds[place] = "L" if kind == "EN" and strong == "L" else kind
    _set_brackets(clusters, kinds, around)
    before = around
    for place, kind in enumerate(kinds):
        if kind not in _LETTERS_AND_NUMBERS:
            after = next((_side(other) for other in kinds[place:] if other in _LETTERS_AND_NUMBERS), around)
            kinds[place] = before if before == after else around
        before = _side(kinds[place])
    return [base + {"L": base, "R": 1 - base}.get(kind, 2 - base) for kind in kinds]


def _set_brackets(clusters: list[str], kinds: list[str], around: str) -> None:
    """Give the brackets of a pair the same direction (rule N0): that of the letters in them and, if so, before them."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for place, cluster in enumerate(clusters):
        if kinds[place] == "ON" and cluster in _BRACKETS:
            opened.append(place)
        elif kinds[place] == "ON" and cluster in _BRACKETS.values():
            fitting = [number for number, left in enumerate(opened) if _BRACKETS[clusters[left]] == cluster]
            if fitting:
                pairs.append((opened[fitting[-1]], place))
                del opened[fitting[-1] :]
    for left, right in sorted(pairs):
        inside = {_side(kind) for kind in kinds[left + 1 : right] if kind in _LETTERS_AND_NUMBERS}
        if not inside:
            continue
        before = next((_side(kind) for kind in reversed(kinds[:left]) if kind in _LETTERS_AND_NUMBERS), around)
        kinds[left] = kinds[right] = around if around in inside else before


def _side(kind: str) -> str:
    """The direction of a letter or number for what is beside it."""
    return "L" if kind == "L" else "R"
