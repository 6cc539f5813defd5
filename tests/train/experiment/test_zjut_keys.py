"""Each key of zjut_mindvideo's YAML: another value changes the result, or is refused or warned about."""

# `KEYS` has another value for each key, and how its effect is seen: a function of the configuration whose result
# differs, or the words of an error (`Refused`, `Ends`) or of a warning (`Warned`).

import json
import logging
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import yaml
from make_store import make_split, settings_for
from make_training import TinyNetwork
from paths import RESOURCES

from pipeline.common.errors import UserError
from pipeline.common.settings import Document, SettingsError, to_plain
from train import evaluate, export, infer, train
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate
from train.data.timeline import Timeline
from train.data.videos import read_videos
from train.device import select
from train.device.processes import World
from train.experiment.load import load_config
from train.experiment.sections import Config
from train.inference import files
from train.inference.decoded import DecodedVideo
from train.inference.drawing import Drawing
from train.loop import trainer
from train.loop.lr_schedule import learning_rates
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network.build import build_network
from train.network.normalize import Normalize

SEED = RESOURCES / "zjut_r2plus1d18.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("keys")
    for split, num_videos in (("train", 9), ("val", 5), ("test", 4)):
        make_split(settings_for(made), split, num_videos)
    return made


@pytest.fixture
def base(folder) -> dict[str, str]:
    """Overrides with which zjut_mindvideo's settings run on the small store; no key changes its meaning."""
    overrides = {f"preprocess.{key}": typed(value) for key, value in to_plain(settings_for(folder)).items()}
    values = yaml.safe_load(SEED.read_text())
    for split in ("train", "eval"):
        operations = values["data_loader"][split]["map"]["operations"]
        operations[1]["size"], operations[2]["size"] = [16, 20], [12, 12]
        overrides[f"data_loader.{split}.map.operations"] = json.dumps(operations)
        overrides[f"data_loader.{split}.dataset.path"] = ""
    return {
        **overrides, "device_target": "CPU", "context.device_target": "CPU", "context.device_id": "0",
        "model.stage_channels": "[4, 4, 4, 4]", "model.num_classes": "6", "learning_rate.warmup_epochs": "1",
        "learning_rate.steps_per_epoch": "4", "learning_rate.lr_gamma": "null", "learning_rate.t_max": "2",
        "learning_rate.max_epoch": "2", "train.ckpt_path": "runs", "train.epochs": "2", "train.eval_epochs": "0",
        "train.save_checkpoint_epochs": "1", "train.save_checkpoint_steps": "0", "infer.image_path": str(SEED),
        "data_loader.train.dataset.batch_size": "2", "data_loader.train.dataset.seq": "4",
        "data_loader.eval.dataset.seq": "4", "export.image_height": "12", "export.image_width": "12",
    }  # fmt: skip


def typed(value: object) -> str:
    """A value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def with_key(overrides: dict[str, str], key: str, value: object) -> dict[str, str]:
    """The overrides with one key changed; the keys of an operation are in a list."""
    parent, _, rest = key.partition(".operations.")
    if not rest:
        return {**overrides, key: typed(value)}
    name, leaf = rest.split(".")
    operations = json.loads(overrides[f"{parent}.operations"])
    for operation in operations:
        if operation["type"] == name:
            operation[leaf] = value
    return {**overrides, f"{parent}.operations": json.dumps(operations)}


# Functions that show the effect of a key: called with a configuration, and with the words of the command line.


def rates(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    return learning_rates(config.learning_rate, epochs=config.train.epochs, steps_per_epoch=3, clips_per_step=2)


def steps(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    network = TinyNetwork()
    optimizer = make_optimizer(config.optimizer, network, [0.1])
    step = TrainStep(NetworkWithLoss(network, ms.nn.Identity()), optimizer, config.optimizer)
    return float(optimizer.momentum.asnumpy()), float(step.scale.asnumpy())


def weight_decay(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    network = TinyNetwork()
    optimizer = make_optimizer(config.optimizer, network, [0.1])
    network.fc.weight.set_data(ms.ops.ones_like(network.fc.weight))
    optimizer(tuple(ms.ops.zeros_like(parameter) for parameter in optimizer.parameters))
    return float(network.fc.weight.asnumpy().mean())


def network(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    made = build_network(config.model)
    strides = [cell.stride for _, cell in made.cells_and_names() if isinstance(cell, ms.nn.Conv3d)]
    return [(p.name, p.shape) for p in made.get_parameters()], strides


def device(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    """How MindSpore is set up; the calls are recorded and not executed."""
    asked = []
    patch.setattr(select, "_try", lambda *device: asked.append(device) or "")
    patch.setattr(select.ms, "set_context", lambda **options: asked.append(options))
    select.start_device(config)
    return asked


def batches(split: str) -> Callable:
    def observe(config: Config, words: list[str], patch: pytest.MonkeyPatch):
        loader = getattr(config.data_loader, split)
        videos = read_videos(config.preprocess, loader.dataset.split)
        source = ClipBatches(videos, loader, config.preprocess, seed=0, drop_remainder=split == "train")
        walk = iterate(source, epoch=1)
        clips, labels, samples = next(walk)
        threads = sum(thread.name == "batches" for thread in threading.enumerate())
        walk.close()
        return clips.shape, clips.tobytes(), labels.tolist(), samples.tolist(), source.num_batches, threads

    return observe


def normalisation(split: str) -> Callable:
    def observe(config: Config, words: list[str], patch: pytest.MonkeyPatch):
        seen = getattr(config.data_loader, split).transforms(config.preprocess.frame_size)
        cell = Normalize(seen.mean, seen.std)
        return cell.scale.asnumpy().tolist(), cell.shift.asnumpy().tolist()

    return observe


def data_root(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    return config.preprocess.data_root


def checkpoints(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    """The checkpoints of a training whose steps do nothing."""

    class Step:
        def __init__(self, *args, **options):
            self.set_train = self.swap_average = lambda *args: None
            self.state, self.dynamic, self.left_out = dict, False, ms.Tensor(0)

        def __call__(self, clips, *args):
            return ms.Tensor(0.5), ms.Tensor(np.zeros((len(clips), 6), np.float32))

    patch.setattr(trainer, "TrainStep", Step)
    patch.setattr(trainer, "build_network", lambda _settings: TinyNetwork())
    patch.setattr(trainer.RunningStatistics, "settle", lambda _self, asked: asked)
    assert train.main(words) == 0
    found = sorted((path.parts[0], path.name) for path in Path().glob("*/*/*/ckpt/*.ckpt"))
    assert found
    shutil.rmtree(found[0][0])
    return found


def warnings(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    """Calls everything that can warn about a key."""
    device(config, words, patch)
    patch.setattr(trainer, "build_network", lambda _settings: TinyNetwork())
    trainer.Trainer(config, World(), None)


def complaint(command) -> Callable:
    """The error of a command that cannot continue."""

    def observe(config: Config, words: list[str], patch: pytest.MonkeyPatch):
        with pytest.raises(UserError) as caught:
            command.main(words)
        return str(caught.value)

    return observe


def picture(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    frames = np.zeros((20, 16, 20, 3), np.uint8)
    timeline = Timeline(np.array([40]), np.array([30.0]), np.array([20]), np.array([15.0]), np.array([False]))
    video = DecodedVideo(frames, np.arange(20, dtype=np.float32) / 15, 15.0, timeline)
    patch.setattr(files, "decode_videos", lambda *_: iter([video]))
    folders: list[Path] = []
    patch.setattr(Drawing, "draw", lambda self, *_, **__: folders.append(self.folder) or [])
    predict = lambda clips: ms.Tensor(np.zeros((len(clips), 6), np.float32))  # noqa: E731
    patch.setattr(infer, "load_predictor", lambda *_: (predict, {}))
    patch.setattr(infer, "read_record", lambda _path: {})
    assert infer.main([*words, "--infer.pretrained_model=x.ckpt"]) == 0
    return folders


def exported(config: Config, words: list[str], patch: pytest.MonkeyPatch):
    asked = []
    patch.setattr(export, "load_weights", lambda *_: {})
    patch.setattr(export, "read_record", lambda _path: {})
    patch.setattr(export, "export", lambda _net, shape, path, _facts: asked.append((shape, path)) or 0.0)
    patch.setattr(Path, "stat", lambda *_, **__: SimpleNamespace(st_size=0, st_mode=stat.S_IFDIR))
    patch.setattr(export, "weights_of", lambda given, *_: Path(given))  # it would see the files that stat invents
    assert export.main([*words, "--export.pretrained_model=x.ckpt"]) == 0
    return asked


class Refused(str):
    """The configuration is refused with these words."""


class Warned(str):
    """The key is named in this warning."""


class Ends(str):
    """The command ends with this error."""


KEYS: dict[str, tuple[object, object]] = {
    "model_name": ("r(2+1)d_34", Warned("model_name: 'r(2+1)d_34' has no effect; model.type, R2Plus1d18")),
    "device_target": ("GPU", Refused("context.device_target: got CPU, expected device_target, GPU")),
    "dataset_sink_mode": (True, Warned("dataset_sink_mode: has no effect")),
    "context.mode": (1, device),
    "context.device_target": ("GPU", Refused("context.device_target: got GPU, expected device_target, CPU")),
    "context.save_graphs": (True, device),
    "context.device_id": (1, Warned("context.device_id: 1 has no effect on a CPU")),
    "model.type": ("R3d18", network),
    "model.stage_channels": ([4, 4, 4, 8], network),
    "model.stage_strides": ([[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]], network),
    "model.num_classes": (7, network),
    "learning_rate.lr_scheduler": ("constant", rates),
    "learning_rate.lr": (0.5, rates),
    "learning_rate.steps_per_epoch": (999, Warned("learning_rate.steps_per_epoch: 999 has no effect")),
    "learning_rate.lr_gamma": (0.5, Warned("learning_rate.lr_gamma: has no effect with lr_scheduler cosine_annealing")),
    "learning_rate.eta_min": (0.001, rates),
    "learning_rate.t_max": (7, Warned("learning_rate.t_max: 7 has no effect")),
    "learning_rate.max_epoch": (7, Warned("learning_rate.max_epoch: 7 has no effect")),
    "learning_rate.warmup_epochs": (0, rates),
    "optimizer.type": ("Adam", Refused("optimizer.type: got 'Adam', expected Momentum")),
    "optimizer.momentum": (0.5, steps),
    "optimizer.weight_decay": (0.5, weight_decay),
    "optimizer.loss_scale": (8.0, steps),
    "loss.type": ("MSE", Refused("loss.type: got 'MSE', expected SoftmaxCrossEntropyWithLogits")),
    "loss.sparse": (False, Refused("loss.sparse: got False, expected True")),
    "loss.reduction": ("sum", Refused("loss.reduction: got 'sum', expected mean")),
    "train.pre_trained": (True, Ends("train.pretrained_model: got '', file not found")),
    "train.pretrained_model": ("x.ckpt", Warned("train.pretrained_model: has no effect without train.pre_trained")),
    "train.ckpt_path": ("elsewhere", checkpoints),
    "train.epochs": (3, checkpoints),
    "train.save_checkpoint_epochs": (2, checkpoints),
    "train.save_checkpoint_steps": (3, checkpoints),
    "train.keep_checkpoint_max": (1, checkpoints),
    "train.run_distribute": (True, Ends("train.run_distribute: got true, but this process was not started by msrun")),
    "eval.pretrained_model": ("x.ckpt", complaint(evaluate)),
    "infer.pretrained_model": ("x.ckpt", complaint(infer)),
    "infer.batch_size": (2, Warned("infer.batch_size: 2 has no effect")),
    "infer.image_path": ("gone.mp4", complaint(infer)),
    "infer.normalize": (False, Warned("infer.normalize: false has no effect")),
    "infer.output_dir": ("pictures", picture),
    "export.pretrained_model": ("x.ckpt", complaint(export)),
    "export.batch_size": (3, exported),
    "export.image_height": (14, exported),
    "export.image_width": (14, exported),
    "export.input_channel": (1, Refused("export.input_channel: got 1, expected 3")),
    "export.file_name": ("other", exported),
    "export.file_formate": ("ONNX", exported),
    "data_loader.group_size": (2, checkpoints),
}
for _name, _dataset in (("train", ("val", 3)), ("eval", ("test", 2))):
    _loader = f"data_loader.{_name}"
    KEYS |= {
        f"{_loader}.dataset.type": ("UCF101", Refused("dataset.type: got 'UCF101', expected Kinetic400 | Kinetics")),
        f"{_loader}.dataset.path": ("/other", Warned(f"{_loader}.dataset.path: has no effect; preprocess.data_root")),
        f"{_loader}.dataset.split": (_dataset[0], batches(_name)),
        f"{_loader}.dataset.batch_size": (_dataset[1], batches(_name)),
        f"{_loader}.dataset.seq": (3, batches(_name)),
        f"{_loader}.dataset.seq_mode": ("average", batches(_name)),
        f"{_loader}.dataset.num_parallel_workers": (3, batches(_name)),
        f"{_loader}.dataset.shuffle": (_name == "eval", batches(_name)),
        f"{_loader}.map.operations.VideoRescale.shift": (0.5, Refused("VideoRescale: got shift 0.5, expected 0.0")),
        f"{_loader}.map.operations.VideoResize.size": ([8, 8], Refused("VideoResize: got size [8, 8], expected the")),
        f"{_loader}.map.operations.VideoReOrder.order": ([0, 1, 2, 3], Refused("VideoReOrder: got [0, 1, 2, 3]")),
        f"{_loader}.map.operations.VideoNormalize.mean": ([0.5, 0.5, 0.5], normalisation(_name)),
        f"{_loader}.map.operations.VideoNormalize.std": ([0.5, 0.5, 0.5], normalisation(_name)),
        f"{_loader}.map.input_columns": (["clip"], Warned(f"{_loader}.map.input_columns: has no effect")),
    }
KEYS |= {
    "data_loader.train.map.operations.VideoRandomCrop.size": ([10, 10], batches("train")),
    "data_loader.train.map.operations.VideoRandomHorizontalFlip.prob": (1.0, batches("train")),
    "data_loader.eval.map.operations.VideoCenterCrop.size": ([10, 10], batches("eval")),
}


def flattened(values: dict, prefix: str = "") -> set[str]:
    """The keys of a YAML; those of an operation are named by its type."""
    keys: set[str] = set()
    for name, value in values.items():
        if isinstance(value, dict):
            keys |= flattened(value, f"{prefix}{name}.")
        elif name == "operations":
            keys |= {f"{prefix}{name}.{op['type']}.{key}" for op in value for key in op if key != "type"}
        else:
            keys.add(f"{prefix}{name}")
    return keys


def test_no_key_is_left_out():
    assert set(KEYS) == flattened(yaml.safe_load(SEED.read_text()))


@pytest.mark.parametrize("key", KEYS)
def test_the_key_is_heard(key, base, tmp_path, monkeypatch, caplog):
    value, expected = KEYS[key]
    monkeypatch.chdir(tmp_path)

    def seen(overrides: dict[str, str], observe: Callable) -> object:
        words = ["-c", str(SEED), *(f"--{name}={text}" for name, text in overrides.items())]
        caplog.clear()
        with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
            return observe(load_config(Document(SEED, overrides)), words, patch)

    changed = with_key(base, key, value)
    if isinstance(expected, Refused):
        load_config(Document(SEED, base))
        with pytest.raises(SettingsError) as caught:
            load_config(Document(SEED, changed))
        assert expected in str(caught.value)
    elif isinstance(expected, Warned):
        seen(base, warnings)
        assert f"warning: {key.partition('.operations')[0]}" not in caplog.text
        seen(changed, warnings)
        assert f"warning: {expected}" in caplog.text
    elif isinstance(expected, Ends):
        assert expected in seen(changed, complaint(train))
    else:
        assert seen(base, expected) != seen(changed, expected)
