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
    cells = [text for text in seen_texts(confusion_figure(matrix, [ARABIC, "run"], "")) if text.get_fontsize() == 9]
    for start, order in ((0, ["videos", "label", "taken for"]), (3, ["5", ARABIC, "run"]), (6, ["4", "run", ARABIC])):
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
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1400 and box.y1 <= 800, text.get_text()
    shown = {text.get_text() for text in texts}
    assert {"_hidden", "a_$1$ {x}", r"- \x07\u202e"} <= shown
    assert "missing from" not in caplog.text


def test_no_confusion_is_said(tmp_path):
    assert "none" in {text.get_text() for text in seen_texts(confusion_figure(np.diag([3, 0]), ["a", "b"], ""))}
    draw_confusion(tmp_path / "c.png", np.diag([3, 0]), ["a", "b"], "")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]
