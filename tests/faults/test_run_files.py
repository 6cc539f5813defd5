"""A run's own files: damaged metrics, a full disk, a second process and a refused start lose nothing."""

import contextlib
import errno
import logging
import os
import re
import resource
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest
from make_training import TinyNetwork, checkpoints_of, write_config
from paths import ROOT
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from pipeline.common.errors import EXIT_LOCKED, EXIT_OK, UserError
from pipeline.common.locking import LockedError, locked
from pipeline.common.settings import Document
from train import train
from train.experiment.load import load_config
from train.loop import trainer
from train.loop.resume import check_first, known_runs
from train.runs.append_file import AppendFile
from train.runs.metrics import read_metrics
from train.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def settings():
    return load_config(Document("train/configs/sample.yaml", {}))


@pytest.fixture
def run(settings, tmp_path) -> Path:
    """The folder of a run that recorded ten steps."""
    with RunFolder(tmp_path, settings, {}) as made:
        made.begin(0)
        for step in range(1, 11):
            made.record(step, {"train/loss": 1 / step, "val/acc1": float("nan")})
    return made.path


def steps_of(run: Path) -> list[int]:
    return [record["step"] for record in read_metrics(run / "metrics.jsonl")]


def without_end(content: bytes) -> bytes:
    return content[:-9]


def one_bit(content: bytes) -> bytes:
    return content.replace(b'"step": 4,', b'"step": 4\x2e', 1).replace(b'"step": 6', b"\x03step: 6", 1)


def zeros(content: bytes) -> bytes:
    at, end = content.index(b'"step": 4'), content.index(b'"step": 6') + 20
    return content[:at] + bytes(end - at) + content[end:]


def not_text(content: bytes) -> bytes:
    return content.replace(b'{"step": 7', b'\xff\xfe"step": 7')


def deep(content: bytes) -> bytes:
    return content.replace(b'{"step": 7', b'{"step": ' + b"[" * 100_000)


def other_json(content: bytes) -> bytes:
    return b'[1]\n{"step": "3"}\n{"step": true}\n{"step": 1, "train/loss": []}\n' + content


@pytest.mark.parametrize(
    ("damage", "kept", "words"),
    [
        (without_end, [1, 2, 3, 4, 5, 6, 7, 8, 9], "line 10 is corrupted. It is moved"),
        (one_bit, [1, 2, 3, 5, 7, 8, 9, 10], "2 lines are corrupted. They are moved"),
        (zeros, [1, 2, 3, 7, 8, 9, 10], "line 4 is corrupted. It is moved"),
        (not_text, [1, 2, 3, 4, 5, 6, 8, 9, 10], "line 7 is corrupted. It is moved"),
        (deep, [1, 2, 3, 4, 5, 6, 8, 9, 10], "line 7 is corrupted. It is moved"),
        (other_json, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "4 lines are corrupted. They are moved"),
    ],
)
def test_good_metrics_stay_and_the_rest_is_set_aside(damage, kept, words, run, settings, caplog):
    path = run / "metrics.jsonl"
    whole = path.read_bytes().splitlines()
    path.write_bytes(damage(path.read_bytes()))
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    assert steps_of(run) == kept  # `make report` draws them
    for number in (1, 2):
        caplog.clear()
        with RunFolder(run.parent, settings, {}, existing=run) as again:
            again.begin(9)
        expected = [line for line in whole if line in lines and b'"step": 10' not in line]
        assert path.read_bytes().splitlines() == expected
        aside = run / f"metrics.jsonl.damaged-{number}"
        assert aside.read_bytes().splitlines() == [line for line in lines if line not in whole]
        assert f"warning: {path}: {words} to {aside.name}." in caplog.messages
        path.write_bytes(damage(b"\n".join(whole) + b"\n"))  # once more


def test_second_process_is_refused_and_changes_nothing(run, settings):
    with RunFolder(run.parent, settings, {}, existing=run) as first:
        first.begin(10)
        saving = run / "ckpt" / ".epoch_001-step_000003.ckpt.12.tmp.ckpt"
        saving.touch()
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(LockedError, match=r"process \d+ on .* is writing here\. Wait until it ends") as caught:
            RunFolder(run.parent, settings, {}, existing=run)
        assert caught.value.exit_code == EXIT_LOCKED and "\n" not in str(caught.value)
        logging.getLogger().warning("of the first")
        first.record(11, {"train/loss": 0.5})
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert after.keys() == before.keys() and saving in after
    assert steps_of(run) == list(range(1, 12)) and "of the first" in (run / "train.log").read_text()
    assert list(run.parent.iterdir()) == [run]
    with RunFolder(run.parent, settings, {}, existing=run):
        assert not saving.exists()


def test_lock_ends_with_a_process_that_is_killed(run, settings):
    program = f"""
from pathlib import Path
from pipeline.common.locking import locked
with locked(Path({str(run)!r})):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as owner:  # fmt: skip
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(LockedError, match=rf"process {owner.pid} on"):
            RunFolder(run.parent, settings, {}, existing=run)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    with RunFolder(run.parent, settings, {}, existing=run) as again:
        again.begin(10)
    assert steps_of(run) == list(range(1, 11))


def test_start_that_fails_leaves_no_folder(settings, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "config.yaml")

    with monkeypatch.context() as patch:
        patch.setattr("train.runs.run_folder.write_text", full)
        with pytest.raises(OSError, match="No space left"), RunFolder(tmp_path, settings, {}) as run:
            run.begin(0)
    with monkeypatch.context() as patch:
        patch.setattr("train.runs.run_folder.AppendFile", full)
        with pytest.raises(OSError, match="No space left"), RunFolder(tmp_path, settings, {}) as run:
            run.begin(0)
    with monkeypatch.context() as patch:
        patch.setattr("train.runs.run_folder.write_text", full)
        with pytest.raises(OSError, match="No space left"), RunFolder(tmp_path / "new" / "er", settings, {}) as run:
            run.begin(0)
    with pytest.raises(OSError, match="File name too long"):
        RunFolder(tmp_path / ("x" * 300), settings, {})
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def disk_of(size: int):
    """No file can be longer than `size` bytes, which is reported as a full disk is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_append_is_whole_or_not_at_all(tmp_path):
    file = AppendFile(tmp_path / "x")
    file.write(b"first\n")
    with disk_of(10), pytest.raises(OSError, match=rf"File too large: '{tmp_path}/x'"):
        file.write(b"second, which fits in part\n")
    assert (tmp_path / "x").read_bytes() == b"first\n"
    file.write(b"third\n")
    file.close()
    assert (tmp_path / "x").read_bytes() == b"first\nthird\n"


def test_log_that_cannot_be_written_is_one_warning(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of `run`
    with RunFolder(tmp_path, settings, {}) as run:
        run.begin(0)
        with disk_of(3):
            logging.getLogger().warning("one")
            logging.getLogger().warning("two")
        logging.getLogger().warning("three")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"warning: .*File too large: '{run.path}/train\.log'\. Lines are missing there from .*", line)
    assert (run.path / "train.log").read_text().endswith("three\n")


def events_of(path: Path) -> list[Event]:
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        message = content[12 : 12 + length]
        assert struct.unpack("<I", content[8:12]) == (masked_crc32c(content[:8]),)
        assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked_crc32c(message),)
        events.append(Event.FromString(message))
        content = content[16 + length :]
    return events


def test_events_are_there_when_the_process_is_killed(run):
    (path,) = run.glob("events.out.tfevents.*")
    events = events_of(path)
    assert events[0].file_version == "brain.Event:2" and [event.step for event in events[1:]] == list(range(1, 11))
    assert [value.tag for value in events[2].summary.value] == ["train/loss", "val/acc1"]
    assert events[2].summary.value[0].simple_value == 0.5


def test_resumed_events_hide_those_that_come_again(run, settings):
    (path,) = run.glob("events.out.tfevents.*")
    path = path.rename(f"{path}-first")
    with RunFolder(run.parent, settings, {}, existing=run) as again:
        again.begin(0)  # the checkpoint is older than the first record
    first, (second,) = events_of(path), [events_of(each) for each in run.glob("events.*") if each != path]
    assert first[1].step == 1 and len(second) == 2
    assert second[1].session_log.status == SessionLog.START and second[1].step == 1


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("files"), save_checkpoint_steps=3, epochs=1, eval_epochs=0)


def test_full_disk_in_training_keeps_last_checkpoint(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "build_network", lambda _settings: TinyNetwork())
    words = ["-c", str(config), "--context.mode=1", "--data_loader.train.dataset.batch_size=4"]

    def files(runs: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(runs.glob("tiny/*/ckpt/epoch_001-step_000004*ckpt"))]

    assert train.main([*words, f"--train.ckpt_path={tmp_path}/whole"]) == EXIT_OK
    write = AppendFile.write

    def full(self, record):
        if b'{"step": 4' in record:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
        write(self, record)

    words.append(f"--train.ckpt_path={tmp_path}/runs")
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left on device: '.*/metrics\.jsonl'"):
        patch.setattr(AppendFile, "write", full)
        train.main(words)
    shown = capsys.readouterr().err
    assert "Traceback" not in shown and "The last checkpoint is kept. Resume with --resume auto." in shown
    (newest,) = checkpoints_of(tmp_path / "runs" / "tiny")
    assert newest.stem == "epoch_001-step_000003"
    with locked(newest.parents[1]), pytest.raises(LockedError, match="is writing here"):
        train.main([*words, "--resume", "auto"])
    assert train.main([*words, "--resume", "auto"]) == EXIT_OK
    assert len(files(tmp_path / "runs")) == 2 and files(tmp_path / "runs") == files(tmp_path / "whole")
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert steps_of(run) == [1, 2, 3, 4]


@pytest.mark.parametrize("flock_works", [True, False])
def test_of_two_first_resumes_at_once_one_starts(flock_works, settings, tmp_path, monkeypatch):
    if not flock_works:
        answer = Mock(side_effect=OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)))
        monkeypatch.setattr("pipeline.common.locking.fcntl.flock", answer)
    config = replace(settings, train=replace(settings.train, ckpt_path=str(tmp_path / "runs")))

    def start(_number: int) -> RunFolder | None:
        chosen = known_runs(config)
        meeting.wait()  # both have found nothing to resume
        with RunFolder(tmp_path / "runs" / "tiny", config, {}, check=partial(check_first, config, chosen)) as run:
            try:
                run.begin(0)
            except LockedError as error:
                assert "another training of these settings began at the same moment" in str(error)
                return None
            finally:
                ended.wait()
            return run

    meeting, ended = Barrier(2), Barrier(2)
    with ThreadPoolExecutor() as pool:
        (run,) = [run for run in pool.map(start, range(2)) if run is not None]
    assert list(tmp_path.glob("runs/*/*")) == [run.path] and os.listdir(tmp_path / "runs") == ["tiny"]
    (tmp_path / "runs" / "tiny" / "begins" / "ckpt").mkdir(parents=True)  # its settings are not there yet
    assert known_runs(config) == {run.path}
    with RunFolder(tmp_path / "runs" / "tiny", config, {}, check=partial(check_first, config, {run.path})) as later:
        later.begin(0)  # what was there before is none that began at the same moment


def test_refused_training_leaves_no_folder(config, tmp_path):
    with pytest.raises(UserError, match="num_classes"):
        train.main(["-c", str(config), "--context.mode=1", f"--train.ckpt_path={tmp_path}/r", "--model.num_classes=2"])
    assert list(tmp_path.iterdir()) == []
