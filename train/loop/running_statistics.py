"""The running statistics of batch norms between steps: the same on every device, and never NaN."""

from __future__ import annotations

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from numpy.typing import NDArray


class RunningStatistics(nn.Cell):
    """Settles the running means and variances after a step.

    A forward pass writes them before anyone can know that its loss is NaN, and each device from its own clips.  So
    after every step those that are not finite go back to what they were, and devices take their mean; with them
    travels a flag, so that all devices learn in the same step that one was asked to stop.

    Args:
        network: whose batch norms.
        world: devices that train together.
    """

    def __init__(self, network: nn.Cell, world: int = 1) -> None:
        super().__init__(auto_prefix=False)
        endings = (".moving_mean", ".moving_variance")
        self.statistics = ParameterTuple([p for name, p in network.parameters_and_names() if name.endswith(endings)])
        sizes = [int(np.prod(p.shape)) for p in self.statistics]
        self.bounds = tuple(zip(np.cumsum([0, *sizes[:-1]]).tolist(), np.cumsum(sizes).tolist(), strict=True))
        self.world = world
        self.all_reduce = ops.AllReduce() if world > 1 else nn.Identity()
        self.kept = self._read()

    def settle(self, asked: bool) -> bool:
        """Settle the statistics; returns whether any device was asked to stop, as this one was or was not.

        One device alone mostly only looks at them: the graph has hundreds of small operators (16 ms on two busy cores
        for the sample's network, whose step takes 140; looking takes 0.4).
        """
        if self.world == 1:
            now = self._read()
            if np.isfinite(now).all():
                self.kept = now
                return asked
        settled = self(Tensor(np.array([asked], np.float32)), Tensor(self.kept)).asnumpy()
        self.kept = settled[1:]
        return bool(settled[0] > 0)

    def construct(self, asked: Tensor, kept: Tensor) -> Tensor:
        """Exchange and mend: (1,) float32 flag and statistics of before -> flag and statistics, (1 + S,) float32."""
        flat = ops.cat([parameter.reshape(-1) for parameter in self.statistics])
        both = self.all_reduce(ops.cat([asked, flat])) / self.world
        flat = ops.select(ops.isfinite(both[1:]), both[1:], kept)
        for parameter, (first, end) in zip(self.statistics, self.bounds):  # noqa: B905  the graph compiler's zip
            ops.assign(parameter, flat[first:end])
        return ops.cat([both[:1], flat])

    def _read(self) -> NDArray[np.float32]:
        return np.concatenate([parameter.asnumpy().ravel() for parameter in self.statistics])
