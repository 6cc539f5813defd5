"""NVIDIA's libraries out of the wheels of `make install GPU=1`, and the driver; all before MindSpore loads.

MindSpore 2.10 loads its GPU plug-in while it is imported, or never.  The plug-in asks for its libraries by soname, and
the loader is content with those that are in the process already: so they are loaded from where pip has put them.
Before that, MindSpore runs `$CUDA_HOME/bin/nvcc --version` and loads no plug-in unless the answer is CUDA 11.1 or
11.6; `train/cuda_home` gives it without a toolkit.  Nothing of this happens where there is no card.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

CUDA_HOME = Path(__file__).with_name("cuda_home")
PLUGIN = "lib/plugin/libmindspore_gpu.so.11.6"

# Distribution, its folder in site-packages/nvidia, its libraries; each after those it needs.
LIBRARIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("nvidia-cuda-runtime-cu11", "cuda_runtime", ("libcudart.so.11.0",)),
    ("nvidia-cuda-nvrtc-cu11", "cuda_nvrtc", ("libnvrtc-builtins.so.11.8", "libnvrtc.so.11.2")),
    ("nvidia-cublas-cu11", "cublas", ("libcublasLt.so.11", "libcublas.so.11")),
    ("nvidia-cudnn-cu11", "cudnn", ("libcudnn.so.8",)),
    ("nvidia-cufft-cu11", "cufft", ("libcufft.so.10",)),
    ("nvidia-curand-cu11", "curand", ("libcurand.so.10",)),
    ("nvidia-cusparse-cu11", "cusparse", ("libcusparse.so.11",)),
    ("nvidia-cusolver-cu11", "cusolver", ("libcusolver.so.11",)),
)

_OLDEST_DRIVER = 11_000  # as cuDriverGetVersion counts; libraries of CUDA 11.8 run on every driver for CUDA 11
_COMPUTE_CAPABILITY = (75, 76)  # CUdevice_attribute: major, minor
_CUDA_NO_DEVICE = 100


@dataclass(frozen=True)
class Card:
    """One NVIDIA GPU, as its driver names it."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


class GpuError(Exception):
    """Why MindSpore cannot use a GPU here, in one line that says what to do."""


class Driver:
    """What NVIDIA's driver says.

    Attributes:
        version: its own, such as 550.54.15.
        cuda: the newest CUDA it runs, such as 12.4.
        cards: that it lets this process see.

    Raises:
        GpuError: there is no driver, it is too old, or it has no card.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise GpuError(
                f"there is no NVIDIA driver ({error}): install one for CUDA 11.0 or newer, or start the container with "
                "its cards (--gpus all)"
            ) from None
        if code := self._library.cuInit(0):
            hint = "; CUDA_VISIBLE_DEVICES hides them" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
            what = "sees no card" + hint if code == _CUDA_NO_DEVICE else "does not start"
            raise GpuError(f"the NVIDIA driver {what} (cuInit: {self._name_of(code)})")
        version = ctypes.c_int()
        self._check("cuDriverGetVersion", ctypes.byref(version))
        if version.value < _OLDEST_DRIVER:
            raise GpuError(f"the NVIDIA driver runs CUDA {_dotted(version.value)}: install one for 11.0 or newer")
        self.version = _driver_version()
        self.cuda = _dotted(version.value)
        count = ctypes.c_int()
        self._check("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise GpuError("the NVIDIA driver sees no card")
        self.cards = tuple(self._card(number) for number in range(count.value))

    def _card(self, number: int) -> Card:
        handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        self._check("cuDeviceGet", ctypes.byref(handle), number)
        self._check("cuDeviceGetName", name, len(name), handle)
        self._check("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
        capability = [ctypes.c_int(), ctypes.c_int()]
        for value, attribute in zip(capability, _COMPUTE_CAPABILITY, strict=True):
            self._check("cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
        major, minor = (value.value for value in capability)
        return Card(name.value.decode(errors="replace"), (major, minor), memory.value)

    def _check(self, function: str, *arguments: object) -> None:
        if code := getattr(self._library, function)(*arguments):
            raise GpuError(f"the NVIDIA driver fails ({function}: {self._name_of(code)})")

    def _name_of(self, code: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(name))
        return f"{(name.value or b'unknown error').decode()}, {code}"


def _driver_version() -> str:
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text(encoding="utf-8").partition("\n")[0].split() if file.is_file() else ()
    return next((word for word in words if word[0].isdigit() and "." in word), "version not told")


def prepare() -> str:
    """Make MindSpore able to load its GPU plug-in, where a card is; to be called before `import mindspore`.

    Returns:
        Why no GPU can be used, in one line; empty when one can.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every card"
    try:
        Driver()
        _check_plugin()
        for path in find_libraries():
            _load(path)
    except GpuError as error:
        return str(error)
    if "mindspore" in sys.modules:
        return "mindspore was imported before `train`, and so without its GPU plug-in"
    os.environ["CUDA_HOME"] = str(CUDA_HOME)
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # of 819 MB of kernels, load those that run
    # Cards newer than sm_80 compile MindSpore's kernels from PTX: once, not in every process.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("CUDA_CACHE_PATH", str(cache / "kinetics-r2plus1d" / "cuda"))
    os.environ.setdefault("CUDA_CACHE_MAXSIZE", str(2**32))  # MindSpore 2.10 makes it 4,000,000,000 when it loads
    logging.getLogger(f"ME.mindspore.log.{os.getpid()}").addFilter(_is_no_false_alarm)
    return ""


def find_libraries() -> list[Path]:
    """The files of LIBRARIES, in the order in which they are to be loaded.

    Raises:
        GpuError: one of them is not installed.
    """
    found, missing = [], []
    folders = _folders("nvidia")
    for distribution, folder, names in LIBRARIES:
        for name in names:
            paths = [path for root in folders if (path := root / folder / "lib" / name).is_file()]
            if paths:
                found.append(paths[0])
            else:
                missing.append(f"{name} ({distribution})")
    if missing:
        which = f"{', '.join(missing)} is missing" if found else "none is there"
        raise GpuError(f"NVIDIA's libraries are not installed, {which}: run `make install GPU=1`")
    return found


def _check_plugin() -> None:
    folders = _folders("mindspore")
    if not any((folder / PLUGIN).is_file() for folder in folders):
        raise GpuError(f"this mindspore has no GPU plug-in ({PLUGIN}); the wheels for Linux x86-64 have it")
    if not os.access(CUDA_HOME / "bin" / "nvcc", os.X_OK):
        raise GpuError(f"{CUDA_HOME / 'bin' / 'nvcc'} is not executable: chmod +x it")


def _folders(package: str) -> list[Path]:
    """Where a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]


def _load(path: Path) -> None:
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise GpuError(f"{path.name} cannot be loaded: {error}") from None


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    """False for what MindSpore says because `ldd` and file names do not show it the libraries it has loaded."""
    said = record.getMessage()
    return not (said.startswith("Cannot find cuda libs") or ".so need by mindspore-gpu) is not found" in said)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
