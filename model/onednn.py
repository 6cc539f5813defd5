"""What MindSpore needs to be told about the CPU before it loads."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings

_VARIABLE = "ONEDNN_MAX_CPU_ISA"


def limit_onednn_isa() -> str:
    """Keep oneDNN off its reference convolution; returns what was done, in one line for the log.

    MindSpore 2.9 and 2.10 pick oneDNN's *reference* 3-D convolution on AVX-512 CPUs, 40 to 80 times slower than
    the AVX2 one (measured); 2.8.0 does not.  oneDNN reads the variable once, when its library loads, so this must
    run before `import mindspore`; `model/__init__.py` calls it.  A value the user has set is left alone.
    """
    version = importlib.metadata.version("mindspore")
    if _VARIABLE in os.environ:
        return f"oneDNN ISA: {_VARIABLE}={os.environ[_VARIABLE]} (from the environment), mindspore {version}"
    if version.split(".")[:2] not in (["2", "9"], ["2", "10"]):
        return f"oneDNN ISA: no limit needed, mindspore {version}"
    if "mindspore" in sys.modules:
        said = (
            f"oneDNN ISA: mindspore {version} was imported before `model` without {_VARIABLE}=AVX2; "
            "on an AVX-512 CPU convolutions are 40 to 80 times slower: import `model` first"
        )
        warnings.warn(said, RuntimeWarning, stacklevel=2)
        return said
    os.environ[_VARIABLE] = "AVX2"
    return f"oneDNN ISA: {_VARIABLE}=AVX2 set, since mindspore {version} is 40 to 80 times slower with AVX-512"
