"""A ledger is written and read without loss, and an invalid one is refused with all its errors."""

import json

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from make_ledgers import IDS, ROWS, build_ledgers, command, ledger_bytes, recipe_of, touch, val
from make_store import make_ledger

from pipeline.common.tables import InputError
from pipeline.labels.class_ids import KINETICS400, read_class_list
from pipeline.ledger.schema import BAD_STATUSES, COLUMNS
from pipeline.ledger.table import (
    blank_rows,
    class_names,
    ledger_path,
    read_columns,
    read_ledger,
    videos_name,
    write_ledger,
)


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


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\xff\xfe\x00"])
def test_what_is_no_ledger(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="not a ledger"):
        read_ledger(tmp_path / "x.csv")
    with pytest.raises(InputError, match="no such ledger. Run `make manifests`."):
        read_ledger(tmp_path / "gone.csv")


FLOATS = st.floats(min_value=0, max_value=1e6, allow_nan=False)
COUNTS = st.integers(min_value=0, max_value=2**53)
TEXT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\r\n\x85\u2028\u2029"), max_size=20
)


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.parametrize("decoder", ["", "pyav"])
def test_decoder_is_a_column_only_where_it_is_known(tmp_path, decoder):
    table = make_ledger(3, "train")
    table.loc[1, "decoder"] = decoder
    path = tmp_path / "train.csv"
    write_ledger(path, table)
    header = path.read_text().splitlines()[0].split(",")
    assert header == [name for name in COLUMNS if name != "decoder" or decoder]
    assert read_ledger(path).equals(table)
    assert read_columns(path, ["video_id", "decoder"]).equals(table[["video_id", "decoder"]])
