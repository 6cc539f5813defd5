"""The running statistics of batch norms between steps: the same on every device, and never NaN."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops


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
        start = np.concatenate([np.zeros(1, np.float32), *(p.asnumpy().ravel() for p in self.statistics)])
        self.kept = Parameter(Tensor(start), name="kept_statistics", requires_grad=False)
        self.world = world
        self.all_reduce = ops.AllReduce() if world > 1 else nn.Identity()

    def construct(self, stop: Tensor) -> Tensor:
        """Settle the statistics.

        Args:
            stop: (1,) float32, 1 where this device was asked to stop, else 0.

        Returns:
            (1,) float32, more than 0 if any device was.
        """
        flat = ops.cat([stop, *[parameter.reshape(-1) for parameter in self.statistics]])
        flat = self.all_reduce(flat) / self.world
        flat = ops.select(ops.isfinite(flat), flat, self.kept)
        ops.assign(self.kept, flat)
        for parameter, (first, end) in zip(self.statistics, self.bounds):  # noqa: B905  the graph compiler's zip
            ops.assign(parameter, flat[1 + first : 1 + end])
        return flat[:1]
