"""Refuses batches that a GPU cannot take: cuDNN computes no tensor of 2**31 elements or more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import mindspore as ms

from model.complexity import largest_tensor
from model.r2plus1d import VideoResNet
from pipeline.common.errors import UserError
from train.experiment.sections import Config

_CUDNN_ELEMENTS = 2**31
_ADVICE = {
    "train": "For more clips in a step, raise data_loader.group_size.",
    "eval": "This gives the same result.",
}


def check_batch(
    network: VideoResNet, config: Config, loader: Literal["train", "eval"], clip_lengths: Iterable[int] = ()
) -> None:
    """Check the batch size of a loader, if a GPU is used.

    Args:
        network: in the layout that it is used in.
        config: the whole experiment.
        loader: `train` or `eval` of `data_loader`.
        clip_lengths: numbers of frames of the clips; without any: the loader's `seq`.

    Raises:
        UserError: the batch is too large; the message has the largest one that is not.
    """
    # MindSpore's default is the GPU once its plug-in is loaded, so the settings count too.
    if config.device_target == "CPU" or ms.get_context("device_target") != "GPU":
        return
    settings = getattr(config.data_loader, loader)
    longest = max(clip_lengths, default=settings.dataset.seq)
    clip = (longest, *settings.transforms(config.preprocess.frame_size).crop)
    most = (_CUDNN_ELEMENTS - 1) // largest_tensor(network, clip)
    if settings.dataset.batch_size > most:
        raise UserError(
            f"data_loader.{loader}.dataset.batch_size: got {settings.dataset.batch_size}, but with clips of "
            f"{'x'.join(map(str, clip))} cuDNN takes at most {most}: it computes no tensor of 2**31 elements. "
            f"Set it to {most} or less. {_ADVICE[loader]}"
        )
