"""A store opens each shard once per run, and again only if another file has its name."""

import os
import shutil
import threading
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from count_opens import count_opens, once_each
from make_store import add_frames, edited, frames_of, make_split, settings_for

from pipeline.common.errors import ShardError
from pipeline.common.outcome import LATER_FIELDS, Outcome
from pipeline.shards.store import Store, open_shard, outcomes_table
from pipeline.shards.writer import ShardWriter


@pytest.fixture
def settings(tmp_path):
    settings = settings_for(tmp_path)
    make_split(settings, "train", 10)
    return settings


@pytest.fixture
def opened(settings, monkeypatch):
    return count_opens(monkeypatch)


def shards(settings) -> list[Path]:
    return sorted(Path(settings.store).glob("*.h5"))


def test_shard_asked_for_often_is_opened_once(settings, opened):
    store = Store(Path(settings.store))
    for _ in range(3):
        for path in store.paths():
            shard = store.shard(path)
            assert (shard.reader().frames(0)[..., 0] == frames_of(0, 1, settings)[0, ..., 0]).all()
            assert shard.planned() == shard.stored() == outcomes_table([shard])["video_id"].tolist()
    assert +opened == once_each([path.name for path in shards(settings)])


def test_replaced_shard_is_opened_again(settings, opened):
    store, (path, other, _) = Store(Path(settings.store)), shards(settings)
    before = store.shard(path).planned()
    os.replace(shutil.copy(other, path.with_name("copy")), path)
    assert store.shard(path).planned() == store.shard(other).planned() != before
    assert opened[path.name] == 2


def test_renamed_shard_is_not_opened_again(settings, opened):
    store, path = Store(Path(settings.store)), shards(settings)[0]
    first = store.shard(path)
    (path.parent / "earlier").mkdir()
    moved = Path(shutil.move(path, path.parent / "earlier" / path.name))
    assert store.shard(moved).path == moved == store.shard(moved).reader().path
    assert store.shard(moved).outcomes is first.outcomes
    assert opened[path.name] == 1
    with pytest.raises(ShardError, match="no such shard. Run `make preprocess`"):
        store.shard(path)


def test_corrupted_shard_is_read_once_and_named_often(settings, opened):
    store, path = Store(Path(settings.store)), shards(settings)[0]
    path.write_bytes(path.read_bytes()[:-1])
    errors = []
    for _ in range(3):
        with pytest.raises(ShardError, match="no seal at its end. Run `make verify") as caught:
            store.shard(path)
        errors.append(caught.value)
    assert opened[path.name] == 1
    assert len({id(error) for error in errors}) == 3, "one error raised thrice would keep three tracebacks"
    renamed = path.rename(path.with_name("renamed.h5"))
    with pytest.raises(ShardError) as caught:
        store.shard(renamed)
    assert caught.value.path == renamed and opened["renamed.h5"] == 0


def test_threads_open_shards_at_the_same_time(settings, monkeypatch):
    store, barrier = Store(Path(settings.store)), threading.Barrier(3, timeout=20)
    monkeypatch.setattr("pipeline.shards.store.open_shard", lambda path, **_: (barrier.wait(), open_shard(path))[1])
    threads = [threading.Thread(target=store.shard, args=(path,)) for path in store.paths()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken


def test_layout_is_compared_only_when_asked_for(settings):
    path = shards(settings)[0]
    assert Store(path.parent).shard(path).structure_errors is None
    assert Store(path.parent, with_structure=True).shard(path).structure_errors == []
    with edited(path) as file:
        file["also"] = 1
    assert Store(path.parent, with_structure=True).shard(path).structure_errors == [("", "unexpected also")]


def test_many_rows_take_little_memory(tmp_path):
    settings = settings_for(tmp_path, height=1, width=1)
    count, rows = 20, 64
    for number in range(count):
        with ShardWriter(tmp_path / f"train-{number:05d}-of-00020.h5", settings, "train") as writer:
            for row in range(rows):
                outcome = Outcome(
                    video_id=f"{number:05d}-{row:05d}_000000_000010", status="ok", codec="h264", num_frames=1
                )
                add_frames(writer, outcome, np.zeros((1, 1, 1, 3), np.uint8), settings)
    store = Store(tmp_path)
    tracemalloc.start()
    try:
        for path in store.paths():
            store.shard(path)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / (count * rows) < 500, "bytes a row: 300,000 rows must stay below 150 MB"
    status = store.shard(store.paths()[0]).outcomes["status"]
    assert len({id(text) for text in status}) == 1


@pytest.mark.parametrize(("name", "value"), [("decoder", ""), ("decoder", "pyav"), ("chosen_by", "time")])
def test_shard_has_a_later_field_only_if_known(tmp_path, name, value):
    settings = settings_for(tmp_path)
    path = tmp_path / "train-00000-of-00001.h5"
    with ShardWriter(path, settings, "train") as writer:
        for number, each in enumerate(("", value)):
            outcome = Outcome(video_id=f"v{number}", status="ok", num_frames=2, fps=15.0, **{name: each})
            add_frames(writer, outcome, frames_of(number, 2, settings), settings)
    with h5py.File(path) as file:  # without the field, the bytes of a shard are those of earlier versions
        assert [each for each in LATER_FIELDS if each in file["outcomes"].dtype.names] == [name] * bool(value)
    assert open_shard(path).outcomes[name].tolist() == ["", value]
