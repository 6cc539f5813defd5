"""The errors that commands print for their user in a few lines, and the exit codes of commands."""

from __future__ import annotations

import errno
import re
from pathlib import Path

EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_TOO_MANY_BAD = 0, 1, 2, 3
EXIT_NOT_FINITE, EXIT_LOCKED, EXIT_IO, EXIT_RETRY = 70, 73, 74, 75
EXIT_SIGHUP, EXIT_SIGINT, EXIT_SIGTERM = 129, 130, 143


class UserError(ValueError):
    """A mistake the user can fix; commands print it without a traceback and exit with `exit_code`."""

    exit_code = EXIT_USAGE


class SettingsError(UserError):
    """One or more errors in an experiment file or in the overrides given with it."""


class MachineError(UserError):
    """The machine, or another one that takes part, failed; it is described in our words."""

    exit_code = EXIT_IO


class ShardError(UserError):
    """A shard that is missing, corrupted, unfinished, or of other settings.

    Args:
        path: the shard; or the store, when several of its shards are concerned.
        what: what is wrong, without path and video.
        action: what to do next.
        video_id: the video it concerns; empty: the whole shard.
    """

    def __init__(self, path: Path, what: str, action: str, video_id: str = "") -> None:
        super().__init__(path, what, action, video_id)  # the arguments again, by which it can be pickled
        self.path, self.what, self.action, self.video_id = path, what, action, video_id

    def __str__(self) -> str:
        where = f"{self.path}: {self.video_id}" if self.video_id else str(self.path)
        return f"{where}: {self.what}. {self.action[0].upper()}{self.action[1:]}."


class FormatError(ShardError):
    """An intact shard whose format belongs to another version of this program."""


class LossError(ShardError):
    """A shard that is not written, because stored videos would be lost by it; a person decides (`--accept-loss`)."""


REPAIR = "run `make verify ARGS=--repair`"
"""The action of most shard errors."""


_OWN_BUGS = {errno.EBADF, errno.EFAULT}  # a descriptor or an address that our own code got wrong
_OF_A_NAME = {errno.ENAMETOOLONG, errno.ELOOP}
_ENOTSUPP = 524  # what NFS and some drivers answer; the C library has no words for it
_WORDS = {
    errno.EMFILE: "too many open files in this process (see `ulimit -n`)",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "out of memory",
    _ENOTSUPP: "operation not supported",
}
_LIBHDF5 = re.compile(r"errno = \d+, error message = '([^']*)'")
_NO_MEMORY = re.compile(r"cannot allocate memory|failed to map segment", re.IGNORECASE)


def machine_fault(error: BaseException) -> str:
    """What the machine did not do, in one line with the path; empty if the error is of another kind, such as a bug.

    Args:
        error: an exception that no command expects.
    """
    if isinstance(error, MemoryError):
        return _line("out of memory", str(error))
    # Libraries raise an error of their own after these two: numpy its advice, joblib what its cleaning up meets.
    if isinstance(error, ImportError) and (texts := [text for text in _texts(error) if _NO_MEMORY.search(text)]):
        return _line("out of memory", texts[-1])
    if isinstance(error, RuntimeError) and any("can't start new thread" in text for text in _texts(error)):
        return "no more processes or threads can be started (see `ulimit -u`)"
    if any(kind.__name__ == "BrokenExecutor" for kind in type(error).__mro__):  # joblib's, and the standard library's
        return "a child process died: it was killed, or there was no memory for it"
    if not isinstance(error, OSError) or error.errno in _OWN_BUGS:
        return ""
    paths = dict.fromkeys(str(path) for path in (error.filename, error.filename2) if path not in (None, ""))
    return _line(" -> ".join(paths), reason_of(error))


def is_of_a_name(error: BaseException) -> bool:
    """Whether the name of a file is wrong: too long, or a ring of links; that is for its user to fix."""
    return isinstance(error, OSError) and error.errno in _OF_A_NAME


def reason_of(error: OSError) -> str:
    """Why the system refused, in words and without the number of the error."""
    words = _WORDS.get(error.errno or 0) or error.strerror or re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    if in_libhdf5 := _LIBHDF5.search(words):
        words = in_libhdf5[1]
    if error.errno == errno.EAGAIN and error.filename is None:
        words += ", such as a new process (see `ulimit -u`)"
    return words or type(error).__name__


def _texts(error: BaseException) -> list[str]:
    """The text of an error, and of those that came before it; of a child's traceback, its last line."""
    texts, cause = [], error
    while cause is not None:
        lines = str(cause).strip('\n"').splitlines()
        is_traceback = bool(lines) and lines[0].startswith("Traceback (")
        texts.append(lines[-1].partition(": ")[2] if is_traceback else str(cause))
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    return texts


def _line(*parts: str) -> str:
    return ": ".join(" ".join(part.split()) for part in parts if part).rstrip(".")
