"""What training or evaluation would refuse is refused before anything is decoded, and nothing is written."""

import json
import shutil

import pytest
from make_training import write_config
from paths import RESOURCES

from pipeline.common.errors import EXIT_OK, UserError
from pipeline.ledger.table import blank_rows, read_ledger, write_ledger
from train import check
from train.network import batch_limit

RUN = RESOURCES / "made_by_24d7eab" / "runs" / "kept" / "20261126-000000"
CHECKPOINT = RUN / "ckpt" / "epoch_001-step_000002.ckpt"
STRIDES = "--model.stage_strides=[[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]"  # the checkpoint's
NARROW = "--model.stage_channels=[4, 4, 4, 4]"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration, and the ledgers of its 17 training and 4 validation videos."""
    config = write_config(tmp_path_factory.mktemp("check"))
    return config, {path.stem: read_ledger(path) for path in config.parent.glob("manifests/*/*.csv")}


@pytest.fixture
def words(made, tmp_path, monkeypatch):
    """The words of a check whose ledgers wait for `preprocess`."""
    monkeypatch.chdir(tmp_path)
    config, ledgers = made
    for split, ledger in ledgers.items():
        write_split(tmp_path, split, ledger)
    words = ["-c", str(config), f"--preprocess.manifests={tmp_path}/m", f"--train.ckpt_path={tmp_path}/runs", NARROW]
    yield words
    assert not (tmp_path / "runs").exists()


def write_split(folder, split, ledger, status="pending"):
    """Write a ledger whose videos all have this status and are not stored."""
    path = folder / "m" / "tiny" / f"{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    blank = ledger.assign(**blank_rows(len(ledger)))
    write_ledger(path, blank.assign(status=status, path="" if status == "missing" else "a.mp4"))


def refused(words, *more) -> str:
    with pytest.raises(UserError) as caught:
        check.main([*words, "--with-ledgers", *more])
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


def test_what_can_be_trained_passes_silently(words, capsys):
    assert check.main([*words, "--with-ledgers"]) == EXIT_OK
    assert capsys.readouterr() == ("", "")


def test_class_count_is_compared(words):
    assert "model.num_classes: got 2, but tiny-train@" in refused(words, "--model.num_classes=2")
    assert "Set it to 3." in refused(words, "--model.num_classes=2")


def test_missing_validation_names_the_way_without(words, tmp_path):
    (tmp_path / "m" / "tiny" / "val.csv").unlink()
    message = refused(words)
    assert "data_loader.eval.dataset.split: got val, but" in message and "has only a ledger of train." in message
    assert message.endswith("To train without validation, set train.eval_epochs=0.")
    assert check.main([*words, "--with-ledgers", "--train.eval_epochs=0"]) == EXIT_OK
    assert "train.eval_epochs" not in refused(words, "--for=eval", f"--ckpt={CHECKPOINT}", "--model.num_classes=8")


def test_split_without_usable_videos_is_named(words, made, tmp_path):
    write_split(tmp_path, "val", made[1]["val"], "missing")
    message = refused(words)
    assert "val.csv: none of its 4 videos can be used (4 missing)." in message and "eval_epochs=0" in message
    (tmp_path / "m" / "tiny" / "train.csv").unlink()
    assert "data_loader.train.dataset.split: got train, but" in refused(words)


def test_videos_without_labels_are_not_trained(words, made, tmp_path):
    write_split(tmp_path, "train", made[1]["train"].assign(label="", label_id=-1))
    assert "got train, which has videos without a label" in refused(words)


def test_batch_larger_than_the_epoch_is_refused(words):
    key = "--data_loader.train.dataset"
    assert f"{key[2:]}.batch_size: got 18, but tiny-train@" in refused(words, f"{key}.batch_size=18")
    assert "Set it to at most 17." in refused(words, f"{key}.batch_size=18")
    assert check.main([*words, "--with-ledgers", f"{key}.batch_size=18", f"{key}.num_clips=2"]) == EXIT_OK
    assert "got 6 on 3 ranks" in refused(words, f"{key}.batch_size=6", "--devices=3")
    assert "data_loader.group_size: got 9, but an epoch" in refused(words, "--data_loader.group_size=9")


def test_network_and_weights_are_tried(words, tmp_path):
    strides = "--model.stage_strides=[[1,1,1],[2,1,1],[1,1,1],[1,1,1]]"
    assert "stage_strides: got [2, 1, 1] for stage 2" in refused(words, "--model.type=MC3d18", strides)
    start = ["--train.pre_trained=true", f"--train.pretrained_model={CHECKPOINT}", "--model.num_classes=8", STRIDES]
    assert "does not fit this network" in refused(words, *start, "--model.stage_channels=[4, 4, 4, 8]")
    assert "in these weights and" in refused(words, *start)
    assert check.main([*words, "--with-ledgers", *start, "--train.head=new"]) == EXIT_OK


@pytest.mark.parametrize("folder", ["/proc/runs", "/dev/null/runs"])
def test_unwritable_run_folder_is_named(folder, words):
    with pytest.raises(UserError, match=rf"{folder}: cannot be written: .* Set train\.ckpt_path to another folder\."):
        check.main([*words, f"--train.ckpt_path={folder}"])


def test_unwritable_eval_folder_is_named(words, tmp_path, monkeypatch):
    run = shutil.copytree(RUN, tmp_path / "kept")
    monkeypatch.setattr(
        check.tempfile, "TemporaryDirectory", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only"))
    )
    with pytest.raises(UserError, match=r"kept: cannot be written: Read-only\. Give another folder"):
        check.main([*words, "--for=eval", f"--ckpt={run}"])


def test_protocol_of_other_frames_is_refused(words):
    message = refused(words, "--for=eval", f"--ckpt={CHECKPOINT}", "--eval.protocols=[one-clip, vmz-pt]")
    assert "vmz-pt needs stored frames of (128, 174)" in message
    with pytest.raises(UserError, match="nearest valid: torchvision-video"):
        check.main([*words, "--for=eval", "--eval.protocols=[torchvision-vdeo]"])


def test_checkpoint_of_other_classes_is_refused(words, tmp_path):
    assert "in these weights and" in refused(words, "--for=eval", f"--ckpt={CHECKPOINT}")
    for ckpt in ("gone.ckpt", str(tmp_path / "m")):
        with pytest.raises(UserError, match="not found|expected a run folder"):
            check.main([*words, "--for=eval", f"--ckpt={ckpt}"])


def test_checkpoint_of_other_settings_is_not_resumed(words, tmp_path):
    folder = tmp_path / "x" / "ckpt"
    shutil.copytree(RUN / "ckpt", folder)
    path = folder / CHECKPOINT.name
    assert "cannot resume: clips a step" in refused(words, "--resume", str(path))
    state = json.loads(path.with_suffix(".json").read_text())
    state["clips a step (batch_size x group_size x devices)"] = 2
    path.with_suffix(".json").write_text(json.dumps({**state, "epochs": 2}))
    assert "cannot resume: recipe_sha256 is" in refused(words, "--resume", str(path))


def test_no_run_to_score_is_said_before_decoding(words):
    with pytest.raises(UserError, match="no run of dataset tiny has a checkpoint"):
        check.main([*words, "--for=eval"])


@pytest.mark.parametrize("verb", ["features", "infer"])
def test_other_verbs_are_checked_with_their_flags(verb, words, capsys):
    flags = {"features": ["--output-dir=x"], "infer": ["--json", "--top-k", "3", "--no-pictures"]}[verb]
    assert "in these weights and" in refused(words, f"--for={verb}", f"--ckpt={CHECKPOINT}", *flags)
    with pytest.raises(UserError, match="no run of dataset tiny has a checkpoint"):
        check.main([*words, f"--for={verb}", *flags])
    with pytest.raises(SystemExit) as wrong:
        check.main([*words, f"--for={verb}", "--resme"])
    assert wrong.value.code == 2 and "unrecognized argument: --resme" in capsys.readouterr().err


def test_unwritable_picture_folder_is_named(words):
    infer = ["--for=infer", f"--ckpt={RUN}", "--infer.output_dir=/proc/pictures"]
    with pytest.raises(UserError, match="/proc/pictures: cannot be written: .* draw nothing with --no-pictures"):
        check.main([*words, *infer])
    assert check.main([*words, *infer, "--no-pictures"]) == EXIT_OK


@pytest.mark.parametrize(("loader", "action"), [("train", "raise data_loader.group_size."), ("eval", "same result.")])
def test_batch_too_large_for_a_gpu_is_refused(words, monkeypatch, loader, action):
    monkeypatch.setattr(batch_limit.ms, "get_context", lambda _key: "GPU")
    monkeypatch.setattr(batch_limit, "_CUDNN_ELEMENTS", 9 * 4 * 8 * 8 * 3)  # 9 mid-planes
    larger = [f"--data_loader.{loader}.dataset.batch_size=3", "--model.layout=NCTHW"]
    message = refused([*words, *larger], "--device_target=auto")
    assert message.startswith(f"data_loader.{loader}.dataset.batch_size: got 3, but with clips of 4x16x16 cuDNN takes ")
    assert message.endswith(action)
    assert check.main([*words, *larger, "--with-ledgers", "--device_target=CPU"]) == EXIT_OK
