"""Device choice and what MindSpore needs to know before the first graph is compiled."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from typing import Any

import mindspore as ms
import numpy as np

import model
from pipeline.settings import UserError
from train.config import Config

log = logging.getLogger(__name__)


class DeviceError(UserError):
    """The device asked for cannot be used on this machine."""


def start(config: Config) -> str:
    """Choose the device, set MindSpore's context and seed; returns the device's name, CPU, GPU or Ascend.

    Raises:
        DeviceError: `device_target` names a device that MindSpore cannot open here.
    """
    log.info(model.ONEDNN_NOTE)
    target = config.device_target
    if target == "auto":
        target = "GPU" if shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl") else "CPU"
        if target == "GPU" and (fault := _try(target, config.context.device_id)):
            log.warning("warning: an NVIDIA card is here but MindSpore cannot use it (%s); using the CPU", fault)
            target = "CPU"
    if fault := _try(target, config.context.device_id):
        raise DeviceError(
            f"device_target: got {target}, which MindSpore cannot use here ({fault}); try --device_target=CPU"
        )
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


def _try(target: str, device_id: int) -> str:
    """Ask MindSpore for a device; returns why not, in one line, or an empty string."""
    try:
        if target == "CPU" and ms.get_context("device_target") == "CPU":
            return ""  # the wheel's own default; MindSpore takes no choice of a device once anything has run on one
        if target == "CPU":
            ms.set_device("CPU")
        else:
            ms.set_device(target, device_id)
    except (RuntimeError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    return ""
