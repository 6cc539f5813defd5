"""Atomic writes: a file has its old or its new content, never a part, and no temporary file stays."""

import errno
import os
import signal
import socket

import pytest
from make_store import settings_for

from pipeline.common import files
from pipeline.common.errors import machine_fault
from pipeline.common.files import replacing, write_json, write_text
from pipeline.common.locking import remove_temporary
from pipeline.common.outcome import Outcome
from pipeline.shards.writer import ShardWriter


def test_content_is_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd):
        calls.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    def note_replace(source, target):
        assert source.read_text() == "new"
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "x.txt", "new")
    assert calls == [str(tmp_path / f".x.txt.{os.getpid()}.tmp"), "replace", str(tmp_path)]
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_error_keeps_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path, ".gif") as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".gif" and temporary.parent == tmp_path
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_rename_keeps_old_file_and_no_temporary(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("old")
    monkeypatch.setattr(files, "sync_file", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_leaves_is_removed(tmp_path):
    child = os.fork()
    if not child:
        with replacing(tmp_path / "x.csv") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f".x.csv.{child}.tmp"]
    remove_temporary(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_json_is_indented_utf8_without_a_line_end(tmp_path):
    write_json(tmp_path / "x.json", {"a": ["\u00e9", 1.5, None]})
    assert (tmp_path / "x.json").read_bytes() == b'{\n "a": [\n  "\\u00e9",\n  1.5,\n  null\n ]\n}'


@pytest.mark.parametrize("there", [True, False])
def test_link_as_temporary_file_is_not_followed(tmp_path, there):
    victim = tmp_path / "victim"
    if there:
        victim.write_text("dear to me")
    (tmp_path / f".x.txt.{os.getpid()}.tmp").symlink_to(victim)
    write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new" and not (tmp_path / "x.txt").is_symlink()
    assert victim.read_text() == "dear to me" if there else not victim.exists()


def test_link_as_temporary_shard_is_not_followed(tmp_path):
    settings, victim = settings_for(tmp_path), tmp_path / "victim"
    victim.write_text("dear to me")
    path = tmp_path / "train-00000-of-00001.h5"
    (tmp_path / f".{path.stem}.{socket.gethostname()}-{os.getpid()}.h5.tmp").symlink_to(victim)
    with ShardWriter(path, settings, "train") as writer:
        writer.add(Outcome(video_id="a", status="missing"))
    assert path.is_file() and not path.is_symlink()
    assert victim.read_text() == "dear to me"


def test_error_of_a_temporary_file_names_the_target(tmp_path, monkeypatch):
    def fsync(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "x.txt", "new")
    assert caught.value.filename == str(tmp_path / "x.txt")
    assert list(tmp_path.iterdir()) == []


def test_target_that_cannot_be_replaced_is_named_once(tmp_path):
    (tmp_path / "x.txt" / "inside").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "x.txt", "new")
    assert machine_fault(caught.value) == f"{tmp_path}/x.txt: Is a directory"
