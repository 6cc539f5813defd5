"""Build, rebuild, check and compare ledgers: `python -m pipeline.manifests -c FILE`  (make manifests).

A ledger has one row with a status for every row of the label CSVs, joined with videos on disk and shards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.common import cli, recipe
from pipeline.common.errors import EXIT_OK
from pipeline.common.files import replacing
from pipeline.common.locking import locked
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError, write_table
from pipeline.execution.plan import check_recipe
from pipeline.labels.find_files import kinetics_files
from pipeline.labels.made_split import listing_path
from pipeline.ledger import compare, coverage
from pipeline.ledger.files import finish_renames, read_record
from pipeline.ledger.schema import BAD_STATUSES, UNWRITTEN_STATUSES
from pipeline.ledger.subset import choose_subset, subset_settings, write_subset_labels
from pipeline.ledger.table import class_names, ledger_folder, ledger_path, read_ledgers, write_ledgers
from pipeline.rebuild.check_sources import check_sources
from pipeline.rebuild.join import BuiltLedgers, join_sources
from pipeline.rebuild.known_outcomes import broken_path
from pipeline.shards.store import Store
from pipeline.videos.matching import by_split

log = logging.getLogger(__name__)

_OWN_CONFIGS = tuple(Path(cli.DEFAULT_CONFIG).with_name(name) for name in ("own.yaml", "finetune.yaml"))
_KEYS = ("dataset", "data_root", "labels", "manifests", "store", "val_fraction", "group_by")
_COMMON_KEYS = tuple(f"preprocess.{key}" for key in _KEYS)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the ledgers, or check or compare those that exist."""
    parser = _parser()
    args, document = cli.parse(parser, argv)
    _check_flags(parser, args)
    cli.set_up_logging()
    settings = recipe.load(document)
    _refuse_kinetics(document.path, settings)
    looks = args.check or args.diff or args.leaks or args.dry_run
    cli.say_target("nothing" if looks else f"ledgers in {_target(args, settings)}")
    try:
        result, text = _do(args, settings)
    except InputError as error:
        if args.json:
            bad_values = [bad._asdict() for bad in error.bad_values]
            print(json.dumps({"error": error.message, "details": error.details, "faults": bad_values}))
        raise
    print(json.dumps(result) if args.json else text)
    return EXIT_OK


def _refuse_kinetics(config: Path | None, settings: Preprocess) -> None:
    """Refuse Kinetics' label files with a configuration for own videos, which a person may not have chosen.

    Raises:
        InputError: naming Kinetics' configurations.
    """
    if config is None or config.resolve() not in {path.resolve() for path in _OWN_CONFIGS}:
        return
    if paths := kinetics_files(settings):
        raise InputError(
            f"{paths[0]}: label file of Kinetics, but {config} is for own videos. Give "
            "CONFIG=train/configs/r2plus1d18.yaml or CONFIG=train/configs/torchvision.yaml, or a copy of "
            f"{config.name} under another name."
        )


def _check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with a usage error for flags out of range or that exclude each other."""
    given = {"--classes": args.classes, "--per-class": args.per_class, "--forget": args.forget or None}
    writes = [flag for flag, value in given.items() if value is not None]
    looks = [f"--{name}" for name in ("check", "diff", "leaks") if getattr(args, name)]
    if writes and looks:
        parser.error(f"{writes[0]} writes ledgers and {looks[0]} only reads them. Use one of them.")
    if args.seed is not None and args.classes is None and args.per_class is None:
        parser.error("--seed only applies to subsets. Add --classes N or --per-class N.")
    for flag, value, least in (("--per-class", args.per_class, 1), ("--seed", args.seed, 0)):
        if value is not None and value < least:
            parser.error(f"{flag}: got {value}, expected at least {least}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("pipeline.manifests", __doc__ or "", sections={"preprocess": Preprocess}, common=_COMMON_KEYS)
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("--check", action="store_true", help="compare ledgers with label files, disk and store")
    verb.add_argument(
        "--diff", type=Path, metavar="OTHER", help="compare ledgers with another ledger or a folder of them"
    )
    verb.add_argument(
        "--leaks", type=Path, metavar="OTHER", help="list YouTube ids shared with another ledger or label CSV"
    )
    verb.add_argument("--dry-run", action="store_true", help="print what would be written; write nothing")
    parser.add_argument("--classes", type=int, metavar="N", help="make a subset of N classes, as a new dataset")
    parser.add_argument("--per-class", type=int, metavar="N", help="make a subset of N videos per class and split")
    parser.add_argument("--seed", type=int, help="random seed of the subset (default 0)")
    choices = [status for status in BAD_STATUSES if status not in UNWRITTEN_STATUSES]
    parser.add_argument("--forget", nargs="+", choices=choices, default=[], metavar="STATUS",
                      help=f"decode videos of these statuses again: {', '.join(choices)}")  # fmt: skip
    parser.add_argument("--min-per-class", type=int, default=10, metavar="N",
                      help="warn about classes with fewer usable videos (default %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result, or all errors, as JSON")
    return parser


def _do(args: argparse.Namespace, settings: Preprocess) -> tuple[Any, str]:
    """Do what the flags ask for; the result as JSON-able values and as text."""
    if args.diff is not None:
        result = compare.diff(read_ledgers(settings), args.diff)
        return result, compare.diff_text(result)
    if args.leaks is not None:
        result = compare.leaks(read_ledgers(settings), args.leaks)
        return result, compare.leaks_text(result, args.leaks)
    if args.check:
        ledgers, stale = check_sources(settings)
        if stale:
            raise InputError("Ledgers are out of date with the files on disk. Run `make manifests`.", details=stale)
        result, text = _report(settings, ledgers, args.min_per_class, [])
        return result, f"{text}\nAll is right: the ledgers agree with label files, videos and shards."
    if args.classes is not None or args.per_class is not None:
        return _subset(args, settings)
    return _build(args, settings)


def _target(args: argparse.Namespace, settings: Preprocess) -> Path:
    """The folder of ledgers that is written: the dataset's, or that of the subset asked for."""
    if args.classes is None and args.per_class is None:
        return ledger_folder(settings)
    parts = (("c", args.classes), ("p", args.per_class), ("s", args.seed or 0))
    letters = (f"{letter}{value}" for letter, value in parts if value is not None)
    return Path(settings.manifests) / "-".join([settings.dataset, *letters])


def _subset(args: argparse.Namespace, settings: Preprocess) -> tuple[Any, str]:
    """Write the label files and ledgers of a subset of the dataset; with --dry-run write nothing."""
    seed = args.seed or 0
    ledgers = join_sources(settings, Store(Path(settings.store))).ledgers
    chosen = choose_subset(ledgers, args.classes, args.per_class, seed)
    name = _target(args, settings).name
    if args.dry_run:
        sizes = {split: len(rows) for split, rows in chosen.items()}
        counts = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
        text = f"The subset {name} would have {sum(sizes.values()):,} videos: {counts}."
        return {"subset": name, "videos": sizes}, text
    subset = subset_settings(settings, name)
    check_recipe(Store(Path(subset.store)), subset)  # before anything is written
    write_subset_labels(subset, ledgers, chosen)
    log.info("subset: %s. Use it with --preprocess.dataset=%s --preprocess.store=%s", name, name, subset.store)
    return _build(args, subset)


def _build(args: argparse.Namespace, settings: Preprocess) -> tuple[Any, str]:
    store = Store(Path(settings.store))
    check_recipe(store, settings)  # with another recipe, the new ledgers would not know its frames
    folder = ledger_folder(settings)
    with contextlib.ExitStack() as lock:
        if folder.is_dir() and not args.dry_run:  # earlier ledgers are read now, and must not change until we write
            lock.enter_context(locked(folder))
        built = join_sources(settings, store, args.forget)
        for line in built.verdict:
            log.info(line)
        built.warnings.extend(compare.class_changes(_earlier_classes(folder), class_names(*built.ledgers.values())))
        if not args.dry_run:
            if not folder.is_dir():  # made only now, after the input proved valid
                lock.enter_context(locked(folder))
            _write(settings, built)
    result, text = _report(settings, built.ledgers, args.min_per_class, built.warnings)
    return {**result, "verdict": built.verdict, "extra": len(built.extra)}, text


def _earlier_classes(folder: Path) -> list[str]:
    """The class list of the ledgers that are there; empty if no record says it, or a damaged one."""
    try:
        return read_record(folder).classes
    except InputError:
        return []


def _write(settings: Preprocess, built: BuiltLedgers) -> None:
    """Write ledgers and the lists of files that no label row uses; keep a copy of broken earlier ledgers."""
    finish_renames(ledger_folder(settings))
    for path in built.broken:
        with replacing(broken_path(path)) as temporary:
            shutil.copyfile(path, temporary)
    if built.listing is not None:  # first: ledgers are made out of it
        write_table(listing_path(settings), built.listing)
    valid = [ledger_path(settings, split) for split in built.unchanged]
    write_ledgers({ledger_path(settings, split): ledger for split, ledger in built.ledgers.items()}, valid)
    extra = dict(by_split(built.extra))
    for split in (*SPLITS, "other"):
        path = ledger_path(settings, split).with_name(f"{split}.extra.csv")
        if split in extra:
            write_table(path, extra[split])
        else:
            path.unlink(missing_ok=True)
    log.info("written: %s", ", ".join(str(ledger_path(settings, split)) for split in built.ledgers))


def _report(settings: Preprocess, ledgers: dict[str, Any], min_per_class: int, warnings: list[str]) -> tuple[Any, str]:
    summary = coverage.summarise(settings.dataset, ledgers, min_per_class)
    warnings = [*warnings, *coverage.warnings(summary)]
    for line in warnings:
        log.warning("warning: %s", line)
    return {**summary, "warnings": warnings}, coverage.text(summary)


if __name__ == "__main__":
    cli.run(main)
