"""Starts MindSpore's msrun and adds exit codes, and signals that let the processes save, for train.msrun."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.errors import EXIT_OK, EXIT_RETRY, EXIT_SIGINT, EXIT_UNEXPECTED, UserError
from pipeline.common.locking import start_of
from train.device.signals import SIGNALS, end_with_parent, exit_code_of, ignored_signals

_NOTES = "KINETICS_R2PLUS1D_NOTES"  # the folder where each process writes its process id and its exit code
_SAVED = (EXIT_RETRY, EXIT_SIGINT)  # exit codes after a checkpoint was written
# msrun without a traceback when a process fails: the process's own error says why.
_MSRUN = "import sys; sys.tracebacklimit = 0; from mindspore.parallel.cluster.run import main; main()"


@contextlib.contextmanager
def note_exit_code() -> Iterator[None]:
    """In a process that `launch` started: write its process id now, and the exit code at the end of the block.

    Any other process writes nothing.
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
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else code
        raise
    finally:
        note.with_suffix(".code").write_text(str(code))


def launch(
    program: list[str], *, devices: int, port: int, log_dir: Path, action: str = "Resume with --resume auto."
) -> int:
    """Run a program once for each device with msrun, and wait until all have ended.

    Args:
        program: the arguments of `python`; the program runs in `note_exit_code()`.
        devices: number of processes.
        port: TCP port where the processes meet.
        log_dir: for worker_<rank>.log and scheduler.log; the output of process 0 is also shown here.
        action: what to do after a process crashed or was stopped.

    Returns:
        0; or the exit code of the first process that ended with another one; or 75 if one was killed or crashed.

    Raises:
        UserError: the port cannot be used; no process was started.
    """
    check_port(port)
    command = [
        sys.executable, "-c", _MSRUN, f"--worker_num={devices}", f"--local_worker_num={devices}",
        f"--master_port={port}", "--join=True", f"--log_dir={log_dir}", "--tail_worker_log=0", "python", *program,
    ]  # fmt: skip
    received: list[int] = []
    taken = SIGNALS - ignored_signals()
    before = {number: signal.signal(number, lambda got, _frame: received.append(got)) for number in taken}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, _NOTES: folder,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # msrun starts `python`
        }  # fmt: skip
        with subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=end_with_parent
        ) as process:  # in its own session, so that Ctrl-C in the terminal does not reach it
            sent, ended = 0, False
            while process.poll() is None:
                pids = [int(path.read_text() or 0) for path in Path(folder).glob("*.pid")]
                if len(received) > sent and len(pids) == devices and all(pids):
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, received[sent])
                    sent += 1
                if not ended and _all_ended_and_one_failed(Path(folder), devices):
                    ended = True
                    process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        for number, handler in before.items():
            signal.signal(number, handler)
        return _exit_code(process.returncode or int(ended), Path(folder), received, log_dir, action)


def _all_ended_and_one_failed(notes: Path, devices: int) -> bool:
    """Whether msrun only waits for its scheduler any more, which takes minutes to notice that a process died."""
    pids = [path.read_text() for path in notes.glob("*.pid")]
    if not pids or any(not pid or start_of(int(pid)) is not None for pid in pids):
        return False
    codes = [path.read_text() for path in notes.glob("*.code")]
    return codes != [f"{EXIT_OK}"] * devices


def check_port(port: int) -> None:
    """Check that the processes can meet at a port of this machine: msrun only waits, for minutes, if they cannot.

    Raises:
        UserError: another program listens there, or the system does not allow it.
    """
    action = "Give another one with --port=N (make: PORT=N)."
    if not 1024 <= port <= 65535:
        raise UserError(f"--port: got {port}, expected 1024 to 65535. {action}")
    with socket.socket() as meeting:
        meeting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as msrun: connections that end do not count
        try:
            meeting.bind(("127.0.0.1", port))
            meeting.listen()
        except OSError as error:
            raise UserError(f"--port: {port} cannot be used: {error.strerror}. {action}") from None


def _exit_code(of_msrun: int, notes: Path, received: list[int], log_dir: Path, action: str) -> int:
    """The exit code of this command; prints the reason and what to do next.

    Args:
        of_msrun: exit code of msrun.
        notes: where the processes wrote their exit codes.
        received: signals that were passed on to the processes.
        log_dir: where the processes' logs are.
        action: what to do after a process crashed or was stopped.
    """
    if of_msrun == 0:
        return EXIT_OK
    files = sorted(notes.glob("*.code"), key=lambda path: path.stat().st_mtime_ns)
    codes = [(path.stem, int(path.read_text())) for path in files]
    rank, code = next(((rank, code) for rank, code in codes if code), ("*", 0))
    if not code and received:
        return exit_code_of(received[-1])
    if not code:
        print(
            f"error: One process crashed or was killed, so all were stopped. See {log_dir}/*.log. {action}",
            file=sys.stderr,
        )
        return EXIT_RETRY
    action = action if code in _SAVED else "Fix the error there."
    print(f"Process {rank} ended with exit code {code}. See {log_dir}/worker_{rank}.log. {action}", file=sys.stderr)
    return code
