"""A cached graph is used only for the same network, and the cache stays small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_training import write_config
from paths import ROOT

from train.loop import compile_cache


@pytest.fixture
def unused(monkeypatch, tmp_path) -> Path:
    """As in a new process, with an empty cache."""
    monkeypatch.setattr(compile_cache, "_used", False)
    monkeypatch.setattr(compile_cache.ms, "set_context", lambda **options: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [__file__])
    return tmp_path / "kinetics-r2plus1d" / "graphs"


def test_failed_or_second_compilation_is_not_cached(unused):
    with pytest.raises(RuntimeError, match="broken"), compile_cache.cached_compilation("x"):
        raise RuntimeError("broken")
    assert not list(unused.iterdir())
    with compile_cache.cached_compilation("x"):
        assert not list(unused.iterdir())


def test_cache_that_cannot_be_made_is_a_warning(unused, caplog):
    unused.parent.write_text("a file")
    steps = []
    with compile_cache.cached_compilation("x"):
        steps.append(1)
    (line,) = caplog.messages
    assert steps == [1] and line.startswith("warning: no compile cache: ") and str(unused.parent) in line


def test_each_shape_has_a_folder_and_the_oldest_go(unused, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_KEPT", 2)
    for number in range(4):
        monkeypatch.setattr(compile_cache, "_used", False)
        with compile_cache.cached_compilation(str(number)):
            pass
        os.utime(unused / compile_cache._key(str(number)), (number, number))
    assert {path.name for path in unused.iterdir()} == {compile_cache._key("2"), compile_cache._key("3")}


def test_a_warm_cache_makes_the_same_steps(tmp_path):
    config = write_config(tmp_path, epochs=2, eval_epochs=0)
    here = ROOT
    environment = {**os.environ, "PYTHONPATH": str(here), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    said, weights = [], []
    for name in ("cold", "warm"):
        command = [sys.executable, "tests/helpers/make_training.py", "SIGKILL", "99", "-c", str(config)]
        done = subprocess.run([*command, f"--train.ckpt_path={tmp_path}/{name}"], cwd=here, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
        lines = [line for line in done.stderr.splitlines() if " loss is " in line]
        assert len(lines) == 2, "with the object that MindSpore makes of sys.stderr each line is written twice"
        (path,) = (tmp_path / name / "tiny").glob("*/ckpt/epoch_002-step_000016.ckpt")
        weights.append(path.read_bytes())
    assert "compile cache: cold" in said[0] and "compile cache: warm" in said[1]
    assert weights[0] == weights[1]
