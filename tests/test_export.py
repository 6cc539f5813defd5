import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from model.r2plus1d import R2Plus1d
from train.export import ExportError, export

SHAPE = (1, 3, 4, 16, 16)


@pytest.fixture(scope="module")
def network():
    ms.set_context(mode=ms.GRAPH_MODE)
    return R2Plus1d(num_classes=3, stage_channels=(4, 4, 4, 4))


def test_the_file_computes_what_the_network_does(network, tmp_path):
    path = tmp_path / "net.mindir"
    assert export(network, SHAPE, path) <= 1e-4
    clips = ms.Tensor(np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32))
    reloaded = nn.GraphCell(ms.load(str(path)))(clips).asnumpy()
    np.testing.assert_allclose(reloaded, network(clips).asnumpy(), rtol=1e-4, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["net.mindir"]


def test_a_file_that_computes_something_else_is_not_written(network, tmp_path, monkeypatch):
    class Wrong(nn.Cell):
        def construct(self, clips):
            return clips.mean((2, 3, 4))

    monkeypatch.setattr("train.export.nn.GraphCell", lambda _graph: Wrong())
    with pytest.raises(ExportError, match="not written: its logits differ"):
        export(network, SHAPE, tmp_path / "net.mindir")
    assert not list(tmp_path.iterdir())
