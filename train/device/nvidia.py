"""Makes MindSpore able to use an NVIDIA GPU: checks the driver and loads NVIDIA's libraries before MindSpore loads.

MindSpore 2.10 loads its GPU plug-in while it is imported, or never.  The plug-in needs libraries by soname, and the
dynamic loader accepts those already in the process, so they are loaded from the wheels of `make install GPU=1`.
MindSpore also runs `$CUDA_HOME/bin/nvcc --version` first and loads no plug-in unless the answer is CUDA 11.1 or 11.6;
the script in `train/device/cuda_home` gives that answer without a toolkit.  Without a card nothing is changed.
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

# Distribution, its folder in site-packages/nvidia, its libraries; each library comes after those it needs.
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
    """One NVIDIA GPU, as its driver describes it.

    Attributes:
        name: product name.
        capability: compute capability, (major, minor).
        memory_bytes: size of its memory.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int


class GpuError(Exception):
    """Why MindSpore cannot use a GPU here and what to do, in one line that ends with a full stop."""


class Driver:
    """The NVIDIA driver of this machine and its cards.

    Attributes:
        version: of the driver, such as 550.54.15.
        cuda: the newest CUDA version it runs, such as 12.4.
        cards: the GPUs that this process may use.

    Raises:
        GpuError: there is no driver, it is too old, or it has no card.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise GpuError(
                f"no NVIDIA driver was found ({error}). Install one for CUDA 11.0 or newer, or start the container "
                "with its cards (--gpus all)."
            ) from None
        if code := self._library.cuInit(0):
            reason = f"(cuInit: {self._name_of(code)})"
            if code != _CUDA_NO_DEVICE:
                raise GpuError(f"the NVIDIA driver does not start {reason}. Check it with nvidia-smi.")
            if "CUDA_VISIBLE_DEVICES" in os.environ:
                raise GpuError(f"the NVIDIA driver sees no card {reason}. CUDA_VISIBLE_DEVICES may hide it: unset it.")
            raise GpuError(f"the NVIDIA driver sees no card {reason}. Check it with nvidia-smi.")
        version = ctypes.c_int()
        self._check("cuDriverGetVersion", ctypes.byref(version))
        if version.value < _OLDEST_DRIVER:
            raise GpuError(
                f"the NVIDIA driver is too old: it runs CUDA {_dotted(version.value)}. Install one for 11.0 or newer."
            )
        self.version = _driver_version()
        self.cuda = _dotted(version.value)
        count = ctypes.c_int()
        self._check("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise GpuError("the NVIDIA driver sees no card. Check it with nvidia-smi.")
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
            raise GpuError(f"the NVIDIA driver failed ({function}: {self._name_of(code)}). Check it with nvidia-smi.")

    def _name_of(self, code: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(name))
        return f"{(name.value or b'unknown error').decode()}, {code}"


def _driver_version() -> str:
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text(encoding="utf-8").partition("\n")[0].split() if file.is_file() else ()
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown version")


def prepare() -> str:
    """Make MindSpore able to load its GPU plug-in if there is a card.  Must be called before `import mindspore`.

    Returns:
        Why no GPU can be used and what to do, in one line; empty when one can.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every card. Unset it to use one."
    try:
        Driver()
        _check_plugin()
        for path in find_libraries():
            _load(path)
    except GpuError as error:
        return str(error)
    if "mindspore" in sys.modules:
        return "mindspore was imported before `train`, so its GPU plug-in is not loaded. Import `train` first."
    os.environ["CUDA_HOME"] = str(CUDA_HOME)
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # load only the kernels that run, not all 819 MB
    # Cards newer than sm_80 compile MindSpore's kernels from PTX; with this cache once, not in every process.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("CUDA_CACHE_PATH", str(cache / "kinetics-r2plus1d" / "cuda"))
    os.environ.setdefault("CUDA_CACHE_MAXSIZE", str(2**32))  # MindSpore 2.10 sets it to 4,000,000,000 when it loads
    logging.getLogger(f"ME.mindspore.log.{os.getpid()}").addFilter(_is_real_warning)
    return ""


def find_libraries() -> list[Path]:
    """The files of LIBRARIES, in the order in which they must be loaded.

    Raises:
        GpuError: one of them is not installed.
    """
    libraries: list[Path] = []
    missing: list[str] = []
    folders = _folders("nvidia")
    for distribution, folder, names in LIBRARIES:
        for name in names:
            paths = [path for root in folders if (path := root / folder / "lib" / name).is_file()]
            if paths:
                libraries.append(paths[0])
            else:
                missing.append(f"{name} ({distribution})")
    if missing:
        which = ", ".join(missing) if libraries else "all of them"
        raise GpuError(f"NVIDIA's libraries are missing ({which}). Run `make install GPU=1`.")
    return libraries


def _check_plugin() -> None:
    folders = _folders("mindspore")
    if not any((folder / PLUGIN).is_file() for folder in folders):
        raise GpuError(
            f"this mindspore has no GPU plug-in ({PLUGIN}). Install the wheel for Linux x86-64, which has it."
        )
    if not os.access(CUDA_HOME / "bin" / "nvcc", os.X_OK):
        raise GpuError(f"{CUDA_HOME / 'bin' / 'nvcc'} is not executable. Run chmod +x on it.")


def _folders(package: str) -> list[Path]:
    """Where a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]


def _load(path: Path) -> None:
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise GpuError(f"{path.name} cannot be loaded: {error}. Run `make install GPU=1` in a new .venv.") from None


def _is_real_warning(record: logging.LogRecord) -> bool:
    """False for two false warnings: MindSpore looks for libraries with `ldd` and by file name, not in the process."""
    message = record.getMessage()
    return not (message.startswith("Cannot find cuda libs") or ".so need by mindspore-gpu) is not found" in message)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
