"""Weights of one configuration are used with another one: the network and its input come from what was recorded."""

import json
import shutil
from pathlib import Path

import pytest
from paths import CONFIGS, RESOURCES

from pipeline.common.errors import UserError
from pipeline.common.settings import Document, build, to_plain
from train.experiment.load import load_config
from train.experiment.sections import Model
from train.weights.record import network_of, read_record, views_of, with_input, with_network


def of(name, **overrides):
    return load_config(Document(CONFIGS / f"{name}.yaml", overrides))


def recorded(config):
    facts = {"network": network_of(config.model), "views": views_of(config), "recipe": config.preprocess.stored()}
    return json.loads(json.dumps(facts))  # as a checkpoint keeps it


def test_record_gives_the_network_and_its_input(tmp_path, caplog):
    own, path = of("own", **{"model.num_classes": "3", "preprocess.data_root": "/d"}), tmp_path / "x.ckpt"
    with caplog.at_level("INFO"):
        config = with_input(
            with_network(of("sample"), Document(None), recorded(own), path), Document(None), recorded(own), path
        )
    assert network_of(config.model) == network_of(own.model) and views_of(config) == views_of(own)
    assert config.preprocess.frame_size == (128, 171) and config.preprocess.dataset == "kinetics-sample"
    assert config.data_loader.eval.dataset.num_clips == 2, "how many clips is the user's choice"
    assert "another model.stage_strides, num_classes" in caplog.text and "frames and clips: as recorded" in caplog.text
    assert "warning" not in caplog.text


def test_another_epsilon_is_a_warning(tmp_path, caplog):
    other = of("sample", **{"model.bn_eps": "0.001"})
    assert with_network(other, Document(None), recorded(of("sample")), tmp_path).model.bn_eps == 1e-5
    assert "warning: network: as recorded with" in caplog.text and "another model.bn_eps" in caplog.text


def test_typed_keys_of_clips_stay(tmp_path, caplog):
    document = Document(CONFIGS / "sample.yaml", {"data_loader.eval.dataset.seq": "16"})
    with caplog.at_level("INFO"):
        dataset = with_input(load_config(document), document, recorded(of("sample")), tmp_path).data_loader.eval.dataset
    assert (dataset.seq, dataset.frame_interval) == (16, 2) and "recorded" not in caplog.text


def test_own_record_changes_nothing(tmp_path, caplog):
    config = of("sample")
    with caplog.at_level("INFO"):
        same = with_network(config, Document(None), recorded(config), tmp_path)
        same = with_input(same, Document(None), recorded(config), tmp_path)
    assert same.model == config.model and same.data_loader.eval == config.data_loader.eval
    assert same.preprocess == config.preprocess and "recorded" not in caplog.text
    assert (
        with_input(with_network(config, Document(None), {}, tmp_path), Document(None), {"recipe": {}}, tmp_path)
        is config
    ), "earlier checkpoints"


@pytest.mark.parametrize("spoil", [{"network": {"type": "R9"}}, {"network": [1]}, {"views": {"dataset": 7}},
                                   {"recipe": {"height": -1}}, {"recipe": 5}])  # fmt: skip
def test_damaged_record_is_one_line(tmp_path, spoil):
    config = of("sample")
    facts = {**recorded(config), **spoil}
    with pytest.raises(UserError, match="what was recorded with it is damaged: ") as error:
        with_input(with_network(config, Document(None), facts, tmp_path), Document(None), facts, tmp_path)
    assert len(str(error.value).splitlines()) == 1


RUN = RESOURCES / "made_by_24d7eab" / "runs" / "kept" / "20261126-000000"
CHECKPOINT = RUN / "ckpt" / "epoch_001-step_000002.ckpt"


def network_for(path, **overrides: str) -> Model:
    """The `model` section for a file of weights with torchvision.yaml, whose network is another one."""
    document = Document(CONFIGS / "torchvision.yaml", {f"model.{key}": value for key, value in overrides.items()})
    return with_network(load_config(document), document, read_record(Path(path)), Path(path)).model


def test_network_is_that_of_the_runs_settings():
    recorded = build(Model, Document(RUN / "config.yaml"), "model")
    assert recorded.num_classes == 8 and recorded.stage_channels != Model().stage_channels
    expected = network_of(recorded)
    assert network_of(network_for(CHECKPOINT)) == network_of(network_for(RUN / "export" / "kept.mindir")) == expected
    assert network_of(network_for(CHECKPOINT, num_classes="auto")) == expected
    assert network_for(CHECKPOINT, layout="NTHWC").layout == "NTHWC"


def test_network_recorded_with_weights_comes_first(tmp_path):
    path = shutil.copy(CHECKPOINT, tmp_path)
    state = json.loads(CHECKPOINT.with_suffix(".json").read_text())
    mine = Model(type="R3d34", stage_channels=(4, 4, 4, 8), num_classes=3, bn_eps=1e-3)
    (tmp_path / CHECKPOINT.name).with_suffix(".json").write_text(json.dumps({**state, "network": to_plain(mine)}))
    assert network_of(network_for(tmp_path / path)) == network_of(mine)
    damaged = {**state, "network": {"type": "R9d"}}
    (tmp_path / CHECKPOINT.name).with_suffix(".json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match=r"what was recorded with it is damaged: .*network\.type: got 'R9d'"):
        network_for(tmp_path / path)


def test_weights_without_a_record_leave_the_settings():
    plain = RESOURCES / "made_by_24d7eab" / "runs" / "kept.safetensors"
    assert network_for(plain).num_classes == 400


def test_typed_keys_of_the_network_stay():
    assert network_for(CHECKPOINT, stage_channels="[8, 8, 8, 8]").stage_channels == (8, 8, 8, 8)
    message = r"--model\.num_classes: got 5, but .*ckpt has 8 classes\. Set model\.num_classes to 8, or remove --model"
    with pytest.raises(UserError, match=message):
        network_for(CHECKPOINT, num_classes="5")
