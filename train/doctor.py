"""Check this machine: what it has, what is missing, and what to do about it.           (make doctor)

    python -m train.doctor -c train/configs/sample.yaml

Prints one line for each thing: `ok`, `none` (not here and not needed), or `missing` with what to do.  Exit code 2 if
anything is missing.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import model
from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, EXIT_USAGE
from pipeline.common.files import existing_folder
from pipeline.shards import libhdf5
from train import GPU_PROBLEM
from train.device import kernel_cache, nvidia
from train.experiment.load import SECTION_CLASSES, load_config
from train.experiment.sections import Config

_COMMON_KEYS = ("device_target", "train.ckpt_path", "preprocess.store")
_GIB = 2**30
_LOW_DISK_BYTES = 5 * _GIB
_PLUGIN_S = 120  # to load MindSpore and its plug-in


@dataclass(frozen=True)
class Finding:
    """One line of the report: a thing, its state, and facts about it or what to do."""

    what: str
    state: Literal["ok", "none", "missing"]
    text: str


def examine(config: Config) -> Iterator[Finding]:
    """Check everything, one finding after the other."""
    yield _versions()
    yield _onednn()
    yield Finding("HDF5", "ok", libhdf5.versions())
    yield _decord()
    yield from _gpu(required=config.device_target == "GPU")
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
    """The version of decord's FFmpeg, read from its libavutil because decord does not report it."""
    version = importlib.metadata.version("decord2")
    libraries = [file for file in importlib.metadata.files("decord2") or () if file.name.startswith("libavutil")]
    if not libraries:
        return Finding(
            "decord",
            "missing",
            f"decord2 {version} has no FFmpeg. Install it again: .venv/bin/pip install --force-reinstall decord2.",
        )
    library = ctypes.CDLL(str(libraries[0].locate()))
    library.av_version_info.restype = ctypes.c_char_p
    return Finding("decord", "ok", f"decord2 {version}, FFmpeg {library.av_version_info().decode()}")


def _gpu(required: bool) -> Iterator[Finding]:
    """The driver, its cards, NVIDIA's libraries, and whether MindSpore can use them.

    Args:
        required: whether the configuration accepts nothing but a GPU.
    """
    driver = None
    try:
        driver = nvidia.Driver()
    except nvidia.GpuError as error:
        if required:
            yield Finding("NVIDIA driver", "missing", f"{error} Or set device_target to auto, which uses the CPU.")
        else:
            yield Finding("NVIDIA driver", "none", f"{error} Until then training runs on the CPU.")
    else:
        yield Finding("NVIDIA driver", "ok", f"{driver.version}, runs CUDA {driver.cuda}")
        for card in driver.cards:
            yield _card(card)
    try:
        nvidia.find_libraries()
    except nvidia.GpuError as error:
        yield Finding("NVIDIA libraries", "missing" if driver or required else "none", str(error))
    else:
        versions = [f"{_short(name)} {importlib.metadata.version(name)}" for name, _, _ in nvidia.LIBRARIES]
        yield Finding("NVIDIA libraries", "ok", ", ".join(versions))
    if driver is not None:
        if GPU_PROBLEM:
            yield Finding("MindSpore on GPU", "missing", GPU_PROBLEM)
        else:
            yield _plugin()
            yield from (_compiled_kernels(card, driver) for card in dict.fromkeys(driver.cards) if _compiles(card))


def _card(card: nvidia.Card) -> Finding:
    major, minor = card.capability
    text = f"{card.name}, {card.memory_bytes / _GIB:.0f} GiB, compute capability {major}.{minor}"
    if kernel_cache.is_too_old(card):
        return Finding("card", "missing", f"{text}. MindSpore has no kernels for it. Use a card of 6.0 or newer.")
    if _compiles(card):
        return Finding("card", "ok", f"{text}, MindSpore's kernels are compiled for it at first use")
    return Finding("card", "ok", f"{text}, MindSpore has kernels for it")


def _compiles(card: nvidia.Card) -> bool:
    return not kernel_cache.has_code_for(card) and not kernel_cache.is_too_old(card)


def _compiled_kernels(card: nvidia.Card, driver: nvidia.Driver) -> Finding:
    """Whether the driver has compiled MindSpore's kernels for a card."""
    cache = kernel_cache.KernelCache.of(card, driver)
    if cache.problem:
        return Finding("compiled kernels", "missing", cache.problem)
    if cache.is_warm:
        return Finding("compiled kernels", "ok", f"warm: {cache.describe()}")
    text = f"cold: {cache.describe()}. The first use compiles once, for several minutes."
    return Finding("compiled kernels", "none", text)


def _plugin() -> Finding:
    """Whether MindSpore's plug-in loads, and with the libraries of NVIDIA's wheels."""
    maps, problem = maps_with_plugin()
    if problem:
        return Finding("MindSpore on GPU", "missing", problem)
    if foreign := nvidia.foreign_libraries(maps, nvidia.find_libraries()):
        return Finding(
            "MindSpore on GPU",
            "missing",
            f"these libraries are not of NVIDIA's wheels: {', '.join(foreign)}. Remove them from LD_PRELOAD and "
            "LD_LIBRARY_PATH, or uninstall the Python package that brings them.",
        )
    return Finding("MindSpore on GPU", "ok", f"{nvidia.PLUGIN}, with NVIDIA's wheels")


# Only loads the plug-in: opening the card could compile for minutes.
_LOAD_PLUGIN = """
import os, sys, train, mindspore
from mindspore._c_expression import MSContext
context = MSContext.get_instance()
if not context.is_pkg_support_device("GPU"):
    sys.exit(context.load_plugin_error())
print(open("/proc/self/maps").read(), flush=True)
os._exit(0)
"""


def maps_with_plugin() -> tuple[str, str]:
    """/proc/self/maps of a process in which MindSpore has loaded its plug-in; and why it could not, else empty."""
    command = [sys.executable, "-c", _LOAD_PLUGIN]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PLUGIN_S)
    except subprocess.TimeoutExpired:
        return "", f"MindSpore did not load its plug-in within {_PLUGIN_S} s. Run `make check-gpu`."
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "libmindspore_gpu" in line] or done.stderr.splitlines()
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        return "", f"MindSpore cannot load its plug-in: {reason}. Run `make check-gpu`."
    return done.stdout, ""


def _short(distribution: str) -> str:
    return distribution.removeprefix("nvidia-").removesuffix("-cu11")


def _processors() -> Finding:
    mine, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    count = f"{mine}" if mine == all_cores else f"this process may use {mine} of {all_cores}"
    return Finding("cores", "ok", f"{count}; {_after_colon('/proc/cpuinfo', 'model name')}")


def _memory() -> Finding:
    total, free = (1024 * int(_after_colon("/proc/meminfo", key).split()[0]) for key in ("MemTotal", "MemAvailable"))
    return Finding("memory", "ok", f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free")


def _shared_memory() -> Finding:
    if not Path("/dev/shm").is_dir():
        return Finding("/dev/shm", "none", "not here; batches do not use it")
    usage = shutil.disk_usage("/dev/shm")
    return Finding(
        "/dev/shm", "ok", f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free; batches do not use it"
    )


def _disk(what: str, folder: Path) -> Finding:
    existing = existing_folder(folder)
    free = shutil.disk_usage(existing).free
    text = f"{free / _GIB:.1f} GiB free at {folder}"
    if not os.access(existing, os.W_OK):
        return Finding(what, "missing", f"{text}, which cannot be written. Choose another folder.")
    if free < _LOW_DISK_BYTES:
        return Finding(what, "missing", f"{text}. Free some space. `make estimate` shows how much is needed.")
    return Finding(what, "ok", text)


def _after_colon(path: str, key: str) -> str:
    """The value of the first `key: value` line of a file in /proc; empty without one."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def main(argv: list[str] | None = None) -> int:
    """Print the report; returns 2 if anything is missing."""
    parser = cli.parser("train.doctor", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    cli.say_target("nothing")
    missing = 0
    for finding in examine(load_config(document)):
        print(f"{finding.what:18} {finding.state:8} {finding.text}")
        missing += finding.state == "missing"
    return EXIT_USAGE if missing else EXIT_OK


if __name__ == "__main__":
    cli.run(main, resumes=False)
