"""The online stage: clips out of shards to checkpoints, metrics, predictions and exports."""

import os

import model  # noqa: F401  sets the oneDNN ISA before any module here imports mindspore
from train.device import nvidia
from train.device.signals import blocked

with blocked():  # the threads that it starts shall take no signals
    import numpy  # noqa: F401

# MindSpore's errors only: its warnings are of its own files, such as that an empty compile cache is empty.
os.environ.setdefault("GLOG_v", "3")

GPU_FAULT = nvidia.prepare()
"""Why MindSpore cannot use a GPU; empty when it can."""
