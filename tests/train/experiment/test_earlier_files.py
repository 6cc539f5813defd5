"""Files of an earlier version still mean the same."""

import json

from paths import RESOURCES

from pipeline.common.settings import Document
from train.device.processes import World
from train.experiment.load import load_config
from train.loop.trainer import Trainer

KEPT = RESOURCES / "made_by_24d7eab"


def test_clip_settings_match_those_of_a_kept_run(monkeypatch):
    monkeypatch.chdir(KEPT)
    (saved,) = KEPT.glob("runs/kept/*/ckpt/epoch_001-step_000002.json")
    state = json.loads(saved.read_text())
    for file in ("kept.yaml", "runs/kept/20261126-000000/config.yaml"):
        settings = Trainer(load_config(Document(file)), World(), None)._clip_settings()
        assert json.loads(json.dumps(settings)) == {key: state[key] for key in settings}
        assert {key for key in state if key.startswith("data_loader.")} <= set(settings)
