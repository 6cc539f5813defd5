"""The networks and their weights.  Of large libraries it imports mindspore and numpy only.

The first import limits oneDNN to fast instructions, so it must come before mindspore's.
"""

from model.onednn import limit_onednn_isa

ONEDNN_NOTE = limit_onednn_isa()
