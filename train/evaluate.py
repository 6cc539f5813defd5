"""Score a checkpoint on a split: clip and video top-1 / top-5 with their denominators.     (make eval)

    python -m train.evaluate -c train/configs/sample.yaml [--eval.pretrained_model=FILE]

Reads a checkpoint (.ckpt, .safetensors, .pth, or an exported .mindir; the newest run's best unless told) and the
shards of `data_loader.eval.dataset.split`; writes `eval/<checkpoint>-<split>.json` and `.csv` (one row a video) into
the checkpoint's run folder.
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK
from train import checkpoint, runtime
from train.config import SECTION_CLASSES, Config, load
from train.dataset import ClipBatches, iterate
from train.metrics import Scores
from train.network import check_classes, load_predictor
from train.origin import check_class_names
from train.run_folder import runs_root
from train.videos import Videos, read_videos

log = logging.getLogger(__name__)


def score(
    predict: Callable[[Tensor], Tensor],
    source: ClipBatches,
    on_step: Callable[[int, int, float, Scores, float], None] | None = None,
) -> Scores:
    """Run every view of every video through the network.

    Args:
        predict: uint8 clips (N, T, H, W, 3) -> logits (N, K).
        source: the split's batches.
        on_step: called after each batch with its number, its views, their mean loss (NaN when none is labelled), the
            scores so far and its seconds.
    """
    scores: Scores | None = None
    began = time.perf_counter()
    for number, (clips, labels, samples) in enumerate(iterate(source, epoch=0)):
        logits = predict(Tensor(clips)).asnumpy()
        real = samples >= 0
        if scores is None:
            scores = Scores(len(source.videos.video_ids), logits.shape[1])
        loss = scores.add(logits[real], labels[real], samples[real] // source.views.num_views)
        now = time.perf_counter()
        if on_step is not None:
            on_step(number, int(real.sum()), loss, scores, now - began)
        began = now
    assert scores is not None
    return scores


def evaluation_source(config: Config) -> ClipBatches:
    """The batches of `data_loader.eval`."""
    loader = config.data_loader.eval
    videos = read_videos(config.preprocess, loader.dataset.split)
    check_classes(config.model, videos.label_ids, videos.class_names, videos.identity)
    return ClipBatches(videos, loader, config.preprocess, seed=config.train.seed, drop_remainder=False)


def _log_step(source: ClipBatches) -> Callable[[int, int, float, Scores, float], None]:
    """The seed's line for each step, with clips/s."""

    def on_step(number: int, num_views: int, loss: float, scores: Scores, seconds: float) -> None:
        running = scores.of_clips()
        names = {"Loss": "loss", "Top_1_Accuracy": "clip_top1", "Top_5_Accuracy": "clip_top5"}
        log.info(
            "step:[%5d/%5d], metrics:%s, loss:[%.3f/%.3f], time:%.3f ms, %.1f clips/s",
            number + 1, source.num_batches,
            [f"{name}: {running[key]:.4f}" for name, key in names.items() if key in running],
            loss, running.get("loss", float("nan")), 1000 * seconds, num_views / seconds,
        )  # fmt: skip

    return on_step


def write_results(folder: Path, name: str, source: ClipBatches, scores: Scores, summary: dict[str, Any]) -> Path:
    """Write `<name>.json` (`summary`) and `<name>.csv` (each video's label, best five classes, probability)."""
    folder.mkdir(parents=True, exist_ok=True)
    videos, probabilities = source.videos, scores.probabilities()
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_id", "label_id", "label", "predicted_id", "predicted", "probability", "top5"])
        for row, video_id in enumerate(videos.video_ids):
            label, top = int(videos.label_ids[row]), best[row]
            writer.writerow([
                video_id, label, _class_name(videos, label), int(top[0]), _class_name(videos, int(top[0])),
                f"{probabilities[row, top[0]]:.6f}", " ".join(map(str, top)),
            ])  # fmt: skip
    checkpoint.write_json(folder / f"{name}.json", summary)
    return folder / f"{name}.json"


def _class_name(videos: Videos, label_id: int) -> str:
    return videos.class_names[label_id] if 0 <= label_id < len(videos.class_names) else ""


def main(argv: list[str] | None = None) -> int:
    """Evaluate and print one line of results."""
    args, document = cli.parse(cli.parser(__doc__ or "", sections=SECTION_CLASSES), argv)
    cli.set_up_logging()
    config = load(document)
    runtime.start(config)
    path = Path(config.eval.pretrained_model or checkpoint.newest(runs_root(config, document), "best"))
    predictor, facts = load_predictor(config, path)
    source = evaluation_source(config)
    check_class_names(facts, source.videos.class_names, path, source.videos.identity)
    log.info("evaluating %s on %s, %d batches", path, source.videos.identity, source.num_batches)
    scores = score(predictor, source, _log_step(source))
    summary = scores.summary()
    run = path.parent.parent if path.parent.name == "ckpt" else path.parent
    result = {"checkpoint": str(path), "split": source.videos.identity, **summary}
    written = write_results(run / "eval", f"{path.stem}-{source.options.split}", source, scores, result)
    if "video_top1" in summary:
        print(
            f"video top-1 {summary['video_top1']:.4f} top-5 {summary['video_top5']:.4f}, clip top-1 "
            f"{summary['clip_top1']:.4f} top-5 {summary['clip_top5']:.4f}, loss {summary['loss']:.4f}: "
            f"{source.videos.identity}, {summary['num_clips']} clips, {source.views.num_views} a video -> {written}"
        )
    else:
        print(f"{source.videos.identity} has no labels: predictions only -> {written.with_suffix('.csv')}")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
