"""Stores, ledgers, runs and weights of an earlier version are still usable (tests/resources/made_by_24d7eab)."""

import json
import shutil

import numpy as np
import pytest
import yaml
from paths import RESOURCES

import train as _train  # noqa: F401  before mindspore

# isort: split
from pipeline import manifests, preprocess, verify
from pipeline.common import recipe
from pipeline.common.errors import EXIT_OK
from pipeline.common.settings import Document
from pipeline.ledger.table import read_columns, read_ledger
from train import evaluate, train
from train.weights.files import read_ckpt

RUN = "runs/kept/20261126-000000"
WORDS = ["-c", "kept.yaml", "--preprocess.data_root="]
PYNATIVE = "--context.mode=1"  # runs a few batches faster than it compiles a graph


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A copy of the files, which is the current folder."""
    folder = tmp_path / "kept"
    shutil.copytree(RESOURCES / "made_by_24d7eab", folder)
    monkeypatch.chdir(folder)
    return folder


def bytes_of_ledgers(folder):
    return {path.name: path.read_bytes() for path in (folder / "manifests").rglob("*.csv")}


def scores(folder, checkpoint):
    assert evaluate.main([*WORDS, PYNATIVE, f"--eval.pretrained_model={checkpoint}"]) == EXIT_OK
    newest = max(folder.rglob("summary.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def test_store_and_ledgers_verify(kept, capsys):
    assert verify.main(["-c", "kept.yaml"]) == EXIT_OK
    assert "5 shards, 13 videos" in capsys.readouterr().out


def test_rebuild_gives_the_same_ledgers(kept):
    before = bytes_of_ledgers(kept)
    labels = ", ".join(f"labels/{path.name}" for path in sorted((kept / "labels").iterdir()))
    assert manifests.main([*WORDS, f"--preprocess.labels=[{labels}]"]) == EXIT_OK
    assert bytes_of_ledgers(kept) == before


def test_preprocess_finds_everything_finished(kept, capsys):
    (kept / "data").mkdir()
    before, shards = bytes_of_ledgers(kept), {path: path.read_bytes() for path in (kept / "store").iterdir()}
    assert preprocess.main(["-c", "kept.yaml"]) == EXIT_OK
    assert "0 of 5 shards written" in capsys.readouterr().out
    assert bytes_of_ledgers(kept) == before and {path: path.read_bytes() for path in shards} == shards


def test_fingerprint_of_the_recipe_is_the_same(kept):
    state = json.loads((kept / RUN / "ckpt" / "epoch_003-step_000006.json").read_text())
    settings = recipe.load(Document("kept.yaml"))
    assert settings.fingerprint() == state["recipe_sha256"] and settings.stored() == state["recipe"]


def test_video_to_be_decoded_again_is_retry(kept):
    table = read_ledger(kept / "manifests_retry" / "kept" / "train.csv").set_index("video_id")
    row = table.loc[table["status"].eq("retry")]
    assert row["reason"].tolist() == ["was truncated, asked for"] and table["status"].ne("pending").all()


@pytest.mark.parametrize("column", ["crc32", "source_crc32", "fps"])
def test_missing_ledger_column_means_its_default(kept, column):
    path = kept / "manifests" / "kept" / "val.csv"
    whole = read_ledger(path)
    whole.drop(columns=column).to_csv(path, index=False)
    expected = whole.assign(**{column: whole[column].dtype.type(0)})
    assert read_ledger(path).equals(expected)
    assert read_columns(path, ["video_id", column]).equals(expected[["video_id", column]])


def test_checkpoint_scores_as_it_did(kept):
    recorded = json.loads((kept / RUN / "eval" / "epoch_001-step_000002-val.json").read_text())
    result = scores(kept, f"{RUN}/ckpt/epoch_001-step_000002.ckpt")
    assert result["split"] == recorded["split"]
    np.testing.assert_allclose(result["loss"], recorded["loss"], rtol=1e-4)
    assert {key: result[key] for key in recorded if "top" in key} == {
        key: recorded[key] for key in recorded if "top" in key
    }


def test_other_forms_of_the_weights_score_alike(kept):
    loss = scores(kept, f"{RUN}/ckpt/epoch_003-step_000006.ckpt")["loss"]
    np.testing.assert_allclose(scores(kept, "runs/kept.safetensors")["loss"], loss, rtol=1e-5)
    best = scores(kept, f"{RUN}/ckpt/epoch_001-step_000002.ckpt")["loss"]
    np.testing.assert_allclose(scores(kept, f"{RUN}/export/kept.mindir")["loss"], best, rtol=1e-4)


def test_resumed_run_ends_in_the_same_weights(kept):
    checkpoints = kept / RUN / "ckpt"
    expected = read_ckpt(checkpoints / "epoch_003-step_000006.ckpt")
    for path in checkpoints.glob("epoch_003*"):
        path.unlink()
    (checkpoints / "latest.json").write_text('{"stem": "epoch_002-step_000004"}')
    assert train.main([*WORDS, PYNATIVE, "--resume", "auto"]) == EXIT_OK
    weights = read_ckpt(checkpoints / "epoch_003-step_000006.ckpt")
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_new_training_starts_from_the_weights(kept, capsys):
    words = ["--train.epochs=1", "--train.pre_trained=true", f"--train.pretrained_model={RUN}/ckpt/"]
    words[-1] += "epoch_003-step_000006.ckpt"
    assert train.main([*WORDS, PYNATIVE, *words]) == EXIT_OK
    assert "2 steps -> runs/kept/" in capsys.readouterr().out


def test_resolved_settings_of_the_run_load(kept):
    values = yaml.safe_load((kept / RUN / "config.yaml").read_text())
    (kept / "again.yaml").write_text(yaml.safe_dump(values))
    assert recipe.load(Document("again.yaml")) == recipe.load(Document("kept.yaml"))
