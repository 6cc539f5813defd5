"""When rows are added or removed, decoded videos are neither decoded again nor lost."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from count_opens import count_opens, once_each
from make_inputs import files, leftovers, make_inputs, train_rows
from make_store import add_frames, make_ledger

from pipeline.common.errors import UserError
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.execution import local, previous_plan
from pipeline.execution.plan import plan_all
from pipeline.execution.run import preprocess_store
from pipeline.ledger.table import ledger_path, read_ledgers, write_ledger
from pipeline.rebuild import known_outcomes
from pipeline.shards.format import shard_name
from pipeline.shards.store import Store
from pipeline.shards.writer import ShardWriter


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """13 videos; number 2 is missing and number 4 is not a video."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), num_videos=13)


def with_rows(inputs, folder: Path, count: int, **changes) -> Preprocess:
    """A separate store for the first `count` videos."""
    settings = Preprocess(
        **{**inputs.__dict__, "store": f"{folder}/store", "manifests": f"{folder}/manifests", **changes}
    )
    write_rows(settings, count)
    return settings


def write_rows(settings, count: int) -> None:
    """The ledger of label files with `count` rows, before any video is known."""
    table = make_ledger(13, "train", (2,)).iloc[:count].reset_index(drop=True)
    for row, path in enumerate(table["path"]):
        if path and not (Path(settings.data_root) / path).exists():
            table.loc[row, ["path", "status"]] = ["", "missing"]
    write_ledger(ledger_path(settings, "train"), table)


@pytest.mark.parametrize("count", [10, 13])  # as many shards as before, and one more
def test_added_row_decodes_only_its_own_video(inputs, tmp_path, asked, count):
    settings = with_rows(inputs, tmp_path / "a", 9)
    assert preprocess_store(settings) == 0
    bad = {name for name in asked if name.startswith("train000004")}  # what is bad is tried again with its neighbours
    asked.clear()
    write_rows(settings, count)
    assert preprocess_store(settings) == 0
    new = set(make_ledger(13, "train")["video_id"][9:count])
    assert new <= set(asked) <= new | bad
    assert leftovers(settings) == [] and not (Path(settings.store) / "earlier").exists()
    fresh = with_rows(inputs, tmp_path / "b", count)
    assert preprocess_store(fresh) == 0
    assert files(settings) == files(fresh)  # copied or decoded: the same bytes


def test_added_row_keeps_videos_whose_source_is_gone(inputs, tmp_path, asked):
    root = shutil.copytree(inputs.data_root, tmp_path / "data")
    settings = with_rows(inputs, tmp_path, 9, data_root=str(root))
    assert preprocess_store(settings) == 0
    stored = train_rows(settings).query("status == 'ok'")
    for path in stored["path"]:
        (root / path).unlink()
    asked.clear()
    write_rows(settings, 10)
    assert preprocess_store(settings) == 0
    after = train_rows(settings)
    facts = ["status", "num_frames", "crc32", "source_frames"]
    assert after.loc[stored.index, facts].equals(stored[facts])
    assert not set(asked) & set(stored.index)


def test_run_killed_while_copying_videos_is_resumed(inputs, tmp_path, monkeypatch):
    settings = with_rows(inputs, tmp_path / "a", 9)
    assert preprocess_store(settings) == 0
    write_rows(settings, 13)
    write_shard, written = local.write_shard, []

    def write_one(task, *more):
        if written:
            raise KeyboardInterrupt
        written.append(task)
        write_shard(task, *more)

    with monkeypatch.context() as patch:
        patch.setattr(local, "write_shard", write_one)
        with pytest.raises(KeyboardInterrupt):
            preprocess_store(Preprocess(**{**settings.__dict__, "jobs": 1}))
    assert len(list((Path(settings.store) / "earlier").iterdir())) == 3
    write_rows(settings, 12)  # and the label files change once more
    assert preprocess_store(settings) == 0
    assert leftovers(settings) == [] and not (Path(settings.store) / "earlier").exists()
    fresh = with_rows(inputs, tmp_path / "b", 12)
    assert preprocess_store(fresh) == 0
    assert files(settings) == files(fresh)


def test_videos_without_a_row_are_kept_and_named(inputs, tmp_path, asked, caplog):
    settings = with_rows(inputs, tmp_path, 9)
    assert preprocess_store(settings) == 0
    stored = train_rows(settings).query("status == 'ok'")
    write_rows(settings, 6)
    caplog.set_level(logging.WARNING)
    assert preprocess_store(settings) == 0
    kept = list((Path(settings.store) / "earlier").iterdir())
    assert kept and "holds" in caplog.text and stored.index[-1] in caplog.text
    asked.clear()
    write_rows(settings, 9)
    assert preprocess_store(settings) == 0
    assert not set(asked) & set(stored.index)
    assert not (Path(settings.store) / "earlier").exists()


def test_shard_of_another_recipe_is_never_overwritten(inputs, tmp_path):
    settings = with_rows(inputs, tmp_path / "a", 9)
    other = with_rows(inputs, tmp_path / "b", 9, fps=10.0)
    assert preprocess_store(settings) == preprocess_store(other) == 0
    last = max(Path(settings.store).glob("*.h5"))
    shutil.copy(Path(other.store) / last.name, last)
    before = files(settings)
    with pytest.raises(UserError, match=rf"{last.name}: this store has another recipe \(fps: 15.0 here, 10.0 there\)"):
        preprocess_store(settings)
    assert files(settings) == before


def test_rebuild_prefers_stored_frames_to_a_missing(tmp_path):
    settings = Preprocess(store=str(tmp_path), height=1, width=1)
    frame = np.zeros((1, 1, 1, 3), np.uint8)
    for number, (outcome, frames) in enumerate([
        (Outcome(video_id="a", status="ok", num_frames=1), frame), (Outcome(video_id="a", status="missing"), None),
    ]):  # fmt: skip
        path = tmp_path / shard_name("train", 0, 2 - number)  # the second is of the plan for one row
        with ShardWriter(path, settings, "train") as writer:
            if frames is None:
                writer.add(outcome)
            else:
                add_frames(writer, outcome, frames, settings)
    stored = known_outcomes.from_shards(Store(tmp_path), settings, "train", 1)
    assert stored.outcomes[["video_id", "status", "shard"]].to_numpy().tolist() == [
        ["a", "ok", "train-00000-of-00002.h5"]
    ]


def test_nothing_is_set_aside_when_nothing_changed(inputs, tmp_path):
    settings = with_rows(inputs, tmp_path, 9)
    assert preprocess_store(settings) == 0
    tasks = plan_all(read_ledgers(settings), settings)
    store = Store(Path(settings.store))
    assert previous_plan.arrange(tasks, settings, store, {}) == tasks
    assert not (Path(settings.store) / "earlier").exists()


def test_old_and_new_shards_are_opened_once_each(inputs, tmp_path, monkeypatch):
    settings = with_rows(inputs, tmp_path, 9)
    assert preprocess_store(settings) == 0
    old = {path.name for path in Path(settings.store).glob("*.h5")}
    write_rows(settings, 10)
    opened = count_opens(monkeypatch)
    assert preprocess_store(settings) == 0
    new = {path.name for path in Path(settings.store).glob("*.h5")}
    assert old == new, "the plan has as many shards as before"
    assert +opened == {name: 2 * count for name, count in once_each(sorted(new)).items()}
