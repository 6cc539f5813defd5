"""The `preprocess` section of an experiment file: where videos and shards are, and what a stored frame is.

`Preprocess.fingerprint()` identifies what is stored: each shard holds it, and training refuses shards whose fingerprint
differs from its configuration's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pipeline.common.settings import Document, build, default_of
from pipeline.common.value_types import Fraction, Name, NonNegativeInt, PathText, PositiveFloat, Range

SPLITS = ("train", "val", "test")
FORMAT_VERSION = 3

# The recipe: the keys that decide the bytes of a shard.  A new one goes into the second list, and its default gives the
# old bytes: at the default earlier shards stay valid, and another value needs another store.
_STORED_KEYS = (
    "dataset", "height", "width", "interpolation", "fps", "codec", "jpeg_quality", "videos_per_shard", "seed",
)  # fmt: skip
_LATER_STORED_KEYS: tuple[str, ...] = ("decoder",)


@dataclass(frozen=True)
class Preprocess:
    """The settings of preprocessing.

    Attributes:
        dataset: name of the dataset, and of its folder of ledgers in `preprocess.manifests`; `auto`: the name of the
            folder `preprocess.data_root`.
        data_root: folder of videos (train/ val/ test/, flat or one folder per class); empty: not set.
        labels: label CSV files; null: those found in `preprocess.data_root`.
        manifests: folder of ledgers, `<manifests>/<dataset>/<split>.csv`.
        val_fraction: fraction of the videos of each class that go to val, where neither label files nor folders name
            the splits of own videos.  `preprocess.seed` decides which; a video keeps its split in later runs.
        group_by: regular expression that finds, in the path of an own video, the name of its recording (the first
            group, else the whole match); pieces of one recording get the same split.  Empty: each video for itself.
        store: folder of shards; `auto`: data/<dataset>-shards.
        height: height of a stored frame in pixels.
        width: width of a stored frame in pixels.
        interpolation: how frames are resized: bilinear as in torchvision (not antialiased), area as in zjut_mindvideo
            (cv2.INTER_AREA), or bicubic.
        fps: stored frames per second; `source`: every frame of the video.  Stored frame k is source frame
            floor(k * source_fps / fps), as in torchvision; if the rate varies, the frame shown at k / fps seconds.
        decoder: which library decodes each video first: decord, or pyav, which takes less time.  The other one is tried
            where it fails; the ledger says which one gave the frames.
        codec: how a frame is stored: raw (uint8 RGB) or jpeg (one JPEG per frame).
        jpeg_quality: quality of each JPEG, with codec jpeg.
        videos_per_shard: number of videos in a shard.
        seed: random seed of the order in which videos are spread over shards, so that each shard mixes classes.
        jobs: shards written at the same time on this machine; -1: one for each core.
        engine: what writes the shards: local: this machine; dask: the workers of a Dask cluster.
        scheduler: address of the Dask cluster's scheduler, such as tcp://head:8786, with engine dask.
        video_timeout_s: seconds one video may take to decode; a video that takes longer gets the status `timeout`.
        max_bad_fraction: fraction of videos that may be undecodable; above it a run ends with exit code 3.
    """

    dataset: Name = "kinetics400"
    data_root: PathText = ""
    labels: tuple[PathText, ...] | None = None
    manifests: PathText = "data_manifests"
    val_fraction: Annotated[float, Range(min=0, max=0.9)] = 0.2
    group_by: str = ""
    store: PathText = "data/shards"
    height: Annotated[int, Range(min=1, max=16_384)] = 128
    width: Annotated[int, Range(min=1, max=16_384)] = 171
    interpolation: Literal["bilinear", "area", "bicubic"] = "bilinear"
    fps: PositiveFloat | Literal["source"] = 15.0
    decoder: Literal["decord", "pyav"] = "decord"
    codec: Literal["raw", "jpeg"] = "raw"
    jpeg_quality: Annotated[int, Range(1, 100)] = 95
    videos_per_shard: Annotated[int, Range(min=1, max=100_000)] = 64
    seed: NonNegativeInt = 0
    jobs: Annotated[int, Range(min=-1)] = -1
    engine: Literal["local", "dask"] = "local"
    scheduler: str = ""
    video_timeout_s: PositiveFloat = 60.0
    max_bad_fraction: Fraction = 0.05

    def __post_init__(self) -> None:
        for key, flag in (("store", " (make: STORE=DIR)"), ("manifests", "")):
            if not getattr(self, key):
                raise ValueError(f"{key}: got '', expected the name of a folder{flag}")
        if self.dataset == AUTO and self.data_root:
            object.__setattr__(self, "dataset", name_of_folder(self.data_root))
        if self.store == AUTO:
            object.__setattr__(self, "store", os.path.join("data", f"{self.dataset}-shards"))
        try:
            re.compile(self.group_by)
        except re.error as error:
            raise ValueError(f"group_by: got {self.group_by!r}, expected a regular expression: {error}") from None
        if self.data_root and os.path.abspath(self.data_root) == os.path.abspath(self.store):
            raise ValueError(f"store: got {self.store!r}, which is data_root; expected a folder for shards alone")
        if self.jobs == 0:
            raise ValueError("jobs: got 0, expected -1 (one for each core) or at least 1")
        if self.engine == "dask" and not self.scheduler:
            raise ValueError("scheduler: got '', expected its address (tcp://host:8786) with engine dask")

    def stored(self) -> dict[str, Any]:
        """The settings that decide the bytes of a shard, as JSON-able values."""
        later = {key: getattr(self, key) for key in _LATER_STORED_KEYS if getattr(self, key) != _DEFAULTS[key]}
        return {"format_version": FORMAT_VERSION, **{key: getattr(self, key) for key in _STORED_KEYS}, **later}

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of a stored frame in pixels."""
        return self.height, self.width

    def to_json(self) -> str:
        """`stored()` as canonical JSON: the shard attribute `recipe`."""
        return json.dumps(self.stored(), sort_keys=True, separators=(",", ":"))

    def fingerprint(self) -> str:
        """SHA-256 of `to_json()`, 64 hexadecimal digits: the shard attribute `recipe_sha256`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


AUTO = "auto"
"""The value of `dataset` and `store` that means: from the name of `data_root`."""


def name_of_folder(path: str) -> str:
    """A dataset's name from the folder of its videos: `/data/My videos (2)` -> `My_videos_2`."""
    folder = unicodedata.normalize("NFC", os.path.basename(os.path.abspath(path)))
    name = re.sub(r"[^\w.-]+", "_", folder).strip("._-")
    return f"{name or 'own'}-videos" if name in ("", AUTO) else name


_DEFAULTS = {field.name: default_of(field) for field in fields(Preprocess)}


def adopt_data_root(document: Document) -> None:
    """Fill `preprocess.data_root` from `data_loader.train.dataset.path`, where zjut_mindvideo's files have it."""
    document.copy_key(("data_loader", "train", "dataset", "path"), "preprocess", "data_root")


def load(document: Document) -> Preprocess:
    """The `preprocess` section of a document.

    Raises:
        SettingsError: a key is unknown, mistyped or out of range.
    """
    adopt_data_root(document)
    return build(Preprocess, document, "preprocess")


def differences(ours: str, theirs: str) -> str:
    """How two recipes (canonical JSON) differ, for a message: `fps: 15.0 here, 30.0 there; ...`.

    A key that is missing in one of them has its default there.
    """
    mine, other = ({**_DEFAULTS, **json.loads(text)} for text in (ours, theirs))
    keys = [key for key in sorted({*mine, *other}) if mine.get(key) != other.get(key)]
    return "; ".join(f"{key}: {mine.get(key)} here, {other.get(key)} there" for key in keys)
