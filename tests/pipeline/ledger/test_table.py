"""A ledger is written and read without loss, and an invalid one is refused with all its errors."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from make_ledgers import IDS, ROWS, build_ledgers, command, ledger_bytes, recipe_of, touch, val
from make_store import make_ledger
from speed import second, seconds_of

from pipeline.common.outcome import LATER_FIELDS
from pipeline.common.tables import InputError
from pipeline.labels.class_ids import KINETICS400, read_class_list
from pipeline.ledger.schema import BAD_STATUSES, COLUMNS, is_plausible
from pipeline.ledger.table import (
    blank_rows,
    class_names,
    ledger_path,
    read_columns,
    read_ledger,
    videos_name,
    write_ledger,
    write_ledgers,
)

TRAINING = ("video_id", "label", "label_id", "split", "status", "num_frames", "shard", "nbytes", "crc32")


def test_rows_are_label_rows_sorted_with_official_ids(root):
    touch(root, f"val/{IDS[0]}.mp4", f"val/{IDS[5]}.mp4")
    command(root)
    table = val(root)
    assert table.index.tolist() == sorted(IDS)
    assert table.loc[IDS, "status"].tolist() == ["pending", *["missing"] * 4, "pending"]
    names = read_class_list(KINETICS400)
    assert [names[label_id] for label_id in table.loc[IDS, "label_id"]] == [label for label, *_ in ROWS]
    assert table.loc[IDS[1], "youtube_id"] == "1e100000000"


def test_all_errors_of_a_ledger_in_one_report(root, capsys):
    touch(root, f"val/{IDS[0]}.mp4")
    command(root)
    path = ledger_path(recipe_of(root), "val")
    table = pd.read_csv(path, dtype=str, na_filter=False)
    table.loc[0, ["status", "path"]] = ["lost", "../x.mp4"]
    table.loc[1, "source_fps"] = "fast"
    table.loc[2, ["youtube_id", "label_id"]] = ["short", "-7"]
    table.loc[3, ["status", "shard"]] = ["ok", "/etc/passwd"]
    table.loc[4, "video_id"] = table.loc[5, "video_id"]
    table.to_csv(path, index=False)
    capsys.readouterr()
    with pytest.raises(InputError) as error:
        command(root, "--check", "--json")
    found = {(bad.row, bad.column) for bad in error.value.bad_values}
    assert found >= {
        (2, "status"), (2, "path"), (3, "source_fps"), (4, "youtube_id"), (4, "label_id"), (5, "shard"),
        (5, "num_frames"), (6, "video_id"), (7, "video_id"),
    }  # fmt: skip
    assert f"{path}:2: status: got 'lost', expected pending | retry | ok" in str(error.value)
    said = json.loads(capsys.readouterr().out)
    assert {(bad["row"], bad["column"]) for bad in said["faults"]} == found


NO_LEDGERS = {
    "empty": (b"", "the file is empty"),
    "other columns": (b"a,b\n1,2\n", "wrong columns: 'a', 'b', 'chosen_by', 'codec', 'crc32' and "),
    "binary": (bytes(range(256)) * 8, "not UTF-8 text"),
    "not UTF-8": (b"\xff\xfe\x00", "not UTF-8 text"),
    "NUL bytes": (b"\0" * 4096, "not a ledger: "),
    "only a header": (",".join(COLUMNS).encode() + b"\n", "it has a header but no rows"),
    "long row": (",".join(COLUMNS).encode() + b"\n" + b"," * 22 + b"\n" + b"," * 90 + b"\n", "line 3 has 91 values"),
    "open quote": (",".join(COLUMNS).encode() + b'\nx\n"x\n', "the quote that begins in line 3 does not end"),
}


@pytest.mark.parametrize(("content", "words"), NO_LEDGERS.values(), ids=NO_LEDGERS)
def test_what_is_no_ledger(tmp_path, content, words):
    (tmp_path / "x.csv").write_bytes(content)
    for read in (read_ledger, lambda path: read_columns(path, ["video_id", "label_id"])):
        with pytest.raises(InputError, match=f"not a ledger: .*|{words}") as caught:
            read(tmp_path / "x.csv")
        assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1
        assert str(caught.value).count("Run `make manifests`") == 1 and "Error" not in str(caught.value)
        with pytest.raises(InputError, match="no such ledger. Run `make manifests`."):
            read(tmp_path / "gone.csv")
        with pytest.raises(InputError, match="it is a folder"):
            read(tmp_path)


@pytest.mark.parametrize("row", [1, 2])
def test_a_row_longer_than_the_header_is_named(tmp_path, row):
    path = tmp_path / "train.csv"
    make_ledger(4, "train").to_csv(path, index=False)
    lines = path.read_text().splitlines()
    lines[row] += ",77"
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(InputError, match=f"not a ledger: line {row + 1} has (more|{len(COLUMNS) + 1}) values"):
        read_ledger(path)


OUT_OF_RANGE = [
    ("label_id", 3_000_000_000), ("label_id", -2), ("label_id", "nan"), ("label_id", "2.5"), ("label_id", "1e400"),
    ("label_id", 10**30), ("label_id", 100_000), ("num_frames", 10**12), ("num_frames", -1), ("num_frames", 0),
    ("num_frames", "nan"), ("num_frames", ""), ("nbytes", -5), ("nbytes", 2**62), ("crc32", 2**32), ("crc32", -1),
    ("shard", "../../x.h5"), ("shard", ""), ("status", "fine"), ("split", "val"), ("label", ""),
    ("video_id", "train000001_000001_000011"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_training_checks_what_it_depends_on(tmp_path, name, value):
    table = (
        make_ledger(6, "train")
        .assign(status="ok", num_frames=12, shard="train-00000-of-00001.h5", nbytes=9)
        .astype(str)
    )
    table.loc[2, name] = str(value)
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError) as caught:
        read_columns(tmp_path / "train.csv", TRAINING)
    assert any(name in bad.column and bad.row in (4, 3) for bad in caught.value.bad_values), str(caught.value)


def test_range_check_takes_a_part_of_the_reading():
    table = make_ledger(20_000, "train").assign(status="ok", num_frames=12, shard="train-00000-of-00001.h5")
    table = table[[*TRAINING]]
    assert is_plausible(table)
    seconds = min(seconds_of(lambda: is_plausible(table)) for _ in range(3))  # one may clean up memory
    assert seconds < 0.2 * second()  # 5 ms; a pandera check takes over a second


FLOATS = st.floats(min_value=0, max_value=1e6, allow_nan=False)
COUNTS = st.integers(min_value=0, max_value=2**53)
TEXT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\r\n\x85\u2028\u2029"), max_size=20
)


@examples(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(BAD_STATUSES), TEXT, FLOATS, COUNTS), min_size=1, max_size=6))
def test_ledger_read_and_written_again_is_the_same(tmp_path, learned):
    rows = ROWS[: len(learned)]
    table = pd.DataFrame(
        {"video_id": IDS[: len(rows)], "youtube_id": [row[1] for row in rows], "time_start": [row[2] for row in rows],
         "time_end": [row[3] for row in rows], "label": "", "label_id": -1, "split": "test", "path": "x.mp4"}
    )  # fmt: skip
    table = pd.concat([table, blank_rows(len(rows))], axis=1)
    table["status"], table["reason"] = [row[0] for row in learned], [row[1] for row in learned]
    table["source_fps"], table["source_bytes"] = [row[2] for row in learned], [row[3] for row in learned]
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    write_ledger(one, table)
    back = read_ledger(one)
    write_ledger(two, back)
    assert one.read_bytes() == two.read_bytes()
    expected = table.sort_values("video_id", ignore_index=True)
    for name in COLUMNS:
        assert back[name].tolist() == expected[name].tolist(), name


ANY_TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=12)
ODD = st.text(st.sampled_from("\r\n\",; a\x85\u2028\x1b\t'\\"), min_size=1, max_size=8)


@examples(max_examples=25)
@given(st.lists(ANY_TEXT | ODD, min_size=3, max_size=3, unique=True))
def test_any_label_is_written_and_read_unchanged(tmp_path, labels):
    table = make_ledger(6, "train")
    table["label"] = [labels[label_id] for label_id in table["label_id"]]
    one, two = tmp_path / "one" / "train.csv", tmp_path / "two" / "train.csv"
    write_ledgers({one: table}, valid=[one])
    back = read_columns(one, list(COLUMNS))
    assert back["label"].tolist() == table["label"].tolist() and back.equals(table)
    write_ledgers({two: back}, valid=[two])
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("label", ["a\0b", "a\ud800"])
def test_a_label_that_no_csv_can_hold_is_refused(tmp_path, label):
    table = make_ledger(3, "train")
    table.loc[0, "label"] = label
    with pytest.raises(InputError, match="label: got .*, expected text without NUL that UTF-8 can hold"):
        write_ledger(tmp_path / "train.csv", table)
    assert list(tmp_path.iterdir()) == []


def test_partial_read_equals_whole_and_is_as_strict(root):
    touch(root, *(f"val/{name}.mp4" for name in IDS[:4]))
    command(root)
    path = ledger_path(recipe_of(root), "val")
    names = ["video_id", "label_id", "status", "num_frames"]
    pd.testing.assert_frame_equal(read_columns(path, names), read_ledger(path)[names])
    table = pd.read_csv(path, dtype=str, na_filter=False)
    table.loc[1, "num_frames"] = "many"
    table.to_csv(path, index=False)
    with pytest.raises(InputError) as caught:
        read_columns(path, names)
    assert any(bad.row == 3 and bad.value == "many" for bad in caught.value.bad_values)


def test_an_invalid_table_is_not_written(root):
    touch(root, f"val/{IDS[0]}.mp4")
    command(root)
    before = ledger_bytes(root)
    path = ledger_path(recipe_of(root), "val")
    table = read_ledger(path)
    table.loc[0, "status"] = "lost"
    with pytest.raises(InputError):
        write_ledger(path, table)
    assert ledger_bytes(root) == before
    assert not list(path.parent.glob(".*.tmp"))


def test_class_names_and_name_of_videos(root):
    touch(root, *(f"val/{name}.mp4" for name in IDS[:4]))
    table = build_ledgers(recipe_of(root))["val"]
    names = class_names(table)
    assert len(names) == 400 and names[399] == "zumba" and names[0] == ""
    name = videos_name("kinetics400", table, ("pending",))
    assert name.startswith("k400-val@") and name.endswith(" (4 of 6)")
    assert name != videos_name("kinetics400", table.assign(label="zumba"), ("pending",))
    shuffled = table.sample(frac=1, random_state=0)
    assert name == videos_name("kinetics400", shuffled, ("pending",))
    with pytest.raises(InputError, match="different class lists"):
        class_names(table, table.assign(label="other"))


@pytest.mark.parametrize(("name", "value"), [("decoder", ""), ("decoder", "pyav"), ("chosen_by", "time")])
def test_later_field_is_a_column_only_if_known(tmp_path, name, value):
    table = make_ledger(3, "train")
    table.loc[1, name] = value
    path = tmp_path / "train.csv"
    write_ledger(path, table)
    header = path.read_text().splitlines()[0].split(",")
    assert header == [each for each in COLUMNS if each not in LATER_FIELDS or (value and each == name)]
    assert read_ledger(path).equals(table)
    assert read_columns(path, ["video_id", name]).equals(table[["video_id", name]])
