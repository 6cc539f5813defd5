"""The online stage: trains on the clips in shards, evaluates, predicts and exports."""

import os

import model  # noqa: F401  sets the oneDNN ISA before any module here imports mindspore
import pipeline  # noqa: F401  may start Python again, in UTF-8 mode
from train.device import nvidia
from train.device.signals import signals_blocked

with signals_blocked():  # numpy starts threads, which must not receive signals
    import numpy  # noqa: F401

# Errors only: MindSpore's warnings are about its own files, for example that an empty compile cache is empty.
os.environ.setdefault("GLOG_v", "3")

GPU_PROBLEM = nvidia.prepare()
"""Why MindSpore cannot use a GPU and what to do, in one line that ends with a full stop; empty when it can."""
