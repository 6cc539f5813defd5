"""Finds the split that the name of a file or folder contains."""

from __future__ import annotations

import re

from pipeline.common.recipe import SPLITS

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLIT_RULE = " | ".join(SPLITS) + " (a column, or a word of the file's name)"


def split_of(name: str) -> str:
    """The split in the name of a file or folder: `kinetics-400_val` -> val; empty when there is none."""
    words = re.split(r"[^a-z]+", name.lower())
    words = [word.removesuffix("list") for word in words]  # UCF101's trainlist01
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), "")
