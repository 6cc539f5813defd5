"""`make verify` names every kind of corruption in a store, and repairs it to the same bytes."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from count_opens import count_opens, once_each
from make_inputs import copy_of, make_inputs
from make_store import edited

from pipeline.common.errors import LossError, ShardError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.execution.run import preprocess_store
from pipeline.execution.verification import verify_store
from pipeline.ledger.table import ledger_path, read_ledger, write_ledger
from pipeline.rebuild import known_outcomes
from pipeline.shards.store import open_shard, outcomes_table


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A store of each codec."""
    made = {}
    for codec in ("raw", "jpeg"):
        folder = tmp_path_factory.mktemp(codec)
        made[codec] = make_inputs(folder, num_videos=10, broken=None, codec=codec)
        assert preprocess_store(made[codec]) == 0
    return made


@pytest.fixture
def store(pristine, tmp_path):
    """A copy of an intact store and its ledgers, to be corrupted."""
    return copy_of(pristine["raw"], tmp_path)


@pytest.fixture
def jpeg_store(pristine, tmp_path):
    return copy_of(pristine["jpeg"], tmp_path)


def copy_with_data(pristine, tmp_path) -> Preprocess:
    """A copy of the raw store, its ledgers and its videos."""
    shutil.copytree(pristine["raw"].data_root, tmp_path / "data")
    return copy_of(pristine["raw"], tmp_path, data_root=str(tmp_path / "data"))


def contents(settings: Preprocess) -> dict[str, bytes]:
    paths = [*Path(settings.store).glob("*"), *Path(settings.manifests).rglob("*.csv")]
    return {path.name: path.read_bytes() for path in paths if path.is_file() and path.suffix in (".h5", ".csv")}


def shard(settings: Preprocess, number: int = 0) -> Path:
    return Path(settings.store) / f"train-{number:05d}-of-00003.h5"


def stored_video(path: Path) -> tuple[str, int, int]:
    outcomes = outcomes_table([open_shard(path)])
    row = outcomes[outcomes["status"] == "ok"].iloc[1]
    return str(row["video_id"]), int(row["offset"]), int(row["nbytes"])


def flip(settings):
    video_id, offset, nbytes = stored_video(shard(settings))
    with open(shard(settings), "r+b") as file:
        file.seek(offset + nbytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return [video_id, "CRC-32"]


def zero_tail(settings):
    path = shard(settings)
    video_id, offset, nbytes = stored_video(path)
    with open(path, "r+b") as file:
        file.seek(offset + nbytes - 100)
        file.write(bytes(100))
    return [video_id, "CRC-32"]


def cut_short(settings):
    path = shard(settings)
    path.write_bytes(path.read_bytes()[:-5000])
    return [path.name]


def empty(settings):
    shard(settings).write_bytes(b"")
    return [shard(settings).name]


def missing(settings):
    shard(settings).unlink()
    return [shard(settings).name, "no such shard"]


def exchanged(settings):
    first, second, spare = shard(settings, 0), shard(settings, 1), shard(settings, 9)
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    return [first.name, second.name, "other videos than planned"]


def unfinished(settings):
    with edited(shard(settings)) as file:
        file.attrs["complete"] = False
    return [shard(settings).name, "unfinished"]


def external_link(settings):
    video_id, _, _ = stored_video(shard(settings))
    with edited(shard(settings)) as file:
        del file[f"frames/{video_id}"]
        file[f"frames/{video_id}"] = h5py.ExternalLink(shard(settings, 1).name, f"frames/{video_id}")
    return ["frames is not a group of this file"]  # libhdf5 changes the form of the whole group


def soft_link(settings):
    with edited(shard(settings)) as file:
        file.move("outcomes", "frames/elsewhere")
        file["outcomes"] = h5py.SoftLink("/frames/elsewhere")
    return ["outcomes", "not in this file"]


def virtual(settings):
    video_id, _, _ = stored_video(shard(settings))
    with edited(shard(settings)) as file:
        old = file[f"frames/{video_id}"]
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[...] = h5py.VirtualSource(str(shard(settings, 1)), f"frames/{video_id}", old.shape)
        del file[f"frames/{video_id}"]
        file.create_virtual_dataset(f"frames/{video_id}", layout)
    return [video_id, "not a contiguous dataset"]


def external_storage(settings):
    with edited(shard(settings)) as file:
        table = file["index"][:]
        del file["index"]
        file.create_dataset(
            "index", shape=table.shape, dtype=table.dtype, external=[("elsewhere.bin", 0, table.nbytes)]
        )
    return ["index", "not a contiguous dataset"]


def smuggled(settings):
    with edited(shard(settings)) as file:
        file["frames/uninvited"] = np.zeros((1, 16, 20, 3), np.uint8)
        file["also"] = 1
    return ["uninvited", "is not in the index", "unexpected also"]


def short_index(settings):
    with edited(shard(settings)) as file:
        table = file["index"][:-1]
        del file["index"]
        file["index"] = table
    return ["has status ok but no frames"]


def ledger_row(settings):
    path = ledger_path(settings, "train")
    table = read_ledger(path)
    row = int(table.index[table["status"] == "ok"][0])
    table.loc[row, "crc32"] = 1
    write_ledger(path, table)
    return [str(table.loc[row, "video_id"]), "crc32 is 1 in the ledger"]


def lost_times(settings):
    with edited(shard(settings)) as file:
        times_s = file["times_s"][:-1]
        del file["times_s"]
        file["times_s"] = times_s
    return ["times_s: (shape, dtype, offset)"]


DAMAGES = [
    flip, zero_tail, cut_short, empty, missing, exchanged, unfinished, external_link, soft_link, virtual,
    external_storage, smuggled, short_index, lost_times, ledger_row,
]  # fmt: skip


def jpeg_offsets(settings):
    video_id, _, _ = stored_video(shard(settings))
    with edited(shard(settings)) as file:
        file[f"jpeg/{video_id}"][2] = file[f"jpeg/{video_id}"][1]
    return [video_id, "do not fit"]


def jpeg_table_shape(settings):
    video_id, _, _ = stored_video(shard(settings))
    with edited(shard(settings)) as file:
        starts = file[f"jpeg/{video_id}"][:]
        del file[f"jpeg/{video_id}"]
        file[f"jpeg/{video_id}"] = starts[None]
    return [video_id, f"jpeg/{video_id}: (shape, dtype, offset)"]


def test_a_sound_store_passes(store, capsys):
    assert verify_store(store, repair=False) == 0
    assert "3 shards, 9 videos" in capsys.readouterr().out


def test_each_shard_is_opened_once(store, monkeypatch):
    opened = count_opens(monkeypatch)
    assert verify_store(store, repair=False) == 0
    assert +opened == once_each([path.name for path in Path(store.store).glob("*.h5")]) and len(opened) == 3


def test_shard_of_another_recipe_is_not_overwritten(pristine, store, capsys):
    other = next(path for path in Path(pristine["jpeg"].store).glob("*00001*"))
    shutil.copy(other, store.store)
    before = contents(store)
    with pytest.raises(ShardError, match="1 discrepancies"):
        verify_store(store, repair=False)
    assert f"{other.name}: another recipe: codec: raw here, jpeg there" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"{other.name}: this store has another recipe"):
        verify_store(store, repair=True)
    assert contents(store) == before


def test_intact_videos_in_a_broken_dataset_are_kept(pristine, tmp_path):
    settings = copy_with_data(pristine, tmp_path)
    for path in Path(settings.data_root).rglob("*.mp4"):
        path.unlink()  # so that nothing can be decoded again
    before = contents(settings)
    external_link(settings)  # the bytes of the video are still at the place in the index
    assert verify_store(settings, repair=True) == 0
    assert contents(settings) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_repaired(store, capsys, damage):
    check_damage(store, capsys, damage)


@pytest.mark.parametrize("damage", [flip, jpeg_offsets, jpeg_table_shape])
def test_damage_of_jpegs_is_named_and_repaired(jpeg_store, capsys, damage):
    assert verify_store(jpeg_store, repair=False) == 0
    capsys.readouterr()
    check_damage(jpeg_store, capsys, damage)


def check_damage(settings, capsys, damage):
    before = contents(settings)
    named = damage(settings)
    damaged = contents(settings)
    assert damaged != before
    with pytest.raises(ShardError, match="--repair"):
        verify_store(settings, repair=False)
    said = capsys.readouterr().out
    assert [word for word in named if word not in said] == []
    assert contents(settings) == damaged  # a check changes nothing
    assert verify_store(settings, repair=True) == 0
    assert contents(settings) == before


def test_repair_decodes_only_what_is_broken(store, asked):
    video_id = flip(store)[0]
    assert verify_store(store, repair=True) == 0
    assert asked == [video_id]


def test_damaged_video_without_source_is_kept(pristine, tmp_path, capsys):
    moved = copy_with_data(pristine, tmp_path)
    video_id = flip(moved)[0]
    next(Path(moved.data_root).rglob(f"{video_id}.mp4")).unlink()
    before = contents(moved)
    with pytest.raises(LossError, match=f"1 of its videos may be lost .*: {video_id}. .* add --accept-loss") as error:
        verify_store(moved, repair=True)
    assert error.value.exit_code == 2 and contents(moved) == before
    assert verify_store(moved, repair=True, accept_loss=True) == 0
    table = read_ledger(ledger_path(moved, "train")).set_index("video_id")
    assert table.at[video_id, "status"] == "missing"
    assert (table["status"] == "ok").sum() == 8
    assert (Path(moved.store) / "damaged" / shard(moved).name).read_bytes() == before[shard(moved).name]
    assert verify_store(moved, repair=False) == 0


def test_shard_that_no_ledger_plans_is_named_and_kept(store, capsys):
    stray = shard(store).with_name("train-00000-of-00099.h5")
    shutil.copy(shard(store), stray)
    with pytest.raises(ShardError):
        verify_store(store, repair=True)
    assert f"{stray.name}: no ledger plans this shard" in capsys.readouterr().out
    assert stray.exists()


def test_unreachable_videos_are_not_called_missing(store):
    flip(store)
    away = Preprocess(**{**store.__dict__, "data_root": "/not/mounted"})
    before = contents(store)
    with pytest.raises(UserError, match="preprocess.data_root: '/not/mounted' is not a folder"):
        verify_store(away, repair=True)
    assert contents(store) == before


def test_video_waiting_to_be_decoded_again_is_no_error(pristine, tmp_path, capsys):
    made = make_inputs(tmp_path, num_videos=10, broken=None)
    (Path(made.data_root) / read_ledger(ledger_path(made, "train")).loc[0, "path"]).write_bytes(b"no video")
    settings = Preprocess(**{**made.__dict__, "max_bad_fraction": 1.0})
    assert preprocess_store(settings) == 0
    table = read_ledger(ledger_path(settings, "train"))
    assert table.loc[0, "status"] == "unreadable"
    table, _said = known_outcomes.mark_retries(table, settings.data_root, ["unreadable"])
    write_ledger(ledger_path(settings, "train"), table)
    assert verify_store(settings, repair=False) == 0
    assert "1 videos wait to be decoded. Run `make preprocess`" in capsys.readouterr().out
    flip(settings)
    assert verify_store(settings, repair=True) == 0
    after = read_ledger(ledger_path(settings, "train"))
    assert after.loc[0, ["status", "reason"]].tolist() == table.loc[0, ["status", "reason"]].tolist()
