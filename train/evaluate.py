"""Score a checkpoint on a split: clip and video top-1 / top-5 with their denominators.     (make eval)

    python -m train.evaluate -c train/configs/sample.yaml [--eval.pretrained_model=FILE]

Reads weights (.ckpt, .safetensors, .pth, or an exported .mindir or .onnx; default: the best of the newest run) and the
shards of `data_loader.eval.dataset.split`.  Writes `eval/<checkpoint>-<split>.json` and `.csv` (one row for each video)
into the checkpoint's run folder.
"""

from __future__ import annotations

import logging

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK
from train.data.videos import class_names, count_classes
from train.device import signals
from train.device.select import start_device
from train.evaluation.scoring import evaluation_source, log_step, score, write_results
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.loop.health import evaluation_memory_errors
from train.network.predictor import load_predictor
from train.runs.choose import config_of_run, has_best, weights_of
from train.weights.compatibility import check_class_names
from train.weights.record import read_record, with_network

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "train.ckpt_path", "eval.", "data_loader.eval.dataset.split",
    "data_loader.eval.dataset.batch_size", "data_loader.eval.dataset.seq", "data_loader.eval.dataset.num_clips",
    "data_loader.eval.dataset.num_crops", "preprocess.dataset", "preprocess.store",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Evaluate and print one line of results."""
    parser = cli.parser("train.evaluate", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document = cli.parse(
        parser,
        argv,
        lambda _args, overrides: config_of_run(overrides.get("eval.pretrained_model"), overrides, has_best),
    )
    cli.set_up_logging()
    config = load_config(document)
    path = weights_of(config.eval.pretrained_model, config, document, class_names(config))
    folder = (path.parent.parent if path.parent.name == "ckpt" else path.parent) / "eval"
    cli.say_target(f"{folder}")
    config = with_network(config, document, read_record(path), path)
    config = with_num_classes(config, lambda: count_classes(config))
    start_device(config)
    with evaluation_memory_errors(config.data_loader.eval.dataset.batch_size):
        predictor, facts = load_predictor(config, path)
    source = evaluation_source(config)
    check_class_names(facts, source.videos.class_names, path, source.videos.name)
    log.info("evaluating %s on %s, %d batches", path, source.videos.name, source.num_batches)
    with evaluation_memory_errors(source.options.batch_size):
        scores = score(predictor, source, log_step(source))
    summary = scores.summary()
    result = {"checkpoint": str(path), "split": source.videos.name, **summary}
    results = write_results(folder, f"{path.stem}-{source.options.split}", source, scores, result)
    if "video_top1" in summary:
        print(
            f"video top-1 {summary['video_top1']:.4f} top-5 {summary['video_top5']:.4f}, clip top-1 "
            f"{summary['clip_top1']:.4f} top-5 {summary['clip_top5']:.4f}, loss {summary['loss']:.4f}: "
            f"{source.videos.name}, {summary['num_clips']} clips, {source.views.num_views} a video -> {results}"
        )
    else:
        print(f"{source.videos.name} has no labels: predictions only -> {results.with_suffix('.csv')}")
    return EXIT_OK


if __name__ == "__main__":
    signals.run(main)
