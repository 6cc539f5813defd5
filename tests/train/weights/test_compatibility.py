"""Weights trained for other classes are refused, and weights trained on other frames give a warning."""

import logging
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess
from train.weights.compatibility import check_class_names, warn_if_preprocessed_differently

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
