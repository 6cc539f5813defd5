"""The picture of a run: its frames, its texts, and the colours of its curves."""

import itertools

import numpy as np
from matplotlib.text import Text
from PIL import Image

from train.pictures.charts import DPI, LabelledClip, draw_run, save_png, series, strip_of

RECORDS = [
    *({"step": step, "train/loss": 2.0 / step, "train/clip_top1": 0.4, "train/lr": 0.1} for step in (10, 20, 30)),
    {"step": 30, "val/loss": 0.2, "val/video_top1": 0.625, "val/video_top5": 0.9},
]


def clip_of(label: str, num_frames: int) -> LabelledClip:
    """Grey frames of 6 x 10; frame k has the value k."""
    return LabelledClip(label, np.broadcast_to(np.arange(num_frames, dtype=np.uint8)[:, None, None, None],
                                               (num_frames, 6, 10, 3)))  # fmt: skip


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_strip_shows_frames_equally_far_apart():
    for num_frames, shown in ((3, [0, 1, 2]), (8, list(range(8))), (16, list(range(0, 16, 2))), (20, range(0, 16, 2))):
        strip = strip_of(clip_of("", num_frames).frames)
        assert strip[0, ::12, 0].tolist() == list(shown)  # 10 pixels of a frame and 2 of white
        assert strip.shape == (6, 12 * len(shown) - 2, 3)
        assert (strip[:, 10:12] == 255).all()


def test_labels_and_result_are_written():
    written = texts(
        draw_run(RECORDS, [clip_of("playing squash or racquetball", 4), clip_of("a $1 b$", 4)], "runs/a_$x$")
    )
    assert "runs/a_$x$:  validation top-1 0.625 after 30 steps" in written
    long = texts(draw_run(RECORDS, [clip_of(f"rotating counterclockwise {'W' * 50}\u202e", 4)], ""))
    assert f"rotating\ncounterclockwise\n{'W' * 20}\n{'W' * 20}\n{'W' * 10}\\u202e" in long
    assert "playing squash\nor racquetball" in written and "a $1 b$" in written


def test_long_names_of_clips_stand_apart():
    """Smaller letters first; only what does not fit with the smallest is cut."""
    names = ["W" * 300, "\u6253" * 90, "playing squash or racquetball on a court of one's own", "a", "", "word " * 60]
    figure = draw_run(RECORDS, [clip_of(name, 4) for name in names * 2][:8], "")
    figure.draw_without_rendering()
    boxes = [axes.yaxis.label.get_window_extent() for axes in figure.subfigs[0].axes]
    for number, (above, below) in enumerate(itertools.pairwise(boxes)):
        assert above.y0 >= below.y1 - 1 or not (names * 2)[number], number
    assert all(box.x0 >= 0 for box in boxes)
    shown = texts(figure)
    assert "own" in shown and "…" in shown


def test_run_without_evaluation_or_clips_is_drawn(tmp_path):
    figure = draw_run(RECORDS[:1], [], "a")
    assert "validation" not in texts(figure) and "clips of" not in texts(figure)
    save_png(figure, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_256_colours_keep_those_of_the_curves(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), np.uint8)
    figure = draw_run(RECORDS, [LabelledClip(f"class {number}", noise) for number in range(8)], "a")
    save_png(figure, tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png")
    assert picture.size == (round(figure.get_figwidth() * DPI), round(figure.get_figheight() * DPI))
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((255, 255, 255), (31, 119, 180), (255, 127, 14), (44, 160, 44)):  # paper, tab:blue, orange, green
        assert np.abs(pixels - colour).sum(1).min() <= 60  # noise is the hardest


def test_value_that_was_not_finite_is_nan():
    steps, values = series([{"step": 1, "a": None}, {"step": 2, "b": 0.0}, {"step": 3, "a": 2.0}], "a")
    assert steps.tolist() == [1, 3] and np.isnan(values[0]) and values[1] == 2
