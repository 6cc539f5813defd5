"""Atomic writes: a file has its old or its new content, never a part, and no temporary file stays."""

import os
import signal

import pytest

from pipeline.common import files
from pipeline.common.files import replacing, write_json, write_text
from pipeline.common.locking import remove_temporary


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
