"""Names in pictures: every one is inside its box, whatever its script and length; what cannot be drawn is reported."""

import ctypes
import logging
import random
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from paths import ROOT, SHARED
from PIL import Image

from train.pictures import directions, labels
from train.pictures.labels import fit, missing_characters, report_missing, safe_for_matplotlib, width_of, wrapped
from train.pictures.panel import DARK, Moment, Prediction, draw_panel

STIX = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneralBolIta.ttf"
CIRCLED = "\u24b6"  # which DejaVu Sans lacks and STIX has
MARGIN = 40
SCRIPTS = [
    "\u6253\u4e52\u4e53\u7403\uff08\u5ba4\u5185\uff09" * 6,
    "\u0644\u0639\u0628 \u0643\u0631\u0629 2.5 (FIFA) \u0641\u064a \u0627\u0644\u0645\u0644\u0639\u0628",
    "\u092b\u0941\u091f\u092c\u0949\u0932 \u0916\u0947\u0932\u0928\u093e",
    "\U0001f600 \U0001f3c0 \U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "word " * 40,
    "W" * 200,
    "",
]


def kinetics_names() -> list[str]:
    """Kinetics-400's names, and those of the label files of other releases, where a checkout has them."""
    names = set(pd.read_csv(ROOT / "data_manifests" / "kinetics400_classes.csv").iloc[:, -1].astype(str))
    for path in (SHARED / "kinetics").glob("*val*.csv"):
        names |= set(pd.read_csv(path)["label"])
    return sorted(names)


def is_inside(text: str, width: int, sizes: range, max_lines: int = 2) -> bool:
    """Whether all ink of a text is inside the box that it asks for, and the box is not too wide."""
    block = fit(text, width, sizes, max_lines, bold=True)
    picture = Image.new("L", (width + 2 * MARGIN, block.height + 2 * MARGIN))
    block.draw(picture.convert("RGB"), 0, 0, (0, 0, 0))  # it draws on RGB, too
    block.draw(picture, MARGIN, MARGIN, 255)  # type: ignore[arg-type]  # a grey level
    inked = np.argwhere(np.asarray(picture) > 60) - MARGIN
    if not len(inked):
        return not text.strip()
    (top, left), (bottom, right) = inked.min(0), inked.max(0)
    return block.width <= width and top >= 0 and left >= -1 and bottom < block.height and right <= width


def has_dark_edges(panel: np.ndarray) -> bool:
    """Whether nothing is drawn at the edges of a panel."""
    edges = (panel[:3], panel[-3:], panel[:, :3], panel[:, -3:])
    return all((edge == DARK).all() for edge in edges)


@pytest.mark.parametrize("width", [120, pytest.param(360, marks=pytest.mark.slow)])
def test_kinetics_names_fit_in_two_lines(width):
    names = sorted(kinetics_names(), key=len)[-12:]
    assert len(names[-1]) > 30
    for name in names:
        assert is_inside(name, width, range(20, 8, -1)), name
        assert len(fit(name, width, range(20, 8, -1), 2).lines) <= 2, name


@pytest.mark.slow
@pytest.mark.parametrize("width", [171, 320, 480])
def test_panel_of_every_kinetics_name(width):
    for name in kinetics_names():
        panel = draw_panel(Prediction([(name, 0.5)] * 3, name), width, None)
        assert panel.shape[1] == width and has_dark_edges(panel), name


@pytest.mark.parametrize("text", SCRIPTS, ids=range(len(SCRIPTS)))
def test_any_script_and_length_is_inside_its_box(text):
    for width in (110, 400):
        assert is_inside(text, width, range(18, 8, -1))
        panel = draw_panel(Prediction([(text, 0.5)], text), width, Moment(1.5, 11.5, 3605.0))
        assert has_dark_edges(panel)


def test_true_label_keeps_its_own_direction(monkeypatch):
    """Of an Arabic name with a word in brackets: beside English words, its parts would change places."""
    name, drawn = "\u0644\u0639\u0628 (FIFA) \u0643\u0631\u0629", []
    draw = labels.TextBlock.draw
    monkeypatch.setattr(labels.TextBlock, "draw", lambda self, *given: drawn.append(self.lines) or draw(self, *given))
    draw_panel(Prediction([("a", 0.5), (name, 0.25)], name), 480, None)
    ((of_class,), (of_true_label,)) = [lines for lines in drawn if any("FIFA" in run.text for run in lines[0])]
    assert of_class == of_true_label
    assert any("true label:" in run.text for lines in drawn for run in lines[0])


def test_long_text_loses_no_letter():
    words = " ".join(f"word{number}" for number in range(60))
    lines = fit(words, 150, range(20, 8, -1)).lines
    assert " ".join("".join(run.text for run in line) for line in lines) == words
    lines = fit("x" * 200, 150, range(20, 8, -1)).lines
    assert "".join(run.text for line in lines for run in line) == "x" * 200


@pytest.mark.parametrize(
    ("text", "parted"),
    [("\uff08\u5ba4" * 5 + "\u6253" + "\uff09" * 2 + "\u6253", ["\uff08\u5ba4"]),  # brackets
     ("\u30d0\u30b9\u30b1\u30c3\u30c8\u30dc\u30fc\u30eb", ["\u30c3", "\u30fc"]),  # small kana, a long vowel
     ("\u0e40\u0e25\u0e48\u0e19\u0e19\u0e49\u0e33\u0e41\u0e25\u0e30" * 2, ["\u0e33", "\u0e30"]),  # Thai vowels
     ("\ub18d\uad6c \uacbd\uae30 \uad00\ub78c", ["\uad6c", "\uae30", "\ub78c"])],
    ids=["chinese", "japanese", "thai", "korean"],
)  # fmt: skip
def test_lines_break_where_the_script_allows(text, parted, monkeypatch):
    """No line of any width begins with the second of what belongs together; nothing is lost."""
    monkeypatch.setattr(labels, "_measure", lambda line, size: size * len("".join(one for one, _ in line).strip()))
    for width in range(3, len(text)):
        lines = wrapped(text, width).split("\n")
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert not [line for line in lines[1:] if line[0] in "\uff09\u30c3\u30fc\u0e33\u0e30\uad6c\uae30\ub78c"], lines
        assert not [line for line in lines[:-1] if line[-1] in "\uff08\u0e40\u0e41"], lines


def test_widths_are_in_sizes_of_letters():
    assert width_of("a b\nW" * 2) == pytest.approx(2 * width_of("W"), rel=0.5)
    assert all(width_of(line) <= 6 for line in wrapped("word " * 9 + "W" * 20, 6).split("\n"))


def test_one_line_of_smaller_letters_before_two():
    block = fit("playing squash or racquetball", 320, range(22, 14, -1), 2, bold=True)
    assert len(block.lines) == 1 and 15 <= block.size < 22


def test_runs_stand_as_they_are_read():
    arabic, latin = "\u0644\u0639\u0628", "FIFA"
    (line,) = fit(f"{arabic} 2.5 ({latin}) {arabic}", 900, [16]).lines
    if not labels._can_shape():
        pytest.skip("this machine has no FriBidi")
    # From left to right: the second Arabic word, FIFA, the number, the first Arabic word.
    assert [run.text.strip(" ()") for run in line if run.text.strip(" ()")] == [arabic, latin, "2.5", arabic]
    (line,) = fit(f"a {arabic} {arabic} b", 900, [16]).lines
    assert [run.text for run in line] == ["a ", f"{arabic} {arabic}", " b"]
    (line,) = fit(f"a {arabic} 12 b", 900, [16]).lines
    assert [run.text for run in line] == ["a ", "12", f"{arabic} ", " b"]
    (line,) = fit(f"{arabic} ({latin}) 12", 900, [16]).lines
    assert [run.text for run in line] == ["12", ") ", latin, f"{arabic} ("]


def test_directions_are_those_of_fribidi():
    """Of random lines; FriBidi has Unicode's algorithm too."""
    try:
        fribidi = ctypes.CDLL("libfribidi.so.0")
    except OSError:
        pytest.skip("this machine has no FriBidi")
    rng, letters = random.Random(0), "ab \u05d0\u05d1\u0644\u0639 12.,-+%$()[]{}:!/\u0661\u0662\u00e9&#\u20ac"
    for number in range(3000):
        line, base = "".join(rng.choices(letters, k=1 + number % 14)).rstrip() or "a", number % 2
        array = ctypes.c_uint32 * len(line)
        text, kinds, brackets, direction = array(*map(ord, line)), array(), array(), ctypes.c_uint32(0x110 + base)
        fribidi.fribidi_get_bidi_types(text, len(line), kinds)
        fribidi.fribidi_get_bracket_types(text, len(line), kinds, brackets)
        expected = (ctypes.c_int8 * len(line))()
        fribidi.fribidi_get_par_embedding_levels_ex(kinds, brackets, len(line), ctypes.byref(direction), expected)
        assert directions.levels(list(line), base) == list(expected), ascii(line)


def test_missing_character_is_reported_once(caplog):
    with caplog.at_level(logging.WARNING):
        report_missing([f"a{chr(0x2FFFD)}", "b"])
        report_missing([f"c{chr(0x2FFFD)}"])
    (record,) = caplog.records
    assert "U+2FFFD" in record.message and "Install a font that has them" in record.message
    (line,) = fit(f"a{chr(0x2FFFD)}b", 100, [12]).lines
    assert "".join(run.text for run in line) == "a?b"


def test_installed_font_draws_what_dejavu_lacks(monkeypatch):
    labels._font_of.cache_clear()
    monkeypatch.setattr(labels, "_installed", lambda: [STIX])
    assert missing_characters([f"a {CIRCLED}"]) == []
    (line,) = fit(f"a {CIRCLED} b", 200, [16]).lines
    assert [(run.text, run.font.name) for run in line] == [
        ("a ", "DejaVuSans.ttf"), (CIRCLED, STIX.name), (" b", "DejaVuSans.ttf")
    ]  # fmt: skip
    assert safe_for_matplotlib([f"{CIRCLED} \u6253"]) == ([f"{CIRCLED} ?"], ["DejaVu Sans", "STIXGeneral"])
    labels._font_of.cache_clear()


def test_font_of_boxes_is_not_taken(monkeypatch):
    labels._font_of.cache_clear()
    monkeypatch.setattr(labels, "_installed", lambda: [STIX.with_name("LastResortHE-Regular.ttf")])
    assert missing_characters(["\u6253"]) == ["\u6253"]
    labels._font_of.cache_clear()


def test_font_of_colours_is_not_taken(tmp_path, monkeypatch, caplog):
    """An emoji whose outline is empty, because its colours are in other tables, is a visible `?` and is named."""
    builder, emoji = FontBuilder(1000), "\U0001f9ff"
    builder.setupGlyphOrder([".notdef", "emoji"])
    builder.setupCharacterMap({ord(emoji): "emoji"})
    builder.setupGlyf({".notdef": Glyph(), "emoji": Glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "emoji": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Layers", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "Layers.ttf")
    labels._font_of.cache_clear()
    monkeypatch.setattr(labels, "_installed", lambda: [tmp_path / "Layers.ttf"])
    monkeypatch.setattr(labels, "_reported", set())
    with caplog.at_level(logging.WARNING):
        panel = draw_panel(Prediction([(emoji, 0.5)], None), 480, None)
    assert "Labels show '?' for characters of which" in caplog.text and "U+1F9FF" in caplog.text
    assert "(for emoji Symbola)" in caplog.text and "\n" not in caplog.text.strip()
    assert np.array_equal(panel, draw_panel(Prediction([("?", 0.5)], None), 480, None))
    assert safe_for_matplotlib([f"a {emoji}"]) == (["a ?"], ["DejaVu Sans"])
    labels._font_of.cache_clear()


def test_tone_of_an_emoji_is_no_box_beside_it():
    (line,) = fit("a \U0001f600\U0001f3fd b", 300, [12]).lines
    assert "".join(run.text for run in line) == "a \U0001f600 b"


def test_text_that_acts_is_written_out():
    (line,) = fit("a\n\tb\u202ec", 300, [12]).lines
    assert "".join(run.text for run in line) == r"a b\u202ec"
