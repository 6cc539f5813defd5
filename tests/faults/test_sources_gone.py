"""Shards are the only copy of their videos: no damage, rebuild, repair or kill loses one that is good."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from instant_decoder import InstantDecoder
from make_store import frames_of, make_ledger, settings_for

from pipeline import manifests
from pipeline.common import cli
from pipeline.common.errors import LossError, ShardError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.execution import local
from pipeline.execution.run import preprocess_store
from pipeline.execution.verification import verify_store
from pipeline.ledger.table import ledger_path, read_ledger, write_ledger
from pipeline.shards.store import Store, open_shard

NUM_VIDEOS, MISSING, PER_SHARD = 10, 2, 5
CODECS = ["raw", pytest.param("jpeg", marks=pytest.mark.slow)]
STEPS = [(os, "replace"), (os, "link"), (os, "unlink"), (os, "rename"), (Path, "mkdir"), (Path, "unlink")]


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Decoder", InstantDecoder)
    monkeypatch.setattr(cli, "set_up_logging", lambda: None)  # it would take the handler that the tests read


def add_sources(settings: Preprocess, num_videos: int, first: int = 0) -> None:
    """A label file of `num_videos` rows, and files for those from `first` on, except for one."""
    table = make_ledger(num_videos, "train", bad=(MISSING,))
    columns = ["label", "youtube_id", "time_start", "time_end", "split"]
    table[columns].to_csv(str(settings.labels[0]), index=False)
    for path in filter(None, table["path"][first:]):
        file = Path(settings.data_root) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def placed(folder: Path, **changes: object) -> Preprocess:
    """The settings of a store in a folder."""
    labels = (f"{folder}/labels.csv",)
    options = {"labels": labels, "videos_per_shard": PER_SHARD, "jobs": 1, "max_bad_fraction": 1.0, **changes}
    return settings_for(folder, **options)


def rebuild(settings: Preprocess) -> int:
    """`make manifests`."""
    keys = ("dataset", "data_root", "manifests", "store", "height", "width", "videos_per_shard", "codec")
    words = [f"--preprocess.{key}={getattr(settings, key)}" for key in keys]
    config = Path(settings.manifests) / "empty.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text("{}")
    return manifests.main(["-c", str(config), *words, f"--preprocess.labels={json.dumps(settings.labels)}"])


def all_files(settings: Preprocess) -> dict[str, bytes]:
    """The content of every shard, wherever it is in the store, and of the ledger."""
    store = Path(settings.store)
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*.h5")}
    return {**files, "train.csv": ledger_path(settings, "train").read_bytes()}


@pytest.fixture(scope="module", params=CODECS)
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Preprocess:
    """A store whose videos' files are gone."""
    settings = placed(tmp_path_factory.mktemp(request.param), codec=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "Decoder", InstantDecoder)
        add_sources(settings, NUM_VIDEOS)
        assert rebuild(settings) == preprocess_store(settings) == 0
    shutil.rmtree(settings.data_root)
    Path(settings.data_root).mkdir()
    assert rebuild(settings) == 0
    return settings


def copy_to(folder: Path, pristine: Preprocess) -> Preprocess:
    """A copy of a store with its ledger and label file."""
    shutil.copytree(Path(pristine.store).parent, folder)
    return placed(folder, codec=pristine.codec)


@pytest.fixture
def settings(pristine: Preprocess, tmp_path: Path) -> Preprocess:
    """A copy of the store, to be damaged."""
    return copy_to(tmp_path / "copy", pristine)


def shard_of(settings: Preprocess, number: int = 0) -> Path:
    return Path(settings.store) / f"train-{number:05d}-of-00002.h5"


def flip_byte(path: Path, offset: int, mask: int = 1) -> None:
    """Change bits of one byte."""
    content = bytearray(path.read_bytes())
    content[offset] ^= mask
    path.write_bytes(content)


def metadata_of(path: Path) -> list[int]:
    """The offsets of a shard's bytes outside its frames."""
    outside = np.ones(path.stat().st_size, bool)
    index = open_shard(path).head.index
    for offset, nbytes in zip(index["offset"].tolist(), index["nbytes"].tolist(), strict=True):
        outside[offset : offset + nbytes] = False
    return np.flatnonzero(outside).tolist()


def cut_file(path: Path, share: float = 0.7) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def intact_videos(pristine: Preprocess, name: str, content: bytes) -> set[str]:
    """The stored videos of a shard whose frames are the same in damaged content."""
    path = Path(pristine.store) / name
    index, whole = open_shard(path).head.index, path.read_bytes()
    rows = zip(index["video_id"].tolist(), index["offset"].tolist(), index["nbytes"].tolist(), strict=True)
    return {key.decode() for key, at, size in rows if content[at : at + size] == whole[at : at + size]}


def check_frames(settings: Preprocess) -> None:
    """Every video that the ledger calls ok has its own frames, and the ledger's CRC-32."""
    table = read_ledger(ledger_path(settings, "train"))
    store = Store(Path(settings.store))
    for row in table[table["status"].eq("ok")].itertuples():
        reader = store.shard(Path(settings.store) / row.shard).reader()
        reader.verify(reader.row_of(row.video_id))
        number = int(row.video_id.split("_")[-2])
        frames = reader.frames(reader.row_of(row.video_id))
        assert row.crc32 == reader.crc32[reader.row_of(row.video_id)]
        expected = frames_of(number, row.num_frames, settings)
        assert np.abs(frames.astype(int) - expected).max() <= (0 if settings.codec == "raw" else 24), row.video_id


def attempt(settings: Preprocess) -> LossError | None:
    """`make manifests preprocess`; why it refused a shard."""
    assert rebuild(settings) == 0
    try:
        assert preprocess_store(settings) == 0
    except LossError as error:
        return error
    return None


def mixed(path: Path, damaged: bytes) -> bytes:
    """A shard with the frames that damaged content has in their places."""
    whole = path.read_bytes()
    if len(damaged) != len(whole):
        return whole
    content = bytearray(damaged)
    for offset in metadata_of(path):
        content[offset] = whole[offset]
    return bytes(content)


def check_outcome(
    settings: Preprocess, pristine: Preprocess, damaged: dict[str, bytes], error: LossError | None
) -> str:
    """After a run on a damaged store: the bytes of before, or the damaged file and a message that names it."""
    before, after = all_files(pristine), all_files(settings)
    assert after["train.csv"] == before["train.csv"], "the ledger knows what was stored"
    outcome = "restored"
    for name in before:
        if after[name] == before[name]:
            continue
        assert after[name] in (damaged[name], mixed(Path(pristine.store) / name, damaged[name])), f"{name} was changed"
        try:
            open_shard(Path(settings.store) / name)  # frames are corrupted: `make verify` names them
            outcome = "unchanged"
        except ShardError:
            assert name in str(error)
            outcome = "refused"
    assert after.keys() == before.keys()
    return outcome


def check_kept(settings: Preprocess, pristine: Preprocess, damaged: dict[str, bytes]) -> None:
    """At any moment each shard is as it was made, or as it was damaged, under its name or in another folder."""
    before, files = all_files(pristine), all_files(settings)
    for name in before.keys() - {"train.csv"}:
        whole = (before[name], mixed(Path(pristine.store) / name, damaged[name]))
        assert files.get(name) in whole or not {damaged[name], *whole}.isdisjoint(files.values()), f"{name} is nowhere"


def check_accepted(settings: Preprocess, pristine: Preprocess, damaged: dict[str, bytes]) -> None:
    """After --accept-loss all intact videos are stored, and the damaged file is kept."""
    check_kept(settings, pristine, damaged)
    table = read_ledger(ledger_path(settings, "train"))
    stored = set(table["video_id"][table["status"].eq("ok")])
    for name in all_files(pristine).keys() - {"train.csv"}:
        assert intact_videos(pristine, name, damaged[name]) <= stored, name
    check_frames(settings)


def start_child(run: Callable[[], object], before: Callable[[int], None] | None = None) -> int:
    """Start `run` in a forked process, which calls `before` with the number of each step that changes files."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        count = 0

        def counted(honest: Callable) -> Callable:
            def call(*arguments: object, **options: object) -> object:
                nonlocal count
                count += 1
                before(count)
                return honest(*arguments, **options)

            return call

        for place, name in STEPS if before else ():
            setattr(place, name, counted(getattr(place, name)))
        run()
        code = 0
    except UserError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """The wait status of a process, when it has ended."""
    return os.waitpid(child, 0)[1]


def test_byte_outside_frames_is_restored(settings, pristine):
    places = metadata_of(shard_of(settings))[:-20]
    for offset in random.Random(1).sample(places, 2):
        flip_byte(shard_of(settings), offset, 0x55)
        damaged = all_files(settings)
        assert check_outcome(settings, pristine, damaged, attempt(settings)) == "restored"
        assert verify_store(settings, repair=False) == 0


def test_repair_restores_too(settings, pristine):
    flip_byte(shard_of(settings), metadata_of(shard_of(settings))[200])
    with pytest.raises(UserError, match="--repair"):
        verify_store(settings, repair=False)
    assert verify_store(settings, repair=True) == 0
    assert all_files(settings) == all_files(pristine)


def test_shard_is_restored_without_its_ledger(settings, pristine):
    for number in range(2):  # both shards: nothing else is known
        path = shard_of(settings, number)
        flip_byte(path, metadata_of(path)[9000])
    shutil.rmtree(settings.manifests)
    assert rebuild(settings) == 0
    assert preprocess_store(settings) == 0
    assert all_files(settings) == all_files(pristine)


def test_truncated_shard_without_its_ledger_is_kept(settings):
    for number in range(2):
        cut_file(shard_of(settings, number))
    damaged = all_files(settings)
    shutil.rmtree(settings.manifests)
    error = attempt(settings)
    assert "2 shards were not written" in str(error) and shard_of(settings).name in str(error)
    assert {**all_files(settings), "train.csv": b""} == {**damaged, "train.csv": b""}


def test_truncated_shard_is_kept_until_accepted(settings, pristine, caplog):
    cut_file(shard_of(settings))
    damaged = all_files(settings)
    for _ in range(2):
        error = attempt(settings)
        assert check_outcome(settings, pristine, damaged, error) == "refused"
        assert "no seal at its end, and" in str(error) and "--accept-loss" in str(error)
    with pytest.raises(LossError):
        verify_store(settings, repair=True)
    assert all_files(settings) == damaged
    assert preprocess_store(settings, accept_loss=True) == 0
    check_accepted(settings, pristine, damaged)
    assert all_files(settings)[f"damaged/{shard_of(settings).name}"] == damaged[shard_of(settings).name]
    assert "are intact and are copied" in caplog.text and "is kept as" in caplog.text
    assert attempt(settings) is None and verify_store(settings, repair=False) == 0
    assert "holds 1 damaged files" in caplog.text


def test_other_shards_are_finished_beside_refused(settings):
    cut_file(shard_of(settings))
    shard_of(settings, 1).unlink()
    assert rebuild(settings) == 0
    with pytest.raises(LossError, match="train-00000-of-00002.h5"):
        preprocess_store(settings)
    assert shard_of(settings, 1).exists()


def test_changed_plan_moves_nothing_beside_damage(settings):
    cut_file(shard_of(settings))
    add_sources(settings, NUM_VIDEOS + 3, first=NUM_VIDEOS)
    damaged = all_files(settings)
    error = attempt(settings)
    assert error is not None and "train-00000-of-00002.h5" in str(error)
    after = all_files(settings)
    assert {**after, "train.csv": b""} == {**damaged, "train.csv": b""}
    assert preprocess_store(settings, accept_loss=True) == 0
    assert all_files(settings)[f"damaged/{shard_of(settings).name}"] == damaged[shard_of(settings).name]
    check_frames(settings)


def test_second_damage_keeps_the_first_file(settings):
    kept = []
    for _ in range(2):
        cut_file(shard_of(settings), 0.8)
        kept.append(shard_of(settings).read_bytes())
        assert attempt(settings) is not None
        assert preprocess_store(settings, accept_loss=True) == 0
    files = all_files(settings)
    assert [files[f"damaged/train-00000-of-00002{number}.h5"] for number in ("", ".2")] == kept


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
def test_shard_unreadable_now_is_not_damaged(settings, monkeypatch, number):
    before = all_files(settings)
    pread = os.pread

    def fail(fd: int, count: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(shard_of(settings)):
            raise OSError(number, os.strerror(number))
        return pread(fd, count, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        for run in (rebuild, preprocess_store, lambda each: verify_store(each, repair=True)):
            with pytest.raises(OSError) as error:
                run(settings)
            assert error.value.errno == number and not isinstance(error.value, UserError)
    assert all_files(settings) == before


def test_link_to_a_shard_elsewhere_is_not_missing(settings):
    path = shard_of(settings)
    path.rename(path.with_suffix(".away"))
    path.symlink_to(path.with_suffix(".gone"))
    for run in (rebuild, preprocess_store):
        with pytest.raises(OSError, match="a link to a file that is not there"):
            run(settings)
    assert path.is_symlink()


def test_damaged_shard_of_earlier_plan_is_kept(settings, caplog):
    earlier = Path(settings.store) / "earlier"
    earlier.mkdir()
    shutil.copy(shard_of(settings), earlier / "train-00000-of-00009.h5")
    cut_file(earlier / "train-00000-of-00009.h5")
    content = (earlier / "train-00000-of-00009.h5").read_bytes()
    assert attempt(settings) is None
    assert (earlier / "train-00000-of-00009.h5").read_bytes() == content
    assert "cannot be used, because it is damaged or of another recipe" in caplog.text


def test_earlier_shard_stays_until_copies_are_proven(settings, caplog):
    earlier = Path(settings.store) / "earlier"
    earlier.mkdir()
    shutil.copy(shard_of(settings), earlier / "train-00000-of-00009.h5")
    shard = open_shard(shard_of(settings))
    flip_byte(shard_of(settings), int(shard.head.index["offset"][0]) + 7)
    assert attempt(settings) is None
    assert len(list(earlier.iterdir())) == 1 and "its copies are corrupted" in caplog.text
    assert verify_store(settings, repair=True) == 0
    assert not earlier.exists()
    check_frames(settings)


def test_bad_file_in_place_of_good_keeps_frames(settings, pristine, monkeypatch, caplog):
    table = read_ledger(ledger_path(settings, "train"))
    row = table[table["status"].eq("ok")].iloc[0]
    path = f"train/{row['video_id']}.mp4"
    file = Path(settings.data_root) / path
    file.parent.mkdir()
    file.write_bytes(b"another")
    assert rebuild(settings) == 0
    shard = Path(settings.store) / row["shard"]
    flip_byte(shard, int(open_shard(shard).head.index["offset"][-1]) + 3)  # so that a repair writes it again
    monkeypatch.setattr("instant_decoder.BAD", int(row["video_id"].split("_")[-2]))
    with pytest.raises(LossError):
        verify_store(settings, repair=True)
    assert verify_store(settings, repair=True, accept_loss=True) == 0
    after = read_ledger(ledger_path(settings, "train")).set_index("video_id")
    assert after.at[row["video_id"], "status"] == "ok"
    assert "the frames stored before are kept" in caplog.text


def test_missing_ledger_of_a_split_is_refused(settings):
    train, val = ledger_path(settings, "train"), ledger_path(settings, "val")
    write_ledger(val, read_ledger(train).assign(split="val", shard="", status="missing", path=""))
    train.unlink()
    before = {path: path.read_bytes() for path in Path(settings.store).glob("*.h5")}
    with pytest.raises(UserError, match="has 2 shards of train, but .*train.csv is missing. Run `make manifests`"):
        preprocess_store(settings)
    assert {path: path.read_bytes() for path in Path(settings.store).rglob("*.h5")} == before


def test_store_of_other_ledgers_is_refused(settings):
    other = placed(Path(settings.store).parent, codec=settings.codec, store=f"{settings.store}2")
    before = all_files(settings)["train.csv"]
    with pytest.raises(UserError, match="has no shards, but by the ledgers .* 8 videos are stored"):
        preprocess_store(other)
    assert not Path(other.store).exists() and all_files(settings)["train.csv"] == before


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_between_any_two_steps_loses_nothing(settings, pristine, tmp_path, stride):
    cut_file(shard_of(settings), 0.9)
    flip_byte(shard_of(settings, 1), metadata_of(shard_of(pristine, 1))[300])
    damaged, number, status = all_files(settings), 1, signal.SIGKILL
    while status == signal.SIGKILL:
        copy = copy_to(tmp_path / str(number), settings)

        def kill(step: int, number: int = number) -> None:
            if step == number:
                os.kill(os.getpid(), signal.SIGKILL)

        status = ended(start_child(lambda copy=copy: preprocess_store(copy, accept_loss=True), kill))
        check_kept(copy, pristine, damaged)
        assert preprocess_store(copy, accept_loss=True) == 0
        check_accepted(copy, pristine, damaged)
        number += stride
    assert status == 0 and number > 15


def damage(path: Path, draws: random.Random) -> str:
    """Damage a file at random; returns how."""
    content = bytearray(path.read_bytes())
    how = draws.choice(["bit", "bits", "bytes", "zeros", "rubbish", "cut"])
    at = draws.randrange(len(content))
    if how == "bit":
        content[at] ^= 1 << draws.randrange(8)
    elif how == "bits":
        for _ in range(draws.randrange(2, 20)):
            content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    elif how == "cut":
        del content[at:]
    else:
        count = draws.choice([1, 4, 16]) if how == "bytes" else draws.choice([64, 512, 4096])
        block = bytes(count) if how == "zeros" else draws.randbytes(count)
        content[at : at + count] = block[: len(content) - at]
    path.write_bytes(content)
    return how


def check_damages(pristine: Preprocess, folder: Path, count: int, seed: int) -> dict[tuple[str, str], int]:
    """Damage a shard in `count` ways, each followed by `make manifests preprocess`, and then by --accept-loss."""
    draws, outcomes = random.Random(seed), {}
    for number in range(count):
        settings = copy_to(folder / "copy", pristine)
        how = damage(shard_of(settings, draws.randrange(2)), draws)
        damaged = all_files(settings)
        outcome = check_outcome(settings, pristine, damaged, attempt(settings))
        if outcome == "refused":
            assert preprocess_store(settings, accept_loss=True) == 0
            check_accepted(settings, pristine, damaged)
        elif outcome == "unchanged" and number % 4 == 0:
            with pytest.raises(LossError):
                verify_store(settings, repair=True)
            assert verify_store(settings, repair=True, accept_loss=True) == 0
            check_accepted(settings, pristine, damaged)
        outcomes[how, outcome] = outcomes.get((how, outcome), 0) + 1
        shutil.rmtree(folder / "copy")
    return outcomes


def test_random_damages_lose_nothing(pristine, tmp_path):
    check_damages(pristine, tmp_path, 2, 7)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_random_damages_lose_nothing(pristine, tmp_path):
    outcomes = check_damages(pristine, tmp_path, 300, 1)  # of each codec
    print(sorted(outcomes.items()))
    for outcome in ("restored", "unchanged", "refused"):
        assert sum(count for (_, name), count in outcomes.items() if name == outcome) > 20


def undisturbed_s(run: Callable[[Preprocess], object], settings: Preprocess) -> float:
    """How long a process takes for it."""
    began = time.perf_counter()
    ended(start_child(lambda: run(settings)))
    return time.perf_counter() - began


def kill_at_random(run: Callable[[], object], longest_s: float, draws: random.Random) -> int:
    """Start it in a process and kill that at a random moment; returns its wait status."""
    child = start_child(run)
    time.sleep(draws.uniform(0, longest_s))
    os.kill(child, signal.SIGKILL)
    return ended(child)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_200_kills_on_a_damaged_store_lose_nothing(pristine, tmp_path):
    check_kills(pristine, tmp_path, 100)  # of each codec


def check_kills(pristine: Preprocess, folder: Path, count: int) -> None:
    """Kill rebuilds, runs and repairs of a damaged store at random moments; the next run ends as if undisturbed."""
    draws = random.Random(2)
    runs = {
        "rebuild": rebuild,
        "preprocess": attempt,
        "repair": lambda each: verify_store(each, repair=True),
        "accept": lambda each: preprocess_store(each, accept_loss=True),
        "repair accept": lambda each: verify_store(each, repair=True, accept_loss=True),
    }
    longest_s: dict[str, float] = {}
    num_killed = 0
    for number in range(count):
        settings = copy_to(folder / "copy", pristine)
        for shard in range(2):
            damage(shard_of(settings, shard), draws)
        damaged = all_files(settings)
        name = list(runs)[number % len(runs)]
        if name not in longest_s:
            longest_s[name] = undisturbed_s(runs[name], copy_to(folder / "timed", settings))
            shutil.rmtree(folder / "timed")
        for _ in range(draws.randrange(1, 3)):
            status = kill_at_random(lambda name=name, each=settings: runs[name](each), longest_s[name], draws)
            longest_s[name] *= 1.05 if status == signal.SIGKILL else 0.8  # for other work on the machine
            num_killed += status == signal.SIGKILL
            check_kept(settings, pristine, damaged)
        if "accept" not in name:
            check_outcome(settings, pristine, damaged, attempt(settings))
        assert preprocess_store(settings, accept_loss=True) == 0
        check_accepted_or_stored(settings, pristine, damaged)
        shutil.rmtree(folder / "copy")
    assert num_killed > count / 2


def check_accepted_or_stored(settings: Preprocess, pristine: Preprocess, damaged: dict[str, bytes]) -> None:
    """`check_accepted`; frames that are corrupted in place are repaired first, since only verify reads them."""
    check_kept(settings, pristine, damaged)
    assert verify_store(settings, repair=True, accept_loss=True) == 0
    check_accepted(settings, pristine, damaged)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_200_kills_of_a_changed_plan_lose_nothing(pristine, tmp_path):
    draws = random.Random(3)
    changed = copy_to(tmp_path / "changed", pristine)
    add_sources(changed, NUM_VIDEOS + 3, first=NUM_VIDEOS)
    expected = copy_to(tmp_path / "expected", changed)
    assert attempt(expected) is None
    longest_s = undisturbed_s(attempt, copy_to(tmp_path / "timed", changed))
    num_killed = 0
    for _ in range(100):  # of each codec
        settings = copy_to(tmp_path / "copy", changed)
        for _ in range(draws.randrange(1, 4)):
            killed = kill_at_random(lambda each=settings: attempt(each), longest_s, draws) == signal.SIGKILL
            longest_s *= 1.05 if killed else 0.8  # the machine may have more or less other work than before
            num_killed += killed
        assert attempt(settings) is None
        assert all_files(settings) == all_files(expected)
        shutil.rmtree(tmp_path / "copy")
    assert num_killed >= 100
