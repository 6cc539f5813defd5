"""Batch-norm statistics that are not finite return to the last good ones, so that evaluation stays possible."""

import mindspore as ms
import numpy as np
from mindspore import nn

from train.loop.running_statistics import RunningStatistics


def test_only_non_finite_statistics_are_restored():
    network = nn.SequentialCell(nn.BatchNorm2d(2), nn.BatchNorm2d(3))
    statistics = RunningStatistics(network)
    values = [np.arange(1, 3), np.arange(3, 5), np.arange(5, 8), np.arange(8, 11)]
    for parameter, value in zip(statistics.statistics, values, strict=True):
        parameter.set_data(ms.Tensor(value, ms.float32))
    assert statistics.settle(False) is False
    assert [p.asnumpy().tolist() for p in statistics.statistics] == [value.tolist() for value in values]
    first = statistics.statistics[0]
    first.set_data(ms.Tensor([np.nan, 7.0], ms.float32))
    assert statistics.settle(True) is True
    assert first.asnumpy().tolist() == [1, 7]
    assert statistics.statistics[3].asnumpy().tolist() == [8, 9, 10]
    first.set_data(ms.Tensor([2.0, 8.0], ms.float32))  # the previous values follow those that are finite
    assert statistics.settle(False) is False
    first.set_data(ms.Tensor([np.inf, np.nan], ms.float32))
    assert statistics.settle(False) is False
    assert first.asnumpy().tolist() == [2, 8]
