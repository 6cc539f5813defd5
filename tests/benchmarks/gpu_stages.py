"""Runs a program in a process of its own with a time limit, and takes the results that it prints, line by line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MARK = "RESULT "


def report(**facts: Any) -> None:
    """In a stage's process: print one result at once."""
    print(_MARK + json.dumps(facts), flush=True)


@dataclass
class Outcome:
    """How a stage ended.

    Attributes:
        stage: its name.
        problem: what went wrong, in one line; empty: nothing.
        seconds: how long it took.
        results: what it reported, in order.
    """

    stage: str
    problem: str = ""
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)


def run_stage(
    stage: str, command: Sequence[str], limit_s: float, show: Callable[[str], None] = lambda _line: None
) -> Outcome:
    """Run a stage's process to its end, or kill it and all that it started when its time is over.

    Args:
        stage: its name.
        command: the process; its stderr joins its stdout.
        limit_s: seconds.
        show: called with each line as soon as it comes.
    """
    outcome, began, last = Outcome(stage), time.monotonic(), ""
    stopped = threading.Event()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip

        def kill() -> None:
            stopped.set()
            os.killpg(process.pid, signal.SIGKILL)  # until `wait` below, no other process can have its number

        timer = threading.Timer(max(limit_s, 0), kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_MARK):
                    outcome.results.append(json.loads(line.removeprefix(_MARK)))
                elif line.strip(" -\n"):
                    last = line.strip()
                show(line.rstrip())
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
            timer.join()
    outcome.seconds = round(time.monotonic() - began, 1)
    if stopped.is_set():
        outcome.problem = f"stopped after {limit_s:.0f} s"
    elif process.returncode < 0:
        outcome.problem = f"killed by {signal.Signals(-process.returncode).name}"
    elif process.returncode:
        outcome.problem = f"exit code {process.returncode}: {last or 'it printed nothing'}"
    return outcome
