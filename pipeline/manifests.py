"""Build, rebuild, check and compare ledgers: `python -m pipeline.manifests -c FILE`  (make manifests).

The outer join of label CSVs, videos on disk and shards: every CSV row ends in a ledger with a status.
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
from pipeline.common.locking import locked
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError, write_table
from pipeline.execution.plan import check_recipe
from pipeline.ledger import compare, coverage
from pipeline.ledger.schema import BAD_STATUSES, UNWRITTEN_STATUSES
from pipeline.ledger.subset import choose_subset, write_subset_labels
from pipeline.ledger.table import ledger_folder, ledger_path, read_ledgers, write_ledgers
from pipeline.rebuild.check_sources import check_sources
from pipeline.rebuild.join import BuiltLedgers, join_sources
from pipeline.rebuild.known_outcomes import broken_path
from pipeline.videos.matching import by_split

log = logging.getLogger(__name__)

_COMMON_KEYS = tuple(f"preprocess.{key}" for key in ("dataset", "data_root", "labels", "manifests", "store"))


def main(argv: Sequence[str] | None = None) -> int:
    """Build the ledgers, or with a flag look at those there are."""
    made = _parser()
    args, document = cli.parse(made, argv)
    _refuse_what_does_not_go_together(made, args)
    cli.set_up_logging()
    settings = recipe.load(document)
    looks = args.check or args.diff or args.leaks or args.dry_run
    cli.say_target("nothing" if looks else f"ledgers in {_target(args, settings)}")
    try:
        result, text = _do(args, settings)
    except InputError as error:
        if args.json:
            faults = [fault._asdict() for fault in error.faults]
            print(json.dumps({"error": error.message, "details": error.details, "faults": faults}))
        raise
    print(json.dumps(result) if args.json else text)
    return EXIT_OK


def _refuse_what_does_not_go_together(made: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    given = {"--classes": args.classes, "--per-class": args.per_class, "--forget": args.forget or None}
    writes = [flag for flag, value in given.items() if value is not None]
    looks = [f"--{name}" for name in ("check", "diff", "leaks") if getattr(args, name)]
    if writes and looks:
        made.error(f"{writes[0]} writes ledgers and {looks[0]} only looks at them: give one of the two")
    if args.seed is not None and args.classes is None and args.per_class is None:
        made.error("--seed is of a subset: give --classes N or --per-class N too")
    for flag, value, least in (("--per-class", args.per_class, 1), ("--seed", args.seed, 0)):
        if value is not None and value < least:
            made.error(f"{flag}: got {value}, expected at least {least}")


def _parser() -> argparse.ArgumentParser:
    made = cli.parser("pipeline.manifests", __doc__ or "", sections={"preprocess": Preprocess}, common=_COMMON_KEYS)
    verb = made.add_mutually_exclusive_group()
    verb.add_argument("--check", action="store_true", help="hold ledgers against label files and disk")
    verb.add_argument("--diff", type=Path, metavar="OTHER", help="compare with another ledger or folder of ledgers")
    verb.add_argument("--leaks", type=Path, metavar="OTHER", help="list ids shared with another ledger or label CSV")
    verb.add_argument("--dry-run", action="store_true", help="say what would be written; write nothing")
    made.add_argument("--classes", type=int, metavar="N", help="make a subset of N classes, a dataset of its own")
    made.add_argument("--per-class", type=int, metavar="N", help="and of N videos a class and split")
    made.add_argument("--seed", type=int, help="of the subset (default 0)")
    retried = [status for status in BAD_STATUSES if status not in UNWRITTEN_STATUSES]
    made.add_argument("--forget", nargs="+", choices=retried, default=[], metavar="STATUS",
                      help=f"try videos of these statuses again: {', '.join(retried)}")  # fmt: skip
    made.add_argument("--min-per-class", type=int, default=10, metavar="N",
                      help="warn of classes with fewer usable videos (default %(default)s)")  # fmt: skip
    made.add_argument("--json", action="store_true", help="print the result, or all faults, as JSON")
    return made


def _do(args: argparse.Namespace, settings: Preprocess) -> tuple[Any, str]:
    """What was asked for, as JSON-able values and as text."""
    if args.diff is not None:
        result = compare.diff(read_ledgers(settings), args.diff)
        return result, compare.diff_text(result)
    if args.leaks is not None:
        result = compare.leaks(read_ledgers(settings), args.leaks)
        return result, compare.leaks_text(result, args.leaks)
    if args.check:
        ledgers, stale = check_sources(settings)
        if stale:
            raise InputError("ledgers are behind the disk; run `make manifests`", details=stale)
        return _report(settings, ledgers, args.min_per_class, [])
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
    """Write the label files of a subset of the dataset, and its ledgers; nothing is written with --dry-run."""
    seed = args.seed or 0
    ledgers = join_sources(settings).ledgers
    chosen = choose_subset(ledgers, args.classes, args.per_class, seed)
    name = _target(args, settings).name
    if args.dry_run:
        sizes = {split: len(rows) for split, rows in chosen.items()}
        said = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
        return {"subset": name, "videos": sizes}, f"the subset {name} would have {sum(sizes.values()):,} videos: {said}"
    made = write_subset_labels(settings, ledgers, chosen, name)
    log.info("subset: use it with --preprocess.dataset=%s and a --preprocess.store of its own", name)
    return _build(args, made)


def _build(args: argparse.Namespace, settings: Preprocess) -> tuple[Any, str]:
    check_recipe(Path(settings.store), settings)  # its frames would be forgotten
    there = ledger_folder(settings)
    with contextlib.ExitStack() as held:
        if there.is_dir() and not args.dry_run:  # the ledgers that stand are read, and must not change until written
            held.enter_context(locked(there))
        built = join_sources(settings, args.forget)
        for line in built.verdict:
            log.info(line)
        if not args.dry_run:
            if not there.is_dir():  # made only now, when nothing is wrong with the input
                held.enter_context(locked(there))
            _write(settings, built)
    result, text = _report(settings, built.ledgers, args.min_per_class, built.warnings)
    return {**result, "verdict": built.verdict, "extra": len(built.extra)}, text


def _write(settings: Preprocess, built: BuiltLedgers) -> None:
    """Write ledgers and the lists of files that no label row uses; a broken earlier ledger is kept aside."""
    for path in built.broken:
        shutil.copyfile(path, broken_path(path))
    valid = [ledger_path(settings, split) for split in built.unchanged]
    write_ledgers({ledger_path(settings, split): ledger for split, ledger in built.ledgers.items()}, valid)
    extra = dict(by_split(built.extra))
    for split in (*SPLITS, "other"):
        listed = ledger_path(settings, split).with_name(f"{split}.extra.csv")
        if split in extra:
            write_table(listed, extra[split])
        else:
            listed.unlink(missing_ok=True)
    log.info("written: %s", ", ".join(str(ledger_path(settings, split)) for split in built.ledgers))


def _report(settings: Preprocess, ledgers: dict[str, Any], least: int, warnings: list[str]) -> tuple[Any, str]:
    summary = coverage.summarise(settings.dataset, ledgers, least)
    said = [*warnings, *coverage.warnings(summary)]
    for line in said:
        log.warning("warning: %s", line)
    return {**summary, "warnings": said}, coverage.text(summary)


if __name__ == "__main__":
    cli.run(main)
