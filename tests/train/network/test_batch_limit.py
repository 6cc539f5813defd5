"""Batches of tensors that cuDNN cannot take are refused on a GPU, with the largest batch that fits."""

from dataclasses import replace

import pytest
from paths import ROOT

from model.complexity import largest_tensor
from model.r2plus1d import r2plus1d_18, r3d_18
from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from train.experiment.load import load_config
from train.experiment.sections import Config, Model
from train.network import batch_limit
from train.network.build import build_network

THIN = {"stage_channels": (8, 8, 8, 8)}


@pytest.fixture(scope="module")
def network():
    return r2plus1d_18(num_classes=2)


def config_of(**overrides: object) -> Config:
    """The experiment for Kinetics, whose clips are 16x112x112, with some keys changed."""
    words = {f"data_loader.{key}": str(value) for key, value in overrides.items()}
    return load_config(Document(str(ROOT / "train/configs/r2plus1d18.yaml"), words))


def with_batch(batch_size: int, loader: str = "train", **changes: object) -> Config:
    config = replace(config_of(), **changes)
    both = config.data_loader
    options = replace(getattr(both, loader), dataset=replace(getattr(both, loader).dataset, batch_size=batch_size))
    return replace(config, data_loader=replace(both, **{loader: options}))


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(batch_limit.ms, "get_context", lambda _key: "GPU")


def test_largest_tensor_is_the_published_networks(network):
    assert largest_tensor(network) == 144 * 16 * 56 * 56
    assert largest_tensor(network, (8, 112, 112)) == 144 * 8 * 56 * 56
    assert largest_tensor(r3d_18(num_classes=2, **THIN)) == 8 * 16 * 56 * 56


def test_largest_tensor_counts_padding_in_nthwc():
    sizes = {}
    for layout in ("NCTHW", "NTHWC"):
        sizes[layout] = largest_tensor(build_network(Model(layout=layout, num_classes=2, **THIN)), (4, 16, 16))
    assert sizes == {"NCTHW": 18 * 4 * 8 * 8, "NTHWC": 24 * 4 * 8 * 8}  # 18 mid-planes


def test_batch_of_297_fits_and_298_is_refused(network, on_gpu):
    batch_limit.check_batch(network, with_batch(297), "train")
    with pytest.raises(UserError) as caught:
        batch_limit.check_batch(network, with_batch(298), "train")
    assert str(caught.value) == (
        "data_loader.train.dataset.batch_size: got 298, but with clips of 16x112x112 cuDNN takes at most 297: it "
        "computes no tensor of 2**31 elements. Set it to 297 or less. For more clips in a step, raise "
        "data_loader.group_size."
    )


def test_longest_clip_of_the_protocols_counts(network, on_gpu):
    config = with_batch(290, "eval")
    batch_limit.check_batch(network, config, "eval", [8, 16])
    with pytest.raises(UserError, match=r"^data_loader\.eval\..* clips of 32x112x112 cuDNN takes at most 148: "):
        batch_limit.check_batch(network, config, "eval", [8, 32])


def test_other_devices_take_any_batch(network, monkeypatch):
    batch_limit.check_batch(network, with_batch(10_000), "train")
    monkeypatch.setattr(batch_limit.ms, "get_context", lambda _key: "GPU")
    batch_limit.check_batch(network, with_batch(10_000, device_target="CPU"), "train")
