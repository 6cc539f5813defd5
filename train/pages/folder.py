"""The folder of a report: it is made beside its place and takes it whole, so that a failed command changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.files import make_folder, naming, write_json
from pipeline.common.text import some
from train.weights import sealed_json

FILES = "report.json"
"""The file of a report with the names of its other files: only what is listed there is ever replaced."""

_OTHER = "Give another folder with --output-dir (make: OUT=DIR)."


@contextmanager
def report_folder(target: Path) -> Iterator[Path]:
    """Make a report; an earlier one in the same place is replaced when the block ends without an error.

    Args:
        target: the folder; those above it are made.

    Yields:
        A folder with the empty folder `files`, where the block writes.

    Raises:
        UserError: `target` holds something that is no file of a report.
        OSError: a file cannot be written, or an earlier report not be replaced; that is unchanged.
    """
    target = Path(os.path.realpath(target))  # a link stays: what it leads to is replaced
    make_folder(target.parent, _OTHER)
    _check_replaceable(target)
    _remove_left(target)
    # No name of those that a training removes from its run folder (`.*.tmp`).
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    earlier = target.with_name(f".{target.name}.{os.getpid()}.earlier")
    try:
        (unfinished / "files").mkdir(parents=True)
        with naming(target):
            yield unfinished
        write_json(unfinished / FILES, {"files": _files_in(unfinished)})
        _check_replaceable(target)
        if target.exists():
            os.rename(target, earlier)
        try:
            os.rename(unfinished, target)
        except OSError:
            if earlier.exists():
                os.rename(earlier, target)
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if target.exists():
            shutil.rmtree(earlier, ignore_errors=True)


def _files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _check_replaceable(target: Path) -> None:
    """Check that nothing but an earlier report is in the place of a new one."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target}: got a file, expected a folder for the report. {_OTHER}")
    own = {FILES}
    try:
        listed = sealed_json.parse((target / FILES).read_bytes()).get("files")
        own |= {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    except (OSError, sealed_json.JsonError):
        pass
    if foreign := [name for name in _files_in(target) if name not in own]:
        raise UserError(f"{target}: it holds files that are not of a report: {some(foreign, shown=2)}. {_OTHER}")
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        if not os.access(folder, os.W_OK):  # it could be moved away, but not removed
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _remove_left(target: Path) -> None:
    """Remove what killed commands left beside the report; an earlier report that they had moved comes back."""
    for path in target.parent.glob(f".{_escaped(target.name)}.*"):
        process, _, kind = path.name.removeprefix(f".{target.name}.").partition(".")
        if not process.isdecimal() or kind not in ("unfinished", "earlier") or Path("/proc", process).exists():
            continue
        if kind == "earlier" and not target.exists():
            os.rename(path, target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _escaped(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
