"""Weights of every supported format are converted to ours and back, and all others are refused."""

import csv
import io
import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import reference_weights
from parameters import parameter_values
from paths import RESOURCES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch_files import write_torch

from model import weights
from model.r2plus1d import mmaction2_r2plus1d_34, r2plus1d_18, r2plus1d_50
from pipeline.common.errors import EXIT_OK, UserError
from train import convert
from train.experiment.sections import Model
from train.network.build import build_network
from train.weights import checkpoint
from train.weights.files import read_safetensors, write_safetensors
from train.weights.load import load_weights
from train.weights.onnx_graph import build_onnx
from train.weights.pytorch import read_pth
from train.weights.record import network_of, read_record

NARROW = ["--model.stage_channels=[4, 4, 8, 8]", "--model.num_classes=5"]
SETTINGS = Model(stage_channels=(4, 4, 8, 8), num_classes=5)


def named(network, name_of) -> dict[str, np.ndarray]:
    """Reference weights of a network under other names; they depend only on torchvision's names."""
    return {name_of(name): reference_weights.weight(weights.torchvision_name(name), tuple(parameter.shape))
            for name, parameter in weights.parameters(network).items()}  # fmt: skip


def write_weights(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()], str(path))
        path.chmod(0o644)
    return path


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.fixture
def torchvisions(tmp_path) -> Path:
    return write_weights(tmp_path / "theirs.safetensors", named(build_network(SETTINGS), weights.torchvision_name))


@pytest.fixture
def zjuts(tmp_path) -> Path:
    """As MindSpore's trainer leaves it: the network and the optimizer's state."""
    arrays = named(build_network(SETTINGS), weights.zjut_name)
    extras = {f"moments.{name}": array for name, array in arrays.items()} | {"global_step": np.array([7], np.int32)}
    return write_weights(tmp_path / "zjuts.ckpt", arrays | extras)


@pytest.mark.parametrize("naming", ["torchvisions", "zjuts"])
def test_there_and_back_bit_for_bit(naming, request, tmp_path):
    source = request.getfixturevalue(naming)
    ckpt, back = tmp_path / "ours.ckpt", tmp_path / "back.safetensors"
    assert convert.main([str(source), str(ckpt), *NARROW]) == EXIT_OK
    assert convert.main([str(ckpt), str(back), *NARROW]) == EXIT_OK
    assert same(load_file(back), named(build_network(SETTINGS), weights.torchvision_name))
    network = build_network(SETTINGS)
    state = load_weights(ckpt, network)
    assert state["model"] == "R2Plus1d18" and state["converted_from"] == source.name
    assert same(parameter_values(network), named(network, lambda name: name))
    assert not list(tmp_path.glob(".*"))
    again = tmp_path / "again.safetensors"
    assert convert.main([str(ckpt), str(again), *NARROW]) == EXIT_OK
    assert again.read_bytes() == back.read_bytes()


@pytest.mark.slow
def test_full_size_logits_after_conversion(tmp_path):
    network = r2plus1d_18(num_classes=400)
    source = write_weights(tmp_path / "zjuts.ckpt", named(network, weights.zjut_name))
    middle, last = tmp_path / "torchvisions.safetensors", tmp_path / "ours.ckpt"
    assert convert.main([str(source), str(middle)]) == EXIT_OK
    assert same(load_file(middle), named(network, weights.torchvision_name))
    assert convert.main([str(middle), str(last)]) == EXIT_OK
    load_weights(last, network)
    network.set_train(False)
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)  # one pass takes less time than its graph takes to compile
    logits = network(ms.Tensor(reference_weights.clip((2, 3, 8, 56, 56)))).asnumpy()
    ms.set_context(mode=before)
    expected = np.load(RESOURCES / "parity_logits.npz")["logits_2x3x8x56x56_seed0"]
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5


def test_zjut_mindvideos_fifty_layers(tmp_path):
    network = r2plus1d_50(num_classes=5, stage_channels=(4, 4, 8, 8))
    arrays = named(network, weights.zjut_name)
    assert {"layer1.0.conv3.features.0.weight", "layer1.0.down_sample.features.1.bn2d.gamma",
            "layer3.5.conv12.conv2_1.features.1.bn2d.moving_mean"} <= arrays.keys()  # fmt: skip
    source = write_weights(tmp_path / "zjuts.ckpt", arrays)
    assert convert.main([str(source), str(tmp_path / "x.ckpt"), "--model.type=R2Plus1d50", *NARROW]) == EXIT_OK
    load_weights(tmp_path / "x.ckpt", network)
    assert same(parameter_values(network), named(network, lambda name: name))


def test_classes_go_along(tmp_path, caplog):
    network = build_network(SETTINGS)
    checkpoint.save_weights(tmp_path / "a.ckpt", network, {"classes": list("abcde"), "step": 3})
    load_weights(tmp_path / "a.ckpt", network)
    assert "No .json" not in caplog.text
    (tmp_path / "alone.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes())
    load_weights(tmp_path / "alone.ckpt", network)
    assert "alone.ckpt: No .json next to this checkpoint: its checksum and classes cannot be verified." in caplog.text
    assert convert.main([str(tmp_path / "a.ckpt"), str(tmp_path / "b.safetensors"), *NARROW]) == EXIT_OK
    assert load_weights(tmp_path / "b.safetensors", network)["classes"] == list("abcde")
    with safe_open(tmp_path / "b.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["facts"])["model"] == "R2Plus1d18"
    other = build_network(Model(type="R3d18", stage_channels=(4, 4, 8, 8), num_classes=5))
    with pytest.raises(UserError, match=r"; the file has model\.type R2Plus1d18$"):
        load_weights(tmp_path / "b.safetensors", other)


@pytest.mark.parametrize("flipped", [False, True])
def test_renamed_checkpoint_is_still_checksummed(flipped, tmp_path):
    network = build_network(SETTINGS)
    checkpoint.save_weights(tmp_path / "a.ckpt", network, {"classes": list("abcde")})
    content = bytearray((tmp_path / "a.ckpt").read_bytes())
    content[len(content) // 2] ^= flipped
    (tmp_path / "b.ckpt").write_bytes(content)
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    if flipped:
        with pytest.raises(UserError, match=r"b\.ckpt: corrupted: its SHA-256 differs from b\.json"):
            load_weights(tmp_path / "b.ckpt", network)
    else:
        assert load_weights(tmp_path / "b.ckpt", network)["classes"] == list("abcde")


@pytest.mark.parametrize("content", ["[1]", '"x"', "{", "{}", '{"classes": []}', '{"sha256": [1]}', "\x00"])
def test_a_json_that_says_no_checksum_is_refused(content, tmp_path):
    network = build_network(SETTINGS)
    checkpoint.save_weights(tmp_path / "a.ckpt", network, {})
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json: corrupted"):
        load_weights(tmp_path / "a.ckpt", network)


def test_flipped_bit_in_any_header_byte_is_found(tmp_path):
    # All except the five letters that mark it as ours: without them it is another program's file.
    path = tmp_path / "a.safetensors"
    arrays = {"stem.0.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}
    write_safetensors(path, arrays, {"model": "R2Plus1d18", "classes": ["b", "a"]})
    content = path.read_bytes()
    end, ours = 8 + int.from_bytes(content[:8], "little"), content.index(b"facts")
    for at in set(range(end)) - set(range(ours, ours + 5)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="corrupted"):
            read_safetensors(path)


def test_a_misfit_lists_every_name_and_writes_nothing(torchvisions, tmp_path, capsys):
    arrays = load_file(torchvisions)
    del arrays["stem.0.weight"], arrays["layer4.1.conv2.1.running_var"]
    arrays["layer9.0.weight"] = np.zeros(3, np.float32)
    arrays["fc.bias"] = np.zeros(7, np.float32)
    source = write_weights(tmp_path / "other.safetensors", arrays)
    with pytest.raises(UserError, match=r"does not fit this network.* \(4 errors\): missing stem\.0\.weight"):
        convert.main([str(source), str(tmp_path / "out.ckpt"), *NARROW])
    lines = capsys.readouterr().err.splitlines()
    for problem in (
        "missing stem.0.weight (2, 3, 1, 7, 7)",
        "missing layer4.1.conv2.1.bn2d.moving_variance (8,)",
        "unexpected layer9.0.weight (3,)",
        "fc.bias: got (7,), expected (5,)",
    ):
        assert problem in lines
    assert not (tmp_path / "out.ckpt").exists() and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("name", ["\x1b[31mred\nblue", "a" * 100_000])
def test_odd_names_stay_in_one_short_line(name, torchvisions, tmp_path):
    path = write_torch(tmp_path / "x.pth", {**load_file(torchvisions), name: np.zeros(1, np.float32)})
    with pytest.raises(UserError, match="1 error") as caught:
        load_weights(path, build_network(SETTINGS))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_parameter_in_two_namings_is_refused(torchvisions, tmp_path):
    arrays = load_file(torchvisions)
    source = write_weights(tmp_path / "twice.safetensors", arrays | {"stem.1.bn2d.gamma": arrays["stem.1.weight"] + 1})
    network = build_network(SETTINGS)
    before = parameter_values(network)
    with pytest.raises(UserError, match=r"\(1 error\): unexpected stem\.1\.bn2d\.gamma \(once more\) \(2,\)"):
        load_weights(source, network)
    assert same(parameter_values(network), before)


def test_numbers_of_another_kind_are_refused(torchvisions, tmp_path):
    arrays = load_file(torchvisions)
    whole = {**arrays, "stem.0.weight": arrays["stem.0.weight"].astype(np.int32)}
    with pytest.raises(UserError, match=r"holds other numbers .*: stem\.0\.weight holds int32, expected float32"):
        load_weights(write_weights(tmp_path / "whole.safetensors", whole), build_network(SETTINGS))
    large = {**arrays, "fc.bias": np.full(5, 1e300)}
    with pytest.raises(UserError, match=r"fc\.bias holds values that are too large for float32"):
        load_weights(write_weights(tmp_path / "large.safetensors", large), build_network(SETTINGS))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_float8_is_refused_by_name(dtype, tmp_path):
    header = json.dumps({"fc.bias": {"dtype": dtype, "shape": [5], "data_offsets": [0, 5]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(5))
    with pytest.raises(
        UserError, match=rf"x\.safetensors: fc\.bias has dtype {dtype}, expected F32\. Save the"
    ) as caught:
        load_weights(path, build_network(SETTINGS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"my": "notes"}', r"TO: .*x\.json, which would be replaced, does not describe weights"),
        ("x.json", "notes", r"TO: .*x\.json, which would be replaced"),
        ("x.optimizer.ckpt", "", r"TO: .*x\.ckpt is a checkpoint of a training, which could not be resumed then"),
        ("x.ckpt/y", "", r"TO: .*x\.ckpt is not a file\. Choose another name for TO"),
    ],
)
def test_files_of_others_are_not_replaced(name, content, message, torchvisions, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        convert.main([str(torchvisions), str(tmp_path / "x.ckpt"), *NARROW])
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / name).read_text() == content


def test_failed_conversion_keeps_the_earlier_result(torchvisions, tmp_path, monkeypatch):
    target = tmp_path / "x.ckpt"
    assert convert.main([str(torchvisions), str(target), *NARROW]) == EXIT_OK
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(ms, "save_checkpoint", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        convert.main([str(torchvisions), str(target), *NARROW, "--train.head=new"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_class_count_needs_a_new_head(torchvisions, tmp_path):
    three = ["--model.stage_channels=[4, 4, 8, 8]", "--model.num_classes=3"]
    with pytest.raises(UserError, match=r"only the classes differ: .* set model\.num_classes .* train\.head"):
        convert.main([str(torchvisions), str(tmp_path / "x.ckpt"), *three])
    assert convert.main([str(torchvisions), str(tmp_path / "x.ckpt"), *three, "--train.head=new"]) == EXIT_OK
    network = build_network(Model(stage_channels=(4, 4, 8, 8), num_classes=3))
    fresh = parameter_values(network)
    load_weights(torchvisions, network, head="new")
    expected = named(network, lambda name: name)
    for name, array in parameter_values(network).items():
        assert (array.tobytes() == expected[name].tobytes()) != name.startswith("fc."), name
    assert parameter_values(network)["fc.weight"].tobytes() == fresh["fc.weight"].tobytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.type=R3d18"], r"does not fit this network.* \(\d+ errors\): missing layer1\.0\.conv1\.0\.weight"),
        (["--model.type=R2Plus1d34"], r"missing layer1\.2"),
        (["--model.midplanes=paper"], r"got \(11, 4, 1, 3, 3\), expected|expected"),
    ],
)
def test_another_architecture_is_refused(words, message, torchvisions, tmp_path):
    with pytest.raises(UserError, match=message):
        convert.main([str(torchvisions), str(tmp_path / "x.ckpt"), *NARROW, *words])
    assert not (tmp_path / "x.ckpt").exists()


@pytest.mark.parametrize("where", ["ours.ckpt", "ours.safetensors", "plain.ckpt", "plain.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "short", "shorter", "zeros", "flip"])
def test_damage_is_refused_and_nothing_is_loaded(where, damage, torchvisions, tmp_path):
    path = tmp_path / where
    assert convert.main([str(torchvisions), str(path), *NARROW]) == EXIT_OK
    if where == "plain.ckpt":
        path.with_suffix(".json").unlink()
    if where == "plain.safetensors":
        path.write_bytes(torchvisions.read_bytes())
    content = path.read_bytes()
    if damage == "flip":
        if where.startswith("plain"):  # without a checksum only wrong structure and impossible values can be detected
            number = np.float32(reference_weights.weight("stem.1.running_var", (2,))[0]).tobytes()
            at = content.index(number)
            content = content[: at + 3] + bytes([content[at + 3] | 0x80]) + content[at + 4 :]  # its sign
        else:
            half = len(content) * 3 // 4
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    path.write_bytes({"empty": b"", "short": content[:-3], "shorter": content[: len(content) // 3],
                      "zeros": bytes(len(content)), "flip": content}[damage])  # fmt: skip
    network = build_network(SETTINGS)
    before = parameter_values(network)
    with pytest.raises(UserError, match="corrupted|cannot be read|does not fit") as caught:
        load_weights(path, network)
    assert "\n" not in str(caught.value)
    assert same(parameter_values(network), before)


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_any_flipped_bit_gives_all_or_nothing(ending, torchvisions, tmp_path):
    # Files without a checksum: a flip in a weight may pass, but never half a file and never another kind of error.
    content = torchvisions.read_bytes()
    if ending == ".ckpt":
        content = write_weights(tmp_path / "whole.ckpt", load_file(torchvisions)).read_bytes()
    network, path = build_network(SETTINGS), tmp_path / f"flipped{ending}"
    rng, refused = np.random.default_rng(0), 0
    for at in rng.integers(len(content), size=80):
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        before = parameter_values(network)
        try:
            load_weights(path, network)
        except UserError:
            refused += 1
            assert same(parameter_values(network), before)
        else:
            expected = named(network, lambda name: name)
            different = sum(
                int((array.view(np.uint32) != expected[name].view(np.uint32)).sum())
                for name, array in parameter_values(network).items()
            )
            assert different <= 1
    assert 0 < refused < 80


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors", ".pth"])
def test_a_pickle_with_code_is_not_executed(ending, tmp_path):
    path, marker = tmp_path / f"bomb{ending}", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"stem.0.weight": Bomb(marker)}, protocol=2))
    pickle.load(io.BytesIO(path.read_bytes()))  # noqa: S301  it is a bomb
    assert marker.exists()
    marker.unlink()
    with pytest.raises(UserError, match="refused, and nothing in it was executed|cannot be read"):
        load_weights(path, build_network(SETTINGS))
    assert not marker.exists()


@pytest.mark.parametrize("older", [False, True])
def test_pytorchs_file(older, torchvisions, tmp_path):
    path, arrays = tmp_path / "theirs.pth", load_file(torchvisions)
    write_torch(path, {**arrays, "stem.1.num_batches_tracked": np.array(3)}, older=older)
    network = build_network(SETTINGS)
    load_weights(path, network)
    assert same(parameter_values(network), named(network, lambda name: name))

    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    before, named_path = parameter_values(network), tmp_path / "theirs-91a641e6.pth"
    named_path.write_bytes(content)  # its name has the beginning of its SHA-256
    path.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256 does not begin with 91a641e6"):
        load_weights(named_path, network)
    if not older:
        with pytest.raises(UserError, match="corrupted"):
            load_weights(path, network)
    for broken in (b"", bytes(content[: len(content) // 2])):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="corrupted"):
            load_weights(path, network)
    assert same(parameter_values(network), before)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", ["x.pth.tar", "x.PTH", "lightnings.ckpt"])
def test_each_of_pytorchs_endings(name, older, torchvisions, tmp_path, caplog):
    path = write_torch(tmp_path / name, {"state_dict": load_file(torchvisions), "epoch": 3}, older=older)
    network = build_network(SETTINGS)
    assert load_weights(path, network) == {} and read_record(path) == {}
    assert "No .json" not in caplog.text
    assert same(parameter_values(network), named(network, lambda name: name))


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("float16", ".pth"), ("bfloat16", ".pth"), ("float64", ".pth"), ("bfloat16", ".safetensors")],
)
def test_other_floats_become_float32_in_one_line(ending, kind, torchvisions, tmp_path, caplog):
    dtype = getattr(ml_dtypes, kind, None) or kind
    arrays = {name: array.astype(dtype) for name, array in load_file(torchvisions).items()}
    path = tmp_path / f"x{ending}"
    write_torch(path, arrays) if ending == ".pth" else save_file(arrays, path)
    network = build_network(SETTINGS)
    with caplog.at_level(logging.INFO):
        load_weights(path, network)
    assert f"{path}: {len(arrays)} arrays are {kind}; converted to float32" in caplog.text
    expected = named(network, lambda name: name)
    for name, array in parameter_values(network).items():
        assert np.array_equal(array, expected[name].astype(dtype).astype(np.float32)), name


def test_there_and_back_to_pytorch(torchvisions, tmp_path):
    there, back = tmp_path / "there.pth", tmp_path / "back.safetensors"
    assert convert.main([str(torchvisions), str(there), *NARROW]) == EXIT_OK
    arrays, _ = read_pth(there)
    expected = named(build_network(SETTINGS), weights.torchvision_name)
    counters = {name.replace("running_var", "num_batches_tracked") for name in expected if "running_var" in name}
    assert arrays.keys() == expected.keys() | counters
    assert convert.main([str(there), str(back), *NARROW]) == EXIT_OK
    assert same(load_file(back), expected)


def test_ckpt_of_ours_is_its_own_network(tmp_path, capsys):
    network = build_network(SETTINGS)
    checkpoint.save_weights(tmp_path / "a.ckpt", network, {"network": network_of(SETTINGS)})
    assert convert.main([str(tmp_path / "a.ckpt"), str(tmp_path / "a.pth")]) == EXIT_OK
    assert "this configuration has another model.stage_channels, num_classes" in capsys.readouterr().err
    assert len(read_pth(tmp_path / "a.pth")[0]) == 37 * 6 + 2
    for words, message in (
        (["--model.num_classes=6"], "model.num_classes: got 6, but .*a.ckpt has 5 classes"),
        # A new head is for the network of the command line.
        (["--train.head=new", "--model.stage_channels=[4, 4, 8, 16]"], "set model.stage_channels to .4, 4, 8, 8."),
    ):
        with pytest.raises(UserError, match=message):
            convert.main([str(tmp_path / "a.ckpt"), str(tmp_path / "b.pth"), *words])


def test_torchvision_loads_what_is_written(tmp_path):
    resnet = pytest.importorskip("torchvision.models.video.resnet")
    import torch

    source = write_weights(tmp_path / "x.safetensors", named(r2plus1d_18(num_classes=400), weights.torchvision_name))
    assert convert.main([str(source), str(tmp_path / "x.pth")]) == EXIT_OK
    theirs = resnet.r2plus1d_18().eval()
    theirs.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    with torch.no_grad():
        logits = theirs(torch.from_numpy(reference_weights.clip((2, 3, 8, 56, 56)))).numpy()
    expected = np.load(RESOURCES / "parity_logits.npz")["logits_2x3x8x56x56_seed0"]
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("gone.ckpt", "x.ckpt", r"gone\.ckpt: checkpoint not found"),
        ("nope", "x.ckpt", r"nope: checkpoint not found"),
        (".", "x.ckpt", r"FROM: got .*, a folder, expected a file\. Run `make convert FROM=in TO=out"),
        ("theirs.safetensors", "x.pt", r"TO: got .*x\.pt, expected a name that ends .* `make convert FROM=in TO=out"),
        ("theirs.safetensors", "theirs.safetensors", r"which is FROM too"),
        (
            "theirs.onnx",
            "x.ckpt",
            r"got '\.onnx', expected a file .* \.bin \(infer and eval also take \.mindir and \.onnx",
        ),
    ],
)
def test_mistakes_are_one_clear_line(source, target, message, torchvisions, tmp_path):
    (tmp_path / "theirs.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match=message) as caught:
        convert.main([str(tmp_path / source), str(tmp_path / target), *NARROW])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def resource_shapes(name: str) -> dict[str, tuple[int, ...]]:
    with open(RESOURCES / name, newline="") as file:
        return {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in csv.DictReader(file)}


def test_mmaction2s_names_fit_its_network():
    network = mmaction2_r2plus1d_34(num_classes=5, stage_channels=(8, 16, 32, 64))
    names = [weights.mmaction2_name(name) for name in weights.parameters(network)]
    assert sorted(names) == sorted(resource_shapes("mmaction2_r2plus1d_34_params.csv"))


@pytest.mark.slow
def test_generated_weights_of_mmaction2_all_fit(tmp_path):
    shapes = resource_shapes("mmaction2_r2plus1d_34_params.csv")
    arrays = {name: reference_weights.weight(name, shape) for name, shape in shapes.items()}
    source = write_torch(tmp_path / "theirs.pth", {"meta": {}, "state_dict": arrays})
    words = ["--model.type=MMAction2R2Plus1d34", "--model.bn_eps=0.001"]
    assert convert.main([str(source), str(tmp_path / "x.ckpt"), *words]) == EXIT_OK
    network = mmaction2_r2plus1d_34(num_classes=400)
    load_weights(tmp_path / "x.ckpt", network)
    assert same({weights.mmaction2_name(name): array for name, array in parameter_values(network).items()}, arrays)


@pytest.mark.slow
def test_mmaction2s_network_gives_its_logits(tmp_path, caplog):
    # The expected logits were computed with PyTorch by modules built after mmaction2's, in float32.
    settings = Model(type="MMAction2R2Plus1d34", stage_channels=(8, 16, 32, 64), num_classes=5, bn_eps=1e-3)
    network = build_network(settings)
    arrays = {
        (theirs := weights.mmaction2_name(name)): reference_weights.weight(theirs, tuple(parameter.shape))
        for name, parameter in weights.parameters(network).items()
    }
    load_weights(write_torch(tmp_path / "x.pth", {"state_dict": arrays}), network)
    network.set_train(False)
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    logits = network(ms.Tensor(reference_weights.clip((2, 3, 8, 64, 64)))).asnumpy()
    ms.set_context(mode=before)
    expected = np.load(RESOURCES / "parity_logits_mmaction2.npz")["logits_2x3x8x64x64_seed0"]
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5
    model = build_onnx(network, (None, 3, 8, 64, 64), {})
    (exported,) = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"clips": reference_weights.clip((2, 3, 8, 64, 64))}
    )
    assert np.abs(exported - expected).max() / np.abs(expected).max() < 1e-5
    assert "epsilon" not in caplog.text
    load_weights(tmp_path / "x.pth", build_network(replace(settings, bn_eps=1e-5)))
    assert "mmaction2 trained these weights with epsilon 1e-3 in batch norms, here it is 1e-05" in caplog.text
    with pytest.raises(UserError, match=r"Likely cause: this is mmaction2's R\(2\+1\)D: set model.type to MMAction2R2"):
        load_weights(tmp_path / "x.pth", build_network(replace(settings, type="R2Plus1d34")))


@pytest.mark.slow
@pytest.mark.parametrize("classes", [359, 487])
def test_ig65ms_thirty_four_layers(classes, tmp_path):
    # torchvision's names; the second convolution of a block that changes the channels has its own mid-planes.
    settings = Model(type="R2Plus1d34", stage_channels=(4, 4, 8, 8), num_classes=classes, midplanes="paper")
    network = build_network(settings)
    assert network.layer3[0].conv2[0][0].weight.shape[0] == 27 * 8 * 8 // (9 * 8 + 3 * 8)
    arrays = named(network, weights.torchvision_name)
    source = write_torch(tmp_path / "r2plus1d_34_clip8_ig65m.pth", arrays)
    load_weights(source, network)
    assert same(parameter_values(network), named(network, lambda name: name))
    with pytest.raises(UserError, match=r"Likely cause: it has the other mid-planes: set model.midplanes to paper"):
        load_weights(source, build_network(replace(settings, midplanes="shared")))


def test_class_order_names_and_then_reorders(torchvisions, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("e\na\nd\nb\nc\n")
    ours, sorted_ones = tmp_path / "ours.ckpt", tmp_path / "sorted.safetensors"
    order = [f"--class-order={names}"]
    assert convert.main([str(torchvisions), str(ours), *NARROW, *order]) == EXIT_OK
    assert "the outputs had no names; they now have those of the class list" in capsys.readouterr().err
    (tmp_path / "sorted.csv").write_text("label_id,label\n0,a\n1,b\n2,c\n3,d\n4,e\n")
    order = [f"--class-order={tmp_path / 'sorted.csv'}"]
    assert convert.main([str(ours), str(sorted_ones), *NARROW, *order]) == EXIT_OK
    assert "5 of 5 outputs moved into the order of the class list" in capsys.readouterr().err
    network = build_network(SETTINGS)
    assert load_weights(ours, network)["classes"] == list("eadbc")
    before = network.fc.weight.asnumpy(), network.fc.bias.asnumpy()
    assert load_weights(sorted_ones, network)["classes"] == list("abcde")
    for old, new in zip(before, (network.fc.weight.asnumpy(), network.fc.bias.asnumpy()), strict=True):
        assert all(np.array_equal(new["abcde".index(name)], old["eadbc".index(name)]) for name in "abcde")


def test_class_order_of_other_classes_writes_nothing(torchvisions, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    target, order = tmp_path / "x.ckpt", f"--class-order={tmp_path / 'names.txt'}"
    with pytest.raises(UserError, match=r"--class-order: got 4 classes, but .*theirs\.safetensors has 5"):
        convert.main([str(torchvisions), str(target), *NARROW, order])
    checkpoint.save_weights(tmp_path / "a.ckpt", build_network(SETTINGS), {"classes": list("abcde")})
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\nx\n")
    with pytest.raises(UserError, match=r"Only in the list: 'x'\. Only in the weights: 'e'\."):
        convert.main([str(tmp_path / "a.ckpt"), str(target), *NARROW, order])
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(UserError, match=r"does not name its classes, and .*x\.pth has no place for names"):
        convert.main([str(torchvisions), str(tmp_path / "x.pth"), *NARROW, order])
    with pytest.raises(UserError, match=r"a new head \(train\.head=new\) has no classes"):
        convert.main([str(torchvisions), str(target), *NARROW, order, "--train.head=new"])
    assert not target.exists() and not (tmp_path / "x.pth").exists()
