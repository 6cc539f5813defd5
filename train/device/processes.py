"""Connects the processes that train together, one for each device; MindSpore's msrun starts them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from train.device.signals import end_with_parent
from train.experiment.sections import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """The processes that train together, one for each device.

    Attributes:
        rank: number of this process, from 0; process 0 logs and saves.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1


def under_msrun() -> bool:
    """Whether MindSpore's msrun started this process as one of several."""
    return "MS_ROLE" in os.environ


def join_world(config: Config) -> World:
    """Connect to the other processes that msrun started; without `train.run_distribute` there is only this one.

    msrun starts its scheduler as one more process of the same command; in that one this function does not return.

    Raises:
        UserError: `train.run_distribute` contradicts how this process was started.
    """
    if config.train.run_distribute != under_msrun():
        raise UserError(
            f"train.run_distribute: got {str(config.train.run_distribute).lower()}, but this process was "
            f"{'' if under_msrun() else 'not '}started by msrun. Run `make train DEVICES=N`, which sets it."
        )
    if not config.train.run_distribute:
        return World()
    end_with_parent()  # msrun gives each process its own session, so they would survive if msrun were killed
    communication.init()
    world = World(communication.get_rank(), communication.get_group_size())
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world.size
    )
    if world.rank:
        logging.getLogger().setLevel(logging.WARNING)
    log.info("process %d of %d", world.rank, world.size)
    return world


_CHUNK = 1 << 18  # words in one exchange


class _AllReduce(nn.Cell):
    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.all_reduce = ops.AllReduce()

    def construct(self, words: Tensor) -> Tensor:
        return self.all_reduce(words)


class Exchange:
    """Adds up arrays over the processes that work together, without rounding.

    Args:
        world: the processes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._all_reduce = _AllReduce() if world.size > 1 else None

    def add_up(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of `values` over all processes; each element is 0 in all of them but one.

        All processes must call it with arrays of one shape.  Halves of 16 bits are exchanged as float32, which holds
        them exactly, so the sum has the bits of the one value.
        """
        if self._all_reduce is None:
            return values
        halves = np.ascontiguousarray(values).reshape(-1).view(np.uint16)
        padded = np.zeros(-(-len(halves) // _CHUNK) * _CHUNK, np.float32)
        padded[: len(halves)] = halves
        for chunk in padded.reshape(-1, _CHUNK):
            chunk[:] = self._all_reduce(Tensor(chunk.copy())).asnumpy()
        return padded[: len(halves)].astype(np.uint16).view(np.float64).reshape(values.shape)

    def any_of(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        flags = np.zeros(self._world.size)
        flags[self._world.rank] = flag
        return bool(self.add_up(flags).any())
