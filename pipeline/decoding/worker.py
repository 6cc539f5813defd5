"""The program of a decoder process: `python -m pipeline.decoding.worker PARENT WORDS`, which process.py starts.

It may take only so much memory and so many files, and dies with its parent.  The limits come before the libraries that
they are for, so the imports stand in `main`; pandas, h5py and pydantic stay out, and it is ready in 0.2 s.
"""

from __future__ import annotations

import json
import sys

from pipeline.decoding.limits import confine

READY = b"ready"
"""The line by which the process says that it can be asked."""


def main(**replaced: object) -> None:
    """Set the limits, load the libraries, answer until stdin ends.

    Args:
        replaced: arguments of `serve` that tests exchange.
    """
    confine(parent=int(sys.argv[1]))
    from pipeline.decoding.serve import serve

    serve(json.loads(sys.argv[2]), **replaced)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
