"""Exported MindIR and ONNX files compute the same as the network, or are not written."""

import hashlib
import json
import sys

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import nn

from model.r2plus1d import mc3_18, r2plus1d_18, r2plus1d_50
from pipeline.common.errors import UserError
from train import export as export_command
from train.weights import export as export_file
from train.weights.export import ExportError, export, write_with_mindspore
from train.weights.exported import ExportedError, ExportedNetwork, facts_path
from train.weights.onnx_graph import build_onnx

CLIP = (3, 4, 16, 16)


@pytest.fixture(scope="module")
def network():
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    made = r2plus1d_18(num_classes=3, stage_channels=(4, 4, 4, 4))
    rng = np.random.default_rng(1)
    for name, parameter in made.parameters_and_names():  # statistics that are not the initial ones
        if name.endswith("moving_variance"):
            parameter.set_data(ms.Tensor(rng.uniform(0.5, 2, parameter.shape).astype(np.float32)))
    return made.set_train(False)


@pytest.fixture(scope="module")
def expected(network) -> np.ndarray:
    return network(ms.Tensor(clips(5))).asnumpy()


def facts_for(size: int | None) -> dict:
    return {"input": {"shape": [size, *CLIP]}, "classes": ["a", "b", "c"]}


def clips(count: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, *CLIP)).astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("size", "counts", "ending"),
    [
        (2, (1, 2, 5), ".onnx"), (None, (1, 4), ".onnx"),
        pytest.param(2, (1, 2, 5), ".mindir", marks=pytest.mark.slow),
        pytest.param(None, (1, 4), ".mindir", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_an_export_computes_what_the_network_does(network, expected, size, counts, ending, tmp_path):
    folder = tmp_path / "R&D 'x' \u00e9"  # MindSpore itself takes no such path
    path = folder / f"net{ending}"
    assert export(network, (size, *CLIP), path, facts_for(size)) <= 1e-4
    reloaded = ExportedNetwork(path)
    for count in counts:
        assert close(reloaded(ms.Tensor(clips(5)[:count])).asnumpy(), expected[:count])
    assert reloaded.facts["classes"] == ["a", "b", "c"]
    assert sorted(p.name for p in folder.iterdir()) == [path.name, f"{path.name}.json"]


@pytest.mark.parametrize("size", [2, None])
def test_an_onnx_file_describes_its_input(network, size, tmp_path):
    path = tmp_path / "net.onnx"
    export(network, (size, *CLIP), path, facts_for(size))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [taken.shape for taken in session.get_inputs()] == [[size or "N", *CLIP]]
    properties = {entry.key: json.loads(entry.value) for entry in onnx.load(str(path)).metadata_props}
    assert properties["classes"] == ["a", "b", "c"] and properties["input"] == {"shape": [size, *CLIP]}


@pytest.mark.parametrize("make", [mc3_18, pytest.param(r2plus1d_50, marks=pytest.mark.slow)])
def test_other_networks_as_onnx(make, tmp_path):
    other = make(num_classes=3, stage_channels=(4, 4, 4, 4), bn_eps=0.1)
    assert export(other, (None, *CLIP), tmp_path / "net.onnx", facts_for(None)) <= 1e-4


@pytest.mark.parametrize("ending", [".mindir", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_file_with_other_results_is_not_written(network, ending, tmp_path, monkeypatch):
    # The network's result is changed by a little more than is allowed; the file still gives the old one.
    class Moved(nn.Cell):
        def construct(self, clips):
            return network(clips) * 1.0002

    moved = Moved().set_train(False)
    write = {".mindir": "_write_mindir", ".onnx": "_write_onnx"}[ending]
    original = getattr(export_file, write)
    monkeypatch.setattr(export_file, write, lambda _network, *rest: original(network, *rest))
    with pytest.raises(
        ExportError, match=r"not written, because its logits differ by (1\.9|2\.0)\de-04 \(allowed 0\.0001\)"
    ):
        export(moved, (2, *CLIP), tmp_path / f"net{ending}", facts_for(2))
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_libraries_names_the_command(network, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    export(network, (2, *CLIP), path, facts_for(2))
    before = path.read_bytes()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = r"net\.onnx: \.onnx files need the package onnxruntime, .* Run .*/python -m pip install -e '\.\[onnx\]'\."
    with pytest.raises(ExportedError, match=message):
        ExportedNetwork(path)
    with pytest.raises(ExportedError, match=message):
        export(network, (2, *CLIP), path, facts_for(2))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_an_onnx_that_cannot_be_loaded_is_one_line(network, tmp_path):
    path = tmp_path / "net.onnx"
    model = build_onnx(network, (2, *CLIP), {})
    model.graph.node[0].op_type = "Nothing"
    for content in (model.SerializeToString(), b"", b"no protobuf"):
        path.write_bytes(content)
        facts_path(path).write_text(json.dumps(facts_for(2) | {"sha256": hashlib.sha256(content).hexdigest()}))
        with pytest.raises(ExportedError, match=r"net\.onnx: onnxruntime cannot load it: ") as caught:
            ExportedNetwork(path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("damage", ["empty", "short", "flip", "no facts", "bad facts", "no input"])
def test_a_damaged_mindir_is_refused(damage, tmp_path):
    path = tmp_path / "net.mindir"
    write_with_mindspore(nn.Flatten(), (2, *CLIP), path, "MINDIR")
    path.chmod(0o644)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts_path(path).write_text(json.dumps(facts_for(2) | {"sha256": digest}))
    assert ExportedNetwork(path)(ms.Tensor(clips(2))).shape == (2, 3 * 4 * 16 * 16)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "no facts":
        facts_path(path).unlink()
    elif damage == "bad facts":
        facts_path(path).write_text("[]")
    elif damage == "no input":
        facts_path(path).write_text(json.dumps({"sha256": digest}))
    else:
        path.write_bytes({"empty": b"", "short": content[:-5], "flip": content}[damage])
    with pytest.raises(ExportedError, match="corrupted|missing"):
        ExportedNetwork(path)


def test_air_needs_an_ascend_device(tmp_path):
    with pytest.raises(UserError, match=r"AIR, which only an Ascend device can write; this device is CPU") as caught:
        export_command.main(["-c", "train/configs/sample.yaml", "--export.file_formate=AIR", "--device_target=CPU"])
    assert caught.value.exit_code == 2
