"""Keeps the running statistics of batch norms finite and equal on all devices, after each step of the trainer."""

from __future__ import annotations

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from numpy.typing import NDArray


class RunningStatistics(nn.Cell):
    """Corrects the running means and variances after a step.

    A forward pass writes them before its loss is known to be NaN, and each device writes its own.  So after every step
    values that are not finite get their previous value, and all devices get the mean over devices.  The exchange also
    carries a flag, so that all devices learn in the same step that one of them must stop.

    Args:
        network: has the batch norms.
        world: number of devices that train together.
    """

    def __init__(self, network: nn.Cell, world: int = 1) -> None:
        super().__init__(auto_prefix=False)
        endings = (".moving_mean", ".moving_variance")
        self.statistics = ParameterTuple([p for name, p in network.parameters_and_names() if name.endswith(endings)])
        sizes = [int(np.prod(p.shape)) for p in self.statistics]
        self.bounds = tuple(zip(np.cumsum([0, *sizes[:-1]]).tolist(), np.cumsum(sizes).tolist(), strict=True))
        self.world = world
        self.all_reduce = ops.AllReduce() if world > 1 else nn.Identity()
        self.previous = self._read()

    def settle(self, stop: bool) -> bool:
        """Correct the statistics.

        A single device usually only reads them: the graph has hundreds of small operators (16 ms on two busy cores for
        the sample's network, whose step takes 140; reading takes 0.4).

        Args:
            stop: whether this device must stop.

        Returns:
            Whether any device must stop.
        """
        if self.world == 1:
            now = self._read()
            if np.isfinite(now).all():
                self.previous = now
                return stop
        settled = self(Tensor(np.array([stop], np.float32)), Tensor(self.previous)).asnumpy()
        self.previous = settled[1:]
        return bool(settled[0] > 0)

    def construct(self, stop: Tensor, previous: Tensor) -> Tensor:
        """Exchange and correct: flag (1,) and previous statistics (S,) -> flag and new statistics (1 + S,), float32."""
        flat = ops.cat([parameter.reshape(-1) for parameter in self.statistics])
        both = self.all_reduce(ops.cat([stop, flat])) / self.world
        flat = ops.select(ops.isfinite(both[1:]), both[1:], previous)
        for parameter, (first, end) in zip(self.statistics, self.bounds):  # noqa: B905  the graph compiler's zip
            ops.assign(parameter, flat[first:end])
        return ops.cat([both[:1], flat])

    def _read(self) -> NDArray[np.float32]:
        return np.concatenate([parameter.asnumpy().ravel() for parameter in self.statistics])
