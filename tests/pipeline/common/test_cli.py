"""Every command's overrides, help, exit codes and Ctrl-C, for users and their scripts."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT

from pipeline.common import cli, recipe
from pipeline.common.errors import EXIT_IO, EXIT_LOCKED, EXIT_OK, EXIT_SIGINT, EXIT_USAGE, UserError


def parsed(*words: str):
    made = cli.parser("A command.", sections={"preprocess": recipe.Preprocess})
    return cli.parse(made, list(words))


def test_overrides_go_over_the_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("preprocess: {fps: 10}\n")
    _args, document = parsed("-c", str(path), "--preprocess.fps=30", "--preprocess.store=a=b c")
    settings = recipe.load(document)
    assert (settings.fps, settings.store) == (30.0, "a=b c")


@pytest.mark.parametrize("words", [["--preprocess.store", "--preprocess.fps=3"], ["--preprocess.store", "x"],
                                   ["--preprocess.store"]])  # fmt: skip
def test_override_without_equals_sign_is_not_ignored(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(*words)
    assert caught.value.code == EXIT_USAGE
    assert "--preprocess.store: got no value, expected --preprocess.store=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["store", "manifests", "dataset"])
def test_folders_that_have_no_name_are_refused(tmp_path, key):
    path = tmp_path / "x.yaml"
    path.write_text("preprocess: {}\n")
    _args, document = parsed("-c", str(path), f"--preprocess.{key}=")
    with pytest.raises(UserError, match=f"{key}: got '', expected the name of a folder"):
        recipe.load(document)


@pytest.mark.parametrize("word", ["--fps=30", "extra", "--preproces.fps=30"])
def test_words_that_are_no_override_are_refused(word, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(word)
    assert caught.value.code == EXIT_USAGE
    assert word.split("=")[0] in capsys.readouterr().err


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    assert "--preprocess.interpolation  bilinear | area | bicubic  (default 'bilinear')" in shown


class Locked(UserError):
    exit_code = EXIT_LOCKED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("wrong"), EXIT_USAGE),
        (Locked("locked"), EXIT_LOCKED),
        (KeyboardInterrupt(), EXIT_SIGINT),
        (BrokenPipeError(), EXIT_OK),
        (OSError(errno.ENOSPC, "No space left on device"), EXIT_IO),
    ],
)
def test_exit_codes(error, code, capfd):
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == code
    assert "Traceback" not in capfd.readouterr().err


def test_the_offline_stage_does_not_load_mindspore():
    program = """
import importlib, pkgutil, sys, pipeline
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    importlib.import_module(module.name)
print(sorted(name for name in sys.modules if name.split(".")[0] in {"mindspore", "model", "train"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def run_python(*words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code and output of a fresh interpreter, on which Ctrl-C acts whatever it does on this one."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, **environment}, text=True,
        capture_output=True, timeout=60, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signal_while_the_interpreter_ends_is_not_lost(name, code):
    program = f"""
import atexit, os, signal
from pipeline.common import cli
def main():
    atexit.register(os.kill, os.getpid(), signal.{name})
    print("done")
    return 0
cli.run(main)
"""
    assert run_python("-c", program) == (code, "done\n", "")


def test_ctrl_c_during_imports_leaves_no_traceback(tmp_path):
    (tmp_path / "tqdm.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    code, said, told = run_python("-m", "pipeline.preprocess", "--help", PYTHONPATH=str(tmp_path))
    assert (code, said, told) == (-signal.SIGINT, "", "")


def test_a_ctrl_c_at_work_is_answered_in_one_line():
    program = """
import os, signal, sys
sys.argv = ["-m"]
from pipeline.common import cli
assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
cli.run(lambda: os.kill(os.getpid(), signal.SIGINT))
"""
    assert run_python("-c", program) == (130, "", "interrupted; run the same command again to go on\n")
