"""Device choice, the other devices, and what MindSpore needs to know before the first graph is compiled."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore.device_context.gpu import op_tuning

import model
import train
from train.device import nvidia
from train.device.processes import under_msrun
from train.device.request import DeviceError, check_request
from train.experiment.sections import Config

log = logging.getLogger(__name__)


def start_device(config: Config) -> str:
    """Choose the device, set MindSpore's context and seed; returns the device's name, CPU, GPU or Ascend.

    Raises:
        DeviceError: `device_target` names a device that MindSpore cannot open here.
        UserError: as `check_request`.
    """
    log.info(model.ONEDNN_NOTE)
    check_request(config)
    # msrun numbers the devices of its workers; its scheduler has none.
    device_id = int(os.environ.get("DEVICE_ID", 0)) if under_msrun() else config.context.device_id
    target: str = config.device_target
    if target == "auto":
        target = _gpu_or_cpu(device_id)
    elif fault := _try(target, device_id):
        raise DeviceError(
            f"device_target: got {target}, which MindSpore cannot use here ({fault}); try --device_target=CPU"
        )
    if target == "GPU":
        choose_convolutions("performance")
    if config.context.device_id not in (0, device_id) or (config.context.device_id and target == "CPU"):
        log.warning(
            "warning: context.device_id: %d has no effect %s", config.context.device_id,
            "on a CPU" if target == "CPU" else f"under msrun, which gave this process device {device_id}",
        )  # fmt: skip
    mode = ms.GRAPH_MODE if config.context.mode == 0 else ms.PYNATIVE_MODE
    ms.set_context(mode=mode)
    if config.context.save_graphs:
        ms.set_context(save_graphs=1, save_graphs_path="graphs")
    ms.set_seed(config.train.seed)
    np.random.seed(config.train.seed)  # MindSpore's initialisers draw from it
    log.info(
        "device: %s, %s mode, mindspore %s",
        target,
        "graph" if config.context.mode == 0 else "pynative",
        ms.__version__,
    )
    return target


def choose_convolutions(how: Literal["normal", "performance"]) -> None:
    """Which of cuDNN's algorithms a GPU's convolutions take; those of NTHWC in float16 are always the same.

    Args:
        how: `normal` by cuDNN's rules; `performance` by timing each, while a graph is compiled.
    """
    for choose in (op_tuning.conv_fprop_algo, op_tuning.conv_dgrad_algo, op_tuning.conv_wgrad_algo):
        choose(how)


def environment(device: str) -> dict[str, Any]:
    """What a run should remember of its machine, for env.json."""
    return {
        "device": device,
        "python": platform.python_version(),
        "mindspore": ms.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "onednn": model.ONEDNN_NOTE,
    }


def _gpu_or_cpu(device_id: int) -> str:
    """What `auto` is here: the GPU if it can be used; where a card is and cannot, a warning says why."""
    fault = train.GPU_FAULT or _try("GPU", device_id)
    if not fault:
        return "GPU"
    if not train.GPU_FAULT and (device_id or under_msrun()):  # some processes on cards and some not would never meet
        raise DeviceError(f"device_target: got auto, but its card cannot be used ({fault}); try --device_target=CPU")
    if not train.GPU_FAULT or shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl"):
        log.warning("warning: an NVIDIA card is here but cannot be used: %s; using the CPU", fault)
    if fault := _try("CPU", 0):  # with its plug-in loaded, MindSpore's own default is the GPU
        raise DeviceError(f"device_target: got auto, but MindSpore can use neither GPU nor CPU here ({fault})")
    return "CPU"


def _try(target: str, device_id: int) -> str:
    """Ask MindSpore for a device; returns why not, in one line, or an empty string."""
    try:
        if target == "CPU" and ms.get_context("device_target") == "CPU":
            return ""  # the wheel's own default; MindSpore takes no choice of a device once anything has run on one
        if target == "CPU":
            ms.set_device("CPU")
            return ""
        if target == "GPU" and device_id >= (num_cards := len(nvidia.Driver().cards)):
            return f"card number {device_id} is asked for, counted from 0; the driver shows {num_cards}"
        ms.set_device(target, device_id)
    except nvidia.GpuError as error:
        return str(error)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        # MindSpore lists what it could not load, each plug-in with the library that was missing.
        plugin = f"Load dynamic library: libmindspore_{target.lower()}."
        return next((line for line in lines if line.startswith(plugin)), lines[0])
    return ""
