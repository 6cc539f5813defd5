"""Which settings may change when training resumes, and that checkpoints of older versions can be resumed."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from train.experiment.sections import Config, DataLoader, Dataset, Loader
from train.experiment.transforms import Map, Operation
from train.loop.resume import check_clip_settings, clip_settings

NEEDED = (
    Operation("VideoRescale", shift=0.0),
    Operation("VideoReOrder", order=(3, 0, 1, 2)),
    Operation("VideoNormalize", mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)),
)
CROP = Operation("VideoRandomCrop", size=(16, 16))
FLIP = Operation("VideoRandomHorizontalFlip", prob=0.5)


def settings_of(operations: tuple[Operation, ...] = (CROP,), **dataset: object) -> dict[str, object]:
    loader = Loader(Dataset(**{"seq": 4, **dataset}), Map((*operations, *NEEDED)))
    config = Config(data_loader=DataLoader(train=loader, eval=Loader(Dataset(), Map(NEEDED))))
    return clip_settings(config, clips_per_step=4, steps_per_epoch=8, videos="tiny-train@0")


def saved(**dataset: object) -> dict[str, object]:
    """The settings of clips as they come back from a checkpoint's JSON."""
    return json.loads(json.dumps(settings_of(**dataset)))


@pytest.mark.parametrize(
    ("current", "message"),
    [
        ({"shuffle_shards": 3}, r"data_loader\.train\.dataset\.shuffle_shards is 0 in the checkpoint and 3 now"),
        ({"shuffle": False}, r"dataset\.shuffle is True in the checkpoint and False now"),
        ({"seq": 3}, r"dataset\.seq is 4 in the checkpoint and 3 now"),
        ({"seq_mode": "random"}, r"dataset\.seq_mode is part in the checkpoint"),
        ({"frame_interval": 2}, r"dataset\.frame_interval is 1 in the checkpoint"),
        ({"operations": ()}, r"data_loader\.train\.map\.VideoRandomCrop is \{.*\[16, 16\].* and None now"),
        ({"operations": (CROP, FLIP)}, r"map\.VideoRandomHorizontalFlip is None in the checkpoint"),
        ({"num_parallel_workers": 7}, None),
        ({"batch_timeout_s": 9.0}, None),
        ({"verify_checksums": True}, None),
    ],
)
def test_resuming_with_other_clips_is_refused(current, message):
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        check_clip_settings(Path("x.ckpt"), saved(), settings_of(**current))


def test_missing_dataset_key_counts_as_its_default():
    defaults = {field.name: field.default for field in dataclasses.fields(Dataset)}
    for name in ("num_clips", "shuffle_shards", "seq_mode"):  # as if the checkpoint were older than this key
        state = saved()
        del state[f"data_loader.train.dataset.{name}"]
        check_clip_settings(Path("x.ckpt"), state, settings_of())
        other = {"num_clips": 2, "shuffle_shards": 3, "seq_mode": "average"}[name]
        with pytest.raises(UserError, match=rf"{name} is {defaults[name]} in the checkpoint and {other} now"):
            check_clip_settings(Path("x.ckpt"), state, settings_of(**{name: other}))


def test_missing_operation_counts_as_not_used():
    state = saved()
    del state["data_loader.train.map.VideoRandomHorizontalFlip"]
    check_clip_settings(Path("x.ckpt"), state, settings_of())
    with pytest.raises(UserError, match=r"VideoRandomHorizontalFlip is None in the checkpoint"):
        check_clip_settings(Path("x.ckpt"), state, settings_of(operations=(CROP, FLIP)))


def test_missing_key_of_an_operation_counts_as_none():
    state = saved()
    del state["data_loader.train.map.VideoRandomCrop"]["prob"]
    check_clip_settings(Path("x.ckpt"), state, settings_of())
    del state["data_loader.train.map.VideoRandomCrop"]["size"]
    with pytest.raises(UserError, match="VideoRandomCrop"):
        check_clip_settings(Path("x.ckpt"), state, settings_of())


@pytest.mark.parametrize("key", ["seed", "videos", "recipe_sha256", "epochs"])
def test_checkpoint_without_a_required_key_is_refused(key):
    state = saved()
    del state[key]
    with pytest.raises(UserError, match=f"{key} is None in the checkpoint"):
        check_clip_settings(Path("x.ckpt"), state, settings_of())
