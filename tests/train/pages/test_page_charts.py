"""The charts of a report: which axis is logarithmic, which epoch is marked, and that no value is lost."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from train.pages import charts
from train.pages.charts import DARK, LIGHT, Curve, is_flattened, running_mean
from train.pages.run import Run


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws only the axes of light pages, and returns them."""
    seen = []
    monkeypatch.setattr(charts, "draw", lambda _folder, _name, plot, **_: seen.append(Figure().subplots()) or plot(
        seen[-1], LIGHT))  # fmt: skip
    return seen


def test_axis_is_logarithmic_where_one_point_flattens():
    assert is_flattened(np.array([117.0, 2, 2, 1, 0.5, 0.3]))  # the first loss of a run that then learns
    assert is_flattened(np.array([10.0] * 500 + [36_000.0]))  # a ten hour video among clips
    assert not is_flattened(np.array([2.3, 2.0, 1.5, 0.9, 0.3, 0.05]))  # falls steadily
    assert not is_flattened(np.array([10.0, 10.0, 10.0, 9.0, 11.0]))
    assert not is_flattened(np.array([0.0, 0.0, 0.0, 5.0]))  # zero has no logarithm
    assert not is_flattened(np.array([np.nan, 1.0])) and not is_flattened(np.array([]))


@pytest.mark.parametrize(
    "values", [[3.0], [0.001], [5, 5, 5], [0, 0], [0.0, 1e9], [10.0] * 99 + [36_000.0], [1e-9, 2.0, 1e12]]
)
def test_histogram_counts_every_value(values, drawn, tmp_path):
    charts.histogram(tmp_path, "a", np.array(values, float), unit="s", alt="", caption="")
    assert sum(bar.get_height() for bar in drawn[0].patches) == len(values)
    assert min(bar.get_x() for bar in drawn[0].patches) >= 0, "no file has less than no bytes"
    assert (drawn[0].get_xscale() == "log") == (len(values) >= 3 and max(values) > 1000)


def test_best_step_is_marked_on_a_logarithmic_axis(drawn, tmp_path):
    steps = np.array([10.0, 20, 30, 40])
    val = Curve(0, steps, np.array([117.0, 2, 1, np.nan]), "val", points=True, best=30)
    charts.curves(tmp_path, "a", [val], unit="loss", alt="")
    (star,) = [line for line in drawn[0].lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[30, 1]] and drawn[0].get_yscale() == "log"
    charts.curves(tmp_path, "a", [Curve(0, steps / 10, steps, "val")], unit="loss", alt="")
    assert all(tick == round(tick) for tick in drawn[1].get_xticks()), "there is no half a step"


def test_parts_of_one_run_differ_in_colour(drawn, tmp_path):
    steps = np.arange(1.0, 9)
    lines = [Curve(0, steps, steps / 9, "train"), Curve(0, steps, steps / 8, "val", points=True)]
    charts.curves(tmp_path, "a", lines, unit="top-1", alt="", limits=(0, 1.2))
    colours = {line.get_label(): line.get_color() for line in drawn[0].lines}
    assert (colours["train"], colours["val"]) == LIGHT.series[:2]
    charts.curves(tmp_path, "a", [*lines, Curve(1, steps, steps / 7, "other")], unit="top-1", alt="", limits=(0, 1.2))
    colours = {line.get_label(): line.get_color() for line in drawn[1].lines}
    assert colours["train"] == colours["val"] != colours["other"], "of several runs, a run has one colour"


def test_letters_of_many_runs_cover_no_curve(monkeypatch, tmp_path):
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "save_png", lambda figure, _path: figures.append(figure))
    steps = np.arange(1.0, 9)
    lines = [Curve(run, steps, steps / 9, what, points=what == "val") for run in range(8) for what in ("train", "val")]
    charts.curves(tmp_path, "a", lines, unit="top-1", alt="", limits=(0, 1.03))
    for figure in figures:
        figure.draw_without_rendering()
        (axes,) = figure.axes
        legend = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == list(charts.LETTERS)
        box = legend.get_window_extent()
        assert box.y0 >= axes.bbox.y1 - 1 and box.y1 <= figure.bbox.y1 and box.x1 <= figure.bbox.x1
    assert len(figures) == 2


def test_running_mean_leaves_out_what_is_not_finite():
    assert running_mean(np.array([1.0, np.nan, 3, 5]), 2).tolist() == [1, 3, 4]
    assert np.isnan(running_mean(np.array([np.nan, np.nan]), 2)).all()


def test_best_record_is_the_one_that_training_chose(tmp_path):
    scores = [(0.5, 1.0), (0.75, 0.9), (0.75, 0.4), (0.75, 0.4), (0.9, None), (None, 0.1)]
    records = [{"step": step, "val/video_top1": top1, "val/loss": loss} for step, (top1, loss) in enumerate(scores)]
    best = Run(tmp_path, records, {}, {}, []).best
    assert best is not None and best["step"] == 2
    assert Run(tmp_path, records[5:], {}, {}, []).best is None


def test_chart_is_sharp_and_has_the_ground_of_its_page(tmp_path):
    (tmp_path / "files").mkdir()
    picture = charts.draw(tmp_path, "a", lambda axes, theme: axes.plot([1, 2], color=theme.series[0]), alt="b")
    for file, theme in ((picture.file, LIGHT), (picture.dark, DARK)):
        image = Image.open(tmp_path / file).convert("RGB")
        assert image.size == (2 * picture.size[0], 2 * picture.size[1])
        assert "#%02x%02x%02x" % image.getpixel((0, 0)) == theme.paper  # noqa: UP031
