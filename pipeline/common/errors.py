"""The errors that commands print for their user in a few lines, and the exit codes of commands."""

from __future__ import annotations

import errno
from pathlib import Path

EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_TOO_MANY_BAD = 0, 1, 2, 3
EXIT_NOT_FINITE, EXIT_LOCKED, EXIT_IO, EXIT_RETRY = 70, 73, 74, 75
EXIT_SIGINT, EXIT_SIGTERM = 130, 143


class UserError(ValueError):
    """A mistake the user can fix; commands print it without a traceback and exit with `exit_code`."""

    exit_code = EXIT_USAGE


class SettingsError(UserError):
    """One or more errors in an experiment file or in the overrides given with it."""


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


UNREADABLE_NOW = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EBUSY", "ESTALE", "ETIMEDOUT",
        "ENODEV", "ENXIO", "EREMOTEIO", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH",
        "ENETDOWN", "ENETUNREACH", "ENOLINK", "ESHUTDOWN", "EUCLEAN", "ENOKEY", "EKEYEXPIRED", "EBADMSG",
    )
)  # fmt: skip
"""Numbers of system errors that tell nothing about the content of a file: it may be readable later."""


REPAIR = "run `make verify ARGS=--repair`"
"""The action of most shard errors."""
