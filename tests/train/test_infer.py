"""`infer` decodes as preprocessing does, in a process of its own; a bad video is a row and stops nothing."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from make_videos import write_mp4
from paths import HELPERS

import train as _train  # noqa: F401  before mindspore

# isort: split
import mindspore as ms
from make_store import LABELS
from make_training import NUM_VAL, write_config

from pipeline.common.errors import EXIT_IO, EXIT_OK, EXIT_TOO_MANY_BAD, MachineError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.common.settings import Document
from pipeline.decoding.process import Decoder, DecodeResult
from pipeline.execution.plan import PlannedVideo, Task
from pipeline.execution.write_shard import write_shard
from pipeline.ledger.table import ledger_path, read_columns
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import Store
from train import infer
from train.experiment.load import load_config
from train.inference import drawing, files
from train.inference.decoded import DecodedVideo, decode_videos
from train.inference.inputs import Input
from train.inference.stored import with_true_labels

SETTINGS = Preprocess(height=16, width=20, video_timeout_s=0.6)


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_pixels_are_those_of_a_shard(tmp_path, codec):
    settings = replace(SETTINGS, codec=codec, data_root=str(tmp_path), video_timeout_s=60.0)
    path = write_mp4(tmp_path / "a.mp4", 30, 30)
    task = Task(tmp_path / "train-00000-of-00001.h5", "train", (PlannedVideo("a", "a.mp4"),))
    with Decoder(settings) as decoder:
        write_shard(task, settings, Store(tmp_path), decoder, lambda _outcome: None)
    with Decoder(replace(settings, data_root="")) as decoder:
        (video,) = decode_videos(decoder, [Input(path)])
    assert isinstance(video, DecodedVideo) and video.fps == 15.0
    assert [values.tolist() for values in video.timeline] == [[30], [30.0], [15], [15.0], [False]]
    reader = ShardReader(task.path)
    np.testing.assert_array_equal(video.frames, reader.frames(0))
    np.testing.assert_array_equal(video.times_s, reader.times_s(0))


def test_hostile_video_is_a_result_and_no_crash(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *filter(None, sys.path)]))
    names = ("sleep-1", "memory-1", "unread-1", "good-1")
    with Decoder(SETTINGS, worker="hostile_worker") as decoder:
        *bad, good = decode_videos(decoder, [Input(Path(f"{name}.mp4")) for name in names])
        assert [(result.status, result.reason) for result in bad] == [
            ("timeout", "not decoded within 0.6 s"),
            ("crash", "needs more than 4 GiB of memory"),
            ("retry", "could not be read: Input/output error"),
        ]
        assert isinstance(good, DecodedVideo)
        with pytest.raises(MachineError, match="5 videos in a row could not be read") as caught:
            list(decode_videos(decoder, [Input(Path(f"unread-{number}.mp4")) for number in range(9)]))
    assert caught.value.exit_code == EXIT_IO


def by_colour(clips: ms.Tensor) -> ms.Tensor:
    """The stand-in of a network: logits are the mean of red, green and blue."""
    return ms.Tensor(clips.asnumpy().mean((1, 2, 3)).astype(np.float32) / 32)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("infer"))


@pytest.fixture
def words(config, tmp_path, monkeypatch):
    """A command line whose network is a stand-in, and whose pictures are their names."""

    def write(stem: Path, source, prediction, *, span, max_seconds, gif_from_s) -> list[Path]:
        shape = "" if isinstance(source, Path) else f" {source.source_size}"
        stem.with_name(f"{stem.name}.gif").write_text(f"{prediction.top[0][0]} {span}{shape}")
        return [stem.with_name(f"{stem.name}.gif")]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(infer, "weights_of", lambda *_: Path("w.ckpt"))
    monkeypatch.setattr(infer, "read_record", lambda _path: {})
    monkeypatch.setattr(infer, "load_predictor", lambda *_: (by_colour, {"classes": LABELS}))
    monkeypatch.setattr(drawing, "write_pictures", write)
    return ["-c", str(config), "--infer.output_dir=out"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Good and bad videos, two of one name."""
    folder = tmp_path_factory.mktemp("videos")
    for name, channel in (("x/1.mp4", 0), ("y/1.mp4", 2)):
        picture = np.zeros((32, 40, 3), np.uint8)
        picture[..., channel] = 200
        write_mp4(folder / name, 40, 30, (32, 40), frames=[picture] * 40)
    write_mp4(folder / "one frame.mp4", 1, 30, (32, 40))
    write_mp4(folder / "portrait.mp4", 20, 30, (64, 32))
    write_mp4(folder / "alpha.webm", 20, 30, (32, 40), "vp9", pix_fmt="yuva420p")
    with av.open(str(folder / "no frame.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 40, "yuv420p"
        output.start_encoding()
    write_mp4(folder / "sound.mp4", audio_only=True)
    (folder / "noise.mp4").write_bytes(b"\x00\x01" * 500)
    (folder / "empty.mp4").touch()
    (folder / "link.mp4").symlink_to("nowhere")
    return folder


BAD = {"no frame.mp4", "sound.mp4", "noise.mp4", "empty.mp4", "link.mp4"}


def test_bad_videos_are_rows_and_the_rest_goes_on(words, videos, capsys):
    words += [f"--infer.image_path={videos}", "--json", "--csv=all.csv", "--top-k=2"]
    assert infer.main(words) == EXIT_TOO_MANY_BAD
    captured = capsys.readouterr()
    rows = {os.path.relpath(row["path"], videos): row for row in map(json.loads, captured.out.splitlines())}
    assert {name for name, row in rows.items() if row["status"] != "ok"} == BAD and len(rows) == 10
    for name in BAD:
        assert rows[name]["reason"] and captured.err.count(f"{name}: {rows[name]['status']}: ") == 1
    assert "error: 5 of 10 videos are bad, more than preprocess.max_bad_fraction 0.05 allows." in captured.err
    assert [rows[f"{folder}/1.mp4"]["top"][0]["label"] for folder in "xy"] == [LABELS[0], LABELS[2]]
    assert Path("out/x/1-predicted.gif").read_text() == f"{LABELS[0]} None"
    assert Path("out/y/1-predicted.gif").read_text() == f"{LABELS[2]} None"
    assert rows["one frame.mp4"]["frames_repeat"] and not rows["x/1.mp4"]["frames_repeat"]
    assert all(len(row["top"]) == 2 for row in rows.values() if row["status"] == "ok")
    assert len(Path("all.csv").read_text().splitlines()) == 11
    words += ["--preprocess.max_bad_fraction=0.5", "--no-pictures", "--top-k=999"]
    assert infer.main(words) == EXIT_OK
    assert Path("all.csv").read_text().splitlines()[0].count("probability_") == len(LABELS), (
        "no class that is not there"
    )


def test_times_looked_at_are_printed(words, videos, capsys):
    assert infer.main([*words, f"--infer.image_path={videos}/x/1.mp4"]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"1. {LABELS[0]}  ") and lines[3] == "looked at: 0.00-0.27 s (configured)"
    assert infer.main([*words, f"--infer.image_path={videos}/one frame.mp4"]) == EXIT_OK
    assert "The video is shorter than a clip, so its frames repeat." in capsys.readouterr().out


@pytest.mark.parametrize(("known", "label"), [(["u", "v", "w"], "u"), (LABELS, LABELS[0])])
def test_weights_without_names_meet_a_list_aloud(known, label, words, videos, capsys, monkeypatch):
    facts = {} if known != LABELS else {"classes": LABELS}
    monkeypatch.setattr(infer, "load_predictor", lambda *_: (by_colour, facts))
    monkeypatch.setattr(infer, "frozen_classes", lambda _: (["u", "v", "w"], Path("classes.csv")))
    assert infer.main([*words, f"--infer.image_path={videos}/x/1.mp4", "--no-pictures"]) == EXIT_OK
    shown = capsys.readouterr()
    assert shown.out.startswith(f"1. {label}  ")
    assert ("These weights do not name their classes" in shown.err) == (not facts)


def test_window_slides_over_files_too(words, videos, capsys, monkeypatch):
    monkeypatch.setattr(drawing, "write_timeline", lambda path, *_: path.touch())
    words += [f"--infer.image_path={videos}/?/1.mp4", "--window=0.4", "--json", "--picture-seconds=1"]
    assert infer.main(words) == EXIT_OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[part["label"] for part in row["segments"]] for row in rows] == [[LABELS[0]], [LABELS[2]]]
    assert rows[0]["segments"][0]["end_s"] == pytest.approx(4 / 3, abs=1e-3) and len(rows[0]["times_s"]) == 4
    assert Path("out/x/1-predicted-timeline.png").exists()
    assert Path("out/y/1-predicted.gif").read_text().startswith(f"{LABELS[2]} (")  # a part of it


def test_split_predicts_the_stored_videos(words, capsys):
    assert infer.main([*words, "--split=val", "--json"]) == EXIT_OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == NUM_VAL and {row["true_label"] for row in rows} <= set(LABELS)
    assert all(Path(row["pictures"][0]).parent == Path("out/val") for row in rows)
    assert all(Path(row["pictures"][0]).read_text().endswith(" (256, 340)") for row in rows), "their sources are gone"
    assert all(0 <= start < end <= 16 / 15 for row in rows for start, end in row["views_s"])


def test_weights_of_other_clips_are_a_warning(words, videos, capsys, monkeypatch):
    operations = [{"type": "VideoNormalize", "mean": [0, 0, 0], "std": [1, 1, 1]}]
    facts = {"classes": LABELS, "views": {"dataset": {"seq": 9}, "map": {"operations": operations}}}
    monkeypatch.setattr(infer, "load_predictor", lambda *_: (by_colour, facts))
    for source in ("--split=val", f"--infer.image_path={videos}/x"):
        assert infer.main([*words, source, "--no-pictures"]) == EXIT_OK
        (line,) = (each for each in capsys.readouterr().err.splitlines() if "trained to see other clips" in each)
        assert "dataset.seq: 4 here, 9 there" in line and "VideoNormalize.mean: [" in line
        assert "VideoNormalize.std: [0.2, 0.2, 0.2] here, [1, 1, 1] there" in line


def test_stored_videos_are_named_by_their_files(words, config, capsys):
    settings = load_config(Document(config)).preprocess
    files_of_split = [Path(settings.data_root, path) for path in read_columns(
        ledger_path(settings, "val"), ["path"])["path"]]  # fmt: skip
    for path in files_of_split[1:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert infer.main([*words, "--split=val", "--no-pictures"]) == EXIT_OK
    _, gone, *lines = capsys.readouterr().out.splitlines()
    assert not gone.startswith("/") and len(lines) == NUM_VAL - 1
    for line, path in zip(lines, map(str, files_of_split[1:]), strict=True):
        assert line.startswith(path if len(path) <= 60 else f"...{path[-57:]}  ")


def test_labels_of_ledgers_are_true_labels(config):
    settings = load_config(Document(config)).preprocess
    table = read_columns(ledger_path(settings, "val"), ["path", "label"])
    inputs = [Input(Path(settings.data_root, table["path"][1])), Input(Path("elsewhere.mp4"))]
    assert [each.true_label for each in with_true_labels(inputs, settings)] == [table["label"][1], None]
    listed = [replace(inputs[0], true_label="from a list")]
    assert with_true_labels(listed, settings) == listed and with_true_labels(inputs[1:], settings) == inputs[1:]


def test_too_long_for_a_shard_names_the_window(words, videos, monkeypatch, capsys):
    long = DecodeResult("too_large", "36000 s, at most 3600", {})
    monkeypatch.setattr(files, "decode_videos", lambda *_: iter([long]))
    assert infer.main([*words, f"--infer.image_path={videos}/x"]) == EXIT_TOO_MANY_BAD
    reason, shown = "too_large: 36000 s, at most 3600 (--window=1 takes longer ones)", capsys.readouterr()
    assert reason in shown.out and reason not in shown.err
    assert shown.err.endswith("error: This video cannot be predicted. Give another one.\n")
    monkeypatch.setattr(files, "decode_videos", lambda *_: iter([long]))
    assert infer.main([*words, f"--infer.image_path={videos}/x", "--json"]) == EXIT_TOO_MANY_BAD
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split=val", "--infer.image_path=x.mp4"], "--split: got val and also infer.image_path. Give one of them"),
        (["--split=val", "--window=1"], "--window: got a value with --split, but it is only for files. Remove"),
        (["--infer.image_path=0"], "infer.image_path: got 0, the number of a camera, expected"),
    ],
)
def test_flags_that_contradict_are_one_line(words, flags, message):
    with pytest.raises(UserError, match=message):
        infer.main([*words, *flags])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("flag", "reason"),
    [("--window=0", "got '0', expected seconds above 0"), ("--window=nan", "got 'nan', expected seconds"),
     ("--window=x", "got 'x', expected seconds"), ("--top-k=0", "got '0', expected a whole number of at least 1"),
     ("--top-k=1.5", "got '1.5', expected a whole number"), ("--split=all", "invalid choice: 'all'")],
)  # fmt: skip
def test_flag_out_of_range_is_a_usage_error(words, flag, reason, capsys):
    with pytest.raises(SystemExit) as caught:
        infer.main([*words, flag])
    assert caught.value.code == 2 and f"argument {flag.partition('=')[0]}: {reason}" in capsys.readouterr().err


def test_weights_and_folder_come_before_decoding(words, videos, monkeypatch):
    monkeypatch.setattr(files, "decode_videos", lambda *_: pytest.fail("a video was decoded"))
    words += [f"--infer.image_path={videos}"]
    Path("file").touch()
    with pytest.raises(UserError, match=r"file: .*Give another folder with --infer\.output_dir"):
        infer.main([*words, "--infer.output_dir=file"])
    monkeypatch.undo()
    monkeypatch.setattr(files, "decode_videos", lambda *_: pytest.fail("a video was decoded"))
    with pytest.raises(UserError, match=r"gone\.ckpt: checkpoint not found"):
        infer.main([*words, "--infer.pretrained_model=gone.ckpt"])


def test_full_disk_ends_with_no_half_written_csv(words, videos, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x.gif")

    monkeypatch.setattr(drawing, "write_pictures", full)
    with pytest.raises(OSError, match="No space left"):
        infer.main([*words, f"--infer.image_path={videos}/x", "--csv=all.csv"])
    assert not Path("all.csv").exists() and not list(Path().glob(".*.tmp*"))


def test_video_that_cannot_be_drawn_is_still_a_row(words, videos, monkeypatch, capsys):
    def refuse(*_, **__):
        raise UserError("no frame of this moment")

    monkeypatch.setattr(drawing, "write_pictures", refuse)
    assert infer.main([*words, f"--infer.image_path={videos}/x", "--json"]) == EXIT_OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "ok" and "x/1.mp4: has no picture: no frame of" in captured.err


def test_video_that_cannot_be_read_now_ends_with_74(words, videos, monkeypatch, capsys):
    unread = DecodeResult("retry", "could not be read: Input/output error", {})
    monkeypatch.setattr(files, "decode_videos", lambda *_: iter([unread]))
    assert infer.main([*words, f"--infer.image_path={videos}/x"]) == EXIT_IO
    assert "Some videos could not be read." in capsys.readouterr().err
