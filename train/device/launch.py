"""Starts MindSpore's msrun, and adds what it lacks: exit codes, and signals that let the processes save."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.errors import EXIT_OK, EXIT_RETRY, EXIT_SIGINT, EXIT_SIGTERM, EXIT_UNEXPECTED
from train.device.signals import SIGNALS, end_with_parent

_NOTES = "KINETICS_R2PLUS1D_NOTES"  # the folder where the processes note what they are and how they end
_SAVED = (EXIT_RETRY, EXIT_SIGINT)


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """In a process that `launch` started: note its number at once, and the exit code of the block.

    A process that was started otherwise notes nothing.
    """
    if _NOTES not in os.environ or os.environ["MS_ROLE"] != "MS_WORKER":
        yield
        return
    note = Path(os.environ[_NOTES], os.environ["RANK_ID"])
    note.with_suffix(".pid").write_text(str(os.getpid()))
    code = EXIT_UNEXPECTED
    try:
        yield
        code = EXIT_OK
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else code
        raise
    finally:
        note.with_suffix(".code").write_text(str(code))


def launch(program: list[str], *, devices: int, port: int, log_dir: Path) -> int:
    """Have msrun start a program once for each device, and wait.

    Args:
        program: the arguments of `python`; it runs in `noted()`.
        devices: how many.
        port: where the processes meet.
        log_dir: for worker_<rank>.log and scheduler.log; what the first process writes there is shown here too.

    Returns:
        0; or the exit code of the first process that ended with another; or 75 when one was killed or crashed.
    """
    command = [
        str(Path(sys.executable).with_name("msrun")), f"--worker_num={devices}", f"--local_worker_num={devices}",
        f"--master_port={port}", "--join=True", f"--log_dir={log_dir}", "--tail_worker_log=0", "python", *program,
    ]  # fmt: skip
    asked: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: asked.append(got)) for number in SIGNALS}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, _NOTES: folder,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # msrun starts `python`
        }  # fmt: skip
        with subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=end_with_parent
        ) as process:  # its own session: a Ctrl-C in the terminal does not reach it
            sent = 0
            while process.poll() is None:
                pids = [int(path.read_text() or 0) for path in Path(folder).glob("*.pid")]
                if len(asked) > sent and len(pids) == devices and all(pids):
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, asked[sent])
                    sent += 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        for number, handler in before.items():
            signal.signal(number, handler)
        return _exit_code(process.returncode, Path(folder), asked, log_dir)


def _exit_code(of_msrun: int, notes: Path, asked: list[int], log_dir: Path) -> int:
    """What to end with, and a line that says why and what next."""
    if of_msrun == 0:
        return EXIT_OK
    files = sorted(notes.glob("*.code"), key=lambda path: path.stat().st_mtime_ns)
    codes = [(path.stem, int(path.read_text())) for path in files]
    rank, code = next(((rank, code) for rank, code in codes if code), ("*", 0))
    if not code and asked:
        return EXIT_SIGINT if asked[-1] == signal.SIGINT else EXIT_SIGTERM
    if not code:
        print(
            f"error: a process was killed or crashed, and so all were ended; see {log_dir}/*.log, and go on with "
            "--resume auto",
            file=sys.stderr,
        )
        return EXIT_RETRY
    what_next = "go on with --resume auto" if code in _SAVED else "mend that first"
    print(f"process {rank} ended with exit code {code}; see {log_dir}/worker_{rank}.log; {what_next}", file=sys.stderr)
    return code
