"""Write the features before the last layer of every view of a split into one HDF5 file.          (make features)

    python -m train.features -c train/configs/sample.yaml [--eval.pretrained_model=FILE] [--output-dir=DIR]

Reads weights (.ckpt, .safetensors or .pth; default: the best of the newest run) and takes the views that the keys of
`data_loader.eval.dataset` describe, whatever `eval.protocols` names.  `<weights>-<split>.h5`, in the folder `features`
of the weights' run, has one row a view, a video's views together:

    features   (N, D) float32  the mean over (T, H, W) after the last stage; the network's `fc` turns it into logits
    video_id   (N,) text
    clip       (N,) int64      number of the clip in its video
    crop       (N,) int64      number of the crop in its clip
    start_s    (N,) float64    when the clip begins, in seconds since the first frame of its video
    label_id   (N,) int64      -1 where unlabelled
    attributes: settings (JSON: weights, split, views), classes (JSON: the name of each label_id)

A run that was stopped or killed resumes: run the same command again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.files import make_folder, replacing
from pipeline.common.locking import locked_file, remove_temporary
from pipeline.shards import libhdf5
from pipeline.shards.hdf5 import table
from pipeline.shards.hdf5_file import Hdf5Error, Hdf5File
from pipeline.shards.reader import ShardReader
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate
from train.data.videos import check_classes, class_names, count_classes, read_videos
from train.device.select import start_device
from train.device.signals import StopRequests
from train.evaluation.features import PartFile
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.experiment.sections import Config
from train.network.batch_limit import check_batch
from train.network.predictor import FeatureExtractor, load_feature_extractor
from train.runs.choose import config_of_run, has_best, weights_of
from train.weights.compatibility import check_class_names
from train.weights.record import read_record, views_of, with_network
from train.weights.sealed_json import sha256

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "train.ckpt_path", "eval.pretrained_model",
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
    args, document = cli.parse(
        parser,
        argv,
        lambda _args, overrides: config_of_run(overrides.get("eval.pretrained_model"), overrides, has_best),
    )
    cli.set_up_logging()
    config = load_config(document)
    path = weights_of(config.eval.pretrained_model, config, document, class_names(config))
    folder = (path.parent.parent if path.parent.name == "ckpt" else path.parent) / "features"
    folder = args.output_dir or folder
    target = folder / f"{path.stem}-{config.data_loader.eval.dataset.split}.h5"
    cli.say_target(f"{target}")
    config = _in_order(with_network(config, document, read_record(path), path))
    config = with_num_classes(config, lambda: count_classes(config))
    make_folder(folder, _ANOTHER)
    with locked_file(folder / ".lock", f"{folder}: {{}} is writing here."), StopRequests():
        remove_temporary(folder)
        start_device(config)
        extract, facts = load_feature_extractor(config, path)
        check_batch(extract.network, config, "eval")
        source = batches_of(config)
        check_class_names(facts, source.videos.class_names, path, source.videos.name)
        settings = _settings(config, source, path)
        if _is_finished(target, settings):
            print(f"{target}: already complete")
            return EXIT_OK
        part_path = folder / f".{target.name}.{zlib.crc32(settings.encode()):08x}.part"
        with PartFile(part_path, extract.dim) as part:
            _compute(extract, source, part)
            _write(target, part, extract.dim, source, settings)
            part.remove()
    print(f"{target}: {_num_samples(source)} views of {source.videos.name}")
    return EXIT_OK


def batches_of(config: Config) -> ClipBatches:
    """The batches of the views that `data_loader.eval` describes.

    Raises:
        UserError: the ledger or the shards are missing, or the network lacks a class.
    """
    loader = config.data_loader.eval
    videos = read_videos(config.preprocess, loader.dataset.split)
    check_classes(config.model, videos.label_ids, videos.class_names, videos.name)
    return ClipBatches(videos, loader, config.preprocess, seed=config.train.seed, drop_remainder=False)


def _num_views(source: ClipBatches) -> int:
    """Views of a video."""
    return source.options.num_clips * source.options.num_crops


def _num_samples(source: ClipBatches) -> int:
    """Views of all videos."""
    return len(source.videos.video_ids) * _num_views(source)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="folder of the file (default: features in the weights' run)"
    )


def _in_order(config: Config) -> Config:
    """The settings with views in the order of the ledger, so that a file's rows are a video's views together."""
    loader = config.data_loader.eval
    loader = dataclasses.replace(loader, dataset=dataclasses.replace(loader.dataset, shuffle=False))
    return dataclasses.replace(config, data_loader=dataclasses.replace(config.data_loader, eval=loader))


def _settings(config: Config, source: ClipBatches, path: Path) -> str:
    """What decides the numbers of a file, as JSON."""
    options = source.options
    facts: dict[str, Any] = {
        "weights": path.name,
        "sha256": sha256(path),
        "split": source.videos.name,
        "recipe_sha256": config.preprocess.fingerprint(),
        "views": views_of(config),
        "num_clips": options.num_clips,
        "num_crops": options.num_crops,
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


def _compute(extract: FeatureExtractor, source: ClipBatches, part: PartFile) -> None:
    """Append the features of the views that `part` does not have yet."""
    size = source.options.batch_size
    num_samples = _num_samples(source)
    first = source.num_batches if part.num_rows == num_samples else part.num_rows // size
    part.cut(min(first * size, num_samples))
    if part.num_rows:
        log.info("resuming: %d of %d views are computed", part.num_rows, num_samples)
    logged = time.monotonic()
    for clips, _labels, samples in iterate(source, 0, first):
        part.append(extract(Tensor(clips)).asnumpy()[samples >= 0])
        if time.monotonic() - logged > _LOG_S:
            logged = time.monotonic()
            log.info("%d of %d views", part.num_rows, num_samples)


def _write(target: Path, part: PartFile, dim: int, source: ClipBatches, settings: str) -> None:
    """Write the file under its name when it is complete."""
    videos = source.videos
    video, view = np.divmod(np.arange(part.num_rows), _num_views(source))
    clip, crop = np.divmod(view, source.options.num_crops)
    ids = table([(video_id,) for video_id in videos.video_ids], {"video_id": "text"})["video_id"]
    columns = {
        "video_id": ids[video],
        "clip": clip,
        "crop": crop,
        "start_s": _starts_s(source),
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


def _starts_s(source: ClipBatches) -> NDArray[np.float64]:
    """When the first frame of each view is shown, (N,), by the times that the shards have of their frames."""
    videos, num_views = source.videos, _num_views(source)
    owners = np.repeat(np.arange(len(videos.video_ids)), num_views)
    cuts = source.views.cuts(np.arange(len(owners)), videos.timeline.of(owners))
    first = cuts.frames[:, 0].reshape(-1, num_views)
    starts = np.empty(first.shape)
    for shard, path in enumerate(videos.shards):
        reader = ShardReader(path)
        for video in np.flatnonzero(videos.shard_of == shard).tolist():
            starts[video] = reader.times_s(reader.row_of(videos.video_ids[video]))[first[video]]
        reader.close()
    return starts.reshape(-1)


if __name__ == "__main__":
    cli.run(main)
