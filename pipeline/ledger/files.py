"""The ledger files of a dataset: they change together, and a record beside them says what was written.

    <manifests>/<dataset>/ledgers.json           the record: size, CRC-32 and class list of each ledger
    <manifests>/<dataset>/.val.csv.<crc32>.new   a ledger that is complete and does not have its name yet

A write puts every new ledger beside the old ones under the second name, then replaces the record, then renames the
ledgers.  The record is the commit point: a reader takes the file that the record names, so it sees all old ledgers
before that point and all new ones after it, at whatever step the writer was killed.  The next write finishes the
renames.  A reader whose file is not the recorded one reads the record again, because a writer may just have replaced
both; if the record is the same, the ledger was damaged or edited.

The hash of the class list is in the record and not in the ledgers, for three reasons: a column would repeat one value
in 650,000 rows, a comment line would break other programs that read the CSV, and neither could also hold the file's own
size and checksum, by which a missing row is noticed.  Ledgers without a record (of an earlier version, or copied
without it) stay readable: their class lists are compared by their rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import pandas as pd

from pipeline.common.errors import UserError
from pipeline.common.files import open_to_read, sync_folder, write_json
from pipeline.common.recipe import SPLITS
from pipeline.common.tables import InputError, write_table

T = TypeVar("T")

_RECORD = "ledgers.json"
_NAME = re.compile(r"[^/\\]+\.csv")
_TRIES = 10  # of a reader whose ledgers are being replaced
_LARGEST_RECORD = 1 << 26  # bytes; 100,000 classes take a twentieth of it


@dataclass(frozen=True)
class Entry:
    """What was written into one ledger.

    Attributes:
        nbytes: size of the file.
        crc32: CRC-32 of the file.
        classes_sha256: `classes_hash` of the class list that numbered its labels.
    """

    nbytes: int
    crc32: int
    classes_sha256: str


@dataclass(frozen=True)
class Record:
    """What was written into the ledgers of a dataset.

    Attributes:
        classes: label of each label_id, 0 first; empty where no ledger has the id.
        ledgers: by file name.
    """

    classes: list[str] = field(default_factory=list)
    ledgers: dict[str, Entry] = field(default_factory=dict)

    def disagreeing(self) -> list[str]:
        """Names of the ledgers that another class list numbered than `classes`."""
        expected = classes_hash(self.classes)
        return [name for name, entry in self.ledgers.items() if entry.classes_sha256 != expected]


def classes_hash(classes: Sequence[str]) -> str:
    """SHA-256 of a class list, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def read_record(folder: Path) -> Record:
    """The record of a dataset's ledgers; an empty one if the file is missing.

    Raises:
        InputError: it is damaged.
        UserError: it is a folder, which a rebuild could not replace.
    """
    path = folder / _RECORD
    try:
        with open_to_read(path) as file:
            content = file.read(_LARGEST_RECORD)
    except FileNotFoundError:
        return Record()
    except IsADirectoryError:
        raise UserError(f"{path}: got a folder, expected a file. Remove it and run `make manifests`.") from None
    try:
        values = json.loads(content)
        record = Record(list(values["classes"]), {name: Entry(**each) for name, each in values["ledgers"].items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        record = None
    if record is None or not _is_valid(record):
        raise InputError(f"{path}: corrupted. Run `make manifests` to write it and the ledgers again.")
    return record


def _is_valid(record: Record) -> bool:
    return all(isinstance(label, str) for label in record.classes) and all(
        _NAME.fullmatch(name) and type(each.nbytes) is int and type(each.crc32) is int and 0 <= each.crc32 < 1 << 32
        for name, each in record.ledgers.items()
    )


def exists(path: Path) -> bool:
    """Whether there is a ledger at `path`, or one that was written and waits for this name."""
    return path.is_file() or _staged_for(path) is not None


def _staged_for(path: Path) -> Path | None:
    """The file that the record names for `path`, while it does not have that name."""
    try:
        entry = read_record(path.parent).ledgers.get(path.name)
    except InputError:
        return None
    staged = _staged(path, entry) if entry else None
    return staged if staged and staged.is_file() else None


def _staged(path: Path, entry: Entry) -> Path:
    # The checksum in the name tells a complete file of this record from one that a killed write never committed.
    return path.with_name(f".{path.name}.{entry.crc32:08x}.new")


def open_ledger(path: Path) -> tuple[BinaryIO, bool]:
    """Open the current content of a ledger; the caller closes it.

    The open file stays the same content while a writer replaces the ledger.

    Returns:
        The file, and whether it is what the record says; True for a ledger without a record.

    Raises:
        FileNotFoundError: there is none.
        InputError: the record is damaged.
    """
    for number in range(_TRIES):
        record = read_record(path.parent)
        entry = record.ledgers.get(path.name)
        try:
            file = _open(path, entry)
        except FileNotFoundError:
            if read_record(path.parent) != record:
                continue
            raise
        if entry is None or facts_of(file) == (entry.nbytes, entry.crc32):
            return file, True
        if number == _TRIES - 1 or read_record(path.parent) == record:
            return file, False
        file.close()
    raise FileNotFoundError(path)


def _open(path: Path, entry: Entry | None) -> BinaryIO:
    if entry is not None:
        try:
            return open_to_read(_staged(path, entry))
        except FileNotFoundError:
            pass  # it has its name
    return open_to_read(path)


def facts_of(file: BinaryIO) -> tuple[int, int]:
    """Size in bytes and CRC-32 of an open file, which is at its start before and after."""
    size = checksum = 0
    while block := file.read(1 << 20):
        size, checksum = size + len(block), zlib.crc32(block, checksum)
    file.seek(0)
    return size, checksum


def write_together(folder: Path, tables: dict[str, pd.DataFrame], classes: Sequence[str]) -> None:
    """Replace ledgers of a dataset, all or none of them; its folder must be locked where others may write.

    Ledgers of the dataset that are not in `tables` keep their files.  If `classes` continues their class list, one list
    holds for all; otherwise they keep the hash of theirs, and `check_record` refuses them.

    Args:
        folder: `<manifests>/<dataset>`; made if it is missing.
        tables: by file name.
        classes: label of each label_id in `tables`, 0 first; empty where no row has the id.

    Raises:
        OSError: the disk is full or fails; before the commit point nothing is changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = finish_renames(folder)
    kept = {name: entry for name, entry in earlier.ledgers.items() if name not in tables and (folder / name).is_file()}
    merged = list(classes) if not kept else _merged(earlier.classes, classes)
    names = list(classes) if merged is None else merged
    numbered = classes_hash(names)
    before = classes_hash(earlier.classes)
    entries = {}
    for name, entry in kept.items():
        same = merged is not None and entry.classes_sha256 == before
        entries[name] = Entry(entry.nbytes, entry.crc32, numbered if same else entry.classes_sha256)
    staged: list[Path] = []
    try:
        for name, table in tables.items():
            staged.append(folder / f".{name}.{os.getpid()}.tmp")
            write_table(staged[-1], table)
            with open_to_read(staged[-1]) as file:
                entries[name] = Entry(*facts_of(file), numbered)
            os.replace(staged[-1], _staged(folder / name, entries[name]))
            staged[-1] = _staged(folder / name, entries[name])
        sync_folder(folder)
    except BaseException:
        _remove(staged)
        raise
    record = Record(names, dict(sorted(entries.items())))
    try:
        write_json(folder / _RECORD, asdict(record))
    except BaseException:
        if read_record(folder) != record:  # an error may also come after the new record has its name
            _remove(staged)
        raise
    finish_renames(folder)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _merged(earlier: Sequence[str], classes: Sequence[str]) -> list[str] | None:
    """One class list that holds all of two; None if they number a class differently."""
    length = max(len(earlier), len(classes))
    one, other = ([*names, *[""] * (length - len(names))] for names in (earlier, classes))
    names = [ours or theirs for ours, theirs in zip(other, one, strict=True)]
    agree = all(not ours or not theirs or ours == theirs for ours, theirs in zip(one, other, strict=True))
    labelled = [name for name in names if name]
    return names if agree and len(set(labelled)) == len(labelled) else None


def finish_renames(folder: Path) -> Record:
    """Give the recorded ledgers their names, and remove those of a write that was killed before its commit point.

    Returns:
        The record; an empty one if it is damaged: the ledgers are being written again.
    """
    try:
        record = read_record(folder)
    except InputError:
        return Record()
    for name, entry in record.ledgers.items():
        if _staged(folder / name, entry).is_file():
            os.replace(_staged(folder / name, entry), folder / name)
    _remove(folder.glob(".*.csv.*.new"))
    sync_folder(folder)
    return record


def at_rest(folder: Path, read: Callable[[], T]) -> T:
    """What `read` returns, from ledgers of a dataset none of which was replaced while it read them.

    Raises:
        InputError: they are replaced again and again.
    """
    for _ in range(_TRIES):
        record = read_record(folder)
        result = read()
        if read_record(folder) == record:
            return result
    raise InputError(f"{folder}: another command is replacing these ledgers. Run this command again when it has ended.")


def check_record(folder: Path) -> bool:
    """Check by the record that one class list numbered all ledgers of a dataset.

    Returns:
        Whether the record knows every ledger there; if not, compare their rows.

    Raises:
        InputError: a ledger has another class list, or the record is damaged.
    """
    record = read_record(folder)
    others = [name for name in record.disagreeing() if exists(folder / name)]
    if others:
        raise InputError(
            f"{folder}: {', '.join(others)}: numbered by another class list than the other ledgers. Run "
            "`make manifests` with the label files of all splits, or remove the old ledger."
        )
    return all(f"{split}.csv" in record.ledgers for split in SPLITS if (folder / f"{split}.csv").is_file())
