"""Checks, without loading MindSpore, that this machine has the device and the weights a configuration names."""

from __future__ import annotations

from pathlib import Path

import train
from pipeline.common.errors import UserError
from train.experiment.sections import Config


class DeviceError(UserError):
    """The configured device cannot be used on this machine."""


def check_request(config: Config) -> None:
    """Check that the configured device and the pretrained weights are available.

    Raises:
        DeviceError: the device is a GPU, which cannot be used here.
        UserError: the file of pretrained weights is missing.
    """
    if config.device_target == "GPU" and train.GPU_PROBLEM:
        raise DeviceError(f"device_target: got GPU, but {train.GPU_PROBLEM} Or use --device_target=CPU.")
    if (folder := Path(config.train.ckpt_path)).exists() and not folder.is_dir():
        raise UserError(f"train.ckpt_path: {folder} is a file, expected a folder. Set it to another path.")
    if config.train.pre_trained and not Path(config.train.pretrained_model).is_file():
        raise UserError(
            f"train.pretrained_model: got {config.train.pretrained_model!r}, file not found. "
            "Set it to a file of weights, or set train.pre_trained to false."
        )
