"""Atomic writes: a file has its old or its new content, even if the program is killed or the power fails."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Write a file under a temporary name beside `path`; it replaces `path` when the block ends without an error.

    The new content is on the disk before the name changes.  After an error the temporary file is removed.  If the
    process is killed, `locking.remove_temporary` or `checkpoint.remove_unfinished` removes it later.

    Args:
        path: the file to write; its folder must exist.
        suffix: ending of the temporary name, for libraries that require one.

    Yields:
        The temporary path, `.<name>.<pid>.tmp<suffix>`, which does not exist yet.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file, atomically.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, atomically.

    Raises:
        OSError: as `replacing`.
    """
    write_text(path, json.dumps(content, indent=1))


def make_folder(folder: Path, what_next: str) -> None:
    """Make a folder, and those above it, unless it exists.

    Args:
        folder: the folder.
        what_next: what the user can do if it cannot be made.

    Raises:
        UserError: a part of its path is a file, or the system allows no folder there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder}: {error.strerror}. {what_next}") from None


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path)


def sync_folder(path: Path) -> None:
    """Wait until the entries of a folder are on the disk: which files are in it, under which names."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
