"""`make features`: its rows are what the network's last layer makes the logits of, also after it was killed."""

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import mindspore as ms
import numpy as np
import pytest
from make_store import LABELS
from make_training import NUM_VAL, write_config
from mindspore import Tensor
from paths import ROOT

from model import weights
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.settings import Document
from train import features
from train.evaluation.features import PartFile
from train.evaluation.scoring import Evaluation, as_evaluated, score
from train.experiment.load import load_config
from train.experiment.sections import Config
from train.network import predictor
from train.network.build import build_network
from train.network.predictor import load_predictor
from train.weights.exported import facts_path
from train.weights.files import read_safetensors, write_safetensors
from train.weights.record import network_of

NETWORK = {"model.stage_channels": "[4, 4, 4, 8]", "model.num_classes": "3"}
VIEWS = {"data_loader.eval.dataset.num_clips": "2", "data_loader.eval.dataset.num_crops": "3"}
NUM_ROWS = NUM_VAL * 6


@pytest.fixture(scope="module")
def config_path(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def config(config_path) -> Config:
    # Batches of 5: the last one is not full.
    keys = {**NETWORK, **VIEWS, "data_loader.eval.dataset.batch_size": "5"}
    return load_config(Document(config_path, keys))


@pytest.fixture(scope="module")
def checkpoint(config, config_path) -> Path:
    ms.set_seed(0)
    network = build_network(config.model)
    arrays = {weights.torchvision_name(name): each.asnumpy() for name, each in weights.parameters(network).items()}
    path = config_path.parent / "net.safetensors"
    write_safetensors(path, arrays, {"network": network_of(config.model), "classes": list(LABELS)})
    return path


@pytest.fixture
def words(config_path, checkpoint, tmp_path) -> list[str]:
    chosen = [f"--eval.pretrained_model={checkpoint}", "--data_loader.eval.dataset.batch_size=5"]
    return ["-c", str(config_path), *chosen, *(f"--{key}={value}" for key, value in VIEWS.items()),
            "--context.mode=1", f"--output-dir={tmp_path}/out"]  # fmt: skip


def features_in(folder: Path) -> dict[str, np.ndarray]:
    with h5py.File(folder / "out" / "net-configured-val.h5") as file:
        return {name: values[()] for name, values in file.items()}


def test_last_layer_makes_evaluations_logits(words, config, checkpoint, tmp_path):
    assert features.main(words) == EXIT_OK
    rows = features_in(tmp_path)
    assert rows["features"].shape == (NUM_ROWS, 8) and rows["features"].dtype == np.float32
    predict, _ = load_predictor(config, checkpoint)
    source = Evaluation(config)
    shown = {}
    for _, (clips, labels, samples) in source.batches():
        logits = predict(Tensor(clips)).asnumpy()
        shown |= {sample: (logits[at], labels[at]) for at, sample in enumerate(samples.tolist()) if sample >= 0}
    expected = np.array([shown[sample][0] for sample in range(NUM_ROWS)])
    arrays, _ = read_safetensors(checkpoint)
    logits = rows["features"] @ arrays["fc.weight"].T + arrays["fc.bias"]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 1e-3  # otherwise a wrong order would pass
    assert rows["label_id"].tolist() == [shown[sample][1] for sample in range(NUM_ROWS)]
    assert rows["video_id"].tolist() == [each.encode() for each in source.videos.video_ids for _ in range(6)]
    assert rows["clip"].tolist() == [0, 0, 0, 1, 1, 1] * NUM_VAL and rows["crop"].tolist() == [0, 1, 2] * 2 * NUM_VAL
    # The second of two uniform clips ends with the video, whose frames are shown every 1/15 s.
    last = (source.videos.num_frames - config.data_loader.eval.dataset.seq) / 15
    np.testing.assert_allclose(rows["start_s"].reshape(NUM_VAL, 2, 3)[:, 1, 0], last, rtol=1e-6)
    assert not rows["start_s"].reshape(NUM_VAL, 2, 3)[:, 0].any()


def test_protocol_decides_the_views(words, config, checkpoint, tmp_path):
    words = [*words, "--eval.protocols=[views-10x3,one-clip]", "--data_loader.eval.dataset.seq=4"]
    assert features.main(words) == EXIT_OK
    with h5py.File(tmp_path / "out" / "net-views-10x3-val.h5") as file:
        rows = {name: values[()] for name, values in file.items()}
    config = replace(config, eval=replace(config.eval, protocols=["views-10x3"]))
    source = Evaluation(config)
    (scores,) = score(load_predictor(as_evaluated(config), checkpoint)[0], source)
    arrays, _ = read_safetensors(checkpoint)
    logits = (rows["features"] @ arrays["fc.weight"].T + arrays["fc.bias"]).astype(np.float64)
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    assert rows["times"].max() > 1  # the ten clips of a short video are not distinct
    for video_id, expected in zip(source.videos.video_ids, scores.probabilities(), strict=True):
        own = rows["video_id"] == video_id.encode()
        assert rows["times"][own].sum() == 30
        assert rows["clip"][own].tolist() == [clip for clip in range(own.sum() // 3) for _ in range(3)]
        assert rows["crop"][own].tolist() == [0, 1, 2] * (own.sum() // 3)
        np.testing.assert_allclose(np.average(softmax[own], axis=0, weights=rows["times"][own]), expected, atol=1e-6)


def killed_after(batches: int, words: list[str], monkeypatch) -> None:
    """Run the command until it has kept so many batches and a part of the next."""
    append = PartFile.append

    def append_and_die(part: PartFile, rows: np.ndarray) -> None:
        if part.num_rows >= 5 * batches:
            append(part, rows[:2])
            raise KeyboardInterrupt
        append(part, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "append", append_and_die)
        with pytest.raises(KeyboardInterrupt):
            features.main(words)


def test_a_killed_run_resumes_to_the_same_bytes(words, tmp_path, monkeypatch):
    assert features.main(words) == EXIT_OK
    target = tmp_path / "out" / "net-configured-val.h5"
    whole = target.read_bytes()
    target.unlink()
    killed_after(3, words, monkeypatch)
    assert not target.exists()
    (part,) = target.parent.glob(".*.part")
    content = bytearray(part.read_bytes())
    content[-60] ^= 1  # in the 17th row; the rows of complete batches before it are kept
    part.write_bytes(content + b"incomplete")
    computed = []
    append = PartFile.append
    monkeypatch.setattr(PartFile, "append", lambda part, rows: (computed.append(len(rows)), append(part, rows)))
    assert features.main(words) == EXIT_OK
    assert computed == [5, 4] and target.read_bytes() == whole
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", target.name]
    computed.clear()
    assert features.main(words) == EXIT_OK and not computed  # it is complete


def test_file_of_other_settings_is_not_replaced(words, tmp_path, capsys):
    target = tmp_path / "out" / "net-configured-val.h5"
    assert features.main(words) == EXIT_OK
    before = target.read_bytes()
    with pytest.raises(UserError, match=r"other settings \(num_clips differ\)\. Give another folder .* OUT=DIR"):
        features.main([*words, "--data_loader.eval.dataset.num_clips=1"])
    assert target.read_bytes() == before
    with pytest.raises(UserError, match=r"other settings \(network differ\)"):
        features.main([*words, "--model.bn_eps=0.01"])
    assert "model.bn_eps: 0.01 here, 1e-05 there" in capsys.readouterr().err
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"exists, and `make features` did not write it"):
        features.main(words)
    assert target.read_bytes() == b"mine"


def test_batch_is_checked_before_anything_is_computed(words, config, checkpoint, monkeypatch):
    def check_batch(_network, _config, loader, _clip_lengths):
        raise UserError(f"{loader} is too large")

    monkeypatch.setattr(predictor, "check_batch", check_batch)
    for load in (predictor.load_feature_extractor, predictor.load_predictor):  # infer's is the second
        with pytest.raises(UserError, match="^eval is too large"):
            load(config, checkpoint)
    with pytest.raises(UserError, match="^eval is too large"):
        features.main(words)


def test_an_export_has_no_features(words, checkpoint, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    facts = {"sha256": hashlib.sha256(b"").hexdigest(), "input": {"shape": [None]}, "model": {"num_classes": 3}}
    facts_path(path).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"net\.onnx: got an export, which gives only logits, expected weights"):
        features.main([*words, f"--eval.pretrained_model={path}"])


@pytest.mark.slow
def test_kills_at_any_moment_lose_no_view(words, tmp_path):
    assert features.main(words) == EXIT_OK
    target = tmp_path / "out" / "net-configured-val.h5"
    whole = target.read_bytes()
    target.unlink()
    command = [sys.executable, "-m", "train.features", *words, "--data_loader.eval.dataset.batch_size=1"]
    for after in np.linspace(2, 12, 20):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    with h5py.File(target) as file, h5py.File(io.BytesIO(whole)) as expected:
        np.testing.assert_allclose(file["features"][()], expected["features"][()], rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", target.name]
