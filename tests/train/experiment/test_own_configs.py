"""The configurations for own videos load without a warning, with and without a folder of videos."""

import pytest
from paths import CONFIGS

from pipeline.common.settings import Document
from train.experiment.load import load_config


@pytest.mark.parametrize("name", ["own", "finetune"])
@pytest.mark.parametrize("data", ["", "/my/pets"])
def test_configurations_of_own_videos_load(name, data, caplog):
    config = load_config(Document(CONFIGS / f"{name}.yaml", {"preprocess.data_root": data}))
    expected = ("pets", "data/pets-shards") if data else ("auto", "data/auto-shards")
    assert (config.preprocess.dataset, config.preprocess.store) == expected
    assert config.model.num_classes == "auto" and caplog.text == ""


def test_fine_tuning_starts_from_weights():
    config = load_config(Document(CONFIGS / "finetune.yaml", {"train.pretrained_model": "x.ckpt"}))
    assert config.train.pre_trained and config.train.head == "new"
    assert config.model.stage_channels == (64, 128, 256, 512) and config.model.freeze_stages == 2
    assert config.model.dropout and config.loss.label_smoothing and config.optimizer.layer_lr_decay < 1
