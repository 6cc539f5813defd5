"""The offline stage: label CSVs and videos to ledgers and shards.  Never imports mindspore, model or train."""

import signal as _signal
import sys as _sys

# `python -m` starts one of our commands, whose imports take seconds.  A Ctrl-C in them should end it, not make pages of
# errors out of half-imported libraries (MindSpore's abort the process).  cli.run takes over from there.
if _sys.argv[:1] == ["-m"] and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
