"""The offline stage: label CSVs and videos to ledgers and shards.  Never imports mindspore, model or train."""

import signal
import sys

# `python -m` starts one of our commands, whose imports take seconds.  A Ctrl-C in them should end it, not make pages of
# errors out of half-imported libraries (MindSpore's abort the process).  cli.run takes over from there.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
