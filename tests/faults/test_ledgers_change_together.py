"""A dataset's ledgers are all old or all new at whatever step a writer stops, and no reader mixes two numberings."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from make_ledgers import command, label_file, recipe_of, touch
from make_store import make_ledger, make_split, settings_for

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError
from pipeline.execution.run import preprocess_store
from pipeline.execution.verification import verify_store
from pipeline.ledger import files
from pipeline.ledger.table import ledger_folder, ledger_path, read_columns, read_ledgers, write_ledgers
from train.data.videos import check_same_classes, read_videos

SPLITS = ("train", "val")
SIDE_EFFECTS = ("replace", "fsync", "unlink")
CHECKED = ("train.csv", "val.csv", "ledgers.json")


def make_numbered(first: str = "") -> dict[str, pd.DataFrame]:
    """Ledgers of train and val; with a class `first`, which comes before the others, all numbers are one higher."""
    ledgers = {}
    for split in SPLITS:
        table = make_ledger(6, split)
        if first:
            table["label_id"] += 1
            table.loc[0, ["label", "label_id"]] = [first, 0]
        ledgers[split] = table
    return ledgers


def write_all(settings: Preprocess, ledgers: dict[str, pd.DataFrame]) -> None:
    tables = {ledger_path(settings, split): table for split, table in ledgers.items()}
    write_ledgers(tables, valid=tables)


def write_stopped_at(point: int, act: Callable[[], None], write_it: Callable[[], None]) -> tuple[int, int]:
    """Run `write_it` in a child that calls `act` before its side effect number `point`; wait status and the count."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child:
        os.close(sender)
        with os.fdopen(receiver, "rb") as file:
            count = len(file.read())
        return os.waitpid(child, 0)[1], count
    code, count = 1, 0
    try:
        for name in SIDE_EFFECTS:
            honest = getattr(os, name)

            def counted(*arguments: object, honest: Callable = honest, **options: object) -> object:
                nonlocal count
                count += 1
                os.write(sender, b".")
                if count == point:
                    act()
                return honest(*arguments, **options)

            setattr(os, name, counted)
        write_it()
        code = 0
    except OSError:
        code = 74
    finally:
        os._exit(code)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_is_full() -> None:
    raise OSError(errno.ENOSPC, "no space left")


def numbers_read(settings: Preprocess) -> dict[str, list[int]]:
    """The class numbers that a reader sees, by split."""

    def read() -> dict[str, list[int]]:
        files.check_record(ledger_folder(settings))
        columns = {split: read_columns(ledger_path(settings, split), ["label", "label_id"]) for split in SPLITS}
        return {split: table["label_id"].tolist() for split, table in columns.items()}

    return files.at_rest(ledger_folder(settings), read)


@pytest.mark.parametrize(
    ("fault", "recorded"),
    [
        (kill_self, True),
        pytest.param(kill_self, False, marks=pytest.mark.slow),
        pytest.param(disk_is_full, True, marks=pytest.mark.slow),
    ],
)
def test_a_stop_at_any_step_leaves_old_or_new(tmp_path, fault, recorded):
    before, after = make_numbered(), make_numbered("archery")
    wanted = settings_for(tmp_path / "wanted")
    write_all(wanted, after)
    whole = {name: (ledger_folder(wanted) / name).read_bytes() for name in CHECKED}
    old, new = ({split: table["label_id"].tolist() for split, table in side.items()} for side in (before, after))
    seen, point = [], 0
    while True:
        point += 1
        settings = settings_for(tmp_path / str(point))
        folder = ledger_folder(settings)
        write_all(settings, before)
        if not recorded:  # ledgers of an earlier version
            (folder / "ledgers.json").unlink()
        status, count = write_stopped_at(point, fault, lambda settings=settings: write_all(settings, after))
        if count < point:
            assert status == 0
            break
        assert status == (signal.SIGKILL if fault is kill_self else 74 << 8), f"step {point}"
        seen.append(numbers_read(settings) == new)
        assert numbers_read(settings) in (old, new), f"step {point}: one ledger is old and one is new"
        if fault is disk_is_full and not seen[-1]:
            assert not [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".new"))]
        write_all(settings, after)
        assert {name: (folder / name).read_bytes() for name in CHECKED} == whole
        assert [path.name for path in folder.iterdir() if path.name.endswith(".new")] == []
    assert seen == sorted(seen) and {False, True} == set(seen), "there is one commit point"
    assert len(seen) >= 10


@pytest.mark.slow
def test_a_first_build_killed_after_its_commit_counts(tmp_path):
    settings = settings_for(tmp_path)
    status, count = write_stopped_at(0, kill_self, lambda: write_all(settings, make_numbered()))
    assert status == 0
    shutil.rmtree(ledger_folder(settings))
    seen = []
    for point in range(1, count + 1):
        write_stopped_at(point, kill_self, lambda: write_all(settings, make_numbered()))
        seen.append(files.exists(ledger_path(settings, "train")))
        assert seen[-1] == files.exists(ledger_path(settings, "val"))
        if seen[-1]:
            assert set(numbers_read(settings)) == set(SPLITS)
        shutil.rmtree(ledger_folder(settings))
    assert {False, True} == set(seen)


@pytest.mark.slow
def test_a_killed_rebuild_is_old_or_new_and_repeatable(tmp_path):
    videos = [("dancing", "bbbbbbbbbbb", 1, 11), ("singing", "bbbbbbbbbbb", 2, 12)]
    seen, point = [], 0
    while True:
        point += 1
        root = tmp_path / str(point) / "data"
        for split in SPLITS:
            rows = [(label, f"{split}{name}"[:11], start, end) for label, name, start, end in videos]
            label_file(root, split, rows, f"{split}.csv")
            touch(root, *(f"{split}/{name}_{start:06d}_{end:06d}.mp4" for _, name, start, end in rows))
        command(root, dataset="own")
        settings = recipe_of(root, dataset="own")
        old = numbers_read(settings)
        for split in SPLITS:
            first = f"{split}bbbbbbbbbbb"[:11]
            label_file(root, split, [("archery", first, 1, 11), ("singing", first, 2, 12)], f"{split}.csv")
        status, count = write_stopped_at(point, kill_self, lambda root=root: command(root, dataset="own"))
        now = numbers_read(settings)
        assert now in (old, {split: [0, 1] for split in SPLITS})
        labels = {split: table["label"].tolist() for split, table in read_ledgers(settings).items()}
        seen.append(labels["train"][0] == "archery")
        assert labels["val"] == labels["train"], f"step {point}"
        command(root, dataset="own")
        assert {table["label"][0] for table in read_ledgers(settings).values()} == {"archery"}
        if count < point:
            assert status == 0
            break
    assert seen == sorted(seen) and {False, True} == set(seen)


def test_a_reader_beside_a_writer_sees_one_numbering(tmp_path):
    settings = settings_for(tmp_path)
    sides = [make_numbered(), make_numbered("archery")]
    allowed = [{split: table["label_id"].tolist() for split, table in side.items()} for side in sides]
    write_all(settings, sides[0])
    child = os.fork()
    if not child:
        try:
            for number in range(1, 10_000):
                # Each is new: a reader that was stopped for two writes could not tell them from none.
                reason = f"write {number}"
                write_all(settings, {split: each.assign(reason=reason) for split, each in sides[number % 2].items()})
                time.sleep(0.02)
        finally:
            os._exit(1)
    try:
        seen = [numbers_read(settings) for _ in range(15)]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert all(each in allowed for each in seen)


def make_readers(settings: Preprocess) -> dict[str, Callable[[], object]]:
    return {
        "training": lambda: read_videos(settings, "train"),
        "evaluation": lambda: read_videos(settings, "val"),
        "preprocess": lambda: preprocess_store(settings),
        "verify": lambda: verify_store(settings, repair=False),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Preprocess:
    settings = settings_for(tmp_path_factory.mktemp("stored"), jobs=1)
    Path(settings.data_root).mkdir()
    for split in SPLITS:
        make_split(settings, split, 6)
    return settings


@pytest.mark.parametrize("reader", ["training", "evaluation", "preprocess", "verify"])
@pytest.mark.parametrize("how", ["old file put back", "other list recorded", "without a record"])
def test_every_reader_refuses_two_numberings(stored, tmp_path, reader, how):
    settings = Preprocess(**{**stored.__dict__, "manifests": str(tmp_path / "manifests")})
    shutil.copytree(stored.manifests, settings.manifests)
    folder = ledger_folder(settings)
    other = read_ledgers(settings)["val"]
    other["label_id"] = (other["label_id"] + 1) % 3
    if how == "old file put back":
        old = (folder / "val.csv").read_bytes()
        write_all(settings, {"val": read_ledgers(settings)["val"].assign(reason="x")})
        (folder / "val.csv").write_bytes(old)
        match = "val.csv: changed since it was written. Run `make manifests`"
    else:
        write_all(settings, {"val": other})
        match = "train.csv: numbered by another class list than the other ledgers"
        if how == "without a record":
            (folder / "ledgers.json").unlink()
            match = "Ledgers have different class lists: 0 is '.*'; 0 is '.*'"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if reader == "training" and how == "old file put back":
        make_readers(settings)[reader]()  # its own ledger is whole and of the recorded list
        return
    with pytest.raises(UserError, match=match):
        make_readers(settings)[reader]()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before


def test_every_reader_takes_ledgers_without_a_record(stored, tmp_path):
    settings = Preprocess(**{**stored.__dict__, "manifests": str(tmp_path / "manifests")})
    shutil.copytree(stored.manifests, settings.manifests)
    (ledger_folder(settings) / "ledgers.json").unlink()
    for reader in make_readers(settings).values():
        reader()


def test_splits_read_around_a_rebuild_are_refused(stored, tmp_path):
    settings = Preprocess(**{**stored.__dict__, "manifests": str(tmp_path / "manifests")})
    shutil.copytree(stored.manifests, settings.manifests)
    train = read_videos(settings, "train")
    ledgers = read_ledgers(settings)
    write_all(settings, {split: table.assign(label_id=(table["label_id"] + 1) % 3) for split, table in ledgers.items()})
    with pytest.raises(UserError, match="class 0 is 'clapping' in tiny-train.* and 'running' in tiny-val"):
        check_same_classes(train, read_videos(settings, "val"))


def test_a_ledger_without_label_rows_must_agree(tmp_path):
    root = tmp_path / "data"
    names = {"val": "bbbbbbbbbbb", "train": "ccccccccccc"}
    for split, name in names.items():
        label_file(root, split, [("dancing", name, 1, 11), ("singing", name, 2, 12)], f"{split}.csv")
        touch(root, f"{split}/{name}_000001_000011.mp4")
    command(root, dataset="own")
    settings = recipe_of(root, dataset="own")
    before = {path.name: path.read_bytes() for path in ledger_folder(settings).glob("*.*")}
    (root / "val.csv").unlink()
    label_file(root, "train", [("archery", names["train"], 1, 11), ("dancing", names["train"], 2, 12)], "train.csv")
    with pytest.raises(InputError, match="different class lists: 0 is 'archery'; 0 is 'dancing'"):
        command(root, dataset="own")
    assert {path.name: path.read_bytes() for path in ledger_folder(settings).glob("*.*")} == before
    label_file(root, "train", [("dancing", names["train"], 1, 11), ("zumba", names["train"], 2, 12)], "train.csv")
    with pytest.raises(InputError, match="different class lists"):
        command(root, dataset="own")
    label_file(root, "train", [("dancing", names["train"], 1, 11), ("singing", names["train"], 3, 13)], "train.csv")
    command(root, dataset="own")
    assert files.check_record(ledger_folder(settings)) and set(read_ledgers(settings)) == {"train", "val"}


OUTSIDE = '{"classes": [], "ledgers": {"../x.csv": {"nbytes": 1, "crc32": 2, "classes_sha256": ""}}}'
DAMAGED = {
    "empty": "", "half": "{", "list": "[]", "number": '{"classes": 3, "ledgers": {}}', "outside": OUTSIDE,
    "labels": '{"classes": [1], "ledgers": {}}', "deep": "[" * 100_000, "not UTF-8": "\xff",
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_named_and_rebuilt(tmp_path, content):
    root = tmp_path / "data"
    label_file(root)
    touch(root, "val/-aaaaaaaaaa_000001_000011.mp4")
    command(root)
    path = ledger_folder(recipe_of(root)) / "ledgers.json"
    whole = path.read_bytes()
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"ledgers\.json: corrupted\. Run `make manifests`"):
        read_ledgers(recipe_of(root))
    command(root)
    assert path.read_bytes() == whole and len(read_ledgers(recipe_of(root))) == 1
