"""Which settings may change when training resumes, and that checkpoints of older versions can be resumed."""

import contextlib
import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import yaml
from paths import CONFIGS

from pipeline.common.errors import UserError
from pipeline.common.locking import LockedError, locked
from pipeline.common.settings import Document, to_file
from train.experiment.load import load_config
from train.experiment.sections import Config, DataLoader, Dataset, Loader
from train.experiment.transforms import Map, Operation
from train.loop.resume import check_clip_settings, check_schedule, checkpoints_to_resume, clip_settings
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


@pytest.mark.parametrize(
    ("schedule", "epochs", "step", "allowed"),
    [
        ({"lr_scheduler": "constant"}, "60", 45, True),
        ({"lr_scheduler": "step", "lr_gamma": "0.1", "lr_epochs": "[20]"}, "60", 45, True),
        ({"lr_scheduler": "multi_step", "lr_gamma": "0.1", "lr_epochs": "[20, 50]"}, "60", 45, True),
        ({"lr_scheduler": "multi_step", "lr_gamma": "0.1", "lr_epochs": "[20, 50]"}, "40", 30, True),
        ({"lr_scheduler": "cosine_annealing"}, "60", 4, True),  # in the warm-up
        ({"lr_scheduler": "cosine_annealing"}, "60", 45, False),
        ({"lr_scheduler": "constant", "warmup_epochs": "50"}, "60", 45, False),  # the warm-up was cut short
    ],
)
def test_more_epochs_where_finished_steps_stay(schedule, epochs, step, allowed):
    given = {"train.epochs": epochs, **{f"learning_rate.{key}": value for key, value in schedule.items()}}
    document = Document(CONFIGS / "sample.yaml", given)
    state = {**saved(), "epochs": 45, "steps_per_epoch": 1, "step": step, "epoch": step}
    with contextlib.nullcontext() if allowed else pytest.raises(UserError, match="finished steps depend on it"):
        check_schedule(Path("x.ckpt"), state, load_config(document), document, 1)


def test_command_that_trains_longer_can_be_pasted():
    given = {"train.epochs": "60", "preprocess.data_root": "/my videos", "learning_rate.lr": "0.1"}
    document = Document(CONFIGS / "sample.yaml", {**given, "train.run_distribute": "true"})
    state = {**saved(), "epochs": 45, "steps_per_epoch": 1, "step": 45, "epoch": 45}
    with pytest.raises(UserError, match=r"train\.epochs is 45 in the checkpoint and 60 now") as caught:
        check_schedule(Path("a run/x.ckpt"), state, load_config(document), document, 2)
    assert "\n" not in str(caught.value)
    *words, args = shlex.split(str(caught.value).partition("train 15 more epochs from these weights: ")[2])
    assert words == ["make", "train", f"CONFIG={CONFIGS / 'sample.yaml'}", "DATA=/my videos", "DEVICES=2"]
    assert shlex.split(args.removeprefix("ARGS=")) == [
        "--train.epochs=15", "--learning_rate.lr=0.1", "--train.pre_trained=true",
        "--train.pretrained_model=a run/x.ckpt", "--train.head=same",
    ]  # fmt: skip
    del state["epochs"]
    with pytest.raises(UserError, match="epochs is None in the checkpoint"):
        check_schedule(Path("x.ckpt"), state, load_config(document), document, 1)


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
    assert checkpoints_to_resume(config(epochs="7"), ["a", "b"], "auto") == [longer]  # the newest but for its epochs
    other = {"train.ckpt_path": str(tmp_path), "optimizer.momentum": "0"}
    other_rate = load_config(Document(CONFIGS / "sample.yaml", other))
    assert checkpoints_to_resume(other_rate, ["a", "b"], "auto") == [longer]  # the newest
    caplog.clear()
    assert checkpoints_to_resume(config(dataset="new"), ["a", "b"], "auto") == []
    assert "has no checkpoint of dataset new to resume from. Training starts at step 0." in caplog.text
    assert checkpoints_to_resume(config(), ["a", "b"], None) == []

    (ours.with_suffix(".json")).rename(live := begin("sample/4", ["a", "b"]).parent / "moved")  # ours has none left
    live.with_name("epoch_001-step_000004.json").unlink()
    with locked(live.parents[1]):  # another process has just begun it
        with pytest.raises(LockedError, match="is writing here"):
            checkpoints_to_resume(config(), ["a", "b"], "auto", writes=True)
        assert checkpoints_to_resume(config(epochs="99"), ["a", "b"], "auto", writes=True) == [longer]
    assert checkpoints_to_resume(config(), ["a", "b"], "auto", writes=True) == [longer]  # it was killed
