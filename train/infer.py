"""Predict one video file: top-5 on stdout, and a GIF with the label drawn on it.              (make infer)

    python -m train.infer -c train/configs/sample.yaml --infer.image_path=VIDEO [--infer.pretrained_model=FILE]

The file is decoded by the same recipe as the shards and seen through the same views as in evaluation.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.decoding.container import DecodeError
from pipeline.decoding.decode import decode_video
from pipeline.labels.class_ids import frozen_classes
from train import checkpoint, runtime
from train.config import SECTION_CLASSES, Config, load
from train.metrics import log_softmax
from train.network import load_predictor
from train.run_folder import runs_root
from train.views import Views

log = logging.getLogger(__name__)

_GIF_SCALE = 2  # a stored frame of 128 x 171 is small on a screen


def views(frames: NDArray[np.uint8], config: Config) -> NDArray[np.uint8]:
    """The views evaluation would take of a video: (num_views, T, H, W, 3) uint8 out of (frames, height, width, 3)."""
    loader = config.data_loader.eval
    chosen = Views(loader, (frames.shape[1], frames.shape[2]), config.train.seed)
    height, width = chosen.crop
    clips = np.empty((chosen.num_views, loader.dataset.seq, height, width, 3), np.uint8)
    cuts = chosen.cuts(np.arange(chosen.num_views), np.full(chosen.num_views, len(frames)))
    for clip, indices, top, left in zip(clips, cuts.frames, cuts.top, cuts.left, strict=True):
        clip[:] = frames[indices, top : top + height, left : left + width]
    return clips


def write_gif(path: Path, frames: NDArray[np.uint8], caption: str, fps: float) -> None:
    """Write frames (T, H, W, 3) as a looping GIF with `caption` on a dark strip above them."""
    pages = []
    for frame in frames:
        picture = Image.fromarray(frame).resize((frame.shape[1] * _GIF_SCALE, frame.shape[0] * _GIF_SCALE))
        page = Image.new("RGB", (picture.width, picture.height + 24), (24, 24, 24))
        page.paste(picture, (0, 24))
        ImageDraw.Draw(page).text((6, 5), caption, fill=(255, 255, 255), font_size=14)
        pages.append(page.quantize(128))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pages[0].save(
        temporary,
        format="GIF",
        save_all=True,
        append_images=pages[1:],
        duration=max(round(1000 / fps), 20),
        loop=0,
    )
    temporary.replace(path)


def _frozen_names(config: Config) -> list[str]:
    """The dataset's class list where it has one of the right length, for weights that came without names."""
    kept = frozen_classes(config.preprocess)
    return kept[0] if kept is not None and len(kept[0]) == config.model.num_classes else []


def main(argv: list[str] | None = None) -> int:
    """Predict, print the best five classes, and write the GIF."""
    _args, document = cli.parse(cli.parser(__doc__ or "", sections=SECTION_CLASSES), argv)
    cli.set_up_logging()
    config = load(document)
    video_path = Path(config.infer.image_path)
    if not config.infer.image_path or not video_path.is_file():
        raise UserError(
            f"infer.image_path: got {config.infer.image_path!r}, expected a video file (make infer VIDEO=clip.mp4)"
        )
    try:
        video = decode_video(video_path, config.preprocess)
    except DecodeError as error:
        raise UserError(f"{video_path}: cannot be decoded: {error}") from None
    runtime.start(config)
    path = Path(config.infer.pretrained_model or checkpoint.newest(runs_root(config, document), "best"))
    predictor, facts = load_predictor(config, path)
    logits = predictor(Tensor(views(video.frames, config))).asnumpy()
    probabilities = np.exp(log_softmax(logits)).mean(axis=0)
    names = facts.get("classes") or _frozen_names(config)
    best = np.argsort(-probabilities, kind="stable")[:5]
    log.info("%s: %d frames at %g fps, checkpoint %s", video_path, len(video.frames), video.fps, path)
    lines = [(names[k] if k < len(names) else f"class {k}", float(probabilities[k])) for k in best]
    for rank, (name, probability) in enumerate(lines, start=1):
        print(f"{rank}. {name}  {probability:.4f}")
    gif = Path(config.infer.output_dir) / f"{video_path.stem}.gif"
    write_gif(gif, video.frames, f"{lines[0][0]}  {lines[0][1]:.2f}", video.fps)
    print(f"picture: {gif}")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
