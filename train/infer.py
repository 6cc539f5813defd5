"""Predict the class of one video file: prints the top 5 and writes a GIF with the label.      (make infer)

    python -m train.infer -c train/configs/sample.yaml --infer.image_path=VIDEO [--infer.pretrained_model=FILE]

The file is decoded in a process of its own with the recipe and the limits of `preprocess`, so the pixels are those of a
shard, and the network sees the same views as in evaluation.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, MachineError, UserError
from pipeline.common.files import make_folder
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.labels.class_ids import frozen_classes
from pipeline.shards.encoding import frames_of
from train.data.videos import class_names, count_classes
from train.data.views import views_of
from train.device import signals
from train.device.select import start_device
from train.evaluation.metrics import log_softmax
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.experiment.sections import Config
from train.loop.health import memory_errors_in_one_line
from train.network.predictor import load_predictor
from train.pictures.clips import write_gif
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


def decode_video(path: Path, settings: Preprocess) -> tuple[NDArray[np.uint8], float]:
    """The frames (T, height, width, 3) uint8 RGB that a shard would give of a video, wherever it lies; and their rate.

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
        return frames_of(result.encoded), float(result.facts["fps"])


def main(argv: list[str] | None = None) -> int:
    """Predict, print the best five classes, and write the GIF."""
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
    frames, fps = decode_video(video_path, config.preprocess)
    config = with_num_classes(config, lambda: count_classes(config) or saved_classes(record))
    start_device(config)
    views = config.data_loader.eval.dataset
    with memory_errors_in_one_line("data_loader.eval.dataset.num_clips", views.num_clips, "Give a smaller number."):
        predictor, facts = load_predictor(config, path)
        logits = predictor(Tensor(views_of(frames, config))).asnumpy()
    probabilities = np.exp(log_softmax(logits)).mean(axis=0)
    names = facts.get("classes") or _frozen_names(config)
    best = np.argsort(-probabilities, kind="stable")[:5]
    log.info("%s: %d frames at %g fps, checkpoint %s", video_path, len(frames), fps, path)
    # A number of a list that no video had is a class without a name.
    lines = [((names[k] if k < len(names) else "") or f"class {k}", float(probabilities[k])) for k in best]
    for rank, (name, probability) in enumerate(lines, start=1):
        print(f"{rank}. {name}  {probability:.4f}")
    gif = Path(config.infer.output_dir) / f"{video_path.stem}.gif"
    write_gif(gif, frames, f"{lines[0][0]}  {lines[0][1]:.2f}", fps)
    print(f"picture: {gif}")
    return EXIT_OK


if __name__ == "__main__":
    signals.run(main)
