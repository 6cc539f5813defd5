"""For every test: only the CPU, a separate compile cache, the same examples each time, and the calls to decoders."""

import logging
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests use the CPU, on every machine

import model  # noqa: F401  before any test imports mindspore: without the oneDNN setting it is 40 to 80 times slower
from pipeline.common import files

# Programs that run in the background, or under nohup, ignore these, and so would the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Graphs compiled by tests do not go into the user's cache; tests and their child processes share this one.
_cache = tempfile.TemporaryDirectory(prefix="kinetics-r2plus1d-")
os.environ["XDG_CACHE_HOME"] = _cache.name

# The same examples in each run, on a machine of any speed.  Tests that write a file for each example overwrite it.
hypothesis.settings.register_profile(
    "tests",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Operators run one at a time, in the thread that calls them.

    Otherwise, in pynative mode, threads of MindSpore 2.10 wait for each other in busy loops; with another process at
    work on two cores a forward pass of the full network took minutes instead of seconds.
    """
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].runtime.launch_blocking()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Weights and numbers that a test or its fixtures draw without a seed of their own are the same in each run."""
    random.seed(0)
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].set_seed(0)  # and numpy's


@pytest.fixture(autouse=True)
def state_of_one_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command that runs in this process sets up, and notes, must not be noticed by the next test."""
    monkeypatch.setattr(files, "_work_is_kept", False)
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(factory)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names, without endings, of the files that decoders on this machine are called for."""
    from pipeline.execution import local

    names: list[str] = []
    decode = local.Decoder.decode

    def note(paths):
        for path in paths:
            names.append(path.stem)
            yield path

    monkeypatch.setattr(local.Decoder, "decode", lambda self, paths: decode(self, note(paths)))
    return names
