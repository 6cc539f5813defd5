"""Predictions are shown as a table, as JSON that any program can read, and as CSV."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.common.errors import UserError
from train.evaluation.results import names_of_classes
from train.inference.output import (
    Row,
    Segment,
    Table,
    best_classes,
    json_of,
    try_file,
    write_csv,
)

ODD = 'a"\n\r\x1b[31m\udcff,é.mp4'
GOOD = Row("x.mp4", "ok", top=[("run", 0.75), ("sit, down", 0.25)], true_label="run", protocol="one-clip",
           views_s=[(0.0, 1.0), (2.0, 3.06666)], repeats=True, pictures=[Path("out/x.gif")])  # fmt: skip
BAD = Row(ODD, "truncated", "packet 3 is cut short")
LONG = Row("l.mp4", "ok", top=[("run", 0.5)], protocol="windows of 1 s", views_s=[(0.0, 3661.5)],
           segments=[Segment(0.0, 3600.0, "run", 0.5), Segment(3600.0, 3661.5, "sit", 0.625)],
           times_s=[0.5, 1.5], scores={"run": [0.5, float("nan")]})  # fmt: skip


def test_json_is_one_ascii_line_with_every_fact():
    lines = [json_of(row) for row in (GOOD, BAD, LONG)]
    assert all(line.isascii() and "\n" not in line and "NaN" not in line for line in lines)
    good, bad, long = map(json.loads, lines)
    assert good == {
        "path": "x.mp4", "status": "ok", "top": [{"label": "run", "probability": 0.75},
        {"label": "sit, down", "probability": 0.25}], "true_label": "run", "protocol": "one-clip",
        "views_s": [[0.0, 1.0], [2.0, 3.0667]], "frames_repeat": True, "pictures": ["out/x.gif"],
    }  # fmt: skip
    assert bad == {"path": ODD, "status": "truncated", "reason": "packet 3 is cut short", "top": []}
    assert long["segments"][1] == {"start_s": 3600.0, "end_s": 3661.5, "label": "sit", "score": 0.625}
    assert long["times_s"] == [0.5, 1.5] and long["scores"] == {"run": [0.5, None]}


def test_csv_has_a_row_for_each_video_or_segment(tmp_path):
    path = tmp_path / "p.csv"
    write_csv(path, [GOOD, BAD], 3)
    with open(path, newline="", encoding="utf-8") as file:
        good, bad = csv.DictReader(file)
    assert (good["predicted_2"], good["probability_2"], good["predicted_3"]) == ("sit, down", "0.250000", "")
    assert good["views_s"] == "0.000-1.000;2.000-3.067" and good["frames_repeat"] == "true"
    assert bad["path"] == ODD.replace("\udcff", "\\udcff")
    assert (bad["status"], bad["reason"], bad["predicted_1"]) == ("truncated", "packet 3 is cut short", "")
    write_csv(path, [LONG, BAD], 3)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["run", "sit", ""] and rows[1]["end_s"] == "3661.500"


def test_single_video_is_shown_with_all_it_has(capsys):
    Table(["x.mp4"], ["run", "sit, down"]).add(GOOD)
    assert capsys.readouterr().out.splitlines() == [
        "1. run  0.7500", "2. sit, down  0.2500", "looked at: 0.00-1.00 s, 2.00-3.07 s (one-clip)", "true label: run",
        "The video is shorter than a clip, so its frames repeat.", "picture: out/x.gif",
    ]  # fmt: skip


def test_several_videos_are_lines_of_a_table(capsys):
    table = Table(["x.mp4", "y.mp4"], ["run", "sit, down"])
    for row in (GOOD, Row("y.mp4", "timeout", "not decoded")):
        table.add(row)
    header, good, bad = capsys.readouterr().out.splitlines()
    assert good.index("run") == header.index("prediction") and "(frames repeat)" in good
    assert bad.split() == ["y.mp4", "-", "timeout"]


def test_odd_names_keep_their_line_and_columns(capsys):
    """A name with a line break, one of Chinese characters, and one of 300 letters."""
    names = ["\u6253\u7403", "W" * 300, "a\nb\tc"]
    table = Table([ODD, "x.mp4", "y.mp4"], names)
    for path, name in zip([ODD, "x.mp4", "y.mp4"], names, strict=True):
        table.add(Row(path, "ok", top=[(name, 0.5)], true_label=name))
    header, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith('a"\\n\\r\\x1b[31m\\udcff')
    wide = sum("\u4e00" <= letter <= "\u9fff" for letter in lines[0].partition("0.5000")[0])
    assert lines[0].index("0.5000") + wide == lines[2].index("0.5000") == header.index("probability") + 5
    assert "W" * 300 in lines[1] and "a\\nb\\tc" in lines[2]
    Table([ODD], names).add(Row(ODD, "ok", top=[("a\nb", 0.5)], true_label="a\nb", pictures=[Path("o\nut.gif")]))
    Table([ODD], names).add(Row(ODD, "io", "gone"))
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_end_of_a_long_path_is_shown(capsys):
    """Chinese characters take two columns each."""
    table = Table(["x" * 99, "\u6253" * 50], ["run"])
    for path in ("x" * 99, "\u6253" * 50):
        table.add(Row(path, "ok", top=[("run", 0.5)]))
    header, latin, chinese = capsys.readouterr().out.splitlines()
    assert latin.startswith("..." + "x" * 57 + "  run") and header.index("prediction") == 62
    assert chinese.startswith("..." + "\u6253" * 28 + "   run"), "as wide as the other"


def test_segments_are_shown_with_their_times(capsys):
    Table(["l.mp4"], ["run", "sit"], by_window=True).add(LONG)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("0:00:00.00 - 1:00:00.00  run ") and second.startswith("1:00:00.00 - 1:01:01.50  sit ")
    table = Table(["l.mp4", "y.mp4"], ["run", "sit"], by_window=True)
    for row in (LONG, Row("y.mp4", "truncated", "cut short")):
        table.add(row)
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[3:]) == ("l.mp4:", ["y.mp4:", "truncated: cut short"])


def test_best_classes_and_names():
    assert best_classes(np.array([0.25, 0.5, 0.25]), ["a", "b", "c"], 2) == [("b", 0.5), ("a", 0.25)]
    assert names_of_classes(3, ["", "b"], ["x"]) == ["x", "b", "class 2"]


def test_csv_that_cannot_be_written_is_found_first(tmp_path):
    with pytest.raises(UserError, match="got a folder, expected a regular file or none"):
        try_file(tmp_path, [])
    (tmp_path / "list.csv").touch()
    with pytest.raises(UserError, match=r"--csv: got .*list\.csv, which is an input\. Give another file\."):
        try_file(tmp_path / "list.csv", ["x.mp4", f"{tmp_path}/./list.csv"])
    try_file(tmp_path / "new" / "p.csv", [""])
    assert list((tmp_path / "new").iterdir()) == []
