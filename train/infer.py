"""Predict the class of one video file: prints the top 5, and writes an MP4 and a GIF.         (make infer)

    python -m train.infer -c train/configs/sample.yaml --infer.image_path=VIDEO [--infer.pretrained_model=FILE]

The file is decoded in a process of its own with the recipe and the limits of `preprocess`, so the pixels are those of a
shard, and the network sees the views that evaluation takes by the first of `eval.protocols`.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, MachineError, UserError
from pipeline.common.files import make_folder
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.labels.class_ids import frozen_classes
from pipeline.shards.encoding import frames_of
from train.data.timeline import Timeline
from train.data.videos import class_names, count_classes
from train.device import signals
from train.device.select import start_device
from train.evaluation.scoring import as_evaluated, video_scores
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.experiment.sections import Config
from train.loop.health import memory_errors_in_one_line
from train.network.predictor import load_predictor
from train.pictures.prediction import Prediction, write_pictures
from train.runs.choose import config_of_run, has_best, weights_of
from train.weights.compatibility import saved_classes
from train.weights.record import read_record, with_input, with_network

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "train.ckpt_path", "infer.", "data_loader.eval.dataset.seq",
    "data_loader.eval.dataset.num_clips", "data_loader.eval.dataset.num_crops",
)  # fmt: skip


def _frozen_names(config: Config) -> list[str]:
    """The dataset's class list if it has the right length, else empty; for weights without class names."""
    classes = frozen_classes(config.preprocess)
    return classes[0] if classes is not None and len(classes[0]) == config.model.classes else []


def decode_video(path: Path, settings: Preprocess) -> tuple[NDArray[np.uint8], float, Timeline]:
    """The frames (T, height, width, 3) uint8 RGB that a shard would give of a video, wherever it lies.

    Returns:
        The frames, their rate, and which source frames they are.

    Raises:
        UserError: it cannot be decoded.
        MachineError: it could not be read.
    """
    with Decoder(replace(settings, data_root="")) as decoder:
        (result,) = decoder.decode([path])
        if result.status == "retry":
            raise MachineError(f"{path}: {result.reason}. Run the same command again.")
        if result.encoded is None:
            raise UserError(f"{path}: cannot be decoded: {result.status}: {result.reason}. Give another video.")
        frames, facts = frames_of(result.encoded), result.facts
        columns = (facts["source_frames"], facts["source_fps"], len(frames), facts["fps"], facts["chosen_by"] == "time")
        return frames, float(facts["fps"]), Timeline(*(np.array([value]) for value in columns))


def _memory_errors(config: Config) -> AbstractContextManager[None]:
    """One line about memory that ran out, with the setting that decides how many views there are."""
    if config.eval.protocols:
        name = config.eval.protocols[0]
        return memory_errors_in_one_line("eval.protocols", name, "Put a protocol with fewer views first.")
    num_clips = config.data_loader.eval.dataset.num_clips
    return memory_errors_in_one_line("data_loader.eval.dataset.num_clips", num_clips, "Give a smaller number.")


def main(argv: list[str] | None = None) -> int:
    """Predict, print the best five classes, and write the pictures."""
    parser = cli.parser("train.infer", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document = cli.parse(
        parser,
        argv,
        lambda _args, overrides: config_of_run(overrides.get("infer.pretrained_model"), overrides, has_best),
    )
    cli.set_up_logging()
    config = load_config(document)
    cli.say_target(config.infer.output_dir)
    video_path = Path(config.infer.image_path)
    if not config.infer.image_path or not video_path.is_file():
        raise UserError(
            f"infer.image_path: got {config.infer.image_path!r}, expected a video file. "
            "Run `make infer VIDEO=clip.mp4`."
        )
    make_folder(Path(config.infer.output_dir), "Set infer.output_dir to another folder.")
    path = weights_of(config.infer.pretrained_model, config, document, class_names(config))
    record = read_record(path)
    config = with_input(with_network(config, document, record, path), record, path)
    frames, fps, timeline = decode_video(video_path, config.preprocess)
    config = with_num_classes(config, lambda: count_classes(config) or saved_classes(record))
    start_device(config)
    config = as_evaluated(config)
    with _memory_errors(config):
        predictor, facts = load_predictor(config, path)
        probabilities = video_scores(predictor, frames, timeline, config)
    names = facts.get("classes") or _frozen_names(config)
    best = np.argsort(-probabilities, kind="stable")[:5]
    log.info("%s: %d frames at %g fps, checkpoint %s", video_path, len(frames), fps, path)
    # A number of a list that no video had is a class without a name.
    lines = [((names[k] if k < len(names) else "") or f"class {k}", float(probabilities[k])) for k in best]
    for rank, (name, probability) in enumerate(lines, start=1):
        print(f"{rank}. {name}  {probability:.4f}")
    stem = Path(config.infer.output_dir) / video_path.stem
    for picture in write_pictures(stem, video_path, frames, fps, Prediction(lines, None), span=None):
        print(f"picture: {picture}")
    return EXIT_OK


if __name__ == "__main__":
    signals.run(main)
