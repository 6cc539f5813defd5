"""The picture of a confusion matrix: every text is inside it, and label and prediction keep their order."""

import logging

import numpy as np
import pytest
from matplotlib.text import Text

from train.pictures.confusion import confusion_figure, draw_confusion

ARABIC = "\u0644\u0639\u0628 \u0643\u0631\u0629"
NAMES = [ARABIC, "run", "W" * 300, "\u6253" * 100, "a_$1$ {x}", "-\n\t\x07\u202e", "_hidden", "\U0001f9ff"]


def seen_texts(figure) -> list[Text]:
    """The texts of a figure that are seen, after their places are known."""
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_pairs_keep_their_order_whatever_the_script():
    matrix = np.diag([9, 9])
    matrix[0, 1], matrix[1, 0] = 5, 4
    *_, page = confusion_figure(matrix, [ARABIC, "run"], "title").axes
    cells = [text for text in page.texts if text.get_text().strip()][2:]  # after the titles
    for start, order in (
        (0, ["videos", "most confused label", "taken for"]),
        (3, ["5", ARABIC, "run"]),
        (6, ["4", "run", ARABIC]),
    ):
        texts = cells[start : start + 3]
        assert [text.get_text() for text in texts] == order
        boxes = [text.get_window_extent() for text in texts]
        assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_every_text_is_inside_the_picture(times, caplog):
    names = [f"{name}{number or ''}" for number in range(times) for name in NAMES]
    matrix = np.random.default_rng(0).integers(1, 30, (len(names), len(names)))
    with caplog.at_level(logging.WARNING):
        figure = confusion_figure(matrix, names, "title $of$ " + "x" * 300)
        texts = seen_texts(figure)
    assert len(texts) > 2 * len(names) + 3 * 20
    assert outside(figure) == []
    shown = {text.get_text() for text in texts}
    assert {"_hidden", "a_$1$ {x}", r"- \x07\u202e"} <= shown
    assert "missing from" not in caplog.text


@pytest.mark.parametrize(
    ("number", "at_axes"), [(8, True), pytest.param(60, True, marks=pytest.mark.slow), (400, False)]
)
def test_no_name_is_cut(number, at_axes):
    names = [
        f"{place} {'playing squash or racquetball while riding a mechanical bull'[:55]}" for place in range(number)
    ]
    matrix = np.diag(np.full(number, 9))
    matrix[0, 1:21] = 2
    figure = confusion_figure(matrix, names, "title")
    axes, _, page = figure.axes
    shown = [label.get_text().replace("\n", " ") for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert sorted(shown) == (sorted(2 * names) if at_axes else [])
    listed = " ".join(text.get_text() for text in page.texts)
    assert names[0] in listed and "…" not in listed and outside(figure) == []


def outside(figure) -> list[str]:
    """Texts of which a part is not in the picture, and those at the axes that cover another."""
    texts = seen_texts(figure)
    width, height = figure.bbox.size
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    beside = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    covered = [one for one, other in zip(beside, beside[1:], strict=False) if one.y0 < other.y1 - 1]
    cut = [text for text, box in boxes if min(box.x0, box.y0) < 0 or box.x1 > width or box.y1 > height]
    return [*cut, *map(str, covered)]


def test_no_confusion_is_said(tmp_path):
    assert "none" in {text.get_text() for text in seen_texts(confusion_figure(np.diag([3, 0]), ["a", "b"], ""))}
    draw_confusion(tmp_path / "c.png", np.diag([3, 0]), ["a", "b"], "")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]
