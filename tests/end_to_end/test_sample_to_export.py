"""All stages on a tiny sample: videos, ledgers, shards, training, evaluation, inference, export."""

import csv
import json
import re
import shutil
from pathlib import Path

import av
import mindspore as ms
import numpy as np
import onnx
import pytest
from paths import CONFIGS
from PIL import Image

from pipeline import manifests, preprocess
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.ledger.table import read_ledger
from pipeline.sample_videos.dataset import make_sample
from train import check, convert, evaluate, infer, train
from train.export import main

CONFIG = CONFIGS / "sample.yaml"
COUNTS = {"train": 16, "val": 6, "test": 3}


PYNATIVE = "--context.mode=1"  # evaluates a few clips in less time than a graph takes to compile


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("road")
    make_sample(made / "data", COUNTS, jobs=1)
    return made


@pytest.fixture(scope="module")
def words(folder) -> list[str]:
    """The configuration: sample.yaml with a very narrow net, all its paths in one folder."""
    overrides = {
        "preprocess.data_root": folder / "data",
        "preprocess.manifests": folder / "manifests",
        "preprocess.store": folder / "store",
        "preprocess.videos_per_shard": 5,
        "preprocess.jobs": 1,
        "preprocess.max_bad_fraction": 0.2,
        "train.ckpt_path": folder / "runs",
        "model.stage_channels": "[4, 4, 4, 4]",
        "train.epochs": 2,
        "train.eval_epochs": 2,
        "train.save_checkpoint_steps": 3,
        "train.log_steps": 1,
        "data_loader.train.dataset.batch_size": 4,
        "data_loader.eval.dataset.batch_size": 4,
        "infer.output_dir": folder / "pictures",
    }
    return ["-c", str(CONFIG), *(f"--{key}={value}" for key, value in overrides.items())]


@pytest.fixture(scope="module")
def store(folder, words) -> Path:
    assert manifests.main(words) == EXIT_OK
    assert preprocess.main(words) == EXIT_OK
    return folder / "store"


@pytest.fixture(scope="module")
def run(folder, words, store) -> Path:
    assert train.main(words) == EXIT_OK
    (made,) = (folder / "runs" / "sample").iterdir()
    return made


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_label_row_has_its_status_in_the_ledger(folder, store):
    for split in COUNTS:
        labels = rows_of(folder / "data" / f"kinetics-sample_{split}.csv")
        table = read_ledger(folder / "manifests" / "kinetics-sample" / f"{split}.csv")
        names = {f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}" for row in labels}
        assert set(table["video_id"]) == names
        statuses = table["status"].value_counts().to_dict()
        assert statuses.pop("ok") == COUNTS[split]
        assert sum(statuses.values()) == len(labels) - COUNTS[split]
        if split == "train":
            assert statuses["missing"] == 1 and statuses["no_video_stream"] == 1
            assert set(table.loc[table["status"] != "ok", "num_frames"]) == {0}


def test_rerun_or_other_work_order_changes_no_byte(words, store, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.glob("*.h5")}
    assert preprocess.main(words) == EXIT_OK
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.glob("*.h5")} == before
    elsewhere = [*words, f"--preprocess.store={tmp_path}", f"--preprocess.manifests={tmp_path}/manifests"]
    assert manifests.main(elsewhere) == EXIT_OK
    elsewhere.append("--preprocess.jobs=2")
    assert preprocess.main(elsewhere) == EXIT_OK
    again = {path.name: path.read_bytes() for path in tmp_path.glob("*.h5")}
    assert again == {path.name: content for path, (content, _) in before.items()}


def test_forgotten_bad_video_is_decoded_again(words, store, folder, capsys):
    path = folder / "manifests" / "kinetics-sample" / "train.csv"
    before = path.read_bytes()
    assert manifests.main([*words, "--forget", "no_video_stream"]) == EXIT_OK
    assert (read_ledger(path)["status"] == "retry").sum() == 1
    capsys.readouterr()
    assert preprocess.main(words) == EXIT_OK
    assert ", 1 of 7 shards written," in capsys.readouterr().out
    assert path.read_bytes() == before  # the file is still bad


def test_a_run_leaves_what_it_should(run):
    for name in (
        "config.yaml",
        "env.json",
        "starts.jsonl",
        "train.log",
        "metrics.jsonl",
        "ckpt/latest.json",
        "ckpt/best.json",
    ):
        assert (run / name).is_file(), name
    assert list(run.glob("events.out.tfevents.*"))
    log = (run / "train.log").read_text()
    line = r"epoch: 1 step: 2, loss is \d+\.\d+, lr [\d.e-]+, [\d.]+ clips/s, data wait [\d.]+ %.*, eta \d\d:\d\d"
    assert re.search(line, log), log
    records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/loss" in record] == list(range(1, 9))
    assert {"epoch", "val/loss", "val/video_top1", "val/video_top5", "val/clip_top1"} <= set(records[-1])
    state = json.loads((run / "ckpt" / "epoch_002-step_000008.json").read_text())
    assert len(state["classes"]) == 8 and state["step"] == 8


@pytest.mark.slow  # of a small network: tests/train/loop/test_trainer.py
def test_training_resumed_mid_epoch_ends_in_same_bits(run, words, folder):
    whole = run / "ckpt" / "epoch_002-step_000008.ckpt"
    expected = {
        name: (run / "ckpt" / name).read_bytes() for name in (whole.name, "epoch_002-step_000008.optimizer.ckpt")
    }
    for name in expected:
        (run / "ckpt" / name).unlink()
    middle = run / "ckpt" / "epoch_001-step_000003.ckpt"
    assert train.main([*words, "--resume", str(middle)]) == EXIT_OK
    for name, content in expected.items():
        assert (run / "ckpt" / name).read_bytes() == content, name


def test_resuming_under_other_settings_is_refused(run, words):
    middle = run / "ckpt" / "epoch_001-step_000003.ckpt"
    with pytest.raises(UserError, match="cannot resume: seed is 0 in the checkpoint and 1 now"):
        train.main([*words, "--train.seed=1", "--resume", str(middle)])


def test_evaluation_scores_every_video_repeatably(run, words, folder, capsys):
    assert evaluate.main([*words, PYNATIVE]) == EXIT_OK
    first = capsys.readouterr()
    assert re.search(r"(?m)^video top-1 \d\.\d{4} top-5 .*\(6 of 6\), \d+ clips", first.out)
    steps = re.compile(
        r"step:\[ +1/ +\d+\], metrics:\['Loss: .*', 'Top_1_Accuracy: .*\], loss:\[.*\], time:.* ms, .* clips/s"
    )
    assert steps.search(first.err)
    (table,) = (run / "eval").glob("*-configured-val/videos.csv")
    rows = rows_of(table)
    val = read_ledger(folder / "manifests" / "kinetics-sample" / "val.csv")
    assert [row["video_id"] for row in rows] == val["video_id"].tolist()
    right = np.mean([row["label"] == row["predicted_1"] for row in rows])
    assert f"video top-1 {right:.4f}" in first.out
    before = table.read_bytes()
    assert evaluate.main([*words, PYNATIVE]) == EXIT_OK
    assert table.read_bytes() == before


def test_three_crops_of_every_clip_make_a_videos_score(run, words, capsys):
    assert evaluate.main([*words, PYNATIVE, "--data_loader.eval.dataset.num_crops=3"]) == EXIT_OK
    assert "(6 of 6), 36 clips" in capsys.readouterr().out


def test_unlabelled_split_is_predicted_but_not_scored(run, words, capsys):
    assert evaluate.main([*words, PYNATIVE, "--data_loader.eval.dataset.split=test"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "has no labels: predictions only" in said and "top-1" not in said
    (table,) = (run / "eval").glob("*-test/videos.csv")
    assert len(rows_of(table)) == COUNTS["test"]


def test_inference_prints_five_classes_and_draws(run, words, folder, capsys):
    video = sorted((folder / "data" / "test").iterdir())[0]
    assert infer.main([*words, PYNATIVE, f"--infer.image_path={video}"]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines[:5]] == ["1.", "2.", "3.", "4.", "5."]
    probabilities = [float(line.split()[-1]) for line in lines[:5]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1.001
    assert lines[5].startswith("looked at: 0.00-") and lines[5].endswith(" s (configured)")
    with Image.open(folder / "pictures" / f"{video.stem}-predicted.gif") as picture:
        assert picture.n_frames > 20
        assert picture.width == 320
    with av.open(str(folder / "pictures" / f"{video.stem}-predicted.mp4")) as pictures:
        assert pictures.streams.video[0].width == 480 and pictures.streams.video[0].frames > 20


def test_infer_gives_the_probabilities_of_eval(run, words, folder, tmp_path, capsys):
    weights, words = best_of(run), [*words, PYNATIVE]
    assert evaluate.main([*words, f"--eval.pretrained_model={weights}", f"--eval.output_dir={tmp_path}"]) == EXIT_OK
    with np.load(next(tmp_path.glob("*-configured-val/scores.npz"))) as scores:
        names = scores["class_names"].tolist()
        expected = dict(zip(scores["video_ids"].tolist(), scores["probabilities"], strict=True))
    words += [f"--infer.pretrained_model={weights}", "--json", "--no-pictures", "--top-k=8"]
    for source in (f"--infer.image_path={folder}/data/val", "--split=val"):
        capsys.readouterr()
        assert infer.main([*words, source]) == EXIT_OK
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {Path(row["path"]).stem for row in rows} == set(expected)
        for row in rows:
            top = {each["label"]: each["probability"] for each in row["top"]}
            probabilities = [top[name] for name in names]
            np.testing.assert_allclose(probabilities, expected[Path(row["path"]).stem], rtol=0, atol=1e-6)


def best_of(run: Path) -> Path:
    return run / "ckpt" / (json.loads((run / "ckpt" / "best.json").read_text())["stem"] + ".ckpt")


def as_safetensors(run: Path, words: list[str], target: Path) -> Path:
    narrow = [word for word in words if word.startswith("--model.")]
    assert convert.main([str(best_of(run)), str(target), "-c", str(CONFIG), *narrow]) == EXIT_OK
    return target


def test_checkpoint_export_and_safetensors_score_alike(run, words, folder, capsys):
    assert main(words) == EXIT_OK
    said = capsys.readouterr().out
    (path,) = (run / "export").glob("*.mindir")
    assert str(path) in said
    facts = json.loads(path.with_name(path.name + ".json").read_text())
    del facts["checksum"]  # without it, other facts would not be refused
    assert len(facts["classes"]) == 8 and facts["input"]["layout"] == "NCTHW"
    assert facts["input"]["shape"] == [1, 3, 8, 56, 56] and facts["clip"]["num_frames"] == 8
    assert facts["normalisation"]["mean"] == [0.43216, 0.394666, 0.37645]
    assert facts["recipe"]["fps"] == 15

    answers = []
    for chosen in (best_of(run), path, as_safetensors(run, words, folder / "best.safetensors")):
        capsys.readouterr()
        assert evaluate.main([*words, PYNATIVE, f"--eval.pretrained_model={chosen}"]) == EXIT_OK
        answers += re.findall(r"video top-1 .*?, clip top-1 .*?(?=, loss )", capsys.readouterr().out)
    assert len(answers) == 3 and answers[0] == answers[1] == answers[2]
    with pytest.raises(UserError, match=r"exported for clip \(T, H, W\) \[8, 56, 56\], but .* \[16, 56, 56\]"):
        evaluate.main([*words, f"--eval.pretrained_model={path}", "--eval.protocols=[one-clip, torchvision-video]"])

    video = sorted((folder / "data" / "test").iterdir())[0]
    assert infer.main([*words, PYNATIVE, f"--infer.image_path={video}", f"--infer.pretrained_model={path}"]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()[:5]
    assert len(lines) == 5 and all(line.split("  ")[0][3:] in facts["classes"] for line in lines)
    assert main([*words, "--export.file_formate=ONNX", "--export.batch_size=dynamic"]) == EXIT_OK
    assert "input [None, 3, 8, 56, 56], reloaded and run: largest difference" in capsys.readouterr().out
    content = onnx.load(str(path.with_suffix(".onnx")))
    described = {**facts, "input": {**facts["input"], "shape": [None, 3, 8, 56, 56]}}
    del described["sha256"]
    assert {entry.key: json.loads(entry.value) for entry in content.metadata_props} == described
    as_onnx = path.with_suffix(".onnx")
    assert evaluate.main([*words, PYNATIVE, f"--eval.pretrained_model={as_onnx}"]) == EXIT_OK
    assert f"\n{answers[0]}, loss " in capsys.readouterr().out
    asked = [f"--infer.image_path={video}", f"--infer.pretrained_model={as_onnx}"]
    assert infer.main([*words, PYNATIVE, *asked]) == EXIT_OK
    predicted = capsys.readouterr().out.splitlines()[:5]
    assert [line.split("  ")[0] for line in predicted] == [line.split("  ")[0] for line in lines]

    message = r"exported for clip \(T, H, W\) \[8, 56, 56\], but the settings give \[4, 56, 56\]"
    with pytest.raises(UserError, match=message):
        evaluate.main([*words, PYNATIVE, f"--eval.pretrained_model={path}", "--data_loader.eval.dataset.seq=4"])
    message = r"exported for model\.type R2Plus1d18, but the settings give R3d18"
    with pytest.raises(UserError, match=message):
        evaluate.main([*words, PYNATIVE, f"--eval.pretrained_model={path}", "--model.type=R3d18"])
    path.with_name(path.name + ".json").write_text(json.dumps({**facts, "model": {}}))
    with pytest.raises(UserError, match=r"mindir\.json: corrupted: KeyError\('type'\)"):
        evaluate.main([*words, PYNATIVE, f"--eval.pretrained_model={path}"])


def test_weights_of_other_classes_are_not_scored(run, words, folder, capsys):
    best, other = best_of(run), folder / "other.ckpt"
    facts = json.loads(best.with_suffix(".json").read_text())
    del facts["checksum"]
    facts["sha256"] = {other.name: facts["sha256"][best.name]}
    facts["classes"], facts["recipe"]["fps"] = [f"not {name}" for name in facts["classes"]], 30.0
    other.write_bytes(best.read_bytes())
    other.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"other\.ckpt: class \d is 'not (.*)' in these weights and '\1' in .*-val@"):
        evaluate.main([*words, f"--eval.pretrained_model={other}"])
    assert "were trained with different preprocessing. fps: 15.0 here, 30.0 there\n" in capsys.readouterr().err


def test_fine_tuning_from_safetensors_learns_head_only(run, words, folder):
    moved = as_safetensors(run, words, folder / "start.safetensors")
    elsewhere = [f"--train.ckpt_path={folder / 'finetuned'}", "--train.epochs=1", "--train.eval_epochs=0"]
    start = ["--train.pre_trained=true", f"--train.pretrained_model={moved}", "--train.head=new"]
    assert train.main([*words, PYNATIVE, *elsewhere, *start, "--model.freeze_stages=5"]) == EXIT_OK
    (tuned,) = (folder / "finetuned").glob("*/*/ckpt/epoch_001-step_000004.ckpt")
    before, after = (ms.load_checkpoint(str(path)) for path in (best_of(run), tuned))
    for name in before:
        same = before[name].asnumpy().tobytes() == after[name].asnumpy().tobytes()
        assert same != name.startswith("fc."), name


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        (manifests, "preprocess.data_root=/nowhere", r"/nowhere"),
        (preprocess, "preprocess.data_root=/nowhere", r"preprocess\.data_root: '/nowhere' is not a folder"),
        (preprocess, "preprocess.fps=30", r"this store has another recipe \(fps: 30\.0 here, 15\.0 there\)"),
        (preprocess, "preprocess.dataset=other", r"no ledgers here\. Run `make manifests`"),
        (manifests, "preprocess.fps=30", r"this store has another recipe \(fps: 30\.0 here, 15\.0 there\)"),
        (train, "preprocess.fps=30", r"made with another recipe"),
        (train, "model.num_classes=4", r"model\.num_classes: got 4, but .* has label_id 7\. Set it to 8"),
        (train, "data_loader.train.dataset.batch_size=999", r"batch_size: got 999, but .* has only 16 clips"),
        (train, "data_loader.train.dataset.split=test", r"got test, which has videos without a label"),
        (train, "train.epoch=3", r"--train\.epoch: unknown key; nearest valid: epochs"),
        (train, "device_target=GPU", r"device_target: got GPU, but CUDA_VISIBLE_DEVICES hides every card"),
        (check, "train.epoch=3", r"--train\.epoch: unknown key; nearest valid: epochs"),
        (check, "device_target=GPU", r"device_target: got GPU, but CUDA_VISIBLE_DEVICES hides every card"),
        (check, "train.pre_trained=true", r"train\.pretrained_model: got '', file not found"),
        (evaluate, "eval.pretrained_model=gone.ckpt", r"gone\.ckpt: checkpoint not found"),
        (infer, "infer.image_path=gone.mp4", r"infer\.image_path: got 'gone\.mp4', which does not exist"),
    ],
)  # fmt: skip
def test_user_mistake_is_one_line_and_changes_nothing(command, override, message, words, store, run, folder):
    def state() -> dict[Path, int]:
        kept = [*store.glob("*.h5"), *folder.glob("manifests/*/*.csv"), *folder.glob("runs/*/*/ckpt/*")]
        return {path: path.stat().st_mtime_ns for path in kept}

    before = state()
    with pytest.raises(UserError, match=message) as caught:
        command.main([*words, f"--{override}"])
    assert caught.value.exit_code == 2
    assert state() == before


def test_what_can_be_had_is_checked_without_a_word(words, run, capsys):
    assert check.main([*words, f"--ckpt={best_of(run)}", "--resume", "auto"]) == EXIT_OK
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"gone\.ckpt: checkpoint not found"):
        check.main([*words, "--ckpt=gone.ckpt"])


def test_network_is_the_one_recorded_with_its_weights(words, run, tmp_path, capsys):
    other = [*(word for word in words if not word.startswith("--model.")), PYNATIVE]
    assert evaluate.main(other) == EXIT_OK
    assert "this configuration has another model.stage_channels" in capsys.readouterr().err
    best = json.loads((run / "ckpt" / "best.json").read_text())["stem"]
    without_record = shutil.copy(run / "ckpt" / f"{best}.ckpt", tmp_path)
    with pytest.raises(UserError, match="does not fit this network"):
        evaluate.main([*other, f"--eval.pretrained_model={without_record}"])
