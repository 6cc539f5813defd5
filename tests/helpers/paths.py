"""Paths of this repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
RESOURCES = ROOT / "tests" / "resources"
CONFIGS = ROOT / "train" / "configs"
SHARED = ROOT.parent / "shared"  # real videos and label files, if a checkout has them
