"""A run is stopped before each of its side effects in turn; the next run writes the bytes of an undisturbed one."""

# A forked child runs `preprocess` with counted side effects; at the chosen one it is killed, or the disk is full.

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from instant_decoder import InstantDecoder
from make_store import make_ledger, settings_for
from make_videos import write_mp4
from processes import processes_of
from waiting import wait_until

from pipeline.common.recipe import Preprocess
from pipeline.execution import local
from pipeline.execution.run import preprocess_store
from pipeline.ledger.table import ledger_path, read_ledger, write_ledger
from pipeline.shards import libhdf5
from pipeline.shards.reader import ShardReader

SIDE_EFFECTS = [
    (libhdf5, "create"), (os, "pwrite"), (os, "posix_fallocate"), (os, "ftruncate"), (os, "fsync"), (os, "replace"),
]  # fmt: skip
NEED_ROOM = ("create", "pwrite", "posix_fallocate", "fsync")
NUM_VIDEOS, MISSING = 5, 2


def prepared(folder: Path, **changes: object) -> Preprocess:
    """A ledger of pending videos whose files exist, in two shards."""
    settings = settings_for(folder, videos_per_shard=3, jobs=1, max_bad_fraction=1.0, **changes)
    table = make_ledger(NUM_VIDEOS, "train", bad=(MISSING,))
    for path in filter(None, table["path"]):
        file = Path(settings.data_root) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    write_ledger(ledger_path(settings, "train"), table)
    return settings


def result(settings: Preprocess) -> dict[str, bytes]:
    """Every file of the store, and the ledger."""
    files = [path for path in Path(settings.store).glob("*") if path.name != ".lock"]
    ledgers = [ledger_path(settings, "train")]
    return {path.name: path.read_bytes() for path in [*files, *ledgers]}


def in_child(settings: Preprocess, act: Callable[[int, str], None]) -> int:
    """Run `preprocess` in a forked child that calls `act(number, name)` before each side effect; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        count = 0

        def counted(honest: Callable, name: str) -> Callable:
            def call(*arguments: object, **options: object) -> object:
                nonlocal count
                count += 1
                act(count, name)
                return honest(*arguments, **options)

            return call

        for module, name in SIDE_EFFECTS:
            setattr(module, name, counted(getattr(module, name), name))
        code = preprocess_store(settings)
    except OSError as error:
        code = 74 if error.errno == errno.ENOSPC else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.fixture(scope="module", params=["raw", pytest.param("jpeg", marks=pytest.mark.slow)])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, bytes], int]:  # noqa: E501
    """The codec, the files that a run writes, and the number of its side effects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "Decoder", InstantDecoder)
        folder = tmp_path_factory.mktemp("undisturbed")
        settings = prepared(folder, codec=request.param)
        log = folder / "log"

        def note(number: int, _name: str) -> None:
            log.write_text(str(number))

        assert in_child(settings, note) == 0
        files = result(settings)
        assert sorted(files) == ["train-00000-of-00002.h5", "train-00001-of-00002.h5", "train.csv"]  # noqa: E501
        return request.param, files, int(log.read_text())


@pytest.mark.parametrize(
    ("fault", "every"),
    [
        ("killed", 5), pytest.param("killed", 1, marks=pytest.mark.slow),
        pytest.param("disk full", 1, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_run_after_any_stop_ends_in_the_same_bytes(
    undisturbed: tuple[str, dict[str, bytes], int],
    fault: str,
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec, expected, num_points = undisturbed
    monkeypatch.setattr(local, "Decoder", InstantDecoder)
    assert num_points >= 2 * 6 + 3  # each shard is created, written, fsynced and renamed, and so is the ledger
    for point in range(1, num_points + 1, every):
        settings = prepared(tmp_path / str(point), codec=codec)
        before = result(settings)["train.csv"]

        def act(number: int, name: str, point: int = point) -> None:
            if number == point and fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if number >= point and fault == "disk full" and name in NEED_ROOM:
                raise OSError(errno.ENOSPC, "no space left")

        status = in_child(settings, act)
        assert status == (signal.SIGKILL if fault == "killed" else 74 << 8), f"point {point}"
        left = result(settings)
        for name, content in left.items():
            if name.endswith(".h5") and not name.startswith("."):
                assert content == expected[name], f"point {point}: {name} is visible, and not whole"
                ShardReader(Path(settings.store) / name).close()
        assert left["train.csv"] in (before, expected["train.csv"]), f"point {point}: half a ledger"
        if fault == "disk full":
            assert not [name for name in left if name.endswith(".tmp")], f"point {point}: a temporary file stays"
        assert preprocess_store(settings) == 0
        assert result(settings) == expected, f"point {point}"


def test_unfinished_ledger_of_a_killed_run_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Decoder", InstantDecoder)
    settings = prepared(tmp_path)
    folder = ledger_path(settings, "train").parent

    def act(_number: int, _name: str) -> None:
        if list(folder.glob(".*.tmp")):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(settings, act) == signal.SIGKILL
    assert preprocess_store(settings) == 0
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "ledgers.json", "train.csv"]


def test_a_killed_run_leaves_no_decoder_behind(tmp_path: Path) -> None:
    settings = prepared(tmp_path)
    table = read_ledger(ledger_path(settings, "train"))
    for path in filter(None, table["path"]):
        write_mp4(Path(settings.data_root) / path, num_frames=5)
    seen = tmp_path / "seen"

    def act(number: int, _name: str) -> None:
        if number == 3:  # the first video is decoded and about to be written
            seen.write_text(" ".join(map(str, processes_of(str(tmp_path)))))
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(settings, act) == signal.SIGKILL
    assert seen.read_text(), "there was a decoder"
    wait_until(lambda: not processes_of(str(tmp_path)))
