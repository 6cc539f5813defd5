"""Lists of class names are read in their usual forms, and odd ones are refused with the row."""

import csv

import pytest

from pipeline.common.errors import UserError
from train.weights.class_order import read_class_order


@pytest.mark.parametrize(
    "text",
    [
        "b c\na\nd, e\n",
        "\ufeffb c\r\na\r\n\r\nd, e",
        "1;a\n0;b c\n2;d, e\n",
        "1 a\n0 b c\n2 d, e\n",
        "1 b c\n2 a\n3 d, e\n",
        "00\tb c\n01\ta\n02\td, e\n",
        "0: b c\n1. a\n2) d, e\n",
        'label_id,label\n0,b c\n2,"d, e"\n1,a\n',
        '"b c"\n"a"\n"d, e"\n',
        '2,"d, e"\n1,"a"\n0,b c\n',
        'label,label_id\nb c,0\na,1\n"d, e",2\n',
    ],
)
def test_usual_forms(text, tmp_path):
    (tmp_path / "x.txt").write_bytes(text.encode())
    assert read_class_order(tmp_path / "x.txt") == ["b c", "a", "d, e"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.txt has no class names"),
        (b"label_id,label\n", r"x\.txt has no class names"),
        (b"a\nb\na\n", r"x\.txt:3: got the class 'a', which is also on line 1, expected each name once"),
        (b"0 a\n0 b\n", r"x\.txt:2: got the number '0', expected each of 0 to 1 once"),
        (b"0 a\n5 b\n", r"x\.txt:2: got the number '5', expected each of 0 to 1 once"),
        (b"label_id,label\nx,a\n", r"x\.txt:2: got the number 'x'"),
        (b"label_id,label\n0\n", r"x\.txt:2: got the class '', expected each name once"),
        (b"0\ta\n1\tb\n2\t\n", r"x\.txt:3: got '2', expected a number and a name, as on most lines\. Give a number on"),
        (b"id,name\n0,a\n1,b\n", r"x\.txt:1: got 'id,name', expected a number and a name"),
        (b"a,0\nb,1\n", r"x\.txt:1: got 'a,0', expected a name, or first its number\. Give a CSV with the columns"),
        (b"b 2\na 1\n", r"x\.txt:1: got 'b 2', expected a name, or first its number"),
        (b"x" * (1 << 21), r"x\.txt is larger than 1,048,576 bytes"),
        (b"\xff", r"x\.txt is not UTF-8 at byte 0"),
        (None, r"x\.txt not found\. Give a file with a class name on each line"),
    ],
)
def test_odd_lists_are_refused_with_the_row(content, message, tmp_path):
    if content is not None:
        (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_class_order(tmp_path / "x.txt")


def test_names_that_end_with_numbers_are_names(tmp_path):
    for names in (["class 1", "class 2"], ["class 1", "class 7"], ["area 51"], ["100 m", "a"]):
        (tmp_path / "x.txt").write_text("\n".join(names))
        assert read_class_order(tmp_path / "x.txt") == names


def test_folder_is_no_list(tmp_path):
    with pytest.raises(UserError, match=r"is a folder\. Give a file with a class name on each line"):
        read_class_order(tmp_path)


def test_cell_beyond_the_limit_of_csv_is_one_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"label_id,label\n0," + b"a" * 1001)
    before = csv.field_size_limit(1000)
    try:
        with pytest.raises(UserError, match=r"x\.txt:2: field larger than field limit \(1000\), expected a class"):
            read_class_order(tmp_path / "x.txt")
    finally:
        csv.field_size_limit(before)
