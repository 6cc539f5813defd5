"""The offline stage: label CSVs and videos to ledgers and shards.  Never imports mindspore, model or train."""

import signal
import sys

# `python -m pipeline.x` imports libraries for a second before cli.run can answer: a Ctrl-C then just ends it.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
