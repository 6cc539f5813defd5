"""What every command shares: -c/--config, dotted overrides, the words of make's ARGS, exit codes, logging, signals.

def main(argv=None) -> int: ...
if __name__ == "__main__":
    run(main)

`python -m pipeline.common.cli PROGRAM ... --args=TEXT` starts another Python program with the words of ARGS.
"""

from __future__ import annotations

import argparse
import errno
import functools
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline.common.errors import (
    EXIT_IO,
    EXIT_SIGHUP,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    EXIT_USAGE,
    UserError,
    is_of_a_name,
    machine_fault,
)
from pipeline.common.files import work_is_kept
from pipeline.common.help import WIDTH, key_lines
from pipeline.common.settings import TOP_KEYS, Document, nearest_hint
from pipeline.common.streams import Output, Record, escaped_streams, secure_streams

log = logging.getLogger(__name__)

DEFAULT_CONFIG = "train/configs/sample.yaml"


def parser(
    module: str,
    description: str,
    *,
    sections: dict[str, type],
    common: tuple[str, ...] = (),
    config: str | None = DEFAULT_CONFIG,
) -> argparse.ArgumentParser:
    """An argument parser with -c/--config; its --help explains the keys that can be overridden.

    Args:
        module: what `python -m` starts, such as `pipeline.preprocess`.
        description: the module's docstring.
        sections: dataclass of each section by name; the one named "" is the whole configuration.
        common: the keys that --help shows (help.key_lines); --help-all shows all.  Empty: --help shows all too.
        config: the file that is read if -c is not given; None: no file.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=_epilog(sections, common),
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=WIDTH),
        allow_abbrev=False,
    )
    parser.add_argument("--help-all", action=_HelpAll, sections=sections, help="show all keys of the configuration")
    of_default = f" (default {config})" if config else ""
    parser.add_argument("-c", "--config", metavar="FILE", help=f"configuration file in YAML{of_default}")
    parser.set_defaults(default_config=config)
    return parser


def _epilog(sections: dict[str, type], shown: tuple[str, ...]) -> str:
    head = [
        "Keys of the configuration: name, default, allowed values, meaning.  --section.key=VALUE overrides the file.",
        "Text is taken as typed, everything else is read as YAML.  Relative paths are relative to the current folder.",
        "In paths of a file ~, $NAME and ${NAME} are expanded, and $$ is a $.  Paths typed here are taken as they are.",
    ]
    last = ["", "These are the most common keys.  --help-all shows all of them."] if shown else []
    return "\n".join([*head, "", *key_lines(sections, shown), *last])


class _HelpAll(argparse.Action):
    """The flag --help-all: --help with every key."""

    def __init__(self, option_strings: Sequence[str], dest: str, sections: dict[str, type], help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._sections = sections

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.epilog = _epilog(self._sections, ())
        parser.print_help()
        parser.exit()


def with_args(argv: Sequence[str] | None = None) -> list[str]:
    """The words of a command line (default: of this process), with make's ARGS split as a shell would, but not run.

    make gives ARGS in one word: `--args=TEXT` stands for all words of TEXT, `--shared-args=TEXT` for the same in each
    of several verbs, so all must be overrides, and `--preprocess-args=TEXT` for its overrides of `preprocess` alone.

    Raises:
        UserError: a quote is not closed, several verbs share a flag, or a word is not UTF-8.
    """
    words: list[str] = []
    for word in sys.argv[1:] if argv is None else argv:
        kind, equals, text = word.partition("=")
        if not equals or kind not in ("--args", "--shared-args", "--preprocess-args"):
            words.append(word)
            continue
        try:
            split = shlex.split(text)
        except ValueError as error:
            raise UserError(f"ARGS: got {text}, which cannot be split into words: {error}. Close it.") from None
        if kind == "--preprocess-args":
            split = [each for each in split if each.startswith(("--preprocess.", "--preprocess="))]
        for each in split if kind == "--shared-args" else ():
            if not each.startswith("--") or each.removeprefix("--").partition("=")[0].split(".")[0] not in TOP_KEYS:
                raise UserError(
                    f"ARGS: got {each} for several verbs, expected only overrides (--section.key=VALUE). "
                    "Run the verb that takes it by itself."
                )
        words += split
    for word in words:
        if not _is_utf8(word):  # decoders, ledgers and settings could not hold such a path
            raise UserError(f"got {word!r}, which is not UTF-8. Rename that file or folder, or give a link to it.")
    return words


def _is_utf8(text: str) -> bool:
    """Whether no byte of a word of the command line was lost: Python reads one that is not UTF-8 as a surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    find_config: Callable[[argparse.Namespace, dict[str, str]], Path | None] = lambda _args, _overrides: None,
) -> tuple[argparse.Namespace, Document]:
    """Parse flags and dotted overrides, and read the experiment file; its name goes to stderr if -c does not give it.

    Args:
        parser: made by `parser`.
        argv: the words (default: those of this process).
        find_config: finds the file without -c, by the flags and overrides; if it finds none, it is the default.

    Raises:
        SettingsError: the file or an override is wrong.
        UserError: see `with_args`.
    """
    args, rest = parser.parse_known_args(with_args(argv))
    overrides: dict[str, str] = {}
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        section = name.split(".")[0]
        if word.startswith("--") and "." in name and section not in TOP_KEYS:
            parser.error(f"--{name}: unknown section{nearest_hint(section, TOP_KEYS)}")
        if not word.startswith("--") or section not in TOP_KEYS:
            parser.error(f"unrecognized argument: {word} (overrides look like --section.key=value)")
        if not equals:  # the next word may be a value or an override: a wrong guess would lose it
            parser.error(f"--{name}: got no value, expected --{name}=VALUE, with an equals sign and no space")
        overrides[name] = value
    path = args.config
    if path is None:
        path = find_config(args, overrides) or args.default_config
        print(f"configuration: {path or 'none, the defaults'} (give another with -c FILE)", file=sys.stderr, flush=True)
    return args, Document(path, overrides)


def say_target(what: str) -> None:
    """Log in one line where a command will write, before it works for minutes."""
    log.info("writes: %s", what)


def set_up_logging(level: int = logging.INFO) -> None:
    """Progress and logs go to stderr; stdout is for results."""
    logging.setLogRecordFactory(Record)
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


class _HungUp(SystemExit):
    """The terminal was closed (SIGHUP)."""


def run(main: Callable[[], int], *, resumes: bool = True) -> NoReturn:
    """Run a command and exit with the project's exit codes.

    A user's mistake and a fault of the machine are one line; an error in our own code keeps its traceback.  Signals
    that are ignored now, as by `nohup` or `trap '' INT`, stay ignored.

    Args:
        main: the command.
        resumes: whether the same command continues what it was doing when it was stopped.
    """
    outputs = secure_streams()
    with escaped_streams():
        raise SystemExit(_exit_code(main, outputs, resumes))


def _exit_code(main: Callable[[], int], outputs: Sequence[Output], resumes: bool) -> int:
    def on_sigterm(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT_SIGTERM)

    def on_sighup(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise _HungUp(EXIT_SIGHUP)

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        os._exit(128 + number)

    for number, handler in ((signal.SIGTERM, on_sigterm), (signal.SIGHUP, on_sighup)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
    to_continue = " Run the same command again to continue." if resumes else ""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # until now it was answered by pipeline/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
        for output in outputs:  # a reader that has read enough, such as `| head`, is no error
            if output.fileno() == 1 and output.lost is not None and output.lost.errno != errno.EPIPE:
                output.lost.filename = "standard output"
                raise output.lost
    except UserError as error:
        code = error.exit_code
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = EXIT_SIGINT
        print(f"Interrupted.{to_continue}", file=sys.stderr)
    except _HungUp:
        code = EXIT_SIGHUP
        print(f"SIGHUP: the terminal was closed.{to_continue}", file=sys.stderr)
    except Exception as error:
        fault = machine_fault(error)
        if not fault:
            raise
        code = EXIT_USAGE if is_of_a_name(error) else EXIT_IO
        kept = " Finished work is kept." if work_is_kept() else ""
        again = " and run the same command again" if resumes else ""
        print(f"error: {fault}.{kept} Fix this{again}.", file=sys.stderr)
    finally:
        # While Python shuts down, exceptions are printed and ignored: Ctrl-C would give exit code 0 and a traceback.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, leave)
    return code


if __name__ == "__main__":
    run(lambda: os.execv(sys.executable, [sys.executable, *with_args()]))
