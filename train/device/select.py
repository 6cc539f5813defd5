"""Chooses the device and sets MindSpore's context and seed before the first graph is compiled."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore.device_context.gpu import op_precision, op_tuning

import model
import train
from train.device import kernel_cache, nvidia
from train.device.processes import under_msrun
from train.device.request import DeviceError, check_request
from train.experiment.sections import Config

log = logging.getLogger(__name__)


def start_device(config: Config, *, trains: bool = False) -> str:
    """Choose the device, and set MindSpore's context and seed; returns its name: CPU, GPU or Ascend.

    Args:
        config: the experiment.
        trains: whether the process trains; on a GPU, TF32 is then on, except in `without_tf32`.

    Raises:
        DeviceError: MindSpore cannot open the device of `device_target` here.
        UserError: see `check_request`.
    """
    log.info(model.ONEDNN_NOTE)
    check_request(config)
    # msrun sets DEVICE_ID for its workers, not for its scheduler.
    device_id = int(os.environ.get("DEVICE_ID", 0)) if under_msrun() else config.context.device_id
    target: str = config.device_target
    if target == "auto":
        target = _gpu_or_cpu(device_id)
    elif problem := _try(target, device_id):
        raise DeviceError(
            f"device_target: got {target}, which MindSpore cannot use here. Try --device_target=CPU. Reason: {problem}"
        )
    if target == "GPU":
        choose_convolutions("performance")
        allow_tf32(trains)
        log.info("float32 in convolutions and products: TF32 is %s", "on, in evaluation off" if trains else "off")
        for path in nvidia.foreign_libraries(Path("/proc/self/maps").read_text(), nvidia.find_libraries()):
            log.warning("warning: %s is loaded, which is not of NVIDIA's wheels. `make doctor` shows what to do.", path)
    if config.context.device_id not in (0, device_id) or (config.context.device_id and target == "CPU"):
        log.warning(
            "warning: context.device_id: %d has no effect %s.", config.context.device_id,
            "on a CPU" if target == "CPU" else f"under msrun, which gave this process device {device_id}",
        )  # fmt: skip
    mode = ms.GRAPH_MODE if config.context.mode == 0 else ms.PYNATIVE_MODE
    ms.set_context(mode=mode)
    if config.context.save_graphs:
        ms.set_context(save_graphs=1, save_graphs_path="graphs")
    ms.set_seed(config.train.seed)
    np.random.seed(config.train.seed)  # MindSpore's initialisers use numpy's random numbers
    log.info(
        "device: %s, %s mode, mindspore %s",
        target,
        "graph" if config.context.mode == 0 else "pynative",
        ms.__version__,
    )
    return target


def choose_convolutions(how: Literal["normal", "performance"]) -> None:
    """Set how cuDNN's algorithm for each convolution is chosen; in layout NTHWC with float16 it is always the same.

    Args:
        how: `normal`: by cuDNN's rules; `performance`: by timing each algorithm while a graph is compiled.
    """
    for choose in (op_tuning.conv_fprop_algo, op_tuning.conv_dgrad_algo, op_tuning.conv_wgrad_algo):
        choose(how)


def allow_tf32(allowed: bool) -> None:
    """Set whether a GPU may round the inputs of float32 convolutions and products to TF32 (10 bits of mantissa).

    MindSpore's own choice is on for convolutions, and off for products.
    """
    op_precision.conv_allow_tf32(allowed)
    op_precision.matmul_allow_tf32(allowed)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within it a process that trains computes as one that evaluates: published numbers are those of float32."""
    on_gpu = ms.get_context("device_target") == "GPU"
    if on_gpu:
        allow_tf32(False)
    try:
        yield
    finally:
        if on_gpu:
            allow_tf32(True)


def environment(device: str) -> dict[str, Any]:
    """Facts about this machine, for a run's env.json."""
    driver = _driver() if device == "GPU" else None
    return {
        "device": device,
        "host": socket.gethostname(),
        "cpu": _cpu_name(),
        "gpu": [card.name for card in driver.cards] if driver else [],
        "driver": driver.version if driver else None,
        "python": platform.python_version(),
        "mindspore": ms.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "onednn": model.ONEDNN_NOTE,
    }


def _driver() -> nvidia.Driver | None:
    try:
        return nvidia.Driver()
    except nvidia.GpuError:
        return None


def _cpu_name() -> str | None:
    """The model of this machine's processor; None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _gpu_or_cpu(device_id: int) -> str:
    """The device for `auto`: the GPU if it can be used, else the CPU; warns if there is a card that cannot be used.

    Raises:
        DeviceError: this process was given a card of its own, which cannot be used; or the CPU cannot be used either.
    """
    problem = train.GPU_PROBLEM or _try("GPU", device_id)
    if not problem:
        return "GPU"
    # If some processes used cards and others the CPU, they would wait for each other forever.
    if not train.GPU_PROBLEM and (device_id or under_msrun()):
        raise DeviceError(
            f"device_target: got auto, but card {device_id} cannot be used. Try --device_target=CPU. Reason: {problem}"
        )
    if not train.GPU_PROBLEM or shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl"):
        log.warning("warning: The NVIDIA card cannot be used, so the CPU is used: %s", problem)
    if problem := _try("CPU", 0):  # with its plug-in loaded, MindSpore's default is the GPU
        raise DeviceError(
            f"device_target: got auto, but MindSpore can use neither GPU nor CPU. Run `make doctor`. Reason: {problem}"
        )
    return "CPU"


def _try(target: str, device_id: int) -> str:
    """Set MindSpore's device; returns why that failed, in one line, or an empty string."""
    try:
        if target == "CPU" and ms.get_context("device_target") == "CPU":
            return ""  # already the default; MindSpore refuses set_device once anything has run
        if target == "CPU":
            ms.set_device("CPU")
            return ""
        if target == "GPU":
            return _try_gpu(device_id)
        ms.set_device(target, device_id)
    except nvidia.GpuError as error:
        return str(error)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        # MindSpore lists each plug-in that it could not load, with the missing library.
        plugin = f"Load dynamic library: libmindspore_{target.lower()}."
        return next((line for line in lines if line.startswith(plugin)), lines[0])
    return ""


def _try_gpu(device_id: int) -> str:
    """Set MindSpore's device to a card; if kernels must be compiled for it, compile them.

    Returns:
        Why it cannot be used, in one line; or an empty string.

    Raises:
        GpuError: the driver cannot be asked.
        RuntimeError: MindSpore cannot use the card.
    """
    driver = nvidia.Driver()
    if device_id >= len(driver.cards):
        return f"card number {device_id}, counted from 0, does not exist; the driver shows {len(driver.cards)}"
    card = driver.cards[device_id]
    if kernel_cache.is_too_old(card):
        return f"{card.name}: compute capability {'.'.join(map(str, card.capability))}; MindSpore needs 6.0 or newer"
    if kernel_cache.has_code_for(card):
        ms.set_device("GPU", device_id)
        return ""
    cache, began = kernel_cache.KernelCache.of(card, driver), time.monotonic()
    if not cache.is_warm:
        cache.announce(card)
    ms.set_device("GPU", device_id)
    if not cache.is_warm:
        (ms.Tensor(np.zeros(1, np.float32)) + 1).asnumpy()  # the first operator loads all kernels
        log.info("the kernels are compiled, after %.0f s", time.monotonic() - began)
        cache.set_warm()
    return ""
