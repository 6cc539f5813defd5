"""Whether what a configuration asks for can be had on this machine."""

from __future__ import annotations

from pathlib import Path

import train
from pipeline.common.errors import UserError
from train.experiment.sections import Config


class DeviceError(UserError):
    """The device asked for cannot be used on this machine."""


def check_request(config: Config) -> None:
    """Refuse what cannot be had.

    Raises:
        DeviceError: a GPU is asked for, and cannot be used here.
        UserError: a file of weights is not there.
    """
    if config.device_target == "GPU" and train.GPU_FAULT:
        raise DeviceError(f"device_target: got GPU, but {train.GPU_FAULT}; or use --device_target=CPU")
    if config.train.pre_trained and not Path(config.train.pretrained_model).is_file():
        raise UserError(f"train.pretrained_model: got {config.train.pretrained_model!r}, which is not there")
