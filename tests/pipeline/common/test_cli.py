"""Every command's overrides, help, exit codes and Ctrl-C, for users and their scripts."""

import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from paths import CONFIGS, ROOT

from pipeline.common import cli, files, recipe
from pipeline.common.errors import EXIT_IO, EXIT_LOCKED, EXIT_SIGINT, EXIT_USAGE, UserError
from pipeline.common.help import meanings


def parsed(*words: str):
    made = cli.parser("pipeline.something", "A command.", sections={"preprocess": recipe.Preprocess})
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


@pytest.mark.parametrize("key", ["store", "manifests"])
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


def test_configuration_taken_without_c_is_named_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _args, document = parsed()
    assert capsys.readouterr().err == "configuration: train/configs/sample.yaml (give another with -c FILE)\n"
    assert document.path == Path("train/configs/sample.yaml")
    parsed("-c", "train/configs/sample.yaml")
    assert capsys.readouterr().err == ""


def test_commands_say_first_where_they_write(tmp_path, capsys):
    keys = {"dataset": "d", "manifests": f"{tmp_path}/m", "store": f"{tmp_path}/s"}
    (tmp_path / "x.yaml").write_text(json.dumps({"preprocess": keys}))
    expected = {
        "pipeline.manifests": f"ledgers in {tmp_path}/m/d",
        "pipeline.preprocess": f"shards in {tmp_path}/s, and ledgers in {tmp_path}/m/d",
        "pipeline.preprocess --dry-run": "nothing",
        "pipeline.verify": "nothing",
        "pipeline.verify --repair": f"shards in {tmp_path}/s, and ledgers in {tmp_path}/m/d",
    }
    for words, target in expected.items():
        command, *flags = words.split()
        with pytest.raises(UserError):  # there are neither ledgers nor videos
            importlib.import_module(command).main(["-c", str(tmp_path / "x.yaml"), *flags])
        assert capsys.readouterr().err.splitlines()[0] == f"writes: {target}", words


COMMANDS = sorted(
    f"{path.parent.name}.{path.stem}" for top in ("pipeline", "train") for path in ROOT.glob(f"{top}/[a-z]*.py")
)


def help_of(command: str, flag: str, monkeypatch, capsys) -> list[str]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(command).main([flag])
    assert not caught.value.code
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_on_a_screen(command, monkeypatch, capsys):
    lines = help_of(command, "--help", monkeypatch, capsys)
    assert len(lines) <= 60 and max(map(len, lines)) <= 120
    assert lines[0].startswith(f"usage: python -m {command} ")
    if any(line.startswith("  --help-all") for line in lines):
        text = " ".join(" ".join(lines).split())
        assert "Relative paths are relative to the current folder" in text and "Text is taken as typed" in text


@pytest.mark.parametrize("command", ["pipeline.manifests", "pipeline.preprocess", "train.train", "train.convert"])
def test_help_all_shows_more_than_help(command, monkeypatch, capsys):
    text = {flag: "\n".join(help_of(command, flag, monkeypatch, capsys)) for flag in ("--help", "--help-all")}
    keys = {flag: set(re.findall(r"^  --([a-z_.]+)=", lines, re.MULTILINE)) for flag, lines in text.items()}
    assert keys["--help"] and keys["--help"] <= keys["--help-all"]
    assert ("--help-all shows all of them" in text["--help"]) == (keys["--help"] < keys["--help-all"])
    if command == "train.train":
        assert {"device_target", "data_loader.eval.map.operations", "preprocess.max_bad_fraction"} <= keys["--help-all"]


def test_help_says_meaning_type_and_default(monkeypatch, capsys):
    text = " ".join(" ".join(help_of("train.train", "--help-all", monkeypatch, capsys)).split())
    assert "--preprocess.interpolation=bilinear (bilinear | area | bicubic) how frames are resized" in text
    assert "--data_loader.eval.dataset.split=val (train | val | test) which split's ledger is read." in text
    assert "--model.num_classes=400 (whole number at least 2 and at most 100000 | auto)" in text
    assert "--train.pretrained_model= (path) file of weights" in text


def dataclasses_in(cls: type) -> set[type]:
    """A section's dataclass and all dataclasses inside it."""
    inner = {part for hint in typing.get_type_hints(cls).values() for part in (hint, *flat(hint)) if is_dataclass(part)}
    return {cls}.union(*map(dataclasses_in, inner))


def flat(hint) -> list:
    return [part for argument in typing.get_args(hint) for part in (argument, *flat(argument))]


def test_every_key_has_a_meaning():
    from train.experiment.sections import Config

    sections = dataclasses_in(Config)
    assert {"Operation", "LearningRate", "Dataset", "Preprocess"} <= {cls.__name__ for cls in sections}
    for cls in sections:
        assert set(meanings(cls)) == {field.name for field in fields(cls)}, cls.__name__
        assert all(meanings(cls).values())


def test_meanings_are_read_from_the_docstring():
    class Section:
        """A section.

        Attributes:
            first: one line.
            second_one: two lines: the first,
                and the second.

        Raises:
            third: is none.
        """

    assert meanings(Section) == {"first": "one line.", "second_one": "two lines: the first, and the second."}


def test_decoder_process_loads_no_settings_libraries():
    unwanted = "pandas h5py pydantic yaml difflib"
    program = f"""
import sys, pipeline.decoding.serve
print([name for name in {unwanted.split()} if name in sys.modules])
"""
    assert run_python("-c", program) == (0, "[]\n", "")


BAD_FILES = {"list": "- 1\n", "empty": "", "tab": "preprocess:\n\tfps: 1\n", "bomb": "a: &a [*a]\n"}


@pytest.mark.parametrize("name", ["list", "empty", "tab", "bomb", "folder", "fifo", "gone"])
def test_bad_configuration_file_is_one_line_and_exit_2(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    if name == "folder":
        path.mkdir()
    elif name == "fifo":
        os.mkfifo(path)
    elif name in BAD_FILES:
        path.write_text(BAD_FILES[name])
    code, out, err = run_python("-m", "pipeline.estimate", "-c", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {path}")


class Locked(UserError):
    exit_code = EXIT_LOCKED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("wrong"), EXIT_USAGE),
        (Locked("locked"), EXIT_LOCKED),
        (KeyboardInterrupt(), EXIT_SIGINT),
        (BrokenPipeError(), EXIT_IO),  # of a child process: what is printed goes past this
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


class BrokenExecutor(RuntimeError):
    """As the base class of joblib's and the standard library's errors is called."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE), "a/b.csv"), "a/b.csv: Stale file handle"),
        (OSError(errno.EXDEV, os.strerror(errno.EXDEV), "a", None, "b"), "a -> b: Invalid cross-device link"),
        (OSError(errno.EMFILE, "x", "a"), "a: too many open files in this process (see `ulimit -n`)"),
        (OSError(524, os.strerror(524), "a/.lock"), "a/.lock: operation not supported"),
        (OSError("[Errno 5] Unable to read\n(file a)"), "Unable to read (file a)"),
        (TimeoutError(), "TimeoutError"),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory: Unable to allocate 3 GiB"),
        (MemoryError(), "out of memory"),
        (ImportError("x.so: failed to map segment from shared object"),
         "out of memory: x.so: failed to map segment from shared object"),
        (RuntimeError("can't start new thread"), "no more processes or threads can be started (see `ulimit -u`)"),
        (BrokenExecutor("a"), "a child process died: it was killed, or there was no memory for it"),
    ],
)  # fmt: skip
def test_fault_of_the_machine_is_one_line_and_74(error, words, capfd):
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == EXIT_IO
    assert capfd.readouterr().err == f"error: {words}. Fix this and run the same command again.\n"


def test_name_too_long_is_for_its_user_to_fix(capfd):
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: os.stat("x" * 300))
    assert caught.value.code == EXIT_USAGE
    assert capfd.readouterr().err.startswith(f"error: {'x' * 300}: File name too long. Fix this")


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), OSError(errno.EBADF, "Bad file descriptor"), ImportError("no x in y"), RuntimeError("x")],
)
def test_error_of_our_own_code_is_not_hidden(error):
    def main() -> int:
        raise error

    with pytest.raises(type(error)):
        cli.run(main)


def test_finished_work_is_named_only_if_there_is_some(monkeypatch, capfd):
    def main() -> int:
        raise OSError(errno.EIO, "Input/output error", "x")

    monkeypatch.setattr(files, "_work_is_kept", False)
    for words in ("Fix this", "Finished work is kept. Fix this"):
        with pytest.raises(SystemExit):
            cli.run(main)
        assert capfd.readouterr().err == f"error: x: Input/output error. {words} and run the same command again.\n"
        files.keep_work()


PRINTS = """
import os, sys
from pipeline.common import cli
def main():
    opened = os.open(sys.argv[1], os.O_RDONLY)
    for number in range(20000):
        print("a result", number)
        print("a log line", number, file=sys.stderr)
    os.write(int(sys.argv[2]), f"{opened > 2} done".encode())
    return 3
cli.run(main)
"""


@pytest.mark.parametrize(
    ("redirection", "code", "err"),
    [
        (">&-", 3, None),
        ("2>&-", 3, ""),
        ("<&- >&- 2>&-", 3, ""),
        ("| head -n 1", 3, None),
        ("2>&1 | head -n 1", 3, ""),
        (">/dev/full", EXIT_IO, "error: standard output: No space left on device. Fix this and run the same command"),
        ("2>/dev/full", 3, ""),
    ],
)
def test_output_that_nobody_reads_changes_nothing(redirection, code, err, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PRINTS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}  # bash warns of a missing locale
    read, write = os.pipe()
    with os.fdopen(read, "rb") as noted:
        try:
            done = subprocess.run(
                ["bash", "-c", f'"$@" {redirection}\nexit ${{PIPESTATUS[0]}}', "bash",
                 sys.executable, program, program, str(write)],
                cwd=ROOT, env=environment, pass_fds=[write], capture_output=True, text=True, timeout=300,
            )  # fmt: skip
        finally:
            os.close(write)  # the end of what the program notes
        assert noted.read() == b"True done"
    assert "Traceback" not in done.stderr and "rror:" not in done.stderr.replace(err or "error:", "")
    assert done.returncode == code
    assert err is None or (err in done.stderr if err else done.stderr == "")


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
    """Exit code and output of a new interpreter that does not ignore Ctrl-C, even if this one does."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, **environment}, text=True,
        capture_output=True, timeout=300, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal_during_imports_is_one_line(name, code, tmp_path):
    (tmp_path / "tqdm.py").write_text(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    done = run_python("-m", "pipeline.preprocess", "--help", PYTHONPATH=str(tmp_path))
    assert done == (code, "", f"{name}: stopping at once.\n")


def test_a_ctrl_c_at_work_is_answered_in_one_line():
    program = """
import os, signal, sys
sys.argv = ["-m"]
from pipeline.common import cli
assert signal.getsignal(signal.SIGINT).__name__ == "_end_at_once"
cli.run(lambda: os.kill(os.getpid(), signal.SIGINT))
"""
    again = " Run the same command again to continue."
    assert run_python("-c", program) == (130, "", f"Interrupted.{again}\n")
    closed = program.replace("os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGHUP)")
    assert run_python("-c", closed) == (129, "", f"SIGHUP: the terminal was closed.{again}\n")


def test_again_is_only_advised_where_that_continues(capfd):
    def interrupted() -> int:
        raise KeyboardInterrupt

    def failing() -> int:
        raise OSError(errno.EIO, "Input/output error", "x")

    for main in (interrupted, failing):
        with pytest.raises(SystemExit):
            cli.run(main, resumes=False)
    assert capfd.readouterr().err == "Interrupted.\nerror: x: Input/output error. Fix this.\n"


def test_signals_ignored_at_the_start_stay_ignored(capfd):
    taken = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in taken}

    def main() -> int:
        for number in taken:
            os.kill(os.getpid(), number)
        return 0

    try:
        with pytest.raises(SystemExit) as caught:
            cli.run(main)
        assert caught.value.code == 0 and all(signal.getsignal(number) == signal.SIG_IGN for number in taken)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_unknown_section_of_an_override_is_named(capsys):
    with pytest.raises(SystemExit) as caught:
        parsed("-c", str(CONFIGS / "sample.yaml"), "--preproces.fps=3")
    assert caught.value.code == 2
    assert "--preproces.fps: unknown section; nearest valid: preprocess" in capsys.readouterr().err


def test_path_that_is_not_utf8_is_refused_first(tmp_path):
    for words in (["-c", "caf\udce9.yaml"], [f"--preprocess.store={tmp_path}/caf\udce9"], ["--args=-c 'caf\udce9'"]):
        with pytest.raises(UserError, match=r"got '.*caf\\udce9.*', which is not UTF-8\. Rename that file or folder"):
            parsed(*words)
