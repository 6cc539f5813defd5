"""Score a checkpoint by published protocols: accuracy of clips and of videos, all from one pass.     (make eval)

    python -m train.evaluate -c train/configs/sample.yaml [--eval.protocols=[torchvision-clip,torchvision-video]]

Reads weights (.ckpt, .safetensors, .pth, or an exported .mindir or .onnx; default: the best of the newest run) and the
shards of `data_loader.eval.dataset.split`.  Prints a table, then writes `<checkpoint>-<protocol>-<split>/` into the
folder `eval` of the checkpoint's run (or `eval.output_dir`): summary.json, videos.csv, classes.csv, confusion.csv and
.png, scores.npz.  `make eval DEVICES=N` shares the videos among N processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mindspore import Tensor

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK
from pipeline.common.files import try_folder
from pipeline.common.locking import turn_in
from train.data.videos import class_names, count_classes
from train.device import signals
from train.device.launch import note_exit_code
from train.device.processes import Exchange, join_world
from train.device.select import start_device
from train.evaluation.protocols import clips_seen
from train.evaluation.results import (
    Result,
    folder_for,
    line_of,
    names_of_classes,
    results_of,
    settings_of,
    table_of,
    write_files,
)
from train.evaluation.scoring import Evaluation, combine, log_step, score
from train.experiment.load import SECTION_CLASSES, with_num_classes
from train.experiment.sections import Config
from train.loop.health import evaluation_memory_errors
from train.network.predictor import load_predictor
from train.pictures.confusion import draw_confusion
from train.runs.choose import weights_of
from train.runs.command_line import parse
from train.weights.checkpoint import run_of
from train.weights.compatibility import check_class_names, warn_if_seen_differently
from train.weights.exported import RUNNERS
from train.weights.record import read_record, with_network
from train.weights.sealed_json import sha256

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "train.ckpt_path", "eval.", "data_loader.eval.dataset.split",
    "data_loader.eval.dataset.batch_size", "data_loader.eval.dataset.seq", "data_loader.eval.dataset.num_clips",
    "data_loader.eval.dataset.num_crops", "preprocess.dataset", "preprocess.store",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Evaluate; print a table, and one line for each protocol."""
    parser = cli.parser("train.evaluate", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    _args, document, config = parse(parser, argv, "eval")
    path = weights_of(config.eval.pretrained_model, config, document, class_names(config))
    folder = Path(config.eval.output_dir) if config.eval.output_dir else results_folder(path)
    cli.say_target(f"{folder}")
    config = with_network(config, document, read_record(path), path)
    config = with_num_classes(config, lambda: count_classes(config))
    start_device(config)
    world = join_world(config)
    source = Evaluation(config, rank=world.rank, world=world.size)
    batch_size = config.data_loader.eval.dataset.batch_size
    with evaluation_memory_errors(batch_size):
        predictor, facts = load_for(source, path)
    check_class_names(facts, source.videos.class_names, path, source.videos.name)
    protocols = [count.protocol for count in source.plan.counts]
    warn_if_seen_differently(facts, config, path, clips_seen(protocols, config))
    if world.rank == 0:
        try_folder(folder, "Give another folder with --eval.output_dir (make: OUT=DIR).")
    log.info("evaluating %s on %s, %d batches", path, source.videos.name, source.num_batches)
    with evaluation_memory_errors(batch_size):
        scores = score(predictor, source, log_step(source))
    combine(scores, Exchange(world).add_up)
    if world.rank == 0:
        results = results_of(source, scores)
        names = names_of_classes(config.model.classes, source.videos.class_names, facts.get("classes") or [])
        _print_and_write(folder, path, config, source, results, names)
    return EXIT_OK


def load_for(source: Evaluation, path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """`load_predictor` for the clips of every protocol; an exported file takes one clip length only."""
    config = source.config
    seen = [replace(config, data_loader=replace(config.data_loader, eval=each.loader)) for each in source.plan.passes]
    if path.suffix in RUNNERS:
        for other in seen[1:]:
            load_predictor(other, path)
    return load_predictor(seen[0], path, [each.data_loader.eval.dataset.seq for each in seen])


def results_folder(path: Path) -> Path:
    """Where the results of a file of weights are: `eval` in its run folder, or beside the file."""
    return (run_of(path) or path.parent) / "eval"


def _print_and_write(
    folder: Path, path: Path, config: Config, source: Evaluation, results: list[Result], names: list[str]
) -> None:
    """Print the results, and then write them."""
    split, where = source.videos.split, source.videos.name
    settings = settings_of(config, sha256(path), source.videos)
    if any("top1" in result.summary for result in results):
        print("\n".join(table_of(results)), flush=True)
    with turn_in(folder):  # two evaluations that end together must not choose one name
        for result in results:
            target = folder_for(folder, f"{path.stem}-{result.name}-{split}", settings)
            for note in _notes(result):
                log.info("%s: %s", result.name, note)
            print(f"{line_of(result, where)} -> {target}", flush=True)
            facts = {"checkpoint": str(path), "split": where}
            draw = partial(draw_confusion, title=f"{path.stem}, {result.name}, {where}")
            write_files(target, source, result, names, facts, settings, draw)


def _notes(result: Result) -> list[str]:
    """What a reader of a protocol's numbers must know."""
    total = len(result.views)
    inexact, shorter = (result.summary[key] for key in ("num_inexact_videos", "num_short_videos"))
    unlabelled = total - result.summary["num_labelled_videos"]
    notes = []
    if 0 < unlabelled < total:
        notes.append(f"{unlabelled:,} of {total:,} videos have no label; they are predicted and not counted")
    if inexact:
        notes.append(f"{inexact:,} of {total:,} videos lack a stored frame that it names; they show the nearest one")
    if nan := result.summary["num_nan_videos"]:
        notes.append(f"{nan:,} of {total:,} videos have scores that are not numbers; they count as wrong")
    if shorter:
        happens = "they have no clip" if result.protocol.short == "none" else "their frames repeat"
        notes.append(f"{shorter:,} of {total:,} videos are shorter than a clip; {happens}")
    return notes


if __name__ == "__main__":
    with note_exit_code():
        signals.run(main)
