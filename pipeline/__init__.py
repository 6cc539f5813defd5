"""The offline stage: makes ledgers and shards of label CSVs and videos.  Never imports mindspore, model or train."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn


def _say_machine_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of our commands: a library that does not load for lack of memory is one line, too."""
    from pipeline.common.errors import EXIT_IO, machine_fault

    fault = machine_fault(error)
    if not fault:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {fault}. Fix this and run the same command again.", file=sys.stderr, flush=True)
    os._exit(EXIT_IO)


def _end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """Answer a signal during the imports of a command, in one line and with the exit code that it has later."""
    try:
        os.write(2, f"{signal.Signals(number).name}: stopping at once.\n".encode())
    finally:
        os._exit(128 + number)


# `python -m` starts one of our commands, or one of `train`, which imports this package first.
if sys.argv[:1] == ["-m"]:
    # File names are UTF-8, whatever the locale says: read as ISO-8859-1, every name beyond ASCII would be another one.
    # The mode can only be chosen when Python starts; the words of the command line keep their bytes.
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if hasattr(sys.stdout, "reconfigure"):  # an ASCII terminal shows \xe9 for what it cannot print
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.excepthook = _say_machine_fault
    # numpy's OpenBLAS, of which nothing here needs threads, ends the process by SIGINT when it can start none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The imports of a command take seconds.  A signal during them should end it at once: with Python's handler of
    # Ctrl-C, half-imported libraries print pages of errors (MindSpore's abort the process).  cli.run sets others.
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, _end_at_once)
