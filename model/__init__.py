"""The networks and their weights.  Imports only mindspore, after it has limited oneDNN to fast instructions."""

from model.onednn import limit_onednn_isa

ONEDNN_NOTE = limit_onednn_isa()
