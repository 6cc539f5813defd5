"""Makes MindSpore able to use an NVIDIA GPU: checks the driver and loads NVIDIA's libraries before MindSpore loads.

MindSpore 2.10 loads its GPU plug-in while it is imported, or never.  The plug-in needs libraries by soname, and the
dynamic loader accepts those already in the process, so they are loaded from the wheels of `make install GPU=1`.
MindSpore also runs `$CUDA_HOME/bin/nvcc --version` first and loads no plug-in unless the answer is CUDA 11.1 or 11.6;
the script in `train/device/cuda_home` gives that answer without a toolkit.  Without a card nothing is changed.

cuDNN 8 opens the libraries that do its work, NVRTC and the driver by name when the first convolution runs.  They are in
the process by then, under the names it uses (alias.py).
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from train.device.alias import load_alias

CUDA_HOME = Path(__file__).with_name("cuda_home")
PLUGIN = "lib/plugin/libmindspore_gpu.so.11.6"

# Distribution, its folder in site-packages/nvidia, its libraries; each library comes after those it needs.
LIBRARIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("nvidia-cuda-runtime-cu11", "cuda_runtime", ("libcudart.so.11.0",)),
    ("nvidia-cuda-nvrtc-cu11", "cuda_nvrtc", ("libnvrtc-builtins.so.11.8", "libnvrtc.so.11.2")),
    ("nvidia-cublas-cu11", "cublas", ("libcublasLt.so.11", "libcublas.so.11")),
    ("nvidia-cudnn-cu11", "cudnn", (
        "libcudnn_ops_infer.so.8", "libcudnn_cnn_infer.so.8", "libcudnn_ops_train.so.8", "libcudnn_cnn_train.so.8",
        "libcudnn.so.8",
    )),
    ("nvidia-cufft-cu11", "cufft", ("libcufft.so.10",)),
    ("nvidia-curand-cu11", "curand", ("libcurand.so.10",)),
    ("nvidia-cusparse-cu11", "cusparse", ("libcusparse.so.11",)),
    ("nvidia-cusolver-cu11", "cusolver", ("libcusolver.so.11",)),
    ("nvidia-nccl-cu11", "nccl", ("libnccl.so.2",)),  # MindSpore's own is 2.16.5, with code for 6.0 only
)  # fmt: skip

# Libraries, and the names by which cuDNN opens them; cuDNN comes after them.
_ALIASES = {"libcuda.so.1": "libcuda.so", "libnvrtc.so.11.2": "libnvrtc.so"}

driver_environment: dict[str, str] = {}
"""Variables of CUDA as the driver read them when `prepare` started it; MindSpore 2.10 changes one later, in vain."""

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
        with _driver_variables():
            Driver()
            _check_plugin()
            for path in (Path("libcuda.so.1"), *find_libraries()):
                _load(path)
            if "mindspore" in sys.modules:
                raise GpuError(
                    "mindspore was imported before `train`, so its GPU plug-in is not loaded. Import `train` first."
                )
    except GpuError as error:
        return str(error)
    os.environ["CUDA_HOME"] = str(CUDA_HOME)
    logging.getLogger(f"ME.mindspore.log.{os.getpid()}").addFilter(_is_real_warning)
    return ""


@contextmanager
def _driver_variables() -> Iterator[None]:
    """Set what the driver reads from the environment in cuInit, where the user has not; undone after an error."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    ours = {
        # For cuDNN and cuBLAS; MindSpore's own kernels are all loaded at once by its static CUDA 11.6 runtime.
        "CUDA_MODULE_LOADING": "LAZY",
        # Kernels that are compiled for a card (kernel_cache.py) are compiled once, not in every process.
        "CUDA_CACHE_PATH": str(cache / "kinetics-r2plus1d" / "cuda"),
        "CUDA_CACHE_MAXSIZE": str(2**32),
    }
    added = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(added)
    driver_environment.update({name: value for name, value in os.environ.items() if name.startswith("CUDA_")})
    try:
        yield
    except GpuError:
        for name in added:
            del os.environ[name]
        raise


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


def foreign_libraries(maps: str, libraries: list[Path]) -> list[str]:
    """NVIDIA's libraries in a process that are not those of the wheels.

    The plug-in also looks in /usr/local/cuda, and a program's other packages may bring a CUDA of their own.

    Args:
        maps: /proc/<pid>/maps of the process.
        libraries: the files that should be there, from `find_libraries`.

    Returns:
        Their paths, sorted.
    """
    ours = {path.resolve() for path in libraries}
    names = {path.name.partition(".so")[0] for path in libraries}
    # address, permissions, offset, device and inode come before the path; the kernel marks a removed file.
    lines = (line.split(maxsplit=5) for line in maps.splitlines())
    paths = {Path(words[5].removesuffix(" (deleted)")) for words in lines if len(words) == 6 and words[5][0] == "/"}
    found = {path for path in paths if ".so" in path.name and path.name.partition(".so")[0] in names}
    return sorted(str(path) for path in found if path.resolve() not in ours and not str(path).startswith("/memfd:"))


def _load(path: Path) -> None:
    try:
        ctypes.CDLL(str(path))
        if path.name in _ALIASES:
            load_alias(_ALIASES[path.name], path.name)
    except OSError as error:
        if "libz.so.1" in str(error):
            raise GpuError("cuDNN needs libz.so.1, which is not installed. Install zlib (Debian: zlib1g).") from None
        raise GpuError(f"{path.name} cannot be loaded: {error}. Run `make install GPU=1` in a new .venv.") from None


def _is_real_warning(record: logging.LogRecord) -> bool:
    """False for two false warnings: MindSpore looks for libraries with `ldd` and by file name, not in the process."""
    message = record.getMessage()
    return not (message.startswith("Cannot find cuda libs") or ".so need by mindspore-gpu) is not found" in message)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
