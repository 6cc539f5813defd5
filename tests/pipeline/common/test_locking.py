"""One command at a time holds a lock; a dead owner loses it, and no planted file is written through."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from paths import ROOT
from waiting import wait_until

from pipeline.common.errors import UserError
from pipeline.common.locking import LockedError, locked, owner, turn_in

HOLD = """
import sys, time, errno, fcntl
from pathlib import Path
def flock(fd, how):
    raise OSError(errno.ENOSYS, "no flock")
if sys.argv[2] == "soft":
    fcntl.flock = flock
from pipeline.common.locking import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def soft(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock."""

    def flock(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


def holder(folder: Path, kind: str) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "locked\n"
        yield child
        child.kill()


@pytest.mark.parametrize("kind", ["flock", "soft"])
def test_second_command_waits_for_a_live_owner(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    for child in holder(tmp_path, kind):
        if kind == "soft":
            request.getfixturevalue("soft")
        with (
            pytest.raises(LockedError, match=f"process {child.pid} on .* is writing here. Wait") as caught,
            locked(tmp_path),
        ):
            pass
        assert caught.value.exit_code == 73
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
        with locked(tmp_path):  # the record of the killed owner is there, and its process is a zombie
            assert owner(tmp_path).startswith(f"process {os.getpid()} on {socket.gethostname()}")
        assert owner(tmp_path) == ""
        assert os.listdir(tmp_path) == [".lock"]


def record(process: int | str, host: str, start: str) -> str:
    return f"process {process} on {host}{start}"


@pytest.mark.parametrize(
    ("text", "is_free"),
    [
        (record(2**22 + 1, socket.gethostname(), ", started at tick 5"), True),  # no process has this number
        (record("OURS", socket.gethostname(), ", started at tick 5"), True),  # another one has its number now
        (record("OURS", socket.gethostname(), ""), False),  # as earlier versions wrote it
        (record(2**22 + 1, "elsewhere", ", started at tick 5"), False),
        ("", False),
        ("what is this", False),
    ],
)
def test_soft_lock_is_taken_only_from_the_dead(tmp_path: Path, soft: None, text: str, is_free: bool) -> None:
    text = text.replace("OURS", str(os.getpid()))
    (tmp_path / ".lock.owner").write_text(text)
    if is_free:
        with locked(tmp_path):
            pass
        return
    with pytest.raises(LockedError, match="delete .*lock.owner"), locked(tmp_path):
        pass
    assert (tmp_path / ".lock.owner").read_text() == text


def test_soft_lock_has_one_of_many_takers(tmp_path: Path) -> None:
    (tmp_path / ".lock.owner").write_text(record(2**22 + 1, socket.gethostname(), ", started at tick 5"))
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), "soft"], cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    wait_until(lambda: sum(child.poll() is None for child in takers) <= 1)
    alive = [child for child in takers if child.poll() is None]
    assert len(alive) == 1
    assert owner(tmp_path).startswith(f"process {alive[0].pid} on")
    for child in takers:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, 524])
def test_other_errors_of_flock_are_not_another_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_fd: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError) as caught, locked(tmp_path):
        pass
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / ".lock"))


@pytest.mark.parametrize("name", [".lock", ".lock.owner"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_planted_file_is_refused_and_never_written(tmp_path: Path, name: str, kind: str) -> None:
    victim, store = tmp_path / "victim", tmp_path / "store"
    store.mkdir()
    if kind == "link":
        victim.write_text("dear to me")
    if "link" in kind:
        (store / name).symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(store / name)
    else:
        (store / name).mkdir()
    word = "a symbolic link" if "link" in kind else f"a {kind}"
    with pytest.raises(UserError, match=f"{name}: got {word}, expected a regular file") as caught, locked(store):
        pass
    assert caught.value.exit_code == 2
    assert victim.read_text() == "dear to me" if kind == "link" else not victim.exists()


def test_hard_link_in_place_of_the_record_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("dear to me")
    (tmp_path / "store").mkdir()
    os.link(tmp_path / "victim", tmp_path / "store" / ".lock.owner")
    with locked(tmp_path / "store"):
        assert owner(tmp_path / "store").startswith("process ")
    assert (tmp_path / "victim").read_text() == "dear to me"


def test_turns_in_a_folder_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    def second() -> None:
        with turn_in(tmp_path):
            events.append("second")

    with ThreadPoolExecutor(1) as pool:
        with turn_in(tmp_path):
            waiting = pool.submit(second)
            time.sleep(0.1)
            events.append("first")
        waiting.result(timeout=300)
    assert events == ["first", "second"] and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EBADF, "as NFS answers")))
    with turn_in(tmp_path):
        pass
