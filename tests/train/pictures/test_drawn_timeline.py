"""The picture of a long video: which classes have curves, the band of segments, and names that are never cut."""

import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from train.pictures.timeline import MAX_CLASSES, draw_timeline, write_timeline

NAMES = ["a $1 b$", "playing squash or racquetball", "W" * 200, *(f"class {number}" for number in range(9))]
TIMES_S = np.arange(24) + 0.5
SEGMENTS = [(2.0 * number, 2.0 * number + 2, NAMES[11 - number], 0.9) for number in range(12)]


def scores_of(segments: list[tuple[float, float, str, float]]) -> np.ndarray:
    """(24, 12) float32: each class is seen in its segments."""
    scores = np.full((len(TIMES_S), len(NAMES)), 0.01, np.float32)
    for start_s, end_s, name, score in segments:
        scores[(TIMES_S >= start_s) & (TIMES_S < end_s), NAMES.index(name)] = score
    return scores


def test_curves_in_order_of_time_have_colours_of_band():
    segments = [(0.0, 10.0, NAMES[2], 0.9), (10.0, 20.0, NAMES[0], 0.9), (20.0, 24.0, NAMES[2], 0.9)]
    figure = draw_timeline(TIMES_S, scores_of(segments), NAMES, segments)
    curves, band = figure.axes
    drawn = [line.get_label().replace("\n", "") for line in curves.lines]
    assert drawn[:2] == [NAMES[2], NAMES[0]] and len(drawn) == 3  # the third has the next best score
    colours = {line.get_label().replace("\n", ""): to_hex(line.get_color()) for line in curves.lines}
    spans = [(patch.get_x(), patch.get_width(), to_hex(patch.get_facecolor())) for patch in band.patches]
    assert spans == [(start_s, end_s - start_s, colours[name]) for start_s, end_s, name, _ in segments]
    assert curves.get_xlim() == (0.0, 24.0)


def test_many_classes_and_long_names_stay_inside(tmp_path):
    figure = draw_timeline(TIMES_S, scores_of(SEGMENTS), NAMES, SEGMENTS)
    figure.draw_without_rendering()
    assert len(figure.axes[0].lines) == MAX_CLASSES
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[-1] == "other classes" and len(texts) == MAX_CLASSES + 1
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and 0 <= box.y0 and box.y1 <= figure.bbox.y1
    segments = [(0.0, 24.0, NAMES[2], 0.9)]
    figure = draw_timeline(TIMES_S, scores_of(segments), NAMES, segments)
    assert "".join(figure.legends[0].get_texts()[0].get_text().split("\n")) == NAMES[2]


def test_every_drawn_class_is_in_the_legend():
    names = ["_hidden", "run", "sit"]
    figure = draw_timeline(TIMES_S, np.full((24, 3), 0.3, np.float32), names, [(0.0, 24.0, "_hidden", 0.3)])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "_hidden" and sorted(texts) == sorted(names)


def test_one_window_and_no_segment_are_drawn(tmp_path):
    write_timeline(tmp_path / "a.png", TIMES_S[:1], np.full((1, 3), np.nan, np.float32), NAMES[:3], [])
    assert Image.open(tmp_path / "a.png").size == (1200, 420)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
