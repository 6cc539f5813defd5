"""Videos without permission, and output folders that are full or read-only: named, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import powers
import pytest
from machine_faults import can_fail, check_line, failing
from make_report import files_in, write_run
from make_training import write_config
from make_videos import write_mp4
from paths import HELPERS, ROOT

pytestmark = pytest.mark.slow
needs_gcc = pytest.mark.skipif(not can_fail(), reason="no gcc, which makes system calls fail")

# `infer` with a stand-in of the network, whose logits are the mean of red, green and blue.
INFER = """
from pathlib import Path
import train
import mindspore
from train import infer
from train.device import signals
infer.weights_of = lambda *_: Path("w.ckpt")
infer.read_record = lambda _path: {}
network = lambda clips: mindspore.Tensor(clips.asnumpy().mean((1, 2, 3)).astype("float32") / 32)
infer.load_predictor = lambda *_: (network, {"classes": ["red", "green", "blue"]})
signals.run(infer.main)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("made"))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two videos of one colour."""
    for name, channel in (("a", 0), ("b", 2)):
        picture = np.zeros((32, 40, 3), np.uint8)
        picture[..., channel] = 200
        write_mp4(tmp_path / "videos" / f"{name}.mp4", size=(32, 40), frames=[picture] * 20)
    return tmp_path / "videos"


def run_program(*words: object, obeys: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program.

    Args:
        words: after `python`.
        obeys: it obeys the permissions of files, even as root.
        environment: more of it.
    """
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        preexec_fn=powers.give_up if obeys else None,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HELPERS}", **environment},
    )  # fmt: skip


def infer_words(config: Path, videos: Path, out: Path, *flags: str) -> list[object]:
    return ["-c", INFER, "-c", config, f"--infer.image_path={videos}", f"--infer.output_dir={out}", *flags]


def test_video_without_permission_costs_only_itself(config: Path, videos: Path, tmp_path: Path) -> None:
    (videos / "closed").mkdir()
    (videos / "b.mp4").chmod(0)
    (videos / "closed").chmod(0)
    done = run_program(*infer_words(config, videos, tmp_path / "out"), obeys=True)
    (videos / "closed").chmod(0o755)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert f"warning: {videos}/b.mp4: io: Permission denied" in done.stderr
    assert f"warning: {videos}/closed: Permission denied. Videos in it are not predicted." in done.stderr
    assert "error: 1 of 2 videos are bad" in done.stderr.splitlines()[-1]
    assert files_in(tmp_path / "out") == {"a-predicted.mp4", "a-predicted.gif"}


@needs_gcc
@pytest.mark.parametrize(
    ("part", "left"),
    [("b-predicted.mp4", {"a"}), ("b-predicted.gif", {"a"}), ("a-predicted-timeline.png", {"a"}),
     ("all.csv", {"a", "b"})],
)  # fmt: skip
def test_full_folder_has_whole_pictures_only(
    part: str, left: set[str], config: Path, videos: Path, tmp_path: Path
) -> None:
    flags = [f"--csv={tmp_path}/out/all.csv", *(["--window=0.4"] if "timeline" in part else [])]
    done = run_program(*infer_words(config, videos, tmp_path / "out", *flags), **failing("write", errno.ENOSPC, part))
    check_line(done, part)
    check_line(done, "No space left on device")
    assert files_in(tmp_path / "out") == {f"{name}-predicted{ending}" for name in left for ending in (".mp4", ".gif")}


@pytest.mark.parametrize("name", ["out", "out/new"])
def test_read_only_folder_is_named_before_decoding(name: str, config: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    done = run_program(*infer_words(config, videos, tmp_path / name), obeys=True)
    check_line(done, f"{tmp_path}/out")
    check_line(done, "Permission denied")
    assert done.stdout == "" and list((tmp_path / "out").iterdir()) == []


@needs_gcc
def test_report_that_cannot_be_written_changes_nothing(config: Path, tmp_path: Path) -> None:
    of_run = write_run(tmp_path / "runs" / "tiny" / "20260101-000000", config, [])
    (tmp_path / "new").mkdir()
    words = ["-m", "train.report", "-c", config, "--run", of_run, "--output-dir"]
    assert run_program(*words, tmp_path / "out" / "report").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for part, folder in (("index.html", "out"), ("class-0001.jpg", "new"), ("report.json", "out")):
        done = run_program(*words, tmp_path / folder / "report", **failing("write", errno.ENOSPC, part))
        check_line(done, f"{tmp_path}/{folder}/")
        check_line(done, "No space left on device")
    for closed in ("new", "out/report/files"):
        (tmp_path / closed).chmod(0o555)
        done = run_program(*words, tmp_path / closed.split("/")[0] / "report", obeys=True)
        (tmp_path / closed).chmod(0o755)
        check_line(done, str(tmp_path / closed))
        check_line(done, "Permission denied")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path / "new") == [] and os.listdir(tmp_path / "out") == ["report"]
