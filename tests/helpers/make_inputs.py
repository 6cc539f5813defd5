"""Small real videos and their pending ledger for runs of `preprocess`, and the files that a run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from make_store import make_ledger, settings_for
from make_videos import write_mp4

from pipeline.common.recipe import Preprocess
from pipeline.ledger.table import ledger_path, read_ledger, write_ledger

MISSING = (2,)
BY_DECORD, BY_PYAV = 5, 6  # videos of `make_both`


def make_inputs(folder: Path, num_videos: int = 9, broken: int | None = 4, **changes: object) -> Preprocess:
    """Small real videos, one of them missing and number `broken` not a video, and their pending ledger."""
    settings = settings_for(folder, height=32, width=48, **{"jobs": 2, "max_bad_fraction": 0.5, **changes})
    table = make_ledger(num_videos, "train", MISSING)
    for number, path in enumerate(table["path"]):
        if path:
            write_mp4(Path(settings.data_root) / path, 6 + number, 30, (32, 64), first=10 * number)
    if broken is not None:
        (Path(settings.data_root) / table["path"][broken]).write_bytes(b"no video")
    write_ledger(ledger_path(settings, "train"), table)
    return settings


def make_both(folder: Path, **changes: object) -> Preprocess:
    """`make_inputs`; its video BY_PYAV is narrow, so decord misreads it, and PyAV decodes it."""
    settings = make_inputs(folder, **changes)  # type: ignore[arg-type]
    write_mp4(path_of(settings, BY_PYAV), 12, 30, (32, 24), first=10 * BY_PYAV)
    return settings


def path_of(settings: Preprocess, number: int) -> Path:
    """The file of a video of the ledger of `train`."""
    return Path(settings.data_root) / train_rows(settings)["path"].iloc[number]


def train_rows(settings: Preprocess) -> pd.DataFrame:
    """The ledger of `train`, by video id."""
    return read_ledger(ledger_path(settings, "train")).set_index("video_id")


def files(settings: Preprocess) -> dict[str, bytes]:
    """The content of each shard and ledger, by its name."""
    paths = [*Path(settings.store).glob("*.h5"), *Path(settings.manifests).rglob("*.csv")]
    return {path.name: path.read_bytes() for path in paths}


def leftovers(settings: Preprocess) -> list[str]:
    """Names of the files of an unfinished run that still exist."""
    kept = (".h5", ".csv", ".json")
    paths = [*Path(settings.store).glob("*"), *Path(settings.manifests).rglob("*.*")]
    return sorted(path.name for path in paths if path.suffix not in kept and path.name != ".lock")


def moved(settings: Preprocess, folder: Path, **changes: object) -> Preprocess:
    """The same inputs, with a new store and a copy of the ledgers."""
    shutil.copytree(Path(settings.manifests), folder / "manifests")
    paths = {"manifests": str(folder / "manifests"), "store": str(folder / "store")}
    return Preprocess(**{**settings.__dict__, **paths, **changes})


def copy_of(settings: Preprocess, folder: Path, **changes: object) -> Preprocess:
    """The same inputs, with a copy of the ledgers and of the store."""
    copy = moved(settings, folder, **changes)
    shutil.copytree(settings.store, copy.store)
    return copy
