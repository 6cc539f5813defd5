"""What this machine has, what is missing, and what to do about it.                     (make doctor)

    python -m train.doctor -c train/configs/sample.yaml

One line for each thing on stdout: `ok`, `none` (nothing is wrong with that), or `missing` with what to do; exit code 2
if anything is missing.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import model
from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, EXIT_USAGE
from pipeline.shards.hdf5 import h5py
from train import GPU_FAULT
from train.device import nvidia
from train.experiment.load import SECTION_CLASSES, load_config
from train.experiment.sections import Config

_COMMON_KEYS = ("device_target", "train.ckpt_path", "preprocess.store")
_GIB = 2**30
_LOW_DISK_BYTES = 5 * _GIB


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    state: Literal["ok", "none", "missing"]
    said: str


def examine(config: Config) -> Iterator[Finding]:
    """Look at everything, one finding after the other."""
    yield _versions()
    yield _onednn()
    yield Finding("HDF5", "ok", f"{h5py.version.hdf5_version}, h5py {h5py.__version__}")
    yield _decord()
    yield from _gpu(asked_for=config.device_target == "GPU")
    yield _processors()
    yield _memory()
    yield _shared_memory()
    for what, folder in (("disk, shards", config.preprocess.store), ("disk, runs", config.train.ckpt_path)):
        yield _disk(what, Path(folder))


def _versions() -> Finding:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("mindspore", "numpy", "pandas")]
    return Finding("versions", "ok", f"Python {platform.python_version()}, {', '.join(versions)}")


def _onednn() -> Finding:
    """Which instructions oneDNN may use, and which the processor has."""
    flags = _after_colon("/proc/cpuinfo", "flags").split()
    has = [name for name in ("avx2", "avx512f", "amx_bf16") if name in flags]
    note = model.ONEDNN_NOTE.removeprefix("oneDNN ISA: ")
    return Finding("oneDNN ISA", "ok", f"{note}; this CPU has {' '.join(has) or 'no AVX2'}")


def _decord() -> Finding:
    """The FFmpeg inside decord, asked from its own libavutil: decord does not tell."""
    version = importlib.metadata.version("decord2")
    libraries = [file for file in importlib.metadata.files("decord2") or () if file.name.startswith("libavutil")]
    if not libraries:
        return Finding("decord", "missing", f"decord2 {version} without its FFmpeg; install it again: make install")
    library = ctypes.CDLL(str(libraries[0].locate()))
    library.av_version_info.restype = ctypes.c_char_p
    return Finding("decord", "ok", f"decord2 {version}, FFmpeg {library.av_version_info().decode()}")


def _gpu(asked_for: bool) -> Iterator[Finding]:
    """The driver, its cards, NVIDIA's libraries, and whether MindSpore can use them.

    Args:
        asked_for: the configuration wants a GPU and nothing else.
    """
    driver = None
    try:
        driver = nvidia.Driver()
    except nvidia.GpuError as error:
        if asked_for:
            yield Finding("NVIDIA driver", "missing", f"{error}; device_target is GPU, auto would take the CPU")
        else:
            yield Finding("NVIDIA driver", "none", f"{error}; training runs on the CPU")
    else:
        yield Finding("NVIDIA driver", "ok", f"{driver.version}, runs CUDA {driver.cuda}")
        for card in driver.cards:
            yield Finding("card", "ok", f"{card.name}, {card.memory_bytes / _GIB:.0f} GiB, {_kernels(card)}")
    try:
        nvidia.find_libraries()
    except nvidia.GpuError as error:
        yield Finding("NVIDIA libraries", "missing" if driver or asked_for else "none", str(error))
    else:
        versions = [f"{_short(name)} {importlib.metadata.version(name)}" for name, _, _ in nvidia.LIBRARIES]
        yield Finding("NVIDIA libraries", "ok", ", ".join(versions))
    if driver is not None:
        fault = (
            f"no: {GPU_FAULT}" if GPU_FAULT else f"{nvidia.PLUGIN}; compiled kernels in {os.environ['CUDA_CACHE_PATH']}"
        )
        yield Finding("MindSpore on GPU", "missing" if GPU_FAULT else "ok", fault)


def _kernels(card: nvidia.Card) -> str:
    major, minor = card.capability
    compiled = (6, 0) <= card.capability <= (8, 0)
    return f"compute capability {major}.{minor}, " + (
        "MindSpore has kernels for it" if compiled else "MindSpore's kernels are compiled for it at first use"
    )


def _short(distribution: str) -> str:
    return distribution.removeprefix("nvidia-").removesuffix("-cu11")


def _processors() -> Finding:
    mine, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    said = f"{mine}" if mine == all_cores else f"{mine} of {all_cores} are this process's"
    return Finding("cores", "ok", f"{said}; {_after_colon('/proc/cpuinfo', 'model name')}")


def _memory() -> Finding:
    total, free = (1024 * int(_after_colon("/proc/meminfo", key).split()[0]) for key in ("MemTotal", "MemAvailable"))
    return Finding("memory", "ok", f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free")


def _shared_memory() -> Finding:
    if not Path("/dev/shm").is_dir():
        return Finding("/dev/shm", "none", "not there; batches do not use it")
    usage = shutil.disk_usage("/dev/shm")
    return Finding(
        "/dev/shm", "ok", f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free; batches do not use it"
    )


def _disk(what: str, folder: Path) -> Finding:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    said = f"{free / _GIB:.1f} GiB free at {folder}"
    if not os.access(there, os.W_OK):
        return Finding(what, "missing", f"{said}, which cannot be written: choose another folder")
    if free < _LOW_DISK_BYTES:
        return Finding(what, "missing", f"{said}; make room, or see what is needed: make estimate")
    return Finding(what, "ok", said)


def _after_colon(path: str, key: str) -> str:
    """The value of the first `key: value` line of one of Linux's files."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def main(argv: list[str] | None = None) -> int:
    """Print the report."""
    parser = cli.parser("train.doctor", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    cli.say_target("nothing")
    missing = 0
    for finding in examine(load_config(document)):
        print(f"{finding.what:18} {finding.state:8} {finding.said}")
        missing += finding.state == "missing"
    return EXIT_USAGE if missing else EXIT_OK


if __name__ == "__main__":
    cli.run(main)
