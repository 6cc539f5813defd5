"""Our configurations and zjut_mindvideo's load as documented, and every error in them is named."""

import logging

import pytest
from paths import CONFIGS, RESOURCES, SHARED

from pipeline.common.settings import Document, SettingsError
from train.experiment.load import load_config
from train.experiment.sections import Config
from train.experiment.transforms import Operation

OPERATIONS = "data_loader.train.map.operations"
CROP = "{type: VideoRandomCrop, size: [8, 8]}"
RESCALE, REORDER = "{type: VideoRescale, shift: 0}", "{type: VideoReOrder, order: [3, 0, 1, 2]}"
NORMALIZE = "{type: VideoNormalize, mean: [0, 0, 0], std: [1, 1, 1]}"
SEED_README = SHARED / "seed" / "r2plus1d_README.md"


def test_zjut_mindvideos_file_loads_and_acts(caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config(Document(RESOURCES / "zjut_r2plus1d18.yaml"))
    assert config.model.stage_channels == (64, 128, 256, 512)
    assert config.preprocess.data_root == "/home/publicfile/kinetics-400"
    assert config.data_loader.eval.dataset.seq == 64
    assert config.device_target == "GPU"
    # There is a warning for each key without effect.
    assert "learning_rate.lr_gamma" in caplog.text


def test_torchvisions_recipe_is_the_published_one():
    config = load_config(Document(CONFIGS / "torchvision.yaml"))
    train, rate, optimizer, stored = config.data_loader.train, config.learning_rate, config.optimizer, config.preprocess
    assert (stored.fps, stored.height, stored.width, stored.interpolation) == (15, 128, 171, "bilinear")
    clips = train.dataset
    assert (clips.seq, clips.seq_mode, clips.frame_interval, clips.num_clips) == (16, "random", 1, 5)
    seen = train.transforms(stored.frame_size)
    assert (seen.cut, seen.crop, seen.flip_probability) == ("random", (112, 112), 0.5)
    assert (rate.lr, rate.lr_batch_size, rate.warmup_epochs, rate.warmup_start) == (0.01, 24, 10, 0.001)
    assert (rate.lr_scheduler, rate.lr_epochs, rate.lr_gamma) == ("multi_step", (20, 30, 40), 0.1)
    assert (config.train.epochs, optimizer.momentum, optimizer.weight_decay) == (45, 0.9, 1e-4)
    tested = config.data_loader.eval.dataset
    assert (tested.seq, tested.num_crops) == (16, 1)
    assert config.eval.protocols == ("torchvision-video", "torchvision-clip")


@pytest.mark.skipif(not SEED_README.is_file(), reason="../shared/seed is not here")
def test_zjut_mindvideos_readme_example_loads(tmp_path):
    text = SEED_README.read_text(encoding="utf-8").split("```text\n# model architecture")[1].split("\n```")[0]
    path = tmp_path / "r2plus1d18.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(Document(path)) == load_config(Document(RESOURCES / "zjut_r2plus1d18.yaml"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_our_files_load_without_a_warning(path, caplog):
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_config(Document(path)), Config)
    assert not caplog.records


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.seed": "4294967296"}, r"train\.seed: .*expected whole number at least 0 and at most 4294967295"),
        ({"train.epochs": "9" * 20}, r"expected whole number at least 1 and at most 100000"),
        ({"export.file_name": "../x"}, r"file_name: got '\.\./x', expected a name of at most"),
        ({"train.epoch": "3"}, r"--train\.epoch: unknown key; nearest valid: epochs"),
        ({"model.num_classes": "1"}, r"--model\.num_classes: got 1, expected whole number at least 2"),
        ({"model.stage_channels": "[1, 2]"}, r"model\.stage_channels: got \[1, 2\]"),
        ({"context.device_target": "CPU"}, r"context\.device_target: got CPU, expected device_target, GPU"),
        ({"device_target": "TPU"}, r"--device_target: got 'TPU', expected auto \| CPU \| GPU \| Ascend"),
        ({"data_loader.train.dataset.seq_mode": "averge"}, r"nearest valid: average"),
        ({"data_loader.train.dataset.num_crops": "3"}, r"got 3, expected 1; 3 is only for data_loader\.eval"),
        ({"data_loader.eval.dataset.num_crops": "2"}, r"num_crops: got 2, expected 1 \| 3"),
        ({"preprocess.height": "64"}, r"VideoResize: got size \[128, 171\], expected the stored size \[64, 171\]"),
        ({"learning_rate.lr_scheduler": "exponential"}, r"got 'exponential', expected cosine_annealing \| step \| m"),
        ({"learning_rate.lr_scheduler": "multi_step"}, r"got multi_step, expected lr_epochs and lr_gamma with it"),
        ({"learning_rate.lr_scheduler": "step", "learning_rate.lr_epochs": "[1, 2]"}, r"\[1, 2\], expected one number"),
        ({"learning_rate.lr_scheduler": "multi_step", "learning_rate.lr_epochs": "[2, 1]"}, r"expected rising numbers"),
        ({"learning_rate.eta_min": "0.5"}, r"--learning_rate\.eta_min: got 0\.5, expected at most lr, 0\.012"),
        ({"optimizer.loss_scale": "dynamc"}, r"got 'dynamc', expected .* \| dynamic; nearest valid: dynamic"),
        ({"train.amp_level": "O1"}, r"got 'O1', expected O0 \| O2 \| O3"),
        ({OPERATIONS: f"[{CROP}, {{type: VideoResize, size: [128, 171]}}]"}, r"got VideoResize after VideoRandomCrop"),
        ({OPERATIONS: f"[{NORMALIZE}, {{type: VideoRescale, shift: 0.0}}]"}, r"got VideoRescale after VideoNormalize"),
        ({"data_loader.eval.map.operations": f"[{CROP}, {RESCALE}, {REORDER}, {NORMALIZE}]"}, r"scores random"),
        ({"data_loader.eval.map.operations": f"[{RESCALE}, {REORDER}]"}, r"\.eval\.map: .* VideoNormalize is missing"),
        ({"data_loader.eval.map.operations": "[]"}, r"data_loader\.eval\.map: operations: VideoRescale is missing"),
        ({OPERATIONS: "[{type: VideoRandomCrop, size: [8, 999]}]"}, r"\[8, 999\], expected at most the stored"),
        ({OPERATIONS: "[{type: VideoReOrder}]"}, r"VideoReOrder: got the keys \[\], expected \['order'\]"),
        ({OPERATIONS: "[{type: VideoReOrder, order: [0, 1, 2, 3]}]"}, r"expected \[3, 0, 1, 2\]"),
        ({OPERATIONS: "[{type: VideoCrop, size: [8, 8]}]"}, r"got 'VideoCrop', expected"),
    ],
)  # fmt: skip
def test_errors_are_named(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_config(Document(RESOURCES / "zjut_r2plus1d18.yaml", overrides))


def test_all_errors_of_all_sections_come_at_once():
    overrides = {"preprocess.fps": "-1", "train.epochs": "0", "data_loader.eval.dataset.sq": "1"}
    with pytest.raises(SettingsError) as caught:
        load_config(Document(RESOURCES / "zjut_r2plus1d18.yaml", overrides))
    assert {line.split(":")[0] for line in str(caught.value).splitlines()} == {f"--{key}" for key in overrides}


@pytest.mark.parametrize("text", ["train: {epochs: 3}", "data_loader:", "data_loader:\n  train:\n    map:\n  eval:\n"])
def test_file_without_loaders_gets_standard_ones(tmp_path, text):
    path = tmp_path / "short.yaml"
    path.write_text(text)
    document = Document(path, {"preprocess.height": "120", "data_loader.eval.dataset.num_clips": "3"})
    loaders = load_config(document).data_loader
    printed = load_config(
        Document(RESOURCES / "zjut_r2plus1d18.yaml")
    ).data_loader  # except for the size of a stored frame
    for name in ("train", "eval"):
        operations = getattr(loaders, name).map.operations
        assert operations[1] == Operation("VideoResize", size=(120, 171))
        expected = getattr(printed, name).map.operations
        assert [each for each in operations if each.size != (120, 171)] == [e for e in expected if e.size != (128, 171)]
    dataset = loaders.eval.dataset
    assert (dataset.split, dataset.shuffle, dataset.seq_mode, dataset.num_clips) == ("val", False, "uniform", 3)
    assert (loaders.train.dataset.split, loaders.train.dataset.shuffle) == ("train", True)


def test_standard_crop_larger_than_frames_is_refused(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("preprocess: {height: 64, width: 86}")
    with pytest.raises(SettingsError, match=r"data_loader\.train\.map: VideoRandomCrop: got size \[112, 112\]"):
        load_config(Document(path))


def test_zjut_path_becomes_an_expanded_data_root(tmp_path, monkeypatch):
    path = tmp_path / "short.yaml"
    path.write_text(
        "data_loader:\n  train:\n    dataset:\n      path: $VIDEOS/k400\n  eval: {dataset: {path: $VIDEOS/k400}}\n"
    )
    monkeypatch.setenv("VIDEOS", "/v")
    config = load_config(Document(path))
    assert config.preprocess.data_root == config.data_loader.train.dataset.path == "/v/k400"
    monkeypatch.delenv("VIDEOS")
    with pytest.raises(SettingsError, match=r"short\.yaml:4: preprocess\.data_root: .* variable VIDEOS is not set"):
        load_config(Document(path))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"learning_rate.t_max": "7"}, "learning_rate.t_max: 7 has no effect"),
        ({"learning_rate.max_epoch": "7"}, "learning_rate.max_epoch: 7 has no effect"),
        ({"train.epochs": "2", "learning_rate.warmup_epochs": "3"}, "warmup_epochs: 3 is more than train.epochs, 2;"),
        (
            {
                "learning_rate.lr_scheduler": "multi_step",
                "learning_rate.lr_gamma": "0.1",
                "learning_rate.lr_epochs": "[3, 4, 9]",
                "train.epochs": "4",
            },
            "learning_rate.lr_epochs: the rate never falls at epoch 4, 9, because training ends after 4 epochs",
        ),
        (
            {"learning_rate.lr_epochs": "[7]"},
            "learning_rate.lr_epochs: has no effect with lr_scheduler cosine",
        ),
        ({"learning_rate.warmup_start": "0.1", "learning_rate.warmup_epochs": "0"}, "learning_rate.warmup_start"),
        ({"train.pretrained_model": "x.ckpt"}, "train.pretrained_model: has no effect without train.pre_trained"),
        ({"preprocess.data_root": "/elsewhere"}, "data_loader.eval.dataset.path: has no effect; preprocess.data_root"),
        ({"dataset_sink_mode": "true"}, "dataset_sink_mode"),
        ({"infer.normalize": "false"}, "infer.normalize"),
        ({"infer.batch_size": "2"}, "infer.batch_size"),
        (
            {"preprocess.dataset": "mine"},
            "data_loader.train.dataset.type: Kinetic400 has no effect; preprocess.dataset",
        ),
        ({"data_loader.eval.dataset.frame_interval": "2"}, "eval.dataset.frame_interval: has no effect with seq_mode"),
        ({"data_loader.eval.dataset.shuffle_shards": "2"}, "eval.dataset.shuffle_shards: has no effect without"),
        ({"data_loader.eval.map.input_columns": "[clip]"}, "data_loader.eval.map.input_columns"),
    ],
)
def test_keys_without_effect_are_named(overrides, named, caplog):
    with caplog.at_level(logging.WARNING):
        load_config(Document(RESOURCES / "zjut_r2plus1d18.yaml", overrides))
    assert named in caplog.text
