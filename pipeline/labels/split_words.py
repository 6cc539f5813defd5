"""Which split the name of a file or folder speaks of."""

from __future__ import annotations

import re

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> str:
    """The split that a file or folder name speaks of: `kinetics-400_val` -> val; empty when none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), "")
