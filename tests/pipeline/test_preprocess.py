"""`make preprocess` stores every good video once, however it is run, stopped, killed or resumed."""

import contextlib
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import powers
import pytest
from count_opens import count_opens, once_each
from hold_video import HOLDING, held
from make_inputs import copy_of, files, leftovers, make_inputs, moved, path_of, train_rows
from make_store import make_format_1
from make_videos import read_number, write_mp4
from paths import ROOT
from processes import processes_of
from terminal import Terminal
from waiting import wait_until

from pipeline.common.errors import UserError
from pipeline.common.locking import LockedError, locked
from pipeline.common.recipe import Preprocess
from pipeline.execution import local
from pipeline.execution.plan import plan_shards
from pipeline.execution.run import preprocess_store, print_plan, tqdm
from pipeline.ledger.schema import LEARNED
from pipeline.ledger.table import blank_rows, ledger_path, read_ledger, write_ledger
from pipeline.preprocess import main
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import open_shard, outcomes_table


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """The files that an undisturbed run writes."""
    settings = moved(inputs, tmp_path_factory.mktemp("undisturbed"), jobs=1)
    assert preprocess_store(settings) == 0
    return settings


def preprocess_command(settings, *more: str) -> list[str]:
    keys = (
        "dataset",
        "data_root",
        "manifests",
        "store",
        "height",
        "width",
        "jobs",
        "videos_per_shard",
        "max_bad_fraction",
    )
    words = [f"--preprocess.{key}={getattr(settings, key)}" for key in keys]
    return [sys.executable, "-m", "pipeline.preprocess", "-c", str(ROOT / "train/configs/sample.yaml"), *words, *more]


def test_every_row_is_in_ledger_and_good_frames_stored(undisturbed):
    table = train_rows(undisturbed)
    numbers = dict(enumerate(table.index))
    assert table["status"].tolist() == ["ok", "ok", "missing", "ok", "unreadable", "ok", "ok", "ok", "ok"]
    for number, video_id in numbers.items():
        row = table.loc[video_id]
        if row["status"] == "ok":
            reader = ShardReader(Path(undisturbed.store) / row["shard"])
            shown = [read_number(frame) for frame in reader.frames(reader.row_of(video_id))]
            assert shown == list(range(10 * number, 10 * number + 6 + number, 2))  # 30 -> 15 frames/s
            assert (row["source_frames"], row["num_frames"], row["fps"]) == (6 + number, len(shown), 15.0)
            times_s = reader.times_s(reader.row_of(video_id))
            assert times_s == pytest.approx(np.arange(len(shown)) / 15, abs=1e-4)
            assert row["source_bit_depth"] == 8
        if row["path"]:
            assert row["source_crc32"] == zlib.crc32((Path(undisturbed.data_root) / row["path"]).read_bytes())
    assert table["source_bytes"].iloc[4] == len(b"no video")  # a rebuild uses it to detect another file in its place
    assert leftovers(undisturbed) == []


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_the_bytes_do_not_depend_on_the_number_of_jobs(inputs, tmp_path, codec):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = moved(inputs, tmp_path / "a", jobs=1, codec=codec)
    three = moved(inputs, tmp_path / "b", jobs=3, codec=codec)
    preprocess_store(one)
    time.sleep(1.1)  # HDF5 stores times in seconds, if it stores them
    preprocess_store(three)
    assert files(one) == files(three)


def test_a_rerun_decodes_nothing(undisturbed, monkeypatch, capsys):
    before = files(undisturbed)
    monkeypatch.setattr(local, "Decoder", None)
    assert preprocess_store(undisturbed) == 0
    assert files(undisturbed) == before
    assert "0 of 3 shards written" in capsys.readouterr().out


def shard_names(settings) -> list[str]:
    return [path.name for path in Path(settings.store).glob("*.h5")]


def test_fresh_run_opens_shards_only_to_check_them(inputs, tmp_path, monkeypatch):
    settings = moved(inputs, tmp_path)
    opened = count_opens(monkeypatch)
    assert preprocess_store(settings) == 0
    assert +opened == once_each(shard_names(settings)) and len(opened) == 3


def test_second_run_opens_each_shard_once(undisturbed, monkeypatch):
    opened = count_opens(monkeypatch)
    assert preprocess_store(undisturbed) == 0
    assert +opened == once_each(shard_names(undisturbed))
    opened.clear()
    print_plan(undisturbed)
    assert +opened == once_each(shard_names(undisturbed))


def test_shards_say_what_they_are(undisturbed):
    path = Path(undisturbed.store) / "train-00000-of-00003.h5"
    with h5py.File(path) as file:  # and any HDF5 tool can read the frames
        attributes = file.attrs
        assert attributes["recipe"] == undisturbed.to_json()
        assert attributes["recipe_sha256"] == undisturbed.fingerprint()
        assert (attributes["format_version"], attributes["split"], attributes["complete"]) == (3, "train", True)
        video_id = sorted(file["frames"])[0]
        assert file[f"frames/{video_id}"][0].shape == (32, 48, 3)


def test_late_video_is_decoded_and_others_are_copied(undisturbed, inputs, tmp_path, asked):
    settings = copy_of(undisturbed, tmp_path)
    root = tmp_path / "data"
    shutil.copytree(inputs.data_root, root)
    settings = Preprocess(**{**settings.__dict__, "data_root": str(root)})
    table = read_ledger(ledger_path(settings, "train"))
    table.loc[2, "path"] = f"train/{table.loc[2, 'video_id']}.mp4"
    table.loc[2, "status"] = "pending"
    write_ledger(ledger_path(settings, "train"), table)
    write_mp4(root / table.loc[2, "path"], 8, 30, (32, 64), first=20)
    assert preprocess_store(settings) == 0
    after = train_rows(settings)
    assert after["status"].iloc[2] == "ok" and after["num_frames"].iloc[2] == 4
    shard = after["shard"].iloc[2]
    neighbours = set(outcomes_table([open_shard(Path(settings.store) / shard)]).query("status != 'ok'")["video_id"])
    assert set(asked) - neighbours == {table.loc[2, "video_id"]}
    unchanged = [name for name, content in files(undisturbed).items() if files(settings)[name] == content]
    assert sorted(unchanged) == sorted(name for name in files(undisturbed) if name not in (shard, "train.csv"))
    fresh = Preprocess(
        **{**settings.__dict__, "store": str(tmp_path / "fresh"), "manifests": str(tmp_path / "fresh_manifests")}
    )
    table[list(LEARNED)] = blank_rows(len(table))
    table["status"] = ["pending" if path else "missing" for path in table["path"]]
    write_ledger(ledger_path(fresh, "train"), table)
    before = files(settings)
    assert preprocess_store(fresh) == 0
    assert files(fresh) == before  # copied or decoded, the bytes are the same


def test_store_of_another_recipe_is_refused_unchanged(undisturbed, tmp_path):
    settings = copy_of(undisturbed, tmp_path, fps=30.0)
    before = files(settings)
    with pytest.raises(UserError, match=r"another recipe \(fps: 30.0 here, 15.0 there\)"):
        preprocess_store(settings)
    assert files(settings) == before


def test_other_videos_per_shard_is_another_recipe(undisturbed, tmp_path):
    settings = copy_of(undisturbed, tmp_path, videos_per_shard=9)
    with pytest.raises(UserError, match="videos_per_shard: 9 here, 4 there"):
        preprocess_store(settings)


def test_store_of_an_old_format_is_refused_unchanged(undisturbed, tmp_path):
    settings = copy_of(undisturbed, tmp_path)
    for path in Path(settings.store).glob("*.h5"):
        make_format_1(path)
    before = files(settings)
    with pytest.raises(UserError, match=r"shard format 1, this program reads 3\. .*another STORE=DIR") as error:
        preprocess_store(settings)
    assert error.value.exit_code == 2
    assert files(settings) == before


def test_a_second_run_is_told_who_holds_the_store(undisturbed):
    held = locked(Path(undisturbed.store))
    with held, pytest.raises(LockedError, match=f"process {os.getpid()} on .* is writing here") as error:
        preprocess_store(undisturbed)
    assert error.value.exit_code == 73


@pytest.mark.parametrize("change", ["data_root", "manifests"])
def test_what_is_not_there_is_a_users_mistake(undisturbed, tmp_path, change):
    settings = Preprocess(**{**undisturbed.__dict__, change: str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere"):
        preprocess_store(settings)


def test_too_many_bad_videos_exit_3_with_rest_stored(inputs, tmp_path, caplog):
    settings = moved(inputs, tmp_path, max_bad_fraction=0.05)
    assert preprocess_store(settings) == 3
    assert "1 of 8 videos are bad" in caplog.text
    assert (train_rows(settings)["status"] == "ok").sum() == 7


def test_run_shows_progress_reasons_and_one_summary(inputs, tmp_path, capsys, monkeypatch):
    settings = moved(inputs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", bar := Terminal())
        patch.setattr(tqdm, "mininterval", 0, raising=False)
        assert preprocess_store(settings) == 0
    last = bar.getvalue().rstrip().rsplit("\r", 1)[-1]
    assert re.search(r"100%.* 9/9 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(video/s|s/video), bad=1\]", last)
    *reasons, line = capsys.readouterr().out.splitlines()
    assert [reason.split(": ", 1)[0].split() for reason in reasons] == [["1", "unreadable"]]
    folder = re.escape(str(Path(settings.manifests) / "tiny"))
    said = rf"ok 7, missing 1, bad 1 \(see {folder}\), 3 of 3 shards written, 38 frames, 0.00 GB, [\d,]+ frames/s -> "
    assert re.fullmatch(said + re.escape(settings.store), line)


def test_dry_run_lists_first_videos_and_writes_nothing(inputs, tmp_path, capsys):
    settings = moved(inputs, tmp_path)
    assert main([*preprocess_command(settings)[3:], "--dry-run"]) == 0
    first, *actions = capsys.readouterr().out.splitlines()
    assert first == "train: 9 videos, 8 to decode, 3 shards to write"
    assert len(actions) == 3
    for task, action in zip(plan_shards(read_ledger(ledger_path(settings, "train")), settings, "train"),
                            actions, strict=True):  # fmt: skip
        assert action == f"  {task.path}: {len(task.videos)} videos, first {task.videos[0].video_id}"
    assert not Path(settings.store).exists()


@contextlib.contextmanager
def started(settings):
    """A run with a separate process group, as a shell starts it, that is writing and cannot end."""
    with held(path_of(settings, 6)) as reached, subprocess.Popen(
        preprocess_command(settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **HOLDING}, start_new_session=True,
        # Background programs of a shell that is not interactive ignore SIGINT, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:  # fmt: skip
        try:
            wait_until(lambda: run.poll() is not None or reached.exists() and list(Path(settings.store).glob(".*.tmp")))
            assert run.poll() is None, run.communicate()
            assert processes_of(settings.store, "pipeline.decoding.worker")
            yield run
        finally:
            run.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_ends_a_run_without_a_trace(inputs, undisturbed, tmp_path, number, code):
    settings = moved(inputs, tmp_path)
    with started(settings) as run:
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # Ctrl-C goes to the whole group
        else:
            run.send_signal(number)
        _, said = run.communicate(timeout=300)
    assert run.returncode == code
    assert "Traceback" not in said
    assert processes_of(settings.store) == []
    assert [name for name in leftovers(settings) if name != "train.csv"] == []
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)


def test_killed_run_leaves_no_process_and_is_resumed(inputs, undisturbed, tmp_path):
    settings = moved(inputs, tmp_path)
    with started(settings) as run:
        run.kill()
        run.wait()
        wait_until(lambda: processes_of(settings.store) == [])
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)
    assert leftovers(settings) == []


def limited(settings, limit, value):
    return subprocess.run(
        preprocess_command(settings), cwd=ROOT, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )  # fmt: skip


def test_full_disk_exits_74_with_nothing_half_written(inputs, undisturbed, tmp_path):
    settings = moved(inputs, tmp_path)
    run = limited(settings, resource.RLIMIT_FSIZE, 1_100_000)  # the bytes of a shard with the space it reserves
    assert (run.returncode, "Traceback" in run.stderr) == (74, False), run.stderr
    assert os.strerror(errno.EFBIG) in run.stderr
    assert leftovers(settings) == []
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)


def test_a_run_stops_before_the_disk_is_full(inputs, undisturbed, tmp_path, monkeypatch):
    settings = moved(inputs, tmp_path, jobs=1)
    usage = shutil.disk_usage

    def nearly_full(path):
        written = len(list(Path(settings.store).glob("*.h5")))
        return usage(path)._replace(free=(100 << 20) if written == 0 else 1000)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", nearly_full)
        with pytest.raises(OSError, match="1,000 bytes free, .* needed") as error:
            preprocess_store(settings)
    assert error.value.errno == errno.ENOSPC
    assert len(list(Path(settings.store).glob("*.h5"))) == 1
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)


def test_a_machine_without_room_blames_no_video(inputs, tmp_path):
    settings = moved(inputs, tmp_path)
    run = limited(settings, resource.RLIMIT_FSIZE, 60_000)  # less than the memory that decoded frames are shared in
    assert (run.returncode, "Traceback" in run.stderr) == (74, False), run.stderr
    assert "shared memory for decoded frames" in run.stderr
    assert not list(Path(settings.store).glob("*.h5"))


def test_few_open_files_are_enough(inputs, undisturbed, tmp_path):
    settings = moved(inputs, tmp_path)
    run = limited(settings, resource.RLIMIT_NOFILE, 40)
    assert run.returncode == 0, run.stderr
    assert files(settings) == files(undisturbed)


@pytest.mark.parametrize("folder", ["store", "manifests"])
def test_folder_without_write_permission_exits_74(inputs, undisturbed, tmp_path, folder):
    settings = moved(inputs, tmp_path)
    Path(settings.store).mkdir()
    closed = Path(settings.store) if folder == "store" else ledger_path(settings, "train").parent
    closed.chmod(0o500)
    before = files(settings)
    run = subprocess.run(
        preprocess_command(settings), cwd=ROOT, capture_output=True, text=True, timeout=300, preexec_fn=powers.give_up
    )
    assert (run.returncode, "Traceback" in run.stderr) == (74, False), run.stderr
    assert {name: content for name, content in files(settings).items() if name.endswith(".csv")} == before
    closed.chmod(0o700)
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)


def test_a_store_below_a_file_is_told_in_one_line(inputs, tmp_path):
    (tmp_path / "file").write_text("")
    settings = Preprocess(**{**inputs.__dict__, "store": str(tmp_path / "file" / "store")})
    run = subprocess.run(preprocess_command(settings), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (run.returncode, "Traceback" in run.stderr) == (2, False)
