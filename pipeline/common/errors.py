"""The errors that a command tells a user in a few lines, and the exit codes that commands end with."""

from __future__ import annotations

EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_TOO_MANY_BAD = 0, 1, 2, 3
EXIT_NOT_FINITE, EXIT_LOCKED, EXIT_IO, EXIT_RETRY = 70, 73, 74, 75
EXIT_SIGINT, EXIT_SIGTERM = 130, 143


class UserError(ValueError):
    """A mistake the user can fix; commands print it without a traceback and end with `exit_code`."""

    exit_code = EXIT_USAGE


class SettingsError(UserError):
    """One or more errors in an experiment file or in the overrides given with it."""


class ShardError(UserError):
    """A shard that is missing, damaged, unfinished, or not ours to read."""


class FormatError(ShardError):
    """A whole shard in a format of another version of this program."""
