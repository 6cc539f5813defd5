"""PyTorch's files are read without PyTorch: both formats, what is beside the weights, damage, hostile files."""

import argparse
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from paths import RESOURCES
from torch_files import V2, Called, Storage, bfloat16, pickled, write_torch

from train.weights.files import WeightFileError
from train.weights.pytorch import is_pytorch, read_pth, write_pth

A = np.arange(12, dtype=np.float32).reshape(3, 4)
ARRAYS = {"stem.0.weight": A, "fc.bias": np.float32([1, 2, 3])}


def arrays_in(path: Path) -> dict[str, np.ndarray]:
    return read_pth(path)[0]


def why_refused(path: Path) -> str:
    with pytest.raises(WeightFileError) as caught:
        read_pth(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "Traceback" not in message
    assert caught.value.exit_code == 2
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["references", "references_older"])
def test_a_training_state_of_real_pytorch(name):
    arrays, where = read_pth(RESOURCES / "made_by_pytorch" / f"{name}.pth")
    assert where == "'model', and not optimizer, lr_scheduler, epoch, args"
    assert list(arrays) == ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
                            "1.num_batches_tracked"]  # fmt: skip
    assert np.array_equal(arrays["0.weight"], np.float32([[1, 2], [3, 4], [5, 6]]) / 2)
    assert np.array_equal(arrays["0.bias"], np.float32([1, 2, 3]) / np.float32(3))
    assert arrays["1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("name", ["views", "views_older"])
def test_parts_and_turned_tensors_of_real_pytorch(name):
    arrays = arrays_in(RESOURCES / "made_by_pytorch" / f"{name}.pth")
    assert np.array_equal(arrays["part"], np.arange(4, 24))
    assert np.array_equal(arrays["turned"], np.arange(24).reshape(4, 6).T)


def test_other_files_of_real_pytorch():
    half = arrays_in(RESOURCES / "made_by_pytorch" / "bfloat16.pth")
    assert half["0.weight"].dtype.name == "bfloat16"
    assert np.array_equal(half["0.weight"].astype(np.float32), np.float32([[1, 2], [3, 4], [5, 6]]) / 2)
    repeated = arrays_in(RESOURCES / "made_by_pytorch" / "repeated.pth")["x"]
    assert np.array_equal(repeated, np.full((2, 3), np.float32(0.5)))
    assert list(arrays_in(RESOURCES / "made_by_pytorch" / "parameters.pth")) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("quantized", "'x' is quantized, expected a tensor of floats. Save model.state_dict() alone"),
        ("sparse", "'x' is sparse, expected"),
        ("meta", "'x' is on the device meta, without values, expected"),
        ("float8", "'x' is of torch.float8_e4m3fn, expected"),
        ("negated", "'x' is a view of complex numbers, expected"),
        ("float8_older", "it has a tensor of 'torch.storage.UntypedStorage', expected tensors of floats. Save model."),
        ("program", "got a program that torch.jit.save wrote, expected a state_dict"),
        ("module", "got 'torch.nn.modules.container.Sequential', expected a state_dict"),
    ],
)
def test_what_has_no_weights_is_named(name, reason):
    assert why_refused(RESOURCES / "made_by_pytorch" / f"{name}.pth").startswith(reason)


@pytest.mark.parametrize("older", [False, True])
def test_repeated_values_are_whole_tensors(older, tmp_path):
    repeated = Called(V2, Storage(np.float32([0.5])), 0, (2, 3), (0, 0), False, {})
    array = arrays_in(write_torch(tmp_path / "x.pth", {"x": repeated}, older=older))["x"]
    assert np.array_equal(array, np.full((2, 3), np.float32(0.5)))


@pytest.mark.parametrize(
    ("name", "refused"),
    [("r-20240115", False), ("r-0123456789", False), ("r-deadbeef", True), ("r-1234567a", True), ("r_deadbeef", False)],
)
def test_only_a_name_with_a_hash_is_compared(name, refused, tmp_path):
    path = write_torch(tmp_path / f"{name}.pth", ARRAYS)
    if refused:
        assert why_refused(path).endswith("from its name. Download it again, or rename it if that is no SHA-256.")
    else:
        assert arrays_in(path).keys() == ARRAYS.keys()


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_both_formats_and_all_floats(dtype, older, tmp_path):
    arrays = {name: bfloat16(array) if dtype == "bfloat16" else array.astype(dtype) for name, array in ARRAYS.items()}
    back = arrays_in(write_torch(tmp_path / "x.pth", arrays, older=older))
    assert all(back[name].dtype.name == dtype and np.array_equal(back[name], arrays[name]) for name in arrays)
    assert back.keys() == arrays.keys()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (ARRAYS, ""),
        ({"model": ARRAYS, "args": argparse.Namespace(lr=0.1), "epoch": 3}, "'model', and not args, epoch"),
        ({"state_dict": ARRAYS, "meta": {"mmaction_version": "1.2"}}, "'state_dict', and not meta"),
        ({"model_ema": {"x": A}, "model": ARRAYS}, "'model', and not model_ema"),
        ({"net": ARRAYS, "optimizer": {"state": {0: {"momentum_buffer": A}}}}, "'net', and not optimizer"),
        ({**ARRAYS, "fc._extra_state": None}, ""),
        (
            {"state_dict": ARRAYS, "hyper_parameters": {"device": Called("torch.device", "cpu")}},
            "'state_dict', and not hyper_parameters",
        ),
        ({name: Called("torch._utils._rebuild_parameter", array, True, {}) for name, array in ARRAYS.items()}, ""),
    ],
)
def test_weights_are_found_beside_other_things(value, where, tmp_path):
    arrays, place = read_pth(write_torch(tmp_path / "x.pth", value))
    assert place == where and all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert arrays.keys() == ARRAYS.keys()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "its state_dict is empty. Save model.state_dict()"),
        ({"state_dict": {}}, "its state_dict is empty"),
        ([A], "got 'list', expected a state_dict (names to tensors)"),
        (A, "got 'torch._utils._rebuild_tensor_v2', expected a state_dict"),
        ({1 << 100_000: A}, "corrupted, or not written by torch.save: Exceeds the limit"),
        ({1: A}, "got the key 1, expected names of parameters"),
        ({"state_dict": {None: A}}, "got the key None, expected names"),
        ({"state_dict": {"model": ARRAYS}}, "'model' is 'dict' in 'state_dict', expected a tensor"),
        ({"stem.0.weight": A, "epoch": 3}, "'epoch' is 'int', expected a tensor"),
        ({"student": ARRAYS, "teacher": ARRAYS}, "got 2 state_dicts ('student', 'teacher'), expected one"),
        ({"x": Called("torch._utils._rebuild_sparse_tensor", 0, (A,))}, "'x' is sparse, expected a tensor of floats"),
        ({"x": Called(V2, Storage(A), 0, (2,), (1,), False, {}, {"neg": True})}, "'x' is a view of complex numbers"),
        ({Called("_codecs.encode", "x", "latin1"): A}, "got the key _codecs.encode(...), expected names"),
        ({"x": Called("torch._utils._rebuild_wrapper", A)}, "'x' is made by 'torch._utils._rebuild_wrapper'"),
        # Sizes and places that cannot be.
        ({"x": Called(V2, Storage(A), 0, (1 << 40, 1 << 40), (0, 0), False, {})}, "corrupted: 'x': array is too big"),
        ({"x": Called(V2, Storage(A), 0, (13,), (1,), False, {})}, "corrupted: 'x': shape (13,) from 0 on needs more"),
        ({"x": Called(V2, Storage(A), 8, (5,), (1,), False, {})}, "corrupted: 'x': shape (5,) from 8 on needs more"),
        ({"x": Called(V2, Storage(A), 1 << 70, (1,), (1,), False, {})}, "corrupted: 'x': its shape"),
        ({"x": Called(V2, Storage(A), 0, (-1,), (1,), False, {})}, "corrupted: 'x': its shape"),
        ({"x": Called(V2, Storage(A), 0, (2,), (-1,), False, {})}, "corrupted: 'x': its shape"),
        ({"x": Called(V2, Storage(A), 0, (2, 2), (1,), False, {})}, "corrupted: 'x': "),
        ({"x": Called(V2, Storage(A), 0, (0, 1 << 61, 1 << 61), (1, 1, 1), False, {})}, "corrupted: 'x': "),
        ({"x": Called(V2, Storage(A), 0, 5, 6, False, {})}, "corrupted: 'x': "),
        (
            {"x": Called(V2, Storage(A), 0, (1,) * 100_000, (0,) * 100_000, False, {})},
            "corrupted: 'x': it has 100,000 dim",
        ),
        ({"x": Called(V2, 5, 0, (2,), (1,), False, {})}, "corrupted: 'x': it has no storage"),
    ],
)
def test_odd_contents_are_one_sentence(value, reason, tmp_path):
    assert why_refused(write_torch(tmp_path / "x.pth", value)).startswith(reason)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("place", ["weight", "beside", "key"])
def test_code_is_named_and_not_executed(place, older, tmp_path):
    bomb = Called("posix.system", f"touch {tmp_path / 'executed'}")
    value = {"weight": {"x": bomb}, "beside": {"model": ARRAYS, "x": bomb}, "key": {bomb: A}}[place]
    path = write_torch(tmp_path / "x.pth", value, older=older)
    assert why_refused(path).startswith("refused, and nothing in it was executed: it holds more than weights: ")
    assert "posix.system" in why_refused(path) and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "builtins.exec", "builtins.__import__", "builtins.open", "nt.system", "subprocess.Popen",
     "importlib.import_module", "sitecustomize.x", "mine.Config", "torch.hub.load", "numpy.load",
     "numpy.testing._private.utils.runstring"],
)  # fmt: skip
def test_each_unusual_call_is_refused(name, tmp_path):
    module, _, function = name.rpartition(".")
    content = b"\x80\x02}X\x01\x00\x00\x00xc" + f"{module}\n{function}\n".encode() + b"X\x02\x00\x00\x00id\x85Rs."
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    assert f"it holds more than weights: '{name}'. Save" in why_refused(tmp_path / "x.pth")


def test_a_method_is_no_way_around(tmp_path):
    content = pickle.dumps({"model": {}, "x": (Path.touch, Path("executed"))}, 2)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    assert "it holds more than weights: 'builtins.getattr'. Save" in why_refused(tmp_path / "x.pth")
    history = Called("builtins.getattr", Called("mmengine.logging.history_buffer.HistoryBuffer"), "min")
    assert (
        arrays_in(write_torch(tmp_path / "y.pth", {"state_dict": ARRAYS, "message_hub": history})).keys()
        == ARRAYS.keys()
    )


DEEP = 30_000
BLOWN = struct.pack("<BI", ord("r"), 0xFFFFFFFF)  # a number in the memo for which Python's own reader makes a table


@pytest.mark.parametrize(
    "content",
    [
        b"", b".", b"\x80", b"\x80\x02", b"\x80\x02}", b"}u.", b"(.", b"0.", b"R.", b"\x80\x02N(.", b"}(Nu.", b"h\x00.",
        b"}]Ns.", b"]K\x01a", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", b"X\xff\xff\xff\xff.", b"K\x01\x86.",
        b"Nb.", b"(i os\nsystem\n.", b"c\n\n.", b"\x93.", b"NN\x93.", b"P.", b"\x82\x01.",
        b"N" + b"\x85" * DEEP + b"}" + b"2" * 3 + b".",
        b"}N" + b"\x85" * DEEP + b"Ns.",  # a key whose hash would end Python
        b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        b"N" + BLOWN + b".",
    ],
    ids=lambda content: content[:8].hex() or "empty",
)  # fmt: skip
def test_hostile_pickles_are_refused(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    assert why_refused(tmp_path / "x.pth")
    (tmp_path / "older.pth").write_bytes(content)
    assert why_refused(tmp_path / "older.pth").startswith(("corrupted", "refused"))


# Thirty tuples, each of the one before it twice: as text, or for their hash, they would be a billion.
SHARED = b")q\x00" + b"".join(b"h%c\x86q%c" % (number, number + 1) for number in range(30))


def test_shared_parts_do_not_grow(tmp_path):
    ended = pickle.dumps({}, 2)
    (tmp_path / "older.pth").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + SHARED + b"." + ended * 3)
    assert "its protocol is ((" in why_refused(tmp_path / "older.pth")
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00" + SHARED + b"h\x01tR"
    for entry in (b"X\x01\x00\x00\x00x" + tensor, SHARED + b"QK\x01", b"X\x01\x00\x00\x00x" + SHARED + b"Q"):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}" + entry + b"s.")
        assert why_refused(tmp_path / "x.pth")


def test_zip_bombs_and_broken_archives(tmp_path):
    path = write_torch(tmp_path / "x.pth", {"x": np.zeros(1000, np.float32)}, compression=zipfile.ZIP_DEFLATED)
    assert "its zip archive is compressed" in why_refused(path)
    content = bytearray(write_torch(path, ARRAYS).read_bytes())
    at = content.index(b"PK\x01\x02")  # the entry of data.pkl is the first
    content[at + 24 : at + 28] = content[at + 20 : at + 24] = struct.pack("<I", 1 << 31)
    path.write_bytes(content)
    assert "overlap" in why_refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", "x")
        archive.writestr("x/constants.pkl", "x")
    assert why_refused(path).startswith("got a program that torch.jit.save wrote, expected a state_dict. Save model.")
    with zipfile.ZipFile(path, "w") as archive:  # as real PyTorch 2.14 names them
        archive.writestr("x/data/weights/weight_0", "x")
        archive.writestr("x/models/model.json", "{}")
    assert why_refused(path).startswith(
        "got a program that torch.export.save wrote, expected a state_dict. Save model."
    )
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(ARRAYS)[0])
        archive.writestr("a/data/0", A.tobytes())
        archive.writestr("a/data/0", (-A).tobytes())
    assert "two files in its zip archive have the same name" in why_refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "x")
    assert "has no data.pkl" in why_refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/byteorder", b"big")
    assert "'big'-endian, expected little" in why_refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(ARRAYS)[0])
        archive.writestr("a/data/0", A.tobytes()[:-1])
    assert "'stem.0.weight': its storage has 47 bytes, expected 12 values" in why_refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(ARRAYS)[0])
    assert "its values, data/'0', are missing" in why_refused(path)


@pytest.mark.parametrize("older", [False, True])
def test_cut_files_and_flipped_bits(older, tmp_path):
    content = write_torch(tmp_path / "whole.pth", {"model": ARRAYS}, older=older).read_bytes()
    path, rng, refused = tmp_path / "x.pth", np.random.default_rng(0), 0
    for end in range(0, len(content), 41):
        path.write_bytes(content[:end])
        assert why_refused(path).startswith("corrupted")
    for at in rng.integers(len(content), size=100):
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            arrays = arrays_in(path)
        except WeightFileError:
            refused += 1
        else:
            assert all(array.size <= 12 for array in arrays.values())
    assert refused > 30


def test_written_files_are_read_back_and_repeatable(tmp_path):
    arrays = {**ARRAYS, "n": np.array(3, np.int64), "none": np.zeros((0, 2), np.float32)}
    write_pth(tmp_path / "x.pth", arrays)
    back = arrays_in(tmp_path / "x.pth")
    assert all(back[name].dtype == array.dtype and np.array_equal(back[name], array) for name, array in arrays.items())
    first = (tmp_path / "x.pth").read_bytes()
    write_pth(tmp_path / "x.pth", arrays)
    assert (tmp_path / "x.pth").read_bytes() == first and not list(tmp_path.glob(".*"))
    with zipfile.ZipFile(io.BytesIO(first)) as archive:  # PyTorch maps values at multiples of 64
        places = [info.header_offset + 30 + len(info.filename) + len(info.extra) for info in archive.infolist()]
    assert all(place % 64 == 0 for place in places)


def test_real_pytorch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {**ARRAYS, "n": np.array(3, np.int64)}
    write_pth(tmp_path / "x.pth", arrays)
    for mapped in (False, True):
        back = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mapped)
        assert all(np.array_equal(back[name].numpy(), array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.pth", True), ("x.PTH", True), ("x.pt", True), ("x.pth.tar", True), ("pytorch_model.bin", True),
     ("x.tar", False), ("x.ckpt", False), ("pth", False)],
)  # fmt: skip
def test_endings(name, expected):
    assert is_pytorch(Path(name)) == expected
