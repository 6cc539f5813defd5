"""A training of several processes ends with the exit code of the process that failed first."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from processes import processes_of

from pipeline.common.errors import (
    EXIT_NOT_FINITE,
    EXIT_OK,
    EXIT_RETRY,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    EXIT_USAGE,
    UserError,
)
from train.device.launch import _NOTES, _all_ended_and_one_failed, _exit_code, launch, note_exit_code


def leave(folder: Path, rank: int, code: int, monkeypatch) -> None:
    """Exit as the process with number `rank`."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setenv(_NOTES, str(folder))
        patch.setenv("MS_ROLE", "MS_WORKER")
        patch.setenv("RANK_ID", str(rank))
        with note_exit_code():
            raise SystemExit(code)


@pytest.mark.parametrize(
    ("of_msrun", "codes", "asked", "expected", "said"),
    [
        (0, [0, 0], [], EXIT_OK, ""),
        (
            1,
            [0, 75],
            [signal.SIGTERM],
            EXIT_RETRY,
            "Process 1 ended with exit code 75. See logs/worker_1.log. Resume with --resume auto.",
        ),
        (1, [130, 130], [signal.SIGINT], EXIT_SIGINT, "Process 0 ended with exit code 130."),
        (1, [70], [], EXIT_NOT_FINITE, "Fix the error there."),
        (1, [2], [], EXIT_USAGE, "Process 0 ended with exit code 2. See logs/worker_0.log. Fix the error there"),
        (1, [], [], EXIT_RETRY, "error: One process crashed or was killed, so all were stopped. See logs/*.log."),
        (1, [], [signal.SIGTERM], EXIT_SIGTERM, ""),
        (1, [], [signal.SIGTERM, signal.SIGINT], EXIT_SIGINT, ""),
    ],
)
def test_first_process_that_fails_gives_the_exit_code(
    of_msrun, codes, asked, expected, said, tmp_path, monkeypatch, capsys
):
    for rank, code in enumerate(codes):
        leave(tmp_path, rank, code, monkeypatch)
        os.utime(tmp_path / f"{rank}.code", ns=(rank, rank))
        assert (tmp_path / f"{rank}.pid").read_text() == str(os.getpid())
    assert _exit_code(of_msrun, tmp_path, asked, Path("logs"), "Resume with --resume auto.") == expected
    printed = capsys.readouterr().err
    assert said in printed and bool(said) == bool(printed)


@pytest.mark.parametrize(
    ("codes", "over"),
    [([], True), ([0], True), ([70, 0], True), ([0, 0], False)],  # none: both were killed
)
def test_msrun_is_not_waited_for_after_a_death(codes, over, tmp_path):
    with subprocess.Popen(["true"]) as ended:
        pass
    for rank in (0, 1):
        (tmp_path / f"{rank}.pid").write_text(str(ended.pid))
    for rank, code in enumerate(codes):
        (tmp_path / f"{rank}.code").write_text(str(code))
    assert _all_ended_and_one_failed(tmp_path, 2) is over
    (tmp_path / "0.pid").write_text(str(os.getpid()))
    assert not _all_ended_and_one_failed(tmp_path, 2)


def test_scheduler_and_single_process_note_no_failure(tmp_path, monkeypatch):
    with note_exit_code():
        pass
    monkeypatch.setenv(_NOTES, str(tmp_path))
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    with note_exit_code():
        pass
    assert not list(tmp_path.iterdir())


def test_port_that_is_taken_is_named_at_once(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = rf"--port: {port} cannot be used: Address already in use\. Give another one .*PORT=N"
        with pytest.raises(UserError, match=message):
            launch(["-m", "train.train"], devices=2, port=port, log_dir=tmp_path / "logs")
    with pytest.raises(UserError, match="--port: got 70000, expected 1024 to 65535"):
        launch(["-m", "train.train"], devices=2, port=70000, log_dir=tmp_path / "logs")
    assert not processes_of("cluster.run", str(port)) and not (tmp_path / "logs").exists()
