"""Write the features before the last layer of every view of a split into one HDF5 file.          (make features)

    python -m train.features -c train/configs/sample.yaml [--eval.pretrained_model=FILE] [--output-dir=DIR]

Reads weights (.ckpt, .safetensors or .pth; default: the best of the newest run) and takes the views of the first of
`eval.protocols`, as evaluation does.  `<weights>-<protocol>-<split>.h5`, in the folder `features` of the weights' run,
has one row a distinct view, a video's views together:

    features   (N, D) float32  the mean over (T, H, W) after the last stage; the network's `fc` turns it into logits
    video_id   (N,) text
    clip       (N,) int64      number of the clip in its video
    crop       (N,) int64      number of the crop in its clip
    times      (N,) int64      how often the protocol counts this view in its video's score
    start_s    (N,) float64    when the clip begins, in seconds since the first frame of its video
    label_id   (N,) int64      -1 where unlabelled
    attributes: settings (JSON: weights, split, views), classes (JSON: the name of each label_id)

A run that was stopped or killed resumes: run the same command again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.files import replacing, try_folder
from pipeline.common.locking import locked_file, remove_temporary
from pipeline.shards import libhdf5
from pipeline.shards.hdf5 import table
from pipeline.shards.hdf5_file import Hdf5Error, Hdf5File
from pipeline.shards.reader import ShardReader
from train.data.videos import Videos, class_names, count_classes
from train.data.views import Cuts
from train.device.select import start_device
from train.device.signals import StopRequests
from train.evaluation.features import PartFile
from train.evaluation.protocols import Protocol, clips_seen, protocols_of
from train.evaluation.scoring import Evaluation, as_evaluated
from train.experiment.load import SECTION_CLASSES, with_num_classes
from train.experiment.sections import Config
from train.network.predictor import FeatureExtractor, load_feature_extractor
from train.runs.choose import weights_of
from train.runs.command_line import parse
from train.weights.checkpoint import run_of
from train.weights.compatibility import check_class_names, warn_if_seen_differently
from train.weights.record import network_of, read_record, views_of, with_network
from train.weights.sealed_json import sha256

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "train.ckpt_path", "eval.pretrained_model", "eval.protocols",
    "data_loader.eval.dataset.split", "data_loader.eval.dataset.batch_size", "data_loader.eval.dataset.seq",
    "data_loader.eval.dataset.num_clips", "data_loader.eval.dataset.num_crops", "preprocess.dataset",
    "preprocess.store",
)  # fmt: skip
_ANOTHER = "Give another folder with --output-dir (make: OUT=DIR)."
_LOG_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Compute the features, write the file, and print its path."""
    parser = cli.parser("train.features", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _add_flags(parser)
    args, document, config = parse(parser, argv, "eval")
    path = weights_of(config.eval.pretrained_model, config, document, class_names(config))
    name, protocol = next(iter(protocols_of(config.eval.protocols, config.data_loader.eval.dataset).items()))
    folder = args.output_dir or (run_of(path) or path.parent) / "features"
    target = folder / f"{path.stem}-{name}-{config.data_loader.eval.dataset.split}.h5"
    cli.say_target(f"{target}")
    config = with_network(config, document, read_record(path), path)
    config = replace(config, eval=replace(config.eval, protocols=config.eval.protocols[:1]))
    config = with_num_classes(config, lambda: count_classes(config))
    try_folder(folder, _ANOTHER)
    with locked_file(folder / ".lock", f"{folder}: {{}} is writing here."), StopRequests():
        remove_temporary(folder)
        start_device(config)
        source = Evaluation(config)
        config = as_evaluated(config)
        extract, facts = load_feature_extractor(config, path)
        check_class_names(facts, source.videos.class_names, path, source.videos.name)
        warn_if_seen_differently(facts, config, path, clips_seen([protocol], config))
        settings = _settings(config, source.videos, name, protocol, path)
        if _is_finished(target, settings):
            print(f"{target}: already complete")
            return EXIT_OK
        part_path = folder / f".{target.name}.{zlib.crc32(settings.encode()):08x}.part"
        with PartFile(part_path, extract.dim) as part:
            (views,) = (each.views for each in source.plan.passes)
            num_views = views.num_samples(len(source.videos.video_ids))
            _compute(extract, source, part, num_views)
            _write(target, part, extract.dim, source, settings)
            part.remove()
    print(f"{target}: {num_views:,} views of {source.videos.name} by {name}")
    return EXIT_OK


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="folder of the file (default: features in the weights' run)"
    )


def _settings(config: Config, videos: Videos, name: str, protocol: Protocol, path: Path) -> str:
    """What decides the numbers of a file, as JSON."""
    views: dict[str, Any] = {key: value for key, value in asdict(protocol).items() if key != "published"}
    facts: dict[str, Any] = {
        "weights": path.name,
        "sha256": sha256(path),
        "split": videos.name,
        "frames_sha256": videos.frames_sha256(),
        "recipe_sha256": config.preprocess.fingerprint(),
        "network": network_of(config.model),
        "views": views_of(config),
        "protocol": name,
        **views,
        "seed": config.train.seed,
    }
    return json.dumps(facts, sort_keys=True)


def _is_finished(target: Path, settings: str) -> bool:
    """Whether the file is there with these settings.

    Raises:
        UserError: a file of other settings, or another file, has its name.
    """
    try:
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        theirs = json.loads(str(Hdf5File(fd).attribute("settings")))
    except (Hdf5Error, ValueError):
        raise UserError(f"{target}: exists, and `make features` did not write it. {_ANOTHER}") from None
    finally:
        os.close(fd)
    ours = json.loads(settings)
    different = [key for key in ours if not isinstance(theirs, dict) or theirs.get(key) != ours[key]]
    if different:
        raise UserError(f"{target}: has features of other settings ({', '.join(different)} differ). {_ANOTHER}")
    return True


def _compute(extract: FeatureExtractor, source: Evaluation, part: PartFile, num_views: int) -> None:
    """Append the features of the views that `part` does not have yet."""
    size = source.config.data_loader.eval.dataset.batch_size
    first = source.num_batches if part.num_rows == num_views else part.num_rows // size
    part.cut(min(first * size, num_views))
    if part.num_rows:
        log.info("resuming: %d of %d views are computed", part.num_rows, num_views)
    logged = time.monotonic()
    for _, (clips, _labels, samples) in source.batches(first):
        part.append(extract(Tensor(clips)).asnumpy()[samples >= 0])
        if time.monotonic() - logged > _LOG_S:
            logged = time.monotonic()
            log.info("%d of %d views", part.num_rows, num_views)


def _write(target: Path, part: PartFile, dim: int, source: Evaluation, settings: str) -> None:
    """Write the file under its name when it is complete."""
    videos, (planned,) = source.videos, source.plan.passes
    samples = np.arange(part.num_rows)
    video = planned.views.video_of(samples)
    cuts = planned.views.cuts(samples, videos.timeline.of(video))
    ids = table([(video_id,) for video_id in videos.video_ids], {"video_id": "text"})["video_id"]
    columns = {
        "video_id": ids[video],
        **dict(zip(("clip", "crop"), _numbers(video, cuts), strict=True)),
        "times": np.sum(list(planned.times.values()), axis=0),
        "start_s": _starts_s(videos, video, cuts.frames[:, 0]),
        "label_id": videos.label_ids[video].astype(np.int64),
    }
    with replacing(target) as temporary:
        temporary.unlink()  # libhdf5 makes it
        file = libhdf5.create(temporary)
        try:
            file.attrs["settings"] = settings
            file.attrs["classes"] = json.dumps(videos.class_names)
            for name, values in columns.items():
                file.create_dataset(name, data=values, track_times=False)
            offset = libhdf5.reserve(file, "features", (part.num_rows, dim), "<f4")
            file.close()
        except BaseException:
            if file.id.valid:
                libhdf5.abandon(file)
            raise
        with open(temporary, "r+b") as raw:
            raw.seek(offset)
            for block in part.blocks():
                raw.write(block.data)


def _numbers(video: NDArray[np.int64], cuts: Cuts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of each view's clip in its video, and of its crop in this clip, both (N,) and in rising order."""
    clip, clip_number = _numbered(video, cuts.frames)
    _, crop_number = _numbered(clip, np.column_stack([cuts.top, cuts.left, cuts.flip]))
    return clip_number, crop_number


def _numbered(owner: NDArray[np.int64], rows: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of `rows`, (N, C): its number among all distinct ones, and among those of its owner."""
    distinct, which = np.unique(np.column_stack([owner, rows]), axis=0, return_inverse=True)
    which = which.reshape(-1)  # some versions of numpy give it another shape
    return which, which - np.searchsorted(distinct[:, 0], owner)


def _starts_s(videos: Videos, video: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.float64]:
    """When the first stored frame of each view is shown, (N,), by the times that the shards have of their frames."""
    starts = np.empty(len(video))
    for shard, path in enumerate(videos.shards):
        reader = ShardReader(path)
        for own in np.flatnonzero(videos.shard_of == shard).tolist():
            views = slice(*np.searchsorted(video, [own, own + 1]))
            starts[views] = reader.times_s(reader.row_of(videos.video_ids[own]))[first[views]]
        reader.close()
    return starts


if __name__ == "__main__":
    cli.run(main)
