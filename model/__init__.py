"""The networks and their weights.  Imports mindspore only, after telling it what it must know about the CPU."""

from model.onednn import limit_onednn_isa

ONEDNN_NOTE = limit_onednn_isa()
