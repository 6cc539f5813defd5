"""A quote without its partner in a table that a person gives is an error with its line; no row is lost silently."""

import json

import pytest
from make_ledgers import ROWS, command, label_file, ledger_bytes, recipe_of, touch
from paths import RESOURCES, SHARED

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError, check_lines
from pipeline.labels.class_ids import read_class_list
from pipeline.labels.label_files import load_labels

ID = "-aaaaaaaaaa"
HEADER = "label,youtube_id,time_start,time_end,split\n"


def load_text(folder, text, name="val.csv", encoding="utf-8", **keys):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))
    return load_labels(Preprocess(dataset="k", data_root=str(folder), manifests=str(folder / "ledgers"), **keys))


def label_row(number, label="zumba", end="\n"):
    return f"{label},{ID},{number},{number + 10},val{end}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_paired_quotes_name_each_swallowing_row(tmp_path, end, encoding):
    rows = [label_row(number) for number in range(30)]
    rows[3], rows[9], rows[20], rows[21] = (
        label_row(3, '"zumba'),
        label_row(9, 'zumba"'),
        label_row(20, '"x'),
        label_row(21, 'y"'),
    )
    text = (HEADER + "".join(rows)).replace("\n", end)
    with pytest.raises(InputError) as caught:
        load_text(tmp_path, text, encoding=encoding)
    assert [bad.row for bad in caught.value.bad_values] == [5, 22]
    assert "val.csv:5: line: got 'zumba,-aaaaaaaaaa,3" in str(caught.value)
    assert "expected a value on one line; it ends in line 11, so a quote is missing or too many" in str(caught.value)


@pytest.mark.parametrize("text", [
    HEADER + label_row(1) + label_row(2, '"zumba') + label_row(3) * 9,
    HEADER + label_row(1) + label_row(2, '"zumba') + label_row(3) * 9_000,  # longer than csv's largest value
    'label,"youtube_id,time_start,time_end,split\n' + label_row(1) + label_row(2) + '"' + label_row(3),
])  # fmt: skip
def test_a_quote_that_never_ends_is_one_line(tmp_path, text):
    with pytest.raises(InputError) as caught:
        load_text(tmp_path, text)
    assert "C error" not in str(caught.value) and "val.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_quoted_label_on_one_line_is_whole(tmp_path):
    text = (
        HEADER
        + label_row(1, '"a, b"')
        + "\n"
        + label_row(2, '"say ""hi"""')
        + label_row(3, "it's")
        + label_row(4, 'a"b', end="")
    )
    assert load_text(tmp_path, text).table["label"].tolist() == ["a, b", 'say "hi"', "it's", 'a"b']


def test_a_block_of_nul_bytes_is_named(tmp_path):
    text = HEADER + label_row(1) + label_row(2, "\0" * 40) + label_row(3)
    with pytest.raises(InputError, match=r"val\.csv:3: got a NUL byte, expected text\. Fix the file\."):
        load_text(tmp_path, text)


def test_a_label_map_with_a_line_end_is_refused(tmp_path):
    (tmp_path / "cls2index.json").write_text(json.dumps({"a\nb": 0, "c\u2028d": 1}))
    with pytest.raises(InputError, match=r"val\.csv:1: label: got 'a\\nb', expected a label on one line"):
        load_text(tmp_path, "x/1.mp4 0\nx/2.mp4 1\n")
    (tmp_path / "cls2index.json").unlink()
    (tmp_path / "label_map.txt").write_text("a\x0cb\u2028\nc d\n", encoding="utf-8")
    assert load_text(tmp_path, "x/1.mp4 0\nx/2.mp4 1\n").table["label"].tolist() == ["a\x0cb", "c d"]
    (tmp_path / "label_map.txt").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="label_map.txt: not readable as text"):
        load_text(tmp_path, "x/1.mp4 0\nx/2.mp4 1\n")


def test_a_class_list_may_not_swallow_its_end(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text('label_id,label\n0,a\n1,"b\n2,c"\n')
    with pytest.raises(InputError, match=r"classes\.csv:3: line: got 'b\\n2,c', expected a value on one line"):
        read_class_list(path)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "the file is empty"), (b"\xff\xfe", "not UTF-8 text"), (b"a,b\n1,2\n", "no column"),
    (b"label_id,label\nx,y\n", "a label_id is no whole number"), (b"label_id,label\n0,a\n1,2,3,4,5\n", "line 3 has 5"),
])  # fmt: skip
def test_what_is_no_class_list(tmp_path, content, words):
    (tmp_path / "classes.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"classes\.csv: not a class list: .*{words}"):
        read_class_list(tmp_path / "classes.csv")


def test_ledgers_stay_when_a_label_file_swallows(tmp_path):
    root = tmp_path / "data"
    label_file(root)
    touch(root, "val/-aaaaaaaaaa_000001_000011.mp4")
    command(root)
    before = ledger_bytes(root)
    path = root / "kinetics-400_val.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('",', ",", 1)
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(InputError, match="rows take several lines"):
        command(root)
    with pytest.raises(InputError, match="rows take several lines"):
        command(root, "--leaks", str(path))
    assert ledger_bytes(root) == before


def test_a_subset_list_with_a_swallowed_row_is_refused(tmp_path):
    root = tmp_path / "data"
    label_file(root)
    touch(root, *(f"val/{name}_{start:06d}_{end:06d}.mp4" for _, name, start, end in ROWS))
    command(root, "--per-class", "1")
    path = recipe_of(root, dataset="kinetics400-p1-s0")
    labels = root.parent / "ledgers" / path.dataset / "labels" / "val.csv"
    text = labels.read_text()
    first = text.splitlines()[1].split(",")[0]
    labels.write_text(text.replace(first, f'"{first}', 1)[:-1] + '"\n')
    with pytest.raises(InputError, match=r"labels/val\.csv"):
        command(root, dataset="kinetics400-p1-s0")


def test_label_files_of_kinetics_have_a_line_a_row():
    paths = [*RESOURCES.rglob("kinetics-*.csv"), *SHARED.glob("kinetics/*.csv")]
    assert paths
    for path in paths:
        check_lines(path, sum(1 for _ in path.open(encoding="utf-8-sig")))
