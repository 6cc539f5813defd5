"""What the machine does not do ends each command in one line that names the file, and nothing half-done stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_faults import can_fail, check_line, failing
from make_inputs import files, leftovers, make_inputs, train_rows
from make_ledgers import label_file
from paths import CONFIGS, HELPERS, ROOT
from processes import processes_of

from pipeline.common.recipe import Preprocess
from pipeline.execution.run import preprocess_store

needs_gcc = pytest.mark.skipif(not can_fail(), reason="no gcc, which makes system calls fail")

_KEYS = ("dataset", "data_root", "manifests", "store", "height", "width", "videos_per_shard", "max_bad_fraction")


def run_command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the offline stage, such as `preprocess`, on the inputs in a folder."""
    command, *flags = words
    if command == "sample":
        options = [f"--out={folder}/sample", "--train=1", "--val=0", "--test=0", "--jobs=1"]
    elif command.startswith("train."):
        options = ["-c", str(CONFIGS / "sample.yaml"), f"--preprocess.store={folder}/store",
                   f"--preprocess.manifests={folder}/manifests", "--preprocess.dataset=tiny"]  # fmt: skip
    else:
        options = ["-c", f"{folder}/c.yaml"]
    module = command if "." in command else f"pipeline.{command}"
    return subprocess.run(
        [sys.executable, "-m", module, *options, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HELPERS}", **environment},
    )  # fmt: skip


def labelled_inputs(folder: Path) -> Preprocess:
    """Videos, a label file, ledgers and a configuration in `folder`; the ledger is as `manifests` writes it."""
    settings = make_inputs(folder, num_videos=5, videos_per_shard=2)
    keys = {name: getattr(settings, name) for name in _KEYS}
    (folder / "c.yaml").write_text(json.dumps({"preprocess": keys}))
    rows = train_rows(settings).itertuples()
    labels = [(row.label, row.youtube_id, row.time_start, row.time_end) for row in rows]
    label_file(Path(settings.data_root), "train", labels, "tiny_train.csv")
    return settings


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Preprocess:
    """Inputs that are preprocessed; tests copy them."""
    settings = labelled_inputs(tmp_path_factory.mktemp("stored") / "tiny")
    assert preprocess_store(settings) == 0
    return settings


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for one test, whose name is in the path of everything that fails."""
    yield tmp_path / "faulty"
    assert not processes_of(str(tmp_path)), "a process stays behind"


@needs_gcc
def test_sample_without_locks_is_one_line(folder: Path) -> None:
    folder.mkdir()
    done = run_command(folder, "sample", **failing("flock", errno.ENOLCK, ".lock"))
    check_line(done, f"{folder}/.sample.lock: No locks available")
    assert os.listdir(folder) == [".sample.lock"]


def test_sample_in_proc_says_the_true_cause() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.sample", "--out=/proc/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    check_line(done, "/proc/.x.lock: No such file or directory")


# Which calls fail, on which files, and which commands meet that.
_LOCKS = ("manifests", "preprocess", "sample")
_LEDGERS = ("manifests", "estimate", "preprocess", "verify")
MATRIX = [
    *[("flock", number, ".lock", _LOCKS) for number in (errno.EOPNOTSUPP, 524, errno.EACCES)],
    ("open", errno.EACCES, ".lock", _LOCKS),
    *[("read", number, "train.csv", _LEDGERS) for number in (errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)],
    ("read", errno.EIO, "c.yaml", _LEDGERS),
    ("open", errno.EMFILE, "faulty/", ("sample", "manifests", "estimate", "preprocess", "verify")),
    ("open", errno.ENOMEM, "faulty/", ("sample", "manifests", "estimate", "preprocess", "verify")),
    ("open", errno.ESTALE, "faulty/data", ("manifests",)),
    ("write", errno.ENOSPC, "faulty/", ("sample", "manifests", "preprocess")),
    ("fsync", errno.EIO, "faulty/", ("manifests", "preprocess")),
    ("rename", errno.EACCES, "faulty/", ("sample", "manifests", "preprocess")),
    ("read", errno.ESTALE, "train.csv", ("train.train",)),
]
CASES = [(call, number, path, command) for call, number, path, commands in MATRIX for command in commands]


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize(("call", "number", "path", "command"), CASES)
def test_failing_call_is_one_line(folder: Path, call: str, number: int, path: str, command: str) -> None:
    settings = labelled_inputs(folder)
    before = files(settings)
    done = run_command(folder, command, **failing(call, number, path))
    check_line(done, "faulty/")
    assert files(settings) == before and leftovers(settings) == []
    assert not (folder / "sample").exists()


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("command", _LOCKS)
def test_file_system_without_flock_works(folder: Path, command: str) -> None:
    settings = labelled_inputs(folder)
    done = run_command(folder, command, **failing("flock", errno.ENOSYS, ".lock"))
    assert done.returncode == 0 and "warn" not in done.stderr.replace("warning: train", ""), done.stderr
    assert leftovers(settings) == [] and not list(folder.rglob(".*.owner"))


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample", "estimate", "preprocess"])
@pytest.mark.parametrize("call", ["fork", "thread"])
def test_no_more_processes_is_one_line(folder: Path, call: str, command: str) -> None:
    settings = labelled_inputs(folder)
    flags = ["--jobs=2"] if command == "sample" else []
    done = run_command(folder, command, *flags, **failing(call, errno.EAGAIN, "process"))
    if command == "estimate" and call == "thread":  # it needs none
        assert done.returncode == 0
        return
    check_line(done, "ulimit -u")
    assert leftovers(settings) == [] and not (folder / "sample").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [60_000, 150_000])
@pytest.mark.parametrize("command", ["sample", "manifests", "estimate", "preprocess", "verify"])
def test_too_little_memory_is_one_line(folder: Path, command: str, kilobytes: int) -> None:
    labelled_inputs(folder)
    words = [sys.executable, "-m", f"pipeline.{command}", *(["-c", f"{folder}/c.yaml"] * (command != "sample"))]
    words += [f"--out={folder}/sample"] * (command == "sample")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v "$0"; exec "$@"', str(kilobytes), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    check_line(done, "out of memory")
    assert not (folder / "sample").exists()


@pytest.mark.slow
def test_preprocess_into_head_ends_its_work(folder: Path, stored: Preprocess) -> None:
    settings = labelled_inputs(folder)
    done = subprocess.run(
        ["bash", "-c", '"$0" -m pipeline.preprocess -c "$1" 2>&1 | head -n 1; exit ${PIPESTATUS[0]}',
         sys.executable, f"{folder}/c.yaml"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")
    assert {name: data for name, data in files(settings).items() if name.endswith(".h5")} == {
        name: data for name, data in files(stored).items() if name.endswith(".h5")
    }


@pytest.mark.slow
def test_verify_into_head_keeps_its_exit_code(folder: Path, stored: Preprocess) -> None:
    shutil.copytree(Path(stored.store).parent, folder)
    for path in (folder / "store").glob("*.h5"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    flags = [f"--preprocess.{key}={folder}/{key}" for key in ("store", "manifests")]
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash",
         sys.executable, "-m", "pipeline.verify", "-c", f"{folder}/c.yaml", *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_process_of_sample_is_one_line(folder: Path) -> None:
    folder.mkdir()
    words = ["-m", "pipeline.sample", f"--out={folder}/sample", "--train=200", "--jobs=2"]
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while not list(folder.rglob("*.mp4")) and time.monotonic() < deadline:
            time.sleep(0.05)
        for entry in Path(f"/proc/{child.pid}/task").glob("*/children"):
            for process in entry.read_text().split():
                if b"popen_loky" in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(int(process), signal.SIGKILL)
        errors = child.communicate(timeout=300)[1]
    assert child.returncode == 74, errors
    assert errors.splitlines()[-1].startswith("error: a child process died") and "Traceback" not in errors
    assert os.listdir(folder) == [".sample.lock"]


@pytest.mark.slow
def test_decoder_killed_while_it_starts_is_one_line(folder: Path) -> None:
    settings = labelled_inputs(folder)
    # The first thing that a decoder process loads kills it, and no other process.
    (folder / "sitecustomize.py").write_text(
        "import os, sys\nif 'pipeline.decoding.worker' in sys.orig_argv:\n    os.kill(os.getpid(), 9)\n"
    )
    for command in ("estimate", "preprocess"):
        done = run_command(folder, command, PYTHONPATH=f"{folder}:{ROOT}")
        check_line(done, "The decoder process does not start: signal 9 (SIGKILL)")
    assert leftovers(settings) == [] and list(Path(settings.store).glob("*.h5")) == []


@pytest.mark.slow
def test_closed_folder_costs_only_its_videos(folder: Path) -> None:
    settings = labelled_inputs(folder)
    table = train_rows(settings)
    closed = Path(settings.data_root) / "train" / "closed"
    closed.mkdir()
    (Path(settings.data_root) / table["path"].iloc[0]).rename(closed / Path(table["path"].iloc[0]).name)
    assert run_command(folder, "manifests").returncode == 0
    closed.chmod(0)
    program = (
        "import powers; powers.give_up()\n"  # the next program of this process obeys permissions, even as root
        "import os, sys; os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
    )
    results = {}
    for command in ("preprocess", "manifests"):
        results[command] = subprocess.run(
            [sys.executable, "-c", program, f"pipeline.{command}", "-c", f"{folder}/c.yaml"],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{HELPERS}"},
        )  # fmt: skip
        if command == "preprocess":
            statuses = train_rows(settings)["status"].tolist()
    closed.chmod(0o755)
    assert results["preprocess"].returncode == 0, results["preprocess"].stderr
    assert statuses == ["io", "ok", "missing", "ok", "unreadable"]
    assert results["manifests"].returncode == 0, results["manifests"].stderr
    expected = "1 files cannot be used: train/closed (folder with unknown videos: Permission denied)"
    assert expected in results["manifests"].stderr


@needs_gcc
@pytest.mark.slow
def test_finished_work_is_named_after_a_first_shard(folder: Path) -> None:
    settings = labelled_inputs(folder)
    done = run_command(folder, "preprocess", **failing("rename", errno.EIO, "train-00001-of"))
    assert done.returncode == 74
    last = done.stderr.splitlines()[-1]
    names = {path.name for path in Path(settings.store).glob("*.h5")}
    assert ("Finished work is kept." in last) == bool(names) and "train-00001-of" in last
    again = run_command(folder, "preprocess")
    assert again.returncode == 0, again.stderr
