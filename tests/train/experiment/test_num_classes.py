"""Every command replaces model.num_classes: auto by a number before it builds, and prints where it writes."""

import shutil

import pytest
from make_training import write_config
from paths import RESOURCES

from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from pipeline.ledger.table import read_ledger, write_ledger
from train import evaluate, export, infer, train
from train.data.videos import count_classes
from train.experiment.load import load_config, with_num_classes
from train.network.build import build_network
from train.weights.compatibility import saved_classes
from train.weights.record import read_record

KEPT = RESOURCES / "made_by_24d7eab"
CHECKPOINT = KEPT / "runs/kept/20261126-000000/ckpt/epoch_001-step_000002.ckpt"
AUTO = "--model.num_classes=auto"


class Reached(Exception):
    """The place where a command builds its network."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("classes"))


def classes_in(command, words: list[str], monkeypatch) -> int:
    """The number of classes with which a command builds its network."""

    def stop(config, *_):
        raise Reached(getattr(config, "model", config).classes)

    name = {train: "Trainer", export: "build_network"}.get(command, "load_predictor")
    with monkeypatch.context() as patch:
        patch.setattr(command, name, stop)
        with pytest.raises(Reached) as caught:
            command.main(words)
    return caught.value.args[0]


@pytest.mark.parametrize("command", [train, evaluate, infer, export])
def test_auto_is_counted_in_ledgers_or_weights(command, config, tmp_path, monkeypatch):
    words = ["-c", str(config), AUTO, f"--train.ckpt_path={tmp_path}", f"--infer.image_path={config}"]
    words += [f"--{section}.pretrained_model={CHECKPOINT}" for section in ("eval", "infer", "export")]
    assert classes_in(command, words, monkeypatch) == (3 if command is train else 8)  # others take the checkpoint's


@pytest.mark.parametrize("command", [infer, export])
def test_auto_without_ledgers_is_that_of_the_weights(command, config, tmp_path, monkeypatch):
    words = ["-c", str(config), AUTO, f"--preprocess.manifests={tmp_path}", f"--infer.image_path={config}"]
    words += [f"--{section}.pretrained_model={CHECKPOINT}" for section in ("infer", "export")]
    assert classes_in(command, words, monkeypatch) == 8


@pytest.mark.parametrize("command", [train, evaluate, infer, export])
def test_auto_with_neither_says_what_to_set(command, config, tmp_path, monkeypatch):
    weights = tmp_path / "plain.ckpt"  # without the JSON that names its classes
    shutil.copyfile(CHECKPOINT, weights)
    words = ["-c", str(config), AUTO, f"--preprocess.manifests={tmp_path}", f"--infer.image_path={config}"]
    words += [f"--train.ckpt_path={tmp_path}/runs"]
    words += [f"--{section}.pretrained_model={weights}" for section in ("eval", "infer", "export")]
    with pytest.raises(UserError, match=r"model\.num_classes: got auto, .* give --model\.num_classes=N"):
        command.main(words)


def test_commands_say_where_they_write(config, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "plain.ckpt"
    shutil.copyfile(CHECKPOINT, weights)
    words = ["-c", str(config), f"--train.ckpt_path={tmp_path}/runs", f"--infer.output_dir={tmp_path}/pictures"]
    words += [f"--infer.image_path={config}"]
    for path, base in ((CHECKPOINT, CHECKPOINT.parents[1]), (weights, tmp_path)):
        given = [*words, *(f"--{section}.pretrained_model={path}" for section in ("eval", "infer", "export"))]
        exports = base / "export" if path == CHECKPOINT else base  # next to weights outside a run folder
        expected = {train: f"a run folder in {tmp_path}/runs/tiny", evaluate: f"{base}/eval",
                    infer: f"{tmp_path}/pictures", export: f"{exports}"}  # fmt: skip
        for command, target in expected.items():
            classes_in(command, given, monkeypatch)
            assert f"writes: {target}" in capsys.readouterr().err.splitlines()[:3]


def test_count_is_the_highest_label_of_both_ledgers(config, tmp_path):
    document = {
        "preprocess.manifests": str(tmp_path),
        "preprocess.dataset": "d",
        "data_loader.eval.dataset.split": "test",
    }
    settings = load_config(Document(config, document))
    assert count_classes(settings) is None
    ledger = read_ledger(next(config.parent.glob("manifests/*/train.csv")))
    (tmp_path / "d").mkdir()
    for split, highest in (("train", 1), ("test", 4), ("val", 9)):
        labels = ledger["label_id"].clip(upper=1).to_numpy(copy=True)
        labels[-1] = highest
        names = [f"class {label}" for label in labels]
        write_ledger(tmp_path / "d" / f"{split}.csv", ledger.assign(label_id=labels, label=names, split=split))
        expected = {"train": 2, "test": 5, "val": 5}[split]  # data_loader does not read val here
        assert count_classes(settings) == expected
    unlabelled = ledger.assign(label_id=-1, label="", split="test")
    write_ledger(tmp_path / "d" / "test.csv", unlabelled)
    assert count_classes(settings) == 2
    (tmp_path / "d" / "train.csv").unlink()
    assert count_classes(settings) is None


def test_number_that_is_given_stays(config):
    settings = load_config(Document(config))
    assert with_num_classes(settings, lambda: 7) is settings
    auto = load_config(Document(config, {"model.num_classes": "auto"}))
    assert with_num_classes(auto, lambda: 7).model.num_classes == 7
    with pytest.raises(UserError, match="the ledgers have 1 class, expected at least 2"):
        with_num_classes(auto, lambda: 1)


def test_unresolved_auto_builds_no_network(config):
    auto = load_config(Document(config, {"model.num_classes": "auto"}))
    with pytest.raises(UserError, match=r"model\.num_classes: got auto"):
        build_network(auto.model)


@pytest.mark.parametrize(
    "path", [CHECKPOINT, KEPT / "runs/kept.safetensors", KEPT / "runs/kept/20261126-000000/export/kept.mindir"]
)
def test_classes_are_read_beside_weights_of_any_form(path):
    assert saved_classes(read_record(path)) == 8
