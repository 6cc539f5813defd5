"""Rebuilding ledgers keeps what is known of each video, so that nothing is decoded twice."""

import pandas as pd
import pytest
from make_ledgers import (
    IDS,
    OUTCOMES,
    build_ledgers,
    command,
    joined,
    ledger_bytes,
    recipe_of,
    touch,
    val,
    write_shards,
)

from pipeline.common.errors import EXIT_OK
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError
from pipeline.ledger.schema import LEARNED, STORED_COLUMNS
from pipeline.ledger.table import blank_rows, fill_ledger, ledger_path, read_ledger, write_ledger
from pipeline.shards.writer import ShardWriter


def test_rebuild_writes_the_bytes_preprocess_wrote(preprocessed):
    written = ledger_bytes(preprocessed)
    table = val(preprocessed)
    assert table.loc[IDS, "status"].tolist() == ["ok", "timeout", "ok", "unreadable", "missing", "ok"]
    assert table.loc[IDS[1], "reason"] == "60 s were not enough"
    assert (table.loc[[IDS[0], IDS[2], IDS[5]], "offset"] > 0).all()
    assert command(preprocessed) == EXIT_OK
    assert ledger_bytes(preprocessed) == written
    for path in (preprocessed.parent / "ledgers" / "kinetics400").iterdir():
        path.unlink()
    (preprocessed.parent / "ledgers" / "kinetics400").rmdir()
    (preprocessed.parent / "ledgers").rmdir()
    assert command(preprocessed) == EXIT_OK
    assert ledger_bytes(preprocessed) == written


def test_label_files_alone_make_a_ledger(preprocessed):
    labels = (str(preprocessed / "kinetics-400_val.csv"),)
    settings = Preprocess(manifests=str(preprocessed.parent / "other"), store="nowhere", labels=labels)
    table = build_ledgers(settings)["val"]
    assert len(table) == 6 and set(table["status"]) == {"missing"} and set(table["path"]) == {""}


def test_label_files_and_shards_without_videos(preprocessed):
    for path in (preprocessed / "val").iterdir():
        path.unlink()
    table = build_ledgers(recipe_of(preprocessed))["val"].set_index("video_id")
    assert table.loc[IDS, "status"].tolist() == ["ok", "timeout", "ok", "unreadable", "missing", "ok"]


def test_unread_video_of_a_shard_is_tried_again(root):
    touch(root, *(f"val/{IDS[row]}.mp4" for row in (0, 1, 2, 3, 5)))
    command(root)
    write_shards(root, {**OUTCOMES, 1: ("retry", "could not be read: Input/output error")})
    row = build_ledgers(recipe_of(root))["val"].set_index("video_id").loc[IDS[1]]
    assert (row["status"], row["reason"]) == ("retry", "could not be read: Input/output error")
    (root / f"val/{IDS[1]}.mp4").unlink()
    row = build_ledgers(recipe_of(root))["val"].set_index("video_id").loc[IDS[1]]
    assert (row["status"], row["reason"], row["path"]) == ("missing", "", "")


def test_lost_shard_keeps_every_outcome_but_ok(preprocessed):
    for path in (preprocessed.parent / "store").iterdir():
        path.unlink()
    with pytest.raises(
        InputError,
        match="Ledgers are out of date with the files on disk(.|\n)*3 videos are ok but their shards are not in",
    ):
        command(preprocessed, "--check")
    built = joined(preprocessed)
    table = built.ledgers["val"].set_index("video_id")
    assert table.loc[IDS, "status"].tolist() == ["pending", "timeout", "pending", "unreadable", "missing", "pending"]
    assert table.loc[IDS[0], "source_frames"] == 300, "a fact of the source is kept"
    blank = blank_rows(1).loc[0]
    assert all(table[name].eq(blank[name]).all() for name in STORED_COLUMNS)
    assert any("3 videos were ok but are now in no shard" in line for line in built.warnings)


def test_a_timeout_is_forgotten_only_when_asked(preprocessed):
    assert command(preprocessed, "--forget", "timeout") == EXIT_OK
    table = val(preprocessed)
    assert table.loc[IDS[1], "status"] == "retry" and table.loc[IDS[1], "reason"] == "was timeout, asked for"
    assert table.loc[IDS[3], "status"] == "unreadable"
    written = ledger_bytes(preprocessed)
    assert command(preprocessed) == EXIT_OK
    assert ledger_bytes(preprocessed) == written, "the shard's old word must not come back"
    write_shards(preprocessed, {**OUTCOMES, 1: ("ok", "")})
    assert command(preprocessed) == EXIT_OK
    assert val(preprocessed).loc[IDS[1], ["status", "reason"]].tolist() == ["ok", ""]


def test_a_bad_file_that_was_replaced_is_tried_again(preprocessed):
    path = ledger_path(recipe_of(preprocessed), "val")
    table = read_ledger(path)
    table.loc[table["video_id"] == IDS[3], "source_bytes"] = 777
    write_ledger(path, table)
    for shard in (preprocessed.parent / "store").iterdir():
        shard.unlink()
    assert build_ledgers(recipe_of(preprocessed))["val"].set_index("video_id").loc[IDS[3], "status"] == "retry"


def test_a_video_that_came_after_its_shard_is_pending(preprocessed):
    touch(preprocessed, f"val/{IDS[4]}.mp4")
    command(preprocessed)
    assert val(preprocessed).loc[IDS[4], "status"] == "pending"


def test_foreign_shards_are_left_out_and_named(preprocessed):
    store = preprocessed.parent / "store"
    (store / "val-00000-of-00002.h5").write_bytes(b"\x89HDF rubbish")
    other = recipe_of(preprocessed, fps=30.0)
    with ShardWriter(store / "val-00007-of-00009.h5", other, "val") as writer:
        writer.add(Outcome(video_id=IDS[4], status="crash"))
    built = joined(preprocessed)
    said = "\n".join(built.verdict)
    assert "val-00000-of-00002.h5: the shard is truncated or not a shard" in said
    assert "val-00007-of-00009.h5: another recipe (fps: 15.0 here, 30.0 there)" in said
    table = built.ledgers["val"].set_index("video_id")
    assert table.loc[IDS[4], "status"] == "missing" and table.loc[IDS[2], "status"] == "ok"
    assert table.loc[IDS[0], "status"] == "ok", "what is known of the damaged shard is kept: its frames may be intact"
    assert any("1 shards are damaged: val-00000-of-00002.h5" in line for line in built.warnings)


def test_a_broken_ledger_is_kept_aside_and_rebuilt(preprocessed):
    written = ledger_bytes(preprocessed)
    path = ledger_path(recipe_of(preprocessed), "val")
    path.write_text(path.read_text().replace("timeout", "tmeout"))
    broken = path.read_bytes()
    assert command(preprocessed) == EXIT_OK
    assert path.with_name("val.broken.csv").read_bytes() == broken
    path.with_name("val.broken.csv").unlink()
    assert ledger_bytes(preprocessed) == written


def test_fill_refuses_unknown_or_repeated_videos(preprocessed):
    table = read_ledger(ledger_path(recipe_of(preprocessed), "val"))
    told = table[["video_id", *LEARNED]]
    with pytest.raises(InputError, match="not in the ledger: zzz"):
        fill_ledger(table, told.head(1).assign(video_id="zzz"))
    with pytest.raises(InputError, match="are in two shards"):
        fill_ledger(table, pd.concat([told.head(1)] * 2))
