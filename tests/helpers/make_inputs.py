"""Small real videos and their pending ledger, for runs of `preprocess`; and the files that a run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

from make_store import make_ledger, settings_for
from make_videos import write_mp4

from pipeline.common.recipe import Preprocess
from pipeline.ledger.table import ledger_path, read_ledger, write_ledger

MISSING = (2,)


def make_inputs(folder: Path, num_videos: int = 9, **changes: object) -> Preprocess:
    """Small real videos (one missing, one that is none) and their pending ledger."""
    settings = settings_for(folder, height=32, width=48, **{"jobs": 2, "max_bad_fraction": 0.5, **changes})
    table = make_ledger(num_videos, "train", MISSING)
    for number, path in enumerate(table["path"]):
        if path:
            write_mp4(Path(settings.data_root) / path, 6 + number, 30, (32, 64), first=10 * number)
    (Path(settings.data_root) / table["path"][4]).write_bytes(b"no video")
    write_ledger(ledger_path(settings, "train"), table)
    return settings


def train_rows(settings):
    return read_ledger(ledger_path(settings, "train")).set_index("video_id")


def files(settings) -> dict[str, bytes]:
    paths = [*Path(settings.store).glob("*.h5"), *Path(settings.manifests).rglob("*.csv")]
    return {path.name: path.read_bytes() for path in paths}


def leftovers(settings) -> list[str]:
    kept = (".h5", ".csv")
    paths = [*Path(settings.store).glob("*"), *Path(settings.manifests).rglob("*.*")]
    return sorted(path.name for path in paths if path.suffix not in kept and path.name != ".lock")


def moved(settings, folder: Path, **changes: object) -> Preprocess:
    """The same inputs, with a fresh store and a copy of the ledgers."""
    shutil.copytree(Path(settings.manifests), folder / "manifests")
    paths = {"manifests": str(folder / "manifests"), "store": str(folder / "store")}
    return Preprocess(**{**settings.__dict__, **paths, **changes})
