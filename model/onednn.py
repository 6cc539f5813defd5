"""Limits oneDNN's instruction set before MindSpore loads, because its convolutions are slow on AVX-512 CPUs."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings

_VARIABLE = "ONEDNN_MAX_CPU_ISA"


def limit_onednn_isa() -> str:
    """Keep oneDNN from using its reference convolution; returns what was done, in one line for the log.

    MindSpore 2.9 and 2.10 use oneDNN's *reference* 3-D convolution on AVX-512 CPUs, 40 to 80 times slower than the
    AVX2 one (measured); 2.8.0 does not.  oneDNN reads the variable once, when its library loads, so this must run
    before `import mindspore`; `model/__init__.py` calls it.  A value that the user has set is not changed.
    """
    version = importlib.metadata.version("mindspore")
    if _VARIABLE in os.environ:
        return f"oneDNN ISA: {_VARIABLE}={os.environ[_VARIABLE]} (from the environment), mindspore {version}"
    if version.split(".")[:2] not in (["2", "9"], ["2", "10"]):
        return f"oneDNN ISA: no limit needed, mindspore {version}"
    if "mindspore" in sys.modules:
        warning = (
            f"oneDNN ISA: mindspore {version} was imported before `model` without {_VARIABLE}=AVX2, so convolutions "
            "are 40 to 80 times slower on an AVX-512 CPU. Import `model` first."
        )
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
        return warning
    os.environ[_VARIABLE] = "AVX2"
    return f"oneDNN ISA: {_VARIABLE}=AVX2 set, because mindspore {version} is 40 to 80 times slower with AVX-512"
