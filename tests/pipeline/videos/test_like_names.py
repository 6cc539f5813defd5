"""Names that look alike: files in another Unicode form are found, and likely mistakes are one warning each."""

import unicodedata

import pytest
from make_ledgers import joined, touch

CAFE = "cafe\u0301"  # as macOS writes it
NFC = unicodedata.normalize("NFC", CAFE)


def joined_own(tmp_path, rows, *files, name="train.csv"):
    root = tmp_path / "data"
    touch(root, name, *files)
    (root / name).write_text(rows)
    return joined(root, dataset="own")


@pytest.mark.parametrize(("listed", "file"), [(NFC, CAFE), (CAFE, NFC), (NFC, f"train/{CAFE}")])
def test_unicode_forms_of_a_file_name_are_one_name(tmp_path, listed, file):
    built = joined_own(tmp_path, f"path,label\n{listed}.mp4,x\nb.mp4,y\nlost.mp4,y\n", f"{file}.mp4", "b.mp4", "c.mp4")
    ledger = built.ledgers["train"].set_index("label")
    assert ledger.loc["x", "path"] == f"{file}.mp4" and ledger.loc["x", "status"] == "pending"
    assert built.extra["path"].tolist() == ["c.mp4"]
    assert sum("1 file names have another Unicode form than in the label file" in one for one in built.warnings) == 1


def test_both_forms_are_two_files(tmp_path):
    built = joined_own(tmp_path, f"path,label\n{NFC}.mp4,x\n{CAFE}.mp4,y\n", f"{CAFE}.mp4", f"{NFC}.mp4")
    assert sorted(built.ledgers["train"]["path"]) == sorted([f"{CAFE}.mp4", f"{NFC}.mp4"])
    assert not any("Unicode" in one for one in built.warnings)


def test_labels_that_look_alike_are_one_warning(tmp_path):
    labels = ["Cat", "cat", "a b", "a  b", "a\u00a0b", CAFE, NFC, "dog"]
    text = "path,label\n" + "".join(f"{n}.mp4,{label}\n" for n, label in enumerate(labels))
    built = joined_own(tmp_path, text, *(f"{n}.mp4" for n in range(len(labels))))
    (line,) = [one for one in built.warnings if "differ only in" in one]
    assert line.startswith(
        "3 groups of labels differ only in case, spaces or Unicode form, and are different classes: "
    )
    assert "'Cat' and 'cat'" in line and r"'a\xa0b'" in line and r"'cafe\u0301' and 'caf\xe9'" in line
    assert built.ledgers["train"]["label"].nunique() == len(labels)


def test_list_that_is_off_by_one_is_a_warning(tmp_path):
    touch(tmp_path / "data", "label_map.txt")
    (tmp_path / "data" / "label_map.txt").write_text("ape\nbee\ncow\ndog\n")
    files = [f"{name}/deep/{n}.mp4" for name in ("ape", "bee", "cow") for n in range(3)]
    right = "".join(f"{file} {'abc'.index(file[0])}\n" for file in files)
    assert not any(
        "another class's folder" in one for one in joined_own(tmp_path, right, *files, name="train.txt").warnings
    )
    wrong = "".join(f"{file} {'abc'.index(file[0]) + 1}\n" for file in files)
    built = joined_own(tmp_path, wrong, *files, name="train.txt")
    (line,) = [one for one in built.warnings if "another class's folder" in one]
    assert line.startswith("6 of 6 videos are in another class's folder than their label file says: bee/deep/0.mp4 is")
    assert line.endswith("its numbers are off by one")
    one = right.replace("bee/deep/0.mp4 1", "bee/deep/0.mp4 0")
    (line,) = [one for one in joined_own(tmp_path, one, *files, name="train.txt").warnings if "another class" in one]
    assert line.startswith("1 of 9 videos") and "bee/deep/0.mp4 is 'ape'" in line and "off by one" not in line


def test_video_names_that_differ_in_a_space_are_two(tmp_path):
    built = joined_own(tmp_path, "path,label\nx y.mp4,a\nx_y.mp4,b\n", "x y.mp4", "x_y.mp4")
    ledger = built.ledgers["train"]
    assert sorted(ledger["path"]) == ["x y.mp4", "x_y.mp4"] and ledger["video_id"].is_unique
    assert set(ledger["status"]) == {"pending"}
