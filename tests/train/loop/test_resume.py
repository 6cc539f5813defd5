"""Which settings may change when training resumes, and that checkpoints of older versions can be resumed."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from paths import CONFIGS

from pipeline.common.errors import UserError
from pipeline.common.settings import Document, to_file
from train.experiment.load import load_config
from train.experiment.sections import Config, DataLoader, Dataset, Loader
from train.experiment.transforms import Map, Operation
from train.loop.resume import check_clip_settings, checkpoints_to_resume, clip_settings
from train.runs.choose import now

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


@pytest.mark.parametrize("key", ["seed", "videos", "recipe_sha256"])
def test_checkpoint_without_a_required_key_is_refused(key):
    state = saved()
    del state[key]
    with pytest.raises(UserError, match=f"{key} is None in the checkpoint"):
        check_clip_settings(Path("x.ckpt"), state, settings_of())


def test_auto_resumes_same_dataset_classes_settings(tmp_path, caplog):
    def config(**overrides: str) -> Config:
        given = {f"train.{key}" if key == "epochs" else f"preprocess.{key}": value for key, value in overrides.items()}
        return load_config(Document(CONFIGS / "sample.yaml", {"train.ckpt_path": str(tmp_path), **given}))

    def begin(name: str, classes: list[str], **overrides: str) -> Path:
        folder = tmp_path / name / "ckpt"
        folder.mkdir(parents=True)
        (folder.parent / "config.yaml").write_text(yaml.safe_dump(to_file(config(**overrides))))
        (folder.parent / "env.json").write_text(json.dumps({"started": now()}))
        (folder / "epoch_001-step_000004.json").write_text(json.dumps({"classes": classes}))
        return folder / "epoch_001-step_000004.ckpt"

    ours = begin("renamed/9", ["a", "b"])
    longer = begin("sample/1", ["a", "b"], epochs="99")
    begin("sample/2", ["a", "b"], dataset="other")
    begin("sample/3", ["b", "a"])
    assert checkpoints_to_resume(config(), ["a", "b"], "auto") == [ours]
    assert checkpoints_to_resume(config(epochs="99"), ["a", "b"], "auto") == [longer]
    assert checkpoints_to_resume(config(epochs="7"), ["a", "b"], "auto") == [longer]  # the newest; epochs are refused
    caplog.clear()
    assert checkpoints_to_resume(config(dataset="new"), ["a", "b"], "auto") == []
    assert "has no checkpoint of dataset new to resume from. Training starts at step 0." in caplog.text
    assert checkpoints_to_resume(config(), ["a", "b"], None) == []
