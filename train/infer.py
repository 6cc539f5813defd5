"""Predict the class of one video file: prints the top 5 and writes a GIF with the label.      (make infer)

    python -m train.infer -c train/configs/sample.yaml --infer.image_path=VIDEO [--infer.pretrained_model=FILE]

The file is decoded with the same recipe as the shards, and the network sees the same views as in evaluation.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from mindspore import Tensor

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.files import make_folder
from pipeline.decoding.container import DecodeError
from pipeline.decoding.decode import decode_video
from pipeline.labels.class_ids import frozen_classes
from train.data.videos import count_classes
from train.data.views import views_of
from train.device.select import start_device
from train.evaluation.metrics import log_softmax
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.experiment.sections import Config
from train.network.predictor import load_predictor
from train.pictures.clips import write_gif
from train.runs.run_folder import runs_root
from train.weights import checkpoint
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


def main(argv: list[str] | None = None) -> int:
    """Predict, print the best five classes, and write the GIF."""
    parser = cli.parser("train.infer", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document = cli.parse(parser, argv)
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
    path = Path(config.infer.pretrained_model or checkpoint.newest(runs_root(config, document), "best"))
    record = read_record(path)
    config = with_input(with_network(config, record, path), record, path)
    try:
        video = decode_video(video_path, config.preprocess)
    except DecodeError as error:
        raise UserError(f"{video_path}: cannot be decoded: {error}. Give another video.") from None
    config = with_num_classes(config, lambda: count_classes(config) or saved_classes(record))
    start_device(config)
    predictor, facts = load_predictor(config, path)
    logits = predictor(Tensor(views_of(video.frames, config))).asnumpy()
    probabilities = np.exp(log_softmax(logits)).mean(axis=0)
    names = facts.get("classes") or _frozen_names(config)
    best = np.argsort(-probabilities, kind="stable")[:5]
    log.info("%s: %d frames at %g fps, checkpoint %s", video_path, len(video.frames), video.fps, path)
    # A number of a list that no video had is a class without a name.
    lines = [((names[k] if k < len(names) else "") or f"class {k}", float(probabilities[k])) for k in best]
    for rank, (name, probability) in enumerate(lines, start=1):
        print(f"{rank}. {name}  {probability:.4f}")
    gif = Path(config.infer.output_dir) / f"{video_path.stem}.gif"
    write_gif(gif, video.frames, f"{lines[0][0]}  {lines[0][1]:.2f}", video.fps)
    print(f"picture: {gif}")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
