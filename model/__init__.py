"""The networks and their weights.  Imports mindspore only."""
