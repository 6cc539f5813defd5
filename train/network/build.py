"""Builds the network of the `model` section, for training and every command that loads weights."""

from __future__ import annotations

import mindspore as ms

from model import channels_last, r2plus1d
from pipeline.common.errors import UserError
from train.experiment.sections import Model

NETWORKS = {
    "R2Plus1d18": r2plus1d.r2plus1d_18,
    "R2Plus1d34": r2plus1d.r2plus1d_34,
    "R2Plus1d50": r2plus1d.r2plus1d_50,
    "MMAction2R2Plus1d34": r2plus1d.mmaction2_r2plus1d_34,
    "R3d18": r2plus1d.r3d_18,
    "R3d34": r2plus1d.r3d_34,
    "MC3d18": r2plus1d.mc3_18,
}
"""The networks by `model.type`."""


def build_network(settings: Model) -> r2plus1d.VideoResNet:
    """The network of the `model` section, with new random weights.

    Raises:
        UserError: its type does not allow its strides or its layout.
    """
    layout = settings.layout
    if layout == "auto":
        on_gpu = ms.get_context("device_target") == "GPU"
        layout = "NTHWC" if on_gpu and settings.type.startswith("R2Plus1d") else "NCTHW"
    try:
        network = NETWORKS[settings.type](
            num_classes=settings.classes,
            stage_channels=settings.stage_channels,
            stage_strides=settings.stage_strides,
            midplanes=settings.midplanes,
            bn_eps=settings.bn_eps,
        )
        if layout == "NTHWC":
            channels_last.to_nthwc(network)
    except ValueError as error:
        raise UserError(f"model (type {settings.type}): {error}") from None
    network.freeze(settings.freeze_stages)
    return network
