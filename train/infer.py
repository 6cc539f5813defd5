"""Predict the class of videos: prints a table, and writes an MP4 and a GIF with the label.            (make infer)

    python -m train.infer -c train/configs/sample.yaml --infer.image_path=VIDEO [--infer.pretrained_model=FILE]

VIDEO is a file, a folder, a list file or a glob; `--split=val` predicts the stored videos of a split.  Files are
decoded in a process of their own with the recipe and the limits of `preprocess`, so the pixels are those of a shard,
and the network sees the views that evaluation takes by the first of `eval.protocols`.  With `--window=SECONDS` it
looks at the whole of each file instead, whatever its length.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.common import cli
from pipeline.common.errors import EXIT_IO, EXIT_OK, EXIT_TOO_MANY_BAD, UserError
from pipeline.common.files import try_folder
from pipeline.labels.class_ids import frozen_classes
from train.data.videos import class_names, count_classes
from train.device import signals
from train.device.select import start_device
from train.evaluation.protocols import clips_seen, protocols_of
from train.evaluation.results import names_of_classes
from train.evaluation.scoring import Evaluation, as_evaluated
from train.experiment.load import SECTION_CLASSES, with_num_classes
from train.experiment.sections import Config
from train.inference.drawing import WHAT_NEXT, Drawing, Presentation
from train.inference.files import predict_files
from train.inference.flags import add_flags
from train.inference.inputs import find_inputs
from train.inference.long_video import Windows, predict_windows
from train.inference.output import Row, Table, json_of, one_line, try_file, write_csv
from train.inference.predict import VideoPredictor
from train.inference.stored import predict_stored, shown_names, with_true_labels
from train.loop.health import memory_errors_in_one_line
from train.network.predictor import load_predictor
from train.runs.choose import weights_of
from train.runs.command_line import parse
from train.weights.compatibility import check_class_names, saved_classes, warn_if_seen_differently
from train.weights.record import read_record, with_input, with_network

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "train.ckpt_path", "infer.", "eval.protocols",
    "data_loader.eval.dataset.seq", "data_loader.eval.dataset.num_clips", "data_loader.eval.dataset.num_crops",
    "data_loader.eval.dataset.batch_size", "preprocess.max_bad_fraction",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Predict, print the rows, and draw."""
    parser = cli.parser("train.infer", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    add_flags(parser)
    args, document, config = parse(parser, argv, "infer")
    drawing = None if args.no_pictures else Drawing(Path(config.infer.output_dir), args.picture_seconds)
    cli.say_target(" and ".join(str(path) for path in (drawing and drawing.folder, args.csv) if path) or "nothing")
    _check_flags(args, config)
    inputs = [] if args.split else find_inputs(config.infer.image_path, Path(config.infer.output_dir))
    inputs = with_true_labels(inputs, config.preprocess)
    if drawing is not None:
        try_folder(drawing.folder, WHAT_NEXT)
    if args.csv is not None:
        try_file(args.csv, [config.infer.image_path, *(str(each.path) for each in inputs)])
    path = weights_of(config.infer.pretrained_model, config, document, class_names(config))
    record = read_record(path)
    config = with_network(config, document, record, path)
    if args.split is None:
        config = with_input(config, document, record, path)
    config = with_num_classes(config, lambda: count_classes(config) or saved_classes(record))
    start_device(config)
    config = as_evaluated(config)
    source = _stored(config, args.split) if args.split else None
    with _memory_errors(config):
        network, facts = load_predictor(config, path)
    protocols = list(protocols_of(config.eval.protocols, config.data_loader.eval.dataset).values())[:1]
    warn_if_seen_differently(facts, config, path, clips_seen(protocols, config))
    listed = source.videos.class_names if source else []
    frozen = [] if facts.get("classes") else _frozen_names(config)
    names = names_of_classes(config.model.classes, listed, facts.get("classes") or frozen)
    shown = Presentation(names, min(args.top_k, len(names)), drawing)
    paths = shown_names(source) if source else [str(each.path) for each in inputs]
    if source is None:
        check_class_names({}, frozen, path, f"the class list of {config.preprocess.dataset}, which are shown")
    log.info("%d video%s, checkpoint %s", len(paths), "s" * (len(paths) != 1), path)
    with _memory_errors(config):
        if source is not None:
            check_class_names(facts, listed, path, source.videos.name)
            rows = predict_stored(network, source, shown)
        elif args.window is not None:
            windows = Windows.of(config, args.window)
            rows = predict_windows(inputs, network, config, windows, shown)
        else:
            predictor = VideoPredictor(network, config, len(inputs))
            rows = predict_files(inputs, predictor, config.preprocess, shown)
        return _show(rows, args, paths, shown, config)


def _check_flags(args: argparse.Namespace, config: Config) -> None:
    """Check that flags do not contradict each other.

    Raises:
        UserError: they do.
    """
    if args.split and config.infer.image_path:
        raise UserError(
            f"--split: got {args.split} and also infer.image_path. Give one of them (make: SPLIT or VIDEO)."
        )
    if args.split and args.window is not None:
        raise UserError("--window: got a value with --split, but it is only for files. Remove one of them.")


def _stored(config: Config, split: Literal["train", "val", "test"]) -> Evaluation:
    """The stored videos of a split, by the first of `eval.protocols`."""
    loader = config.data_loader.eval
    loader = replace(loader, dataset=replace(loader.dataset, split=split))
    evaluated = replace(config.eval, protocols=config.eval.protocols[:1])
    return Evaluation(replace(config, eval=evaluated, data_loader=replace(config.data_loader, eval=loader)))


def _frozen_names(config: Config) -> list[str]:
    """The dataset's class list if it has the right length, else empty; for weights without class names."""
    classes = frozen_classes(config.preprocess)
    return classes[0] if classes is not None and len(classes[0]) == config.model.classes else []


def _show(rows: Iterator[Row], args: argparse.Namespace, paths: list[str], shown: Presentation, config: Config) -> int:
    """Print the rows as they come, then write the CSV; returns the exit code."""
    table, finished = Table(paths, shown.names, by_window=args.window is not None), []
    for row in rows:
        if row.status != "ok" and (args.json or not table.shows_reasons):
            log.warning("warning: %s: %s: %s", one_line(row.path), row.status, row.reason)
        if args.json:
            print(json_of(row), flush=True)
        else:
            table.add(row)
        finished.append(row)
    if args.csv is not None:
        write_csv(args.csv, finished, shown.top_k)
    bad = sum(row.status != "ok" for row in finished)
    if any(row.status == "retry" for row in finished):
        log.error("error: Some videos could not be read. Fix the disk or its connection, and run this again.")
        return EXIT_IO
    if bad and bad / len(finished) > config.preprocess.max_bad_fraction:
        if len(finished) == 1:
            log.error("error: This video cannot be predicted. Give another one.")
            return EXIT_TOO_MANY_BAD
        log.error(
            "error: %d of %d videos are bad, more than preprocess.max_bad_fraction %g allows. All others are "
            "predicted. Raise that key to accept them.",
            bad, len(finished), config.preprocess.max_bad_fraction,
        )  # fmt: skip
        return EXIT_TOO_MANY_BAD
    return EXIT_OK


def _memory_errors(config: Config) -> AbstractContextManager[None]:
    """One line about memory that ran out, with the setting that decides how many clips are in a batch."""
    batch_size = config.data_loader.eval.dataset.batch_size
    return memory_errors_in_one_line("data_loader.eval.dataset.batch_size", batch_size, "Give a smaller number.")


if __name__ == "__main__":
    signals.run(main)
