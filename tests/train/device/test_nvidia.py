"""NVIDIA's driver and libraries are found, or named as missing, with and without a card."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from make_driver import make_driver, make_libraries
from paths import ROOT
from run_make import environment_of_make

import train
from pipeline.common.settings import Document
from train import doctor
from train.device import nvidia, select
from train.device.request import DeviceError
from train.experiment.load import load_config
from train.experiment.sections import Config

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a stand-in of the driver with")


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    make_driver(folder)
    return folder


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site")
    make_libraries(site)
    return site


def run(program: str, driver: Path, site: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    """A Python with the fake driver, and with `site` before the installed packages."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "LD_LIBRARY_PATH"))}
    environment |= {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": f"{site or ''}:{ROOT}", **variables}
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)


def fault(driver: Path, site: Path | None = None, **variables: str) -> str:
    """The problem that `import train` finds."""
    done = run("import train; print(train.GPU_PROBLEM)", driver, site, **variables)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


def test_without_a_driver_the_message_says_so(monkeypatch):
    def cannot(name, **_options):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvidia.ctypes, "CDLL", cannot)
    before = dict(os.environ)
    problem = nvidia.prepare()
    assert problem.startswith(
        "no NVIDIA driver was found (libcuda.so.1: cannot open shared object file). Install one for "
    )
    assert dict(os.environ) == before


@needs_cc
def test_a_driver_without_a_card_or_too_old_is_named(driver, libraries):
    none = "the NVIDIA driver sees no card (cuInit: CUDA_ERROR_NO_DEVICE, 100)."
    assert fault(driver, libraries) == f"{none} Check it with nvidia-smi."
    hidden = fault(driver, libraries, CUDA_VISIBLE_DEVICES="0")
    assert hidden == f"{none} CUDA_VISIBLE_DEVICES may hide it: unset it."
    old = fault(driver, libraries, STUB_CARDS="1", STUB_CUDA="10020")
    assert old == "the NVIDIA driver is too old: it runs CUDA 10.2. Install one for 11.0 or newer."


@needs_cc
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_cards_that_the_user_hides_are_not_looked_for(driver, libraries, hidden):
    problem = fault(driver, libraries, STUB_CARDS="1", CUDA_VISIBLE_DEVICES=hidden)
    assert problem == "CUDA_VISIBLE_DEVICES hides every card. Unset it to use one."


@needs_cc
def test_a_library_that_is_missing_or_broken_is_named(driver, libraries, tmp_path):
    def spoilt(name: str) -> Path:
        site = tmp_path / name
        shutil.copytree(libraries, site)
        return site

    site = spoilt("missing")
    (site / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8").unlink()
    assert fault(driver, site, STUB_CARDS="1") == (
        "NVIDIA's libraries are missing (libcudnn.so.8 (nvidia-cudnn-cu11)). Run `make install GPU=1`."
    )
    site = spoilt("broken")
    (site / "nvidia" / "cufft" / "lib" / "libcufft.so.10").write_bytes(b"not a library" * 99)
    said = fault(driver, site, STUB_CARDS="1")
    assert said.startswith("libcufft.so.10 cannot be loaded: ") and "invalid ELF header" in said
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    assert fault(driver, tmp_path, STUB_CARDS="1") == (
        "NVIDIA's libraries are missing (all of them). Run `make install GPU=1`."
    )


@needs_cc
def test_libraries_load_and_mindspores_lookups_are_met(driver, libraries):
    done = run(
        """
import ctypes, os, subprocess, train
from train.device import nvidia
assert train.GPU_PROBLEM == "", train.GPU_PROBLEM
for _, folder, names in nvidia.LIBRARIES:
    for name in names:  # only by its soname: the loader finds it because it is already in the process
        assert getattr(ctypes.CDLL(name), f"loaded_{folder}")() == 1
assert ctypes.CDLL("libnvrtc.so").loaded_cuda_nvrtc() == 1  # the names that cuDNN opens
assert ctypes.CDLL("libcuda.so").cuInit(0) == 0
answer = subprocess.run([os.environ["CUDA_HOME"] + "/bin/nvcc", "--version"], capture_output=True, text=True).stdout
assert "Cuda compilation tools, release 11.6," in answer
print(*(os.environ[name] for name in ("CUDA_MODULE_LOADING", "CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE")))
""",
        driver, libraries, STUB_CARDS="2", XDG_CACHE_HOME="/cache", CUDA_HOME="/usr/local/cuda-13", STUB_LOG="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()) == {"cuInit: /cache/kinetics-r2plus1d/cuda"}  # it reads its variables then
    assert done.stdout.split() == ["LAZY", "/cache/kinetics-r2plus1d/cuda", "4294967296"]
    mine = {"CUDA_MODULE_LOADING": "EAGER", "CUDA_CACHE_PATH": "/mine", "CUDA_CACHE_MAXSIZE": "5000000000"}
    program = f"import os, train; assert not train.GPU_PROBLEM; print(*map(os.environ.get, {[*mine]}))"
    assert run(program, driver, libraries, STUB_CARDS="1", **mine).stdout.split() == [*mine.values()]


@needs_cc
def test_mindspore_loads_its_plugin_without_warnings(driver):
    if importlib.util.find_spec("nvidia") is None:
        pytest.skip("NVIDIA's wheels are not installed: make install GPU=1")
    done = run(
        """
import train, os
assert train.GPU_PROBLEM == "", train.GPU_PROBLEM
import mindspore as ms
print(ms.get_context("device_target"), os.environ["CUDA_CACHE_MAXSIZE"])
ms.set_device("GPU", 0)
ms.set_device("CPU")
print((ms.Tensor([1.0]) + 1).asnumpy())
os._exit(0)
""",
        driver, STUB_CARDS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "GPU" and int(lines[0].split()[1]) >= 4_000_000_000 and lines[1] == "[2.]"
    assert not done.stderr


def test_the_plugin_asks_for_nothing_else():
    if shutil.which("readelf") is None:
        pytest.skip("no readelf to read the plug-in with")
    (folder,) = nvidia._folders("mindspore")
    listed = subprocess.run(["readelf", "-d", str(folder / nvidia.PLUGIN)], capture_output=True, text=True, check=True)
    asked = set(re.findall(r"NEEDED.*\[(lib(?:cu|nv)[^\]]+)\]", listed.stdout))
    known = {name for _, _, names in nvidia.LIBRARIES for name in names}
    assert {"libcudnn.so.8", "libcuda.so.1"} <= asked  # the pattern finds them
    assert asked - known == {"libcuda.so.1", "libcuda_ops.so.11"}  # the driver's, and MindSpore's own


def test_the_extra_has_every_library_at_one_version():
    text = (ROOT / "pyproject.toml").read_text()
    extra = re.search(r"^gpu = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert extra is not None
    pinned = dict(re.findall(r'"([a-z0-9-]+)==([0-9.]+)"', extra.group(1)))
    assert set(pinned) == {distribution for distribution, _, _ in nvidia.LIBRARIES}
    assert pinned["nvidia-cudnn-cu11"].startswith("8.")


def test_make_install_gpu_is_skipped_when_up_to_date(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    stamps = [tmp_path / ".venv" / name for name in (".installed", ".gpu")]

    def would_do(*words: str) -> str:
        command = ["make", "-n", "install", *words]
        clean = environment_of_make()
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True).stdout

    stamps[0].touch()
    assert "[gpu]" in would_do("GPU=1")
    for words in ([], ["GPU=0"], ["GPU="]):
        assert "pip" not in would_do(*words)
    stamps[1].touch()
    assert "pip" not in would_do("GPU=1")
    later = stamps[1].stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert "[test]" in would_do("GPU=1") and "[gpu]" in would_do("GPU=1") and "[gpu]" not in would_do()


def sample_config(**overrides: str) -> Config:
    return load_config(Document(str(ROOT / "train/configs/sample.yaml"), overrides))


def test_gpu_asked_for_but_absent_is_a_user_mistake(monkeypatch):
    monkeypatch.setattr(train, "GPU_PROBLEM", "libcudnn.so.8 is gone")
    with pytest.raises(DeviceError, match="device_target: got GPU, but libcudnn.so.8 is gone") as caught:
        select.start_device(sample_config(device_target="GPU"))
    assert caught.value.exit_code == 2


def test_auto_takes_the_cpu_and_warns_only_with_a_card(monkeypatch, caplog):
    monkeypatch.setattr(train, "GPU_PROBLEM", "libcudnn.so.8 is gone")
    for nvidia_smi, num_warnings in ((None, 0), ("/usr/bin/nvidia-smi", 1)):
        monkeypatch.setattr(select.shutil, "which", lambda _name, found=nvidia_smi: found)
        monkeypatch.setattr(select.os.path, "exists", lambda _path: False)
        caplog.clear()
        assert select.start_device(sample_config(device_target="auto")) == "CPU"
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == num_warnings and all("libcudnn.so.8 is gone" in said for said in warnings)


LOADING_FAILED = """Unsupported device target GPU. This process only supports one of the ['CPU'].

----------------------------------------------------
- Device load error message:
----------------------------------------------------
Load dynamic library: libmindspore_ascend.so.2 failed. libge_runner.so: cannot open shared object file
Load dynamic library: libmindspore_gpu.so.11.6 failed. libcuda_ops.so.11: undefined symbol: cufftExecD2Z
"""


def test_plugin_load_error_is_named_and_auto_takes_cpu(monkeypatch, caplog):
    def cannot(target, _device_id):
        raise RuntimeError(LOADING_FAILED.replace("GPU", target))

    monkeypatch.setattr(train, "GPU_PROBLEM", "")
    monkeypatch.setattr(select.ms, "set_device", cannot)
    monkeypatch.setattr(nvidia, "Driver", lambda: SimpleNamespace(cards=[nvidia.Card("A100", (8, 0), 2**36)]))
    with pytest.raises(DeviceError, match="GPU, .*card number 1, counted from 0, does not exist; the driver shows 1"):
        select.start_device(sample_config(device_target="GPU", **{"context.device_id": "1"}))
    for target, missing in (("GPU", "libcuda_ops.so.11: undefined symbol"), ("Ascend", "libge_runner.so: cannot open")):
        with pytest.raises(DeviceError, match=f"device_target: got {target}, .* Try --device_target=CPU.*{missing}"):
            select.start_device(sample_config(device_target=target))
    assert select.start_device(sample_config(device_target="auto")) == "CPU"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "libcuda_ops.so.11: undefined symbol" in warning and "so the CPU is used" in warning


def report_of(text: str) -> dict[str, tuple[str, str]]:
    """The doctor's lines by subject: state and text."""
    lines = [re.fullmatch(r"(.{18}) (ok|none|missing) +(.+)", line) for line in text.splitlines()]
    assert all(lines), text
    return {found[1].strip(): (found[2], found[3]) for found in lines if found}


def test_the_doctor_reports_each_thing_in_a_line(capsys):
    code = doctor.main(["-c", str(ROOT / "train/configs/sample.yaml")])
    report = report_of(capsys.readouterr().out)
    assert {"versions", "oneDNN ISA", "HDF5", "decord", "NVIDIA driver", "NVIDIA libraries", "cores", "memory",
            "/dev/shm", "disk, shards", "disk, runs"} <= report.keys()  # fmt: skip
    assert "mindspore 2." in report["versions"][1]
    assert re.search(r"FFmpeg \d+\.\d+", report["decord"][1])
    assert code == (2 if any(state == "missing" for state, _ in report.values()) else 0)


def test_the_doctor_misses_a_gpu_that_is_asked_for(monkeypatch, capsys):
    def no_driver():
        raise nvidia.GpuError("no NVIDIA driver was found.")

    monkeypatch.setattr(nvidia, "Driver", no_driver)
    for target, state in (("GPU", "missing"), ("auto", "none"), ("CPU", "none")):
        code = doctor.main(["-c", str(ROOT / "train/configs/sample.yaml"), f"--device_target={target}"])
        reported, text = report_of(capsys.readouterr().out)["NVIDIA driver"]
        assert reported == state and text.startswith("no NVIDIA driver was found. ")
        assert code == 2 or target != "GPU"


@needs_cc
def test_the_doctor_with_a_card(driver, libraries, tmp_path):
    program = f"""
import os, sys
from train import doctor
doctor.importlib.metadata.version = lambda name: "1.2"
doctor.maps_with_plugin = lambda: (os.environ.get("MAPS", ""), os.environ.get("PROBLEM", ""))
sys.exit(doctor.main(["-c", "train/configs/sample.yaml", "--train.ckpt_path={tmp_path}"]))
"""
    cache = tmp_path / "cache"
    done = run(program, driver, libraries, STUB_CARDS="1", CUDA_CACHE_PATH=str(cache))
    report = report_of(done.stdout)
    assert "runs CUDA 12.4" in report["NVIDIA driver"][1]
    assert report["card"] == ("ok", "Stub 9000, 8 GiB, compute capability 9.0, "
                                    "MindSpore's kernels are compiled for it at first use")  # fmt: skip
    assert report["NVIDIA libraries"][0] == report["MindSpore on GPU"][0] == "ok"
    state, text = report["compiled kernels"]
    assert state == "none" and text.startswith(f"cold: {cache}, 0 MB of at most 4,295 MB. The first use compiles once")
    cache.mkdir()
    (cache / "compiled-mindspore-1.2-driver-unknown version-card-9.0").touch()
    maps = f"7f00-7f10 r-xp 00000000 08:01 77 {'':9} /usr/local/cuda/lib64/libcublas.so.11.11.3.6"
    done = run(program, driver, libraries, STUB_CARDS="1", CUDA_CACHE_PATH=str(cache), MAPS=maps)
    report = report_of(done.stdout)
    assert done.returncode == 2 and report["compiled kernels"][1].startswith("warm: ")
    assert report["MindSpore on GPU"][0] == "missing"
    assert "not of NVIDIA's wheels: /usr/local/cuda/lib64/libcublas.so.11.11.3.6. Rem" in report["MindSpore on GPU"][1]
    assert len(report["MindSpore on GPU"][1].splitlines()) == 1
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    done = run(program, driver, tmp_path, STUB_CARDS="1")
    report = report_of(done.stdout)
    assert done.returncode == 2
    assert report["NVIDIA libraries"][0] == report["MindSpore on GPU"][0] == "missing"
    assert "make install GPU=1" in report["NVIDIA libraries"][1]
