"""Every start of a run stays on record, with what changed since the start before."""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from train.experiment.load import load_config
from train.experiment.sections import Config
from train.runs import starts
from train.runs.append_file import AppendFile
from train.runs.run_folder import RunFolder
from train.runs.starts import STARTS, git_facts, read_starts


def sample_with(**overrides: str) -> Config:
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(Document("train/configs/sample.yaml", given))


def begun(root: Path, config: Config, facts: dict[str, object], step: int, existing: Path | None = None) -> Path:
    with RunFolder(root, config, facts, existing) as run:
        run.begin(step)
    return run.path


def test_every_start_is_kept_with_what_changed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = begun(tmp_path, sample_with(), {"host": "a"}, 0)
    before = (run / STARTS).read_bytes()
    begun(tmp_path, sample_with(learning_rate__lr="0.01", loss__label_smoothing="0.1"), {"host": "b"}, 8, run)
    begun(tmp_path, sample_with(learning_rate__lr="0.01", loss__label_smoothing="0.1"), {"host": "c"}, 9, run)
    assert (run / STARTS).read_bytes().startswith(before)
    first, second, third = read_starts(run)
    assert [each["host"] for each in (first, second, third)] == ["a", "b", "c"]
    assert [each["step"] for each in (first, second, third)] == [0, 8, 9]
    assert first["changed"] == {} and first["settings"]["learning_rate"]["lr"] == 0.05
    assert second["changed"] == {"learning_rate.lr": [0.05, 0.01], "loss.label_smoothing": [0.0, 0.1]}
    assert third["changed"] == {} and third["settings"] == second["settings"]
    assert "git" in first
    lines = (run / "train.log").read_text().splitlines()
    changes = [line.partition("changed since the last start: ")[2] for line in lines if "changed since" in line]
    assert changes == ["learning_rate.lr was 0.05, is 0.01", "loss.label_smoothing was 0.0, is 0.1"]
    assert yaml.safe_load((run / "config.yaml").read_text())["learning_rate"]["lr"] == 0.01
    assert json.loads((run / "env.json").read_text()) == {"host": "c"}


def test_last_start_of_an_earlier_version_is_kept_too(tmp_path):
    run = begun(tmp_path, sample_with(), {"host": "a"}, 0)
    (run / STARTS).unlink()
    begun(tmp_path, sample_with(optimizer__momentum="0.8"), {"host": "b"}, 8, run)
    first, second = read_starts(run)
    assert first["host"] == "a" and first["settings"]["optimizer"]["momentum"] == 0.9
    assert second["host"] == "b" and second["changed"] == {"optimizer.momentum": [0.9, 0.8]}


def test_line_cut_by_a_power_failure_costs_only_itself(tmp_path):
    run = begun(tmp_path, sample_with(), {}, 0)
    begun(tmp_path, sample_with(), {}, 3, run)
    path = run / STARTS
    path.write_bytes(path.read_bytes()[:-50])
    begun(tmp_path, sample_with(learning_rate__lr="0.01"), {}, 5, run)
    assert [each["step"] for each in read_starts(run)] == [0, 5]
    assert read_starts(run)[1]["changed"] == {"learning_rate.lr": [0.05, 0.01]}


@pytest.fixture
def git(tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs git in `tmp_path`, whatever settings this machine has, and has time for it; returns what it prints."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook that runs these tests
        monkeypatch.delenv(name)
    monkeypatch.setattr(starts, "_GIT_S", 100.0)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    settings = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def run(*words: str) -> str:
        command = ["git", "-C", tmp_path, *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=settings).stdout

    return run


def test_git_commit_and_changed_files_are_recorded(tmp_path, git):
    assert git_facts(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD").strip()
    assert git_facts(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_facts(tmp_path) == {"commit": commit, "dirty": True}


def test_git_is_of_the_program_whatever_surrounds_it(tmp_path, git, monkeypatch):
    folder = Path(__file__).parents[3]
    expected = git_facts(folder)
    git("init", "-q")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of another repository
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert expected is None or expected["commit"] and git_facts(folder) == expected
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert git_facts(folder) is None


def test_git_of_a_repository_of_another_user(tmp_path, git):
    if os.geteuid():
        pytest.skip("only root can give files to another user")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    for path in (tmp_path, tmp_path / ".git"):  # as in a container
        os.chown(path, 12345, 12345)
    assert git_facts(tmp_path) is not None


def test_link_in_the_place_of_a_run_file_is_refused(tmp_path):
    run = begun(tmp_path / "runs", sample_with(), {}, 0)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("train.log", "metrics.jsonl", STARTS):
        path = tmp_path / name
        path.symlink_to(victim)
        with pytest.raises(UserError, match="got a symbolic link, expected a regular file or none"):
            AppendFile(path)
    (run / "train.log").unlink()
    (run / "train.log").symlink_to(victim)
    with pytest.raises(UserError, match=r"train\.log: got a symbolic link"):
        begun(tmp_path / "runs", sample_with(), {}, 1, run)
    assert victim.read_text() == "mine"
