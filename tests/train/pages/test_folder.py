"""A report takes the place of an earlier one whole, and a command that fails changes nothing."""

import errno
import json
import os
from pathlib import Path

import pytest
from make_report import files_in

from pipeline.common.errors import UserError
from train.pages.folder import report_folder


def write_report(target: Path, text: str) -> None:
    with report_folder(target) as folder:
        (folder / "index.html").write_text(text)
        (folder / "files" / f"{text}.png").touch()


def test_new_report_replaces_all_of_the_earlier(tmp_path):
    target = tmp_path / "above" / "report"
    for text in ("one", "two"):
        write_report(target, text)
        assert files_in(target) == {"index.html", f"files/{text}.png", "report.json"}
    assert os.listdir(target.parent) == ["report"]
    assert json.loads((target / "report.json").read_text()) == {"files": ["files/two.png", "index.html"]}


def test_command_that_fails_leaves_the_earlier(tmp_path):
    write_report(tmp_path / "report", "one")
    with pytest.raises(OSError, match="full.*/report'"), report_folder(tmp_path / "report") as folder:
        (folder / "index.html").write_text("two")
        raise OSError(errno.ENOSPC, "full")  # as writing raises it, without the name of the file
    assert (tmp_path / "report" / "index.html").read_text() == "one" and os.listdir(tmp_path) == ["report"]


def test_rename_that_fails_brings_the_earlier_back(tmp_path, monkeypatch):
    write_report(tmp_path / "report", "one")
    rename = os.rename

    def rename_but_new(source, target):
        if str(source).endswith(".unfinished"):
            raise OSError("read-only")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_but_new)
    with pytest.raises(OSError, match="read-only"):
        write_report(tmp_path / "report", "two")
    assert (tmp_path / "report" / "index.html").read_text() == "one" and os.listdir(tmp_path) == ["report"]


@pytest.mark.parametrize("name", ["mine.txt", "files/mine.txt", ".hidden", "link"])
def test_folder_with_other_files_is_refused(name, tmp_path):
    write_report(tmp_path / "report", "one")
    (tmp_path / "report" / name).symlink_to(tmp_path) if name == "link" else (tmp_path / "report" / name).touch()
    with pytest.raises(UserError, match=f"it holds files that are not of a report: {name}. Give another folder"):
        write_report(tmp_path / "report", "two")
    assert (tmp_path / "report" / "index.html").read_text() == "one"


def test_file_and_unlisted_files_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="got a file, expected a folder for the report"):
        write_report(tmp_path / "file", "one")
    write_report(tmp_path / "report", "one")
    (tmp_path / "report" / "report.json").write_text('{"files": 3}')
    with pytest.raises(UserError, match="files that are not of a report"):
        write_report(tmp_path / "report", "two")


def test_empty_folder_and_link_to_folder_are_taken(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for text in ("one", "two"):
        write_report(tmp_path / "link", text)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "index.html").read_text() == "two"


def test_what_a_killed_command_left_is_put_right(tmp_path):
    write_report(tmp_path / "report", "one")
    gone = 2**22 + 1  # above the largest process id
    (tmp_path / f".report.{gone}.unfinished").mkdir()
    (tmp_path / "report").rename(tmp_path / f".report.{gone}.earlier")
    (tmp_path / f".report.{os.getpid()}x.unfinished").mkdir()  # not ours
    with pytest.raises(OSError), report_folder(tmp_path / "report"):
        raise OSError
    assert (tmp_path / "report" / "index.html").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == [f".report.{os.getpid()}x.unfinished", "report"]
