"""The offline stage: makes ledgers and shards of label CSVs and videos.  Never imports mindspore, model or train."""

import os
import signal
import sys

# `python -m` starts one of our commands, or one of `train`, which imports this package first.
if sys.argv[:1] == ["-m"]:
    # File names are UTF-8, whatever the locale says: read as ISO-8859-1, every name beyond ASCII would be another one.
    # The mode can only be chosen when Python starts; the words of the command line keep their bytes.
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if hasattr(sys.stdout, "reconfigure"):  # an ASCII terminal shows \xe9 for what it cannot print
        sys.stdout.reconfigure(errors="backslashreplace")
    # The imports of a command take seconds.  A Ctrl-C during them should end it at once: with Python's handler,
    # half-imported libraries print pages of errors (MindSpore's abort the process).  cli.run restores it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
