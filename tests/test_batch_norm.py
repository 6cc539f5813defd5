import mindspore as ms
import numpy as np
from mindspore import nn

from train.batch_norm import RunningStatistics


def settle(statistics: RunningStatistics, asked: float) -> float:
    return float(statistics(ms.Tensor(np.array([asked], np.float32))).asnumpy()[0])


def test_statistics_that_are_not_finite_go_back_and_others_stay_as_they_are():
    network = nn.SequentialCell(nn.BatchNorm2d(2), nn.BatchNorm2d(3))
    statistics = RunningStatistics(network)
    values = [np.arange(1, 3), np.arange(3, 5), np.arange(5, 8), np.arange(8, 11)]
    for parameter, value in zip(statistics.statistics, values, strict=True):
        parameter.set_data(ms.Tensor(value, ms.float32))
    assert settle(statistics, 0.0) == 0
    assert [p.asnumpy().tolist() for p in statistics.statistics] == [value.tolist() for value in values]
    first = statistics.statistics[0]
    first.set_data(ms.Tensor([np.nan, 7.0], ms.float32))
    assert settle(statistics, 1.0) == 1
    assert first.asnumpy().tolist() == [1, 7]
    assert statistics.statistics[3].asnumpy().tolist() == [8, 9, 10]
