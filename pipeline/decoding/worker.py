"""The program of a decoder process, which process.py starts: `python -m pipeline.decoding.worker PARENT TASK`.

Its memory and files are limited, and it ends with its parent.  The limits are set before the libraries are loaded, so
`main` imports them.  pandas, h5py and pydantic are not imported, and it is ready in 0.2 s.
"""

from __future__ import annotations

import json
import sys

from pipeline.decoding.limits import confine

READY = b"ready"
"""The first line of the process: questions can be sent now."""


def main(**replaced: object) -> None:
    """Set the limits, load the libraries, and answer until stdin ends.

    Args:
        replaced: arguments of `serve` that tests replace.
    """
    confine(parent=int(sys.argv[1]))
    from pipeline.decoding.serve import serve

    serve(json.loads(sys.argv[2]), **replaced)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
