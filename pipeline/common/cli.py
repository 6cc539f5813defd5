"""What every command shares: -c/--config, dotted overrides, exit codes, logging, signals.

def main(argv=None) -> int: ...
if __name__ == "__main__":
    run(main)
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from pipeline.common.errors import EXIT_IO, EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM, UserError
from pipeline.common.settings import SECTIONS, Document, describe

# No space, file too large, quota, read-only, bad medium: the run cannot go on, but nothing is wrong with its input.
_IO_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


def parser(description: str, *, sections: dict[str, type]) -> argparse.ArgumentParser:
    """An argument parser with -c/--config whose --help lists every key that can be overridden."""
    keys = "\n".join(line for section, cls in sections.items() for line in describe(cls, f"{section}."))
    made = argparse.ArgumentParser(
        description=description,
        epilog=f"overrides of the configuration file, as --section.key=value:\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "-c", "--config", default="train/configs/sample.yaml", help="experiment YAML (default %(default)s)"
    )
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Document]:
    """Parse flags and dotted overrides, and read the experiment file.

    Raises:
        SettingsError: the file or an override is wrong.
    """
    args, rest = made.parse_known_args(argv)
    overrides: dict[str, str] = {}
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name.split(".")[0] not in SECTIONS:
            made.error(f"unrecognized argument: {word} (overrides look like --section.key=value)")
        if not equals:  # the next word may be a value or an override: guessing wrong would lose one silently
            made.error(f"--{name}: got no value, expected --{name}=VALUE, with an equals sign and no space")
        overrides[name] = value
    return args, Document(args.config, overrides)


def set_up_logging(level: int = logging.INFO) -> None:
    """Progress and logs go to stderr; stdout is for results."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and leave with the project's exit codes; a user's mistake gets no traceback."""

    def on_sigterm(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT_SIGTERM)

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by pipeline/__init__.py; one that is ignored stays so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        code = error.exit_code
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = EXIT_SIGINT
        print("interrupted; run the same command again to go on", file=sys.stderr)
    except BrokenPipeError:  # `| head`: the reader has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_OK
    except OSError as error:
        if error.errno not in _IO_ERRNOS:
            raise
        code = EXIT_IO
        print(
            f"error: {error}; nothing finished is lost: mend this and run the same command again",
            file=sys.stderr,
        )
    finally:
        # While the interpreter ends an exception is printed and forgotten: a Ctrl-C would leave with 0 and a traceback.
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, leave)
    raise SystemExit(code)
