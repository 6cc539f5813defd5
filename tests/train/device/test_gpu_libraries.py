"""What fails first on a card is prevented or named: names of libraries, another CUDA, TF32, kernels to compile."""

import ctypes
import logging
import os
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from paths import ROOT

from pipeline.common.settings import Document
from train import doctor
from train.device import alias, kernel_cache, nvidia, select
from train.device.kernel_cache import NEEDED_BYTES, KernelCache
from train.experiment.load import load_config

H100 = nvidia.Card("NVIDIA H100", (9, 0), 2**36)
DRIVER = SimpleNamespace(version="550.54.15", cards=(H100,))


def cache_of(folder: Path, card: nvidia.Card = H100, version: str = "550.54.15", **variables: str) -> KernelCache:
    """The cache as these variables describe it."""
    environment = {"CUDA_CACHE_PATH": str(folder), "CUDA_CACHE_MAXSIZE": str(2**32), **variables}
    return KernelCache.of(card, SimpleNamespace(version=version), environment)


def test_library_is_found_by_a_second_name():
    for name in ("libanother-name.so", "libanother-name.so.9"):
        with pytest.raises(OSError, match="cannot open shared object file"):
            ctypes.CDLL(name)
        alias.load_alias(name, "libz.so.1")
        alias.load_alias(name, "libz.so.1")
        again = ctypes.CDLL(name)
        again.zlibVersion.restype = ctypes.c_char_p
        assert again.zlibVersion().decode() == zlib.ZLIB_RUNTIME_VERSION


def test_second_name_of_a_missing_library_is_an_error():
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"libmissing\.so\.1: cannot open"):
        alias.load_alias("libanother-missing.so", "libmissing.so.1")
    assert len(os.listdir("/proc/self/fd")) == files


def test_missing_zlib_is_named(monkeypatch):
    def cannot(_path, **_options):
        raise OSError("libz.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(nvidia.ctypes, "CDLL", cannot)
    with pytest.raises(nvidia.GpuError, match="^cuDNN needs libz.so.1, which is not installed. Install zlib"):
        nvidia._load(Path("/wheels/libcudnn_cnn_infer.so.8"))


def line_of_map(path: object) -> str:
    return f"7f2a1c000000-7f2a1c200000 r-xp 00000000 08:01 131 {'':20} {path}\n"


def test_libraries_of_another_cuda_are_named(tmp_path):
    wheels = [tmp_path / "cudnn" / name for name in ("libcudnn.so.8", "libcudnn_ops_infer.so.8")]
    for path in wheels:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "cudnn")
    harmless = ["/usr/lib/libcuda.so.550.54.15", "/memfd:libcudnn.so (deleted)", "[heap]", "/a dir/libmindspore_gpu.so",
                *wheels, tmp_path / "link" / "libcudnn.so.8", "/usr/lib/libcudnn_adv_infer.so.8"]  # fmt: skip
    maps = "".join(map(line_of_map, harmless)) + "7f2a1c000000-7f2a1c200000 rw-p 00000000 00:00 0\n"
    assert nvidia.foreign_libraries(maps, wheels) == []
    foreign = ["/usr/local/cuda 11/lib64/libcudnn.so.8.4.0", "/usr/local/lib/libcudnn_ops_infer.so.8"]
    both = maps + "".join(map(line_of_map, [*reversed(foreign), foreign[0]]))
    assert nvidia.foreign_libraries(both, wheels) == foreign


def test_own_process_has_no_foreign_libraries(tmp_path):
    ours = Path(nvidia.__file__).with_name("libz.so.1")  # the process has another one
    assert nvidia.foreign_libraries(Path("/proc/self/maps").read_text(), [ours])


@pytest.mark.parametrize(
    ("capability", "compiles"), [((6, 1), False), ((8, 0), False), ((8, 6), False), ((8, 9), False), ((9, 0), True),
                                 ((10, 0), True)],
)  # fmt: skip
def test_only_cards_newer_than_8_compile(capability, compiles):
    card = nvidia.Card("card", capability, 2**36)
    assert doctor._compiles(card) == compiles
    assert ("compiled for it at first use" in doctor._card(card).text) == compiles
    assert doctor._card(card).state == "ok"


def test_card_without_any_kernels_is_named(monkeypatch):
    old = nvidia.Card("GTX 980", (5, 2), 2**32)
    assert doctor._card(old).state == "missing" and "Use a card of 6.0 or newer" in doctor._card(old).text
    monkeypatch.setattr(nvidia, "Driver", lambda: SimpleNamespace(cards=(old,)))
    assert select._try("GPU", 0) == "GTX 980: compute capability 5.2; MindSpore needs 6.0 or newer"


def test_cache_is_warm_for_one_card_and_driver(tmp_path):
    folder = tmp_path / "not yet" / "cuda"
    cache = cache_of(folder)
    assert not cache.is_warm and "0 MB of at most 4,295 MB" in cache.describe()
    cache.set_warm()
    (folder / "a").mkdir()
    (folder / "a" / "kernels").write_bytes(bytes(3_000_000))
    assert cache.is_warm and cache.describe() == f"{folder}, 3 MB of at most 4,295 MB"
    assert not cache_of(folder, version="560.1").is_warm
    assert not cache_of(folder, nvidia.Card("B200", (10, 0), 2**36)).is_warm
    small = cache_of(folder, CUDA_CACHE_MAXSIZE=str(NEEDED_BYTES - 1))
    assert not small.is_warm and "CUDA_CACHE_MAXSIZE: got 160,096,015 bytes, expected at least" in small.problem
    assert "CUDA_CACHE_MAXSIZE: got 0 bytes" in cache_of(folder, CUDA_CACHE_MAXSIZE="4G").problem
    off = cache_of(folder, CUDA_CACHE_DISABLE="1")
    assert not off.is_warm and off.problem.startswith("CUDA_CACHE_DISABLE is set")
    assert cache_of(folder, CUDA_CACHE_DISABLE="0").is_warm


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache_of(tmp_path / "file").set_warm()
    (warning,) = caplog.messages
    assert warning.startswith("warning: compiled kernels are not kept") and "File exists" in warning


def test_compiling_is_announced_before_it_starts(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(nvidia.driver_environment, "CUDA_CACHE_PATH", str(tmp_path))
    monkeypatch.setitem(nvidia.driver_environment, "CUDA_CACHE_MAXSIZE", str(2**32))
    monkeypatch.setattr(nvidia, "Driver", lambda: DRIVER)
    monkeypatch.setattr(select.ms, "set_device", lambda *words: logging.info("opened %s %d", *words))
    caplog.set_level(logging.INFO)
    assert select._try("GPU", 0) == ""
    first, opened, compiled = caplog.messages
    assert first.startswith("first use of NVIDIA H100 (compute capability 9.0): its driver compiles MindSpore's")
    assert "kernels once, for several minutes, and shows nothing meanwhile." in first
    assert f"They need about 160 MB in the cache ({tmp_path}, 0 MB of at most 4,295 MB)." in first
    assert opened == "opened GPU 0" and compiled.startswith("the kernels are compiled, after ")
    caplog.clear()
    assert select._try("GPU", 0) == "" and caplog.messages == ["opened GPU 0"]
    monkeypatch.setitem(nvidia.driver_environment, "CUDA_CACHE_MAXSIZE", "1000")
    caplog.clear()
    select._try("GPU", 0)
    assert caplog.messages[1].startswith("warning: CUDA_CACHE_MAXSIZE: got 1,000 bytes, expected at least")


def test_failed_first_operator_leaves_the_cache_cold(tmp_path, monkeypatch):
    monkeypatch.setitem(nvidia.driver_environment, "CUDA_CACHE_PATH", str(tmp_path))
    monkeypatch.setitem(nvidia.driver_environment, "CUDA_CACHE_MAXSIZE", str(2**32))
    monkeypatch.setattr(nvidia, "Driver", lambda: DRIVER)
    monkeypatch.setattr(select.ms, "set_device", lambda *_words: None)

    def fails(_values):
        raise RuntimeError("no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(select.ms, "Tensor", fails)
    assert select._try("GPU", 0) == "no kernel image is available for execution on the device"
    assert not list(tmp_path.iterdir())


class Precision:
    """Notes what MindSpore's switches of TF32 are set to."""

    def __init__(self) -> None:
        self.values: dict[str, bool] = {}

    def conv_allow_tf32(self, value: bool) -> None:
        self.values["conv"] = value

    def matmul_allow_tf32(self, value: bool) -> None:
        self.values["matmul"] = value


@pytest.mark.parametrize("trains", [False, True])
def test_tf32_is_on_in_training_only(monkeypatch, caplog, trains):
    precision = Precision()
    monkeypatch.setattr(select, "op_precision", precision)
    monkeypatch.setattr(select, "_gpu_or_cpu", lambda _device_id: "GPU")
    monkeypatch.setattr(select, "choose_convolutions", lambda _how: None)
    monkeypatch.setattr(nvidia, "find_libraries", list)
    caplog.set_level(logging.INFO)
    config = load_config(Document(str(ROOT / "train/configs/sample.yaml"), {"device_target": "auto"}))
    assert select.start_device(config, trains=trains) == "GPU"
    assert precision.values == {"conv": trains, "matmul": trains}
    state = "on, in evaluation off" if trains else "off"
    assert f"float32 in convolutions and products: TF32 is {state}" in caplog.messages


def test_tf32_is_off_while_a_training_evaluates(monkeypatch):
    precision = Precision()
    monkeypatch.setattr(select, "op_precision", precision)
    with select.without_tf32():
        assert precision.values == {}  # a CPU has none, and MindSpore would log an error
    monkeypatch.setattr(select.ms, "get_context", lambda _key: "GPU")
    with pytest.raises(ZeroDivisionError), select.without_tf32():
        assert precision.values == {"conv": False, "matmul": False}
        raise ZeroDivisionError
    assert precision.values == {"conv": True, "matmul": True}


def test_needed_size_is_that_of_the_plugins_code():
    (folder,) = nvidia._folders("mindspore")
    size = (folder / "lib/plugin/gpu/libcuda_ops.so.11").stat().st_size
    assert 4 * NEEDED_BYTES < size < 6 * NEEDED_BYTES  # code for five kinds of card, little compressed, and texts
    assert kernel_cache._CODE_FOR == (6, 7, 8)
