"""Several videos share a call of the network, and each has its own row, also if decoding ends early."""

from dataclasses import replace

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
import mindspore as ms
import numpy as np
import pytest
from make_training import write_config
from make_videos import write_mp4

from pipeline.common.errors import MachineError
from pipeline.common.settings import Document
from pipeline.decoding.process import Decoder
from train.experiment.load import load_config
from train.inference import files
from train.inference.drawing import Presentation
from train.inference.files import predict_files
from train.inference.inputs import find_inputs
from train.inference.predict import VideoPredictor, batch_size_of

LEVELS = {"a": 0, "c": 100, "d": 200, "f": 40, "g": 240}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two clips of a video, and six in a batch."""
    config = load_config(Document(write_config(tmp_path_factory.mktemp("batches"))))
    dataset = replace(config.data_loader.eval.dataset, num_clips=2, batch_size=6)
    loader = replace(config.data_loader, eval=replace(config.data_loader.eval, dataset=dataset))
    return replace(config, data_loader=loader, model=replace(config.model, num_classes=2))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Seven files, of which the second and the fifth are bad."""
    folder = tmp_path_factory.mktemp("seven")
    for name, level in LEVELS.items():
        write_mp4(folder / f"{name}.mp4", 20, 30, (32, 40), frames=[np.full((32, 40, 3), level, np.uint8)] * 20)
    for name in "be":
        (folder / f"{name}.mp4").write_bytes(b"x" * 99)
    return find_inputs(str(folder), folder / "out")


class ByBrightness:
    """The stand-in of a network: the brighter, the more of class 1; notes the size of each batch."""

    def __init__(self) -> None:
        self.sizes = []

    def __call__(self, clips: ms.Tensor) -> ms.Tensor:
        self.sizes.append(len(clips))
        level = clips.asnumpy().mean((1, 2, 3, 4)) / 255
        return ms.Tensor(np.stack([0 * level, level], axis=1).astype(np.float32))


def predict(inputs, config, network):
    predictor = VideoPredictor(network, config, len(inputs))
    return predict_files(inputs, predictor, config.preprocess, Presentation(["dark", "bright"], 2, None))


def test_rows_keep_their_order_and_their_scores(config, inputs):
    network = ByBrightness()
    rows = list(predict(inputs, config, network))
    assert [row.path for row in rows] == [str(each.path) for each in inputs] and network.sizes == [6, 6]
    assert [row.status for row in rows] == ["ok", "unreadable", "ok", "ok", "unreadable", "ok", "ok"]
    bright = [dict(row.top)["bright"] for row in rows if row.status == "ok"]
    np.testing.assert_allclose(bright, [1 / (1 + np.exp(-level / 255)) for level in LEVELS.values()], atol=0.01)


def test_what_was_decoded_is_predicted_before_an_error(config, inputs, monkeypatch):
    def decode(decoder, inputs):
        yield from list(whole(decoder, inputs[:2]))
        raise MachineError("the disk is away")

    whole = files.decode_videos
    monkeypatch.setattr(files, "decode_videos", decode)
    rows = predict(inputs, config, ByBrightness())
    assert [next(rows).status, next(rows).status] == ["ok", "unreadable"]
    with pytest.raises(MachineError, match="the disk is away"):
        next(rows)


def test_leaving_early_ends_the_decoder(config, inputs, monkeypatch):
    decoders = []

    class Noted(Decoder):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            decoders.append(self)

    monkeypatch.setattr(files, "Decoder", Noted)
    rows = predict(inputs, config, ByBrightness())
    next(rows)
    children = [each._child for each in decoders]
    rows.close()
    assert len(children) == 1 and children[0] is not None and children[0].poll() is not None


@pytest.mark.parametrize(
    ("num_views", "most", "num_videos", "expected"),
    [(2, 16, 100, 16), (5, 16, 100, 15), (5, 16, 2, 10), (5, 16, 1, 5), (1, 16, 100, 16), (30, 16, 9, 15),
     (30, 4, 1, 4), (10, 3, 1, 3), (16, 16, 3, 16)],
)  # fmt: skip
def test_batches_are_full(num_views, most, num_videos, expected):
    assert batch_size_of(num_views, most, num_videos) == expected
