"""A small Kinetics in a folder, for the tests of label files, scans, ledgers and shards."""

from pathlib import Path

import make_ledgers
import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for videos with a label file and no video yet."""
    make_ledgers.label_file(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def preprocessed(root: Path) -> Path:
    """The same folder with its videos, shards, and the ledger that `preprocess` leaves."""
    return make_ledgers.preprocess(root)
