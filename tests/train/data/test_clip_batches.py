"""Batches hold the right pixels and labels, repeatably, and bad shards are named before they are used."""

import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from make_inputs import copy_of
from make_store import edited, frames_of, make_ledger, make_split, renumber, settings_for
from paths import ROOT
from waiting import wait_until

from pipeline.common.errors import ShardError, UserError
from pipeline.ledger.table import ledger_path, read_ledger, write_ledger
from pipeline.shards.reader import ShardReader
from train.data import clip_batches
from train.data import loader as loader_module
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate, waiting_hint
from train.data.prefetch import LoaderError
from train.data.videos import read_videos
from train.experiment.sections import Dataset, Loader
from train.experiment.transforms import standard_map

NUM_TRAIN, NUM_VAL = 19, 7


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def settings(request, tmp_path_factory):
    made = settings_for(tmp_path_factory.mktemp(request.param), codec=request.param)
    make_split(made, "train", NUM_TRAIN + 2, bad=(3, 8))
    make_split(made, "val", NUM_VAL)
    return made


def loader(*, cut="random", flip=0.0, **options) -> Loader:
    defaults = {"batch_size": 4, "seq": 5, "seq_mode": "interval", "frame_interval": 2}
    return Loader(Dataset(**{**defaults, **options}), standard_map((16, 20), cut, (8, 12), flip))


def source(settings, split="train", *, seed=0, drop_remainder=True, rank=0, world=1, **options) -> ClipBatches:
    made, videos = loader(**options), read_videos(settings, split)
    return ClipBatches(videos, made, settings, seed=seed, drop_remainder=drop_remainder, rank=rank, world=world)


def video_numbers(settings, batches: ClipBatches) -> np.ndarray:
    """The number in the pixels of each video, in the order of `videos`."""
    return np.array([int(video_id.split("_")[-2]) for video_id in batches.videos.video_ids])


def test_free_memory_is_cgroup_limit_less_pinned_use(tmp_path):
    def free(limit: str) -> int:
        (tmp_path / "memory.max").write_text(limit)
        return clip_batches.free_memory_bytes(tmp_path)

    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\ninactive_file 1000000\nactive_file 400000\nshmem 9\n")
    assert free("4000000\n") == 4_000_000 - 1_600_000
    assert (
        free("max\n") > 10_000_000 and clip_batches.free_memory_bytes(tmp_path / "none") > 10_000_000
    )  # of the machine


def test_clips_hold_the_pixels_they_should(settings):
    batches = source(settings, flip=0.5)
    tolerance = 0 if settings.codec == "raw" else 12
    flipped = 0
    for clips, labels, samples in iterate(batches, epoch=3):
        assert clips.dtype == np.uint8 and clips.shape == (4, 5, 8, 12, 3)
        for clip, label, sample in zip(clips.astype(int), labels, samples, strict=True):
            number = video_numbers(settings, batches)[sample]
            assert label == number % 3
            frames = frames_of(number, 12 + number % 5, settings)
            rows, columns = clip[0, :, 0, 0], clip[0, 0, :, 1]
            mirrored = columns[0] > columns[-1]
            flipped += mirrored
            top, left = round(rows[0] / 8), round(min(columns[0], columns[-1]) / 8)
            start = round(clip[0, :, :, 2].mean()) - 7 * number % 256
            start = min(max(start, 0), len(frames) - 9)  # a JPEG's colour, and so the number, may differ by one
            expected = frames[start : start + 9 : 2, top : top + 8, left : left + 12]
            expected = expected[:, :, ::-1] if mirrored else expected
            assert np.abs(clip - expected).max() <= tolerance
    assert 0 < flipped < 16


def everything(batches: ClipBatches, epoch: int, start: int = 0) -> list:
    return [tuple(array.copy() for array in batch) for batch in iterate(batches, epoch, start)]


def assert_same(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs)
    for our_batch, their_batch in zip(ours, theirs, strict=True):
        for our_array, their_array in zip(our_batch, their_batch, strict=True):
            np.testing.assert_array_equal(our_array, their_array)


def test_batches_do_not_depend_on_number_of_workers(settings):
    one, three = (source(settings, num_parallel_workers=count, flip=0.5) for count in (1, 3))
    assert_same(everything(one, epoch=1), everything(three, epoch=1))


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_batches_do_not_depend_on_planned_chunk_size(settings, monkeypatch, drop_remainder):
    options = {"drop_remainder": drop_remainder, "num_clips": 3, "seq_mode": "random", "world": 2, "rank": 1}
    together = everything(source(settings, **options), epoch=1)
    monkeypatch.setattr(clip_batches, "PLANNED_CLIPS", 8)  # two batches
    assert_same(together, everything(source(settings, **options), epoch=1))


def test_epoch_resumed_midway_has_the_same_batches(settings):
    assert_same(everything(source(settings), epoch=2)[2:], everything(source(settings), epoch=2, start=2))
    assert everything(source(settings), epoch=2, start=4) == []


def test_epochs_and_seeds_differ_and_repeat(settings):
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([batch[2] for batch in iterate(source(settings, seed=seed), epoch)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4
    assert len(set(order(0, 0))) == 16  # 19 videos: four batches of 4, none twice


@pytest.mark.parametrize(("num_clips", "num_crops", "world"), [(1, 1, 1), (3, 1, 1), (2, 3, 1), (3, 1, 2), (1, 1, 3)])
def test_evaluation_sees_each_view_once_and_pads_end(settings, num_clips, num_crops, world):
    options = {"cut": "centre", "seq_mode": "uniform", "shuffle": False}
    views = {"num_clips": num_clips, "num_crops": num_crops}
    ranks = [
        everything(source(settings, "val", drop_remainder=False, rank=rank, world=world, **options, **views), epoch=0)
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    samples = np.concatenate([batch[2] for batches in ranks for batch in batches])
    labels = np.concatenate([batch[1] for batches in ranks for batch in batches])
    assert sorted(samples[samples >= 0].tolist()) == list(range(NUM_VAL * num_clips * num_crops))
    assert (labels[samples < 0] == -1).all()
    assert len(samples) % (4 * world) == 0 and (samples < 0).sum() < 4 * world


def test_ranks_together_train_on_the_batches_of_one(settings):
    alone = everything(source(settings, batch_size=4), epoch=1)
    shared = [everything(source(settings, batch_size=2, rank=rank, world=2), epoch=1) for rank in range(2)]
    assert [len(batches) for batches in shared] == [4, 4] == [len(alone)] * 2
    for whole, first, second in zip(alone, *shared, strict=True):
        assert_same([whole], [tuple(np.concatenate(pair) for pair in zip(first, second, strict=True))])


def test_a_batch_that_is_kept_stays_as_it_is(settings):
    batches = source(settings, num_clips=8, num_parallel_workers=2, flip=0.5)
    kept = [(clips, clips.copy()) for clips, _labels, _samples in iterate(batches, epoch=0)]
    assert len(kept) == 38
    assert all((clips == copy).all() for clips, copy in kept)


def test_shards_are_read_ahead_until_in_memory(settings, monkeypatch, caplog):
    caplog.set_level("INFO")
    large = source(settings)
    assert ": mapped; read ahead in the first epoch" in caplog.text
    monkeypatch.setattr(clip_batches, "free_memory_bytes", lambda: 1000)
    small = source(settings)
    said = "read with preadv, others mapped; read ahead in every epoch, because the page cache cannot hold them"
    assert said in caplog.text
    ahead = []
    read_ahead = ShardReader.read_ahead
    monkeypatch.setattr(ShardReader, "read_ahead", lambda self, *a: (ahead.append(a), read_ahead(self, *a)))
    counts = []
    for epoch in range(2):
        for batches in (large, small):
            ahead.clear()
            everything(batches, epoch)
            counts.append(len(ahead))
    assert counts == [16, 16, 0, 16]
    assert_same(everything(large, epoch=3), everything(small, epoch=3))


@pytest.mark.parametrize("interval", [1, 2])
def test_neither_maps_nor_files_nor_threads_pile_up(settings, monkeypatch, interval):
    monkeypatch.setattr(clip_batches, "MAX_OPEN_SHARDS", 2)
    others = set(threading.enumerate())
    batches = source(settings, num_clips=8, num_parallel_workers=3, frame_interval=interval)
    assert len(batches.videos.shards) == 6

    def state() -> tuple[int, int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count(f"{settings.store}/train-")
        threads = [thread for thread in set(threading.enumerate()) - others if thread.name == "batches"]
        return maps, len(os.listdir("/proc/self/fd")), len(threads)

    before = state()
    for epoch in range(4):
        everything(batches, epoch)
        next(iterate(batches, epoch))  # and one that is not read to its end
        maps, files, threads = state()
        assert maps <= 2 and files - before[1] <= 2 and threads == 0


def test_what_is_made_ahead_is_bounded_in_bytes(settings, monkeypatch):
    batches = source(settings, num_clips=8, num_parallel_workers=9)
    monkeypatch.setattr(loader_module, "PREFETCH_BYTES", 3 * batches.batch_nbytes())
    made, make = [], batches.batch
    monkeypatch.setattr(batches, "batch", lambda number: (made.append(number), make(number))[1])
    rest = iterate(batches, epoch=0)
    next(rest)
    wait_until(lambda: len(made) > 3)
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 4  # one is taken, three are ready, MindSpore and the thread that asks it hold four
    rest.close()


def test_shared_memory_is_not_used(settings):
    def mapped() -> int:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum(("/dev/shm" in line or "/SYSV" in line) and settings.store not in line for line in maps)

    before = mapped()
    for _batch in iterate(source(settings, num_parallel_workers=2), epoch=0):
        assert mapped() <= before


def first_shard(settings) -> Path:
    return sorted(Path(settings.store).glob("train-*.h5"))[0]


def test_a_shard_that_is_gone_is_named(settings, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")
    first_shard(copy).unlink()
    with pytest.raises(
        UserError, match=r"train-00000-of-00006\.h5: shard not found, but .*train\.csv lists train.* more in it"
    ):
        source(copy)


def test_unknown_status_is_named_and_not_left_out(settings, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")
    ledger = ledger_path(copy, "train")
    ledger.write_text(ledger.read_text().replace(",ok,", ",fine,", 1))
    with pytest.raises(UserError, match="status: got 'fine', expected pending | retry | ok"):
        source(copy)


def swap(one: Path) -> None:
    other = one.with_name(one.name.replace("00000-of", "00001-of"))
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


def damage_frames(path: Path) -> None:
    with edited(path) as file:
        for frames in file["frames"].values():
            frames[-1:] = 255 - frames[-1:]


# What is done to the shard after the ledger is read, and the end of the message.
DAMAGES = {
    "gone": (Path.unlink, "no such shard. Run `make preprocess`"),
    "empty": (lambda path: path.write_bytes(b""), "no seal at its end. Run `make verify ARGS=--repair`"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "Run `make verify ARGS=--repair`"),
    "swapped": (swap, "the shard does not contain it. Run `make manifests`"),
    "newer format": (lambda path: renumber(path, 99), "shard format 99, this program reads 3\\. Update the older"),
    "bits": (damage_frames, "frames are corrupted: CRC-32 .*, expected .*. Run `make verify ARGS=--repair`"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_shard_is_named_with_video_and_what_to_run(settings, tmp_path, damage):
    copy = copy_of(settings, tmp_path / "copy")
    act, said = DAMAGES[damage]
    batches = source(copy, verify_checksums=True, num_clips=3)
    act(first_shard(copy))
    shards = "train-0000[01]-of" if damage == "swapped" else "train-00000-of"
    with pytest.raises(ShardError, match=rf"/{shards}-00006\.h5: train\S+: .*{said}") as caught:
        everything(batches, epoch=0)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_ledger_of_other_shards_is_found_out(settings, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")
    path = ledger_path(copy, "train")
    table = read_ledger(path)
    table.loc[table["status"] == "ok", "crc32"] += 1
    write_ledger(path, table)
    with pytest.raises(ShardError, match=r"frames with CRC-32 .*, expected .* from the ledger. Run `make manifests`"):
        everything(source(copy), epoch=0)


def test_a_worker_that_dies_ends_the_run_to_be_resumed(settings, monkeypatch):
    batches = source(settings)
    monkeypatch.setattr(batches.views, "cuts", lambda *_: 1 / 0)
    with pytest.raises(LoaderError, match="died: ZeroDivisionError") as caught:
        everything(batches, epoch=0)
    assert caught.value.exit_code == 75


def test_batches_made_before_an_error_are_trained_on(settings, monkeypatch):
    batches = source(settings, num_parallel_workers=3)
    expected, make = everything(batches, epoch=0)[:2], batches.batch
    monkeypatch.setattr(batches, "batch", lambda number: make(number) if number != 2 else 1 / 0)
    taken = []
    with pytest.raises(LoaderError, match="ZeroDivisionError"):
        for batch in iterate(batches, epoch=0):
            taken.append(tuple(array.copy() for array in batch))
    assert_same(taken, expected)


HANGING = """
import sys, threading
import model
from pathlib import Path
from pipeline.common import cli
from pipeline.common.recipe import Preprocess
from train.experiment.sections import Dataset, Loader
from train.experiment.transforms import standard_map
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate
from train.data.videos import read_videos

settings = Preprocess(**eval(sys.argv[1]))
options = Dataset(batch_size=4, seq=5, batch_timeout_s=2.0, num_parallel_workers=2)
loader = Loader(options, standard_map((16, 20), "none"))
batches = ClipBatches(read_videos(settings, "train"), loader, settings, seed=0, drop_remainder=True)
read, calls = batches.batch, iter(range(99))

def batch(number):
    if number == 2:
        threading.Event().wait()
    return read(number)

batches.batch = batch

def main():
    for number, _ in enumerate(iterate(batches, 0)):
        print(number, flush=True)

cli.run(main)
"""


def test_a_read_that_hangs_ends_the_process(settings):
    command = [sys.executable, "-c", HANGING, repr(dataclasses.asdict(settings))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 75, done.stderr
    assert done.stdout.split() == ["0", "1"]
    assert done.stderr.splitlines()[-1].startswith("error: No batch for 2 s")


def test_waiting_says_what_to_raise():
    assert waiting_hint(Dataset(), 0.05) == ""
    if (os.cpu_count() or 1) > 1:
        assert "increase data_loader.train.dataset.num_parallel_workers (now 1," in waiting_hint(Dataset(), 0.06)
    assert "shuffle_shards (now 0)" in waiting_hint(Dataset(num_parallel_workers=10_000), 0.06)
    assert "verify_checksums reads every video completely once" in waiting_hint(Dataset(verify_checksums=True), 0.06)


def test_shards_of_another_recipe_are_refused(settings, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")
    with pytest.raises(UserError, match="made with another recipe"):
        everything(source(dataclasses.replace(copy, fps=30.0)), epoch=0)


def test_a_batch_larger_than_the_split_is_refused(settings):
    with pytest.raises(UserError, match=r"batch_size: got 20, but .* has only 19 clips"):
        source(settings, batch_size=20)


def test_nothing_to_train_on_says_what_to_run(settings, tmp_path):
    empty = dataclasses.replace(settings, manifests=str(tmp_path))
    with pytest.raises(UserError, match=r"train\.csv: ledger not found\. Run `make manifests preprocess`"):
        read_videos(empty, "train")
    write_ledger(ledger_path(empty, "train"), make_ledger(21, "train", bad=(3, 8)))
    with pytest.raises(UserError, match=r"none of its 21 videos is stored\. Run `make preprocess`"):
        read_videos(empty, "train")
