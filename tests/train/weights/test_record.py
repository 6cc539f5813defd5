"""Weights of one configuration are used with another one: the network and its input come from what was recorded."""

import json

import pytest
from paths import CONFIGS

from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from train.experiment.load import load_config
from train.weights.record import network_of, views_of, with_input, with_network


def of(name, **overrides):
    return load_config(Document(CONFIGS / f"{name}.yaml", overrides))


def recorded(config):
    facts = {"network": network_of(config.model), "views": views_of(config), "recipe": config.preprocess.stored()}
    return json.loads(json.dumps(facts))  # as a checkpoint keeps it


def test_record_gives_the_network_and_its_input(tmp_path, caplog):
    own, path = of("own", **{"model.num_classes": "3", "preprocess.data_root": "/d"}), tmp_path / "x.ckpt"
    with caplog.at_level("INFO"):
        config = with_input(with_network(of("sample"), recorded(own), path), recorded(own), path)
    assert network_of(config.model) == network_of(own.model) and views_of(config) == views_of(own)
    assert config.preprocess.frame_size == (128, 171) and config.preprocess.dataset == "kinetics-sample"
    assert config.data_loader.eval.dataset.num_clips == 2, "how many clips is the user's choice"
    assert "another model.stage_strides, num_classes" in caplog.text and "frames and clips: as recorded" in caplog.text


def test_own_record_changes_nothing(tmp_path, caplog):
    config = of("sample")
    with caplog.at_level("INFO"):
        same = with_input(with_network(config, recorded(config), tmp_path), recorded(config), tmp_path)
    assert same.model == config.model and same.data_loader.eval == config.data_loader.eval
    assert same.preprocess == config.preprocess and "recorded" not in caplog.text
    assert with_input(with_network(config, {}, tmp_path), {"recipe": {}}, tmp_path) is config, "earlier checkpoints"


@pytest.mark.parametrize("spoil", [{"network": {"type": "R9"}}, {"network": [1]}, {"views": {"dataset": 7}},
                                   {"recipe": {"height": -1}}, {"recipe": 5}])  # fmt: skip
def test_damaged_record_is_one_line(tmp_path, spoil):
    config = of("sample")
    facts = {**recorded(config), **spoil}
    with pytest.raises(UserError, match="what was recorded with it is damaged: ") as error:
        with_input(with_network(config, facts, tmp_path), facts, tmp_path)
    assert len(str(error.value).splitlines()) == 1
