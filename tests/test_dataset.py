import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from make_store import frames_of, make_ledger, make_split, settings_for

from pipeline import ledger
from pipeline.settings import UserError
from pipeline.shards import ShardError
from train.config import Dataset, Loader, Map, Operation
from train.dataset import ClipBatches, iterate, read_videos

NUM_TRAIN, NUM_VAL = 19, 7


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def settings(request, tmp_path_factory):
    made = settings_for(tmp_path_factory.mktemp(request.param), codec=request.param)
    make_split(made, "train", NUM_TRAIN + 2, bad=(3, 8))
    make_split(made, "val", NUM_VAL)
    return made


def loader(*, crop="VideoRandomCrop", flip=0.0, **options) -> Loader:
    operations = [Operation(crop, size=(8, 12))]
    if flip:
        operations.append(Operation("VideoRandomHorizontalFlip", prob=flip))
    defaults = {"batch_size": 4, "seq": 5, "seq_mode": "interval", "frame_interval": 2}
    return Loader(Dataset(**{**defaults, **options}), Map(tuple(operations)))


def source(settings, split="train", *, seed=0, drop_remainder=True, **options) -> ClipBatches:
    made = loader(**options)
    return ClipBatches(read_videos(settings, split), made, settings, seed=seed, drop_remainder=drop_remainder)


def numbers(settings, batches: ClipBatches) -> np.ndarray:
    """The number each video says of itself, in the order of `videos`."""
    return np.array([int(video_id.split("_")[-2]) for video_id in batches.videos.video_ids])


def test_clips_hold_the_pixels_they_should(settings):
    batches = source(settings, flip=0.5)
    tolerance = 0 if settings.codec == "raw" else 12
    flipped = 0
    for clips, labels, samples in iterate(batches, epoch=3):
        assert clips.dtype == np.uint8 and clips.shape == (4, 5, 8, 12, 3)
        for clip, label, sample in zip(clips.astype(int), labels, samples, strict=True):
            number = numbers(settings, batches)[sample]
            assert label == number % 3
            frames = frames_of(number, 12 + number % 5, settings)
            rows, columns = clip[0, :, 0, 0], clip[0, 0, :, 1]
            mirrored = columns[0] > columns[-1]
            flipped += mirrored
            top, left = round(rows[0] / 8), round(min(columns[0], columns[-1]) / 8)
            start = round(clip[0, :, :, 2].mean()) - 7 * number % 256
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


def test_batches_do_not_depend_on_the_number_of_workers(settings):
    one, three = (source(settings, num_parallel_workers=count, flip=0.5) for count in (1, 3))
    assert_same(everything(one, epoch=1), everything(three, epoch=1))


def test_an_epoch_taken_up_in_the_middle_goes_on_as_it_would_have(settings):
    assert_same(everything(source(settings), epoch=2)[2:], everything(source(settings), epoch=2, start=2))
    assert everything(source(settings), epoch=2, start=4) == []


def test_epochs_and_seeds_differ_and_repeat(settings):
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([batch[2] for batch in iterate(source(settings, seed=seed), epoch)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4
    assert len(set(order(0, 0))) == 16  # 19 videos: four batches of 4, none twice


@pytest.mark.parametrize("num_clips", [1, 3])
def test_evaluation_sees_every_clip_once_and_fills_up_the_tail(settings, num_clips):
    options = {"crop": "VideoCenterCrop", "seq_mode": "uniform", "shuffle": False, "num_clips": num_clips}
    batches = source(settings, "val", drop_remainder=False, **options)
    samples = np.concatenate([batch[2] for batch in everything(batches, epoch=0)])
    labels = np.concatenate([batch[1] for batch in everything(batches, epoch=0)])
    assert samples[samples >= 0].tolist() == list(range(NUM_VAL * num_clips))
    assert (labels[samples < 0] == -1).all()
    assert len(samples) % 4 == 0 and (samples < 0).sum() < 4


def copy_of(settings, tmp_path: Path):
    shutil.copytree(Path(settings.store).parent, tmp_path / "copy")
    paths = {name: str(tmp_path / "copy" / name) for name in ("manifests", "store")}
    return dataclasses.replace(settings, **paths)


def first_shard(settings) -> Path:
    return sorted(Path(settings.store).glob("train-*.h5"))[0]


def test_a_shard_that_is_gone_is_named(settings, tmp_path):
    copy = copy_of(settings, tmp_path)
    first_shard(copy).unlink()
    with pytest.raises(UserError, match=r"train-00000-of-00006\.h5: named by .*train\.csv, but not there"):
        source(copy)


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_truncated_shard_is_named(settings, tmp_path, keep):
    copy = copy_of(settings, tmp_path)
    shard = first_shard(copy)
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ShardError, match=r"train-00000-of-00006\.h5: .*--repair"):
        everything(source(copy), epoch=0)


def test_shards_of_another_recipe_are_refused(settings, tmp_path):
    copy = copy_of(settings, tmp_path)
    with pytest.raises(UserError, match="made by another recipe"):
        everything(source(dataclasses.replace(copy, fps=30.0)), epoch=0)


def test_a_batch_larger_than_the_split_is_refused(settings):
    with pytest.raises(UserError, match=r"batch_size: got 20, but .* has only 19 clips"):
        source(settings, batch_size=20)


def test_nothing_to_train_on_says_what_to_run(settings, tmp_path):
    empty = dataclasses.replace(settings, manifests=str(tmp_path))
    with pytest.raises(UserError, match=r"train\.csv: no such ledger; run `make manifests preprocess`"):
        read_videos(empty, "train")
    ledger.write(ledger.ledger_path(empty, "train"), make_ledger(21, "train", bad=(3, 8)))
    with pytest.raises(UserError, match=r"none of its 21 videos is stored; run `make preprocess`"):
        read_videos(empty, "train")
