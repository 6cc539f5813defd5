"""Weights trained for other classes are refused, and weights trained on other frames give a warning."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess
from pipeline.common.settings import to_plain
from train.experiment.sections import Config, Loader
from train.experiment.transforms import Map
from train.weights.compatibility import (
    check_class_names,
    warn_if_preprocessed_differently,
    warn_if_seen_differently,
)
from train.weights.record import views_of

PATH = Path("runs/x/ckpt/best.ckpt")


def test_another_meaning_of_a_class_is_refused_by_name():
    with pytest.raises(
        UserError, match=r"best\.ckpt: class 1 is 'growing' in these weights and 'moving down' in k-val@1\. "
    ):
        check_class_names({"classes": ["a", "growing", "c"]}, ["a", "moving down", "x"], PATH, "k-val@1")


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({"classes": ["a", "b"]}, ["a", "b"]),
        ({"classes": ["a", "", "c"]}, ["", "b", "c", "d"]),  # subsets: an id without a row has no name
        ({"classes": ["a", "b"]}, []),  # an unlabelled split
        ({}, ["a", "b"]),  # torchvision's weights
    ],
)
def test_what_does_not_contradict_is_taken(facts, names):
    check_class_names(facts, names, PATH, "k-val@1")


def test_weights_without_names_are_never_silent(caplog):
    check_class_names({}, ["a", "b"], PATH, "k-val@1")
    assert "best.ckpt: These weights do not name their classes, so they cannot be compared with" in caplog.text
    assert "ARGS=--class-order=LIST" in caplog.text
    caplog.clear()
    check_class_names({}, [], PATH, "k-val@1")
    check_class_names({"classes": ["a", "b"]}, ["a", "b"], PATH, "k-val@1")
    assert not caplog.text


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"recipe": Preprocess(fps=30.0, interpolation="area").stored()}, "fps: 15.0 here, 30.0 there; interpolation"),
        ({"recipe": Preprocess(codec="jpeg").stored()}, "codec: raw here, jpeg there"),
        ({"recipe": Preprocess(videos_per_shard=2, seed=7, jpeg_quality=50, dataset="mine").stored()}, None),
        ({"recipe_sha256": Preprocess(fps=30.0).fingerprint()}, "with different preprocessing. Which keys differ was"),
        ({"recipe_sha256": Preprocess().fingerprint()}, None),
        ({}, None),
    ],
)
def test_frames_of_another_recipe_are_warned_of(facts, said, caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_preprocessed_differently(facts, Preprocess(), PATH)
    assert said in caplog.text if said else not caplog.records


def record_of_input(**changes):
    """What a checkpoint records of its input, as train/weights/record.py writes it."""
    config = Config()
    operations = [
        {key: value for key, value in each.items() if value is not None}
        for each in to_plain(config.data_loader.eval.map)["operations"]
    ]
    dataset = {"seq": 16, "seq_mode": "uniform", "frame_interval": 1}
    views = {"dataset": dataset, "map": {"operations": operations}}
    return {"classes": ["a"], "network": {"bn_eps": 1e-5}, "views": views, **changes}


CLIPS = [{"seq": 16, "frame_interval": 1}]


def test_other_clips_are_a_warning_that_names_keys(caplog):
    warn_if_seen_differently(record_of_input(), Config(), Path("w"), CLIPS)
    assert caplog.text == ""
    facts = record_of_input(network={"bn_eps": 1e-3})
    for operation in facts["views"]["map"]["operations"]:
        if operation["type"] == "VideoNormalize":
            operation |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
        if operation["type"] == "VideoCenterCrop":
            operation["size"] = [56, 56]
    warn_if_seen_differently(facts, Config(), Path("w.ckpt"), [{"seq": 8, "frame_interval": 2}, *CLIPS])
    (record,) = caplog.records
    for text in ("w.ckpt", "dataset.seq: 8 here, 16 there", "frame_interval: 2 here, 1 there", "VideoNormalize.mean",
                 "VideoNormalize.std", "VideoCenterCrop.size: [112, 112] here, [56, 56] there",
                 "model.bn_eps: 1e-05 here, 0.001 there"):  # fmt: skip
        assert record.getMessage().count(text) == 1


def without_crop(loader: Loader) -> Loader:
    kept = [each for each in loader.map.operations if each.type != "VideoCenterCrop"]
    return replace(loader, map=Map(tuple(kept)))


def test_frames_that_are_not_cropped_are_other_ones(caplog):
    config, cropped = Config(), record_of_input()
    loaders = config.data_loader
    whole = replace(config, data_loader=replace(loaders, eval=without_crop(loaders.eval)))
    warn_if_seen_differently(cropped, whole, PATH, CLIPS)
    assert "VideoCenterCrop.size: [128, 171] here, [112, 112] there." in caplog.text
    caplog.clear()
    recorded = {"views": views_of(whole), "recipe": whole.preprocess.stored()}
    warn_if_seen_differently(recorded, whole, PATH, CLIPS)
    assert not caplog.text
    warn_if_seen_differently(recorded, config, PATH, CLIPS)
    assert "VideoCenterCrop.size: [112, 112] here, [128, 171] there." in caplog.text


@pytest.mark.parametrize(
    ("mode", "step"),
    [("part", "1"), ("average", "none (seq_mode average)"), ("discrete", "none (seq_mode discrete)"), ("uniform", "3")],
)
def test_steps_of_every_mode_are_compared(mode, step, caplog):
    facts = record_of_input()
    facts["views"]["dataset"] |= {"seq_mode": mode, "frame_interval": 3}
    warn_if_seen_differently(facts, Config(), PATH, [{"seq": 16}])  # another step in each video
    assert not caplog.text
    exported = {"clip": {"num_frames": 16, "mode": mode, "interval": 3}}
    for record in (facts, exported):
        warn_if_seen_differently(record, Config(), PATH, [{"seq": 16, "frame_interval": 2.0}])
        assert f"frame_interval: 2 here, {step} there" in caplog.text
        caplog.clear()
        warn_if_seen_differently(record, Config(), PATH, [{"seq": 16, "seq_mode": "average"}])
        assert (f"dataset.seq_mode: average here, {mode} there" in caplog.text) == (mode != "average")
        caplog.clear()


def test_what_was_not_recorded_is_not_compared(caplog):
    warn_if_seen_differently({}, Config(), Path("w"), CLIPS)
    assert caplog.text == ""
    exported = {"classes": ["a"], "clip": {"num_frames": 8, "interval": 1}, "normalisation": {"mean": [0.5] * 3}}
    warn_if_seen_differently(exported, Config(), Path("w"), CLIPS)
    assert "seq: 16 here, 8 there" in caplog.text and "VideoNormalize.mean" in caplog.text
    caplog.clear()
    warn_if_seen_differently(record_of_input(views=3, network="x"), Config(), Path("w"), CLIPS)  # a damaged record
    assert caplog.text == ""
