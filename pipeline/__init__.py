"""The offline stage: makes ledgers and shards of label CSVs and videos.  Never imports mindspore, model or train."""

import signal
import sys

# `python -m` starts one of our commands, whose imports take seconds.  A Ctrl-C during them should end it at once: with
# Python's handler, half-imported libraries print pages of errors (MindSpore's abort the process).  cli.run restores it.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
