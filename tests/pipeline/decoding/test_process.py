"""A video that crashes or hangs its decoder only loses itself, never the run or the next video."""

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_videos import truncate, write_mp4
from paths import HELPERS, ROOT
from processes import has_ended
from waiting import wait_until

from pipeline.common.errors import EXIT_IO, MachineError
from pipeline.common.recipe import Preprocess
from pipeline.decoding import child, process
from pipeline.decoding.process import Decoder, DecodeResult, DecoderStopped
from pipeline.ledger.schema import STATUSES

SETTINGS = Preprocess(height=16, width=20)
HURRIED = replace(SETTINGS, video_timeout_s=0.6)
"""For tests in which a deadline passes."""


@pytest.fixture(autouse=True)
def _workers_of_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))  # where a decoder process finds `hostile_worker`


def outcomes(names, settings=SETTINGS, worker="hostile_worker"):
    """Status, reason and the value of the stored pixels of each name."""
    found = []
    with Decoder(settings, worker=worker) as decoder:
        for result in decoder.decode(Path(name) for name in names):
            value = int(result.encoded.data.flat[0]) if result.encoded else None
            found.append((result.status, result.reason, value))
    return found


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("segfault", "crash", "signal 11 (SIGSEGV)"),
        ("abort", "crash", "signal 6 (SIGABRT)"),
        ("exit", "crash", "exit status 7"),
        ("raise", "unreadable", "no good"),
        ("memory", "crash", "needs more than 4 GiB of memory"),
        ("spin", "timeout", "not decoded within 0.6 s"),
        ("killed", "crash", "signal 9 (SIGKILL): out of memory?"),
    ],
)
def test_a_bad_video_costs_itself_alone(how, status, reason):
    bad = (status, reason, None)
    settings = HURRIED if status == "timeout" else SETTINGS
    found = outcomes(["good-1", f"{how}-2", f"{how}-3", "good-4", "good-5"], settings)
    assert found == [("ok", "", 1), bad, bad, ("ok", "", 4), ("ok", "", 5)]


def test_child_slow_to_end_keeps_its_exit_code():
    assert outcomes(["lateexit-1"]) == [("crash", "exit status 7", None)]


def decoders_of(paths, settings=SETTINGS):
    """Status, reason and decoder of each path."""
    with Decoder(settings, worker="hostile_worker") as decoder:
        return [(one.status, one.reason, one.facts.get("decoder")) for one in decoder.decode(paths)]


def test_one_failure_changes_no_decoder(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    names = ["oncekilled-1", "oncefault-2", "onceunread-4", "good-5"]
    assert decoders_of([tmp_path / f"{name}.mp4" for name in names]) == [("ok", "", "")] * 4
    # The log alone tells that the child was replaced.
    assert [name for name in names if f"{name}.mp4: " in caplog.text] == names[:2]
    assert decoders_of([tmp_path / "oncestalled-3.mp4"], HURRIED) == [("ok", "", "")]
    assert "oncestalled-3.mp4: not decoded within 0.6 s; decoded again" in caplog.text


def test_what_kills_decord_twice_is_tried_without():
    reason = "not decoded within 0.6 s; without decord: unreadable: no good"
    assert decoders_of(map(Path, ["good-1", "chosenfault-2", "chosenhang-3", "good-4"]), HURRIED) == [
        ("ok", "", ""), ("ok", "", "pyav"), ("timeout", reason, None), ("ok", "", ""),
    ]  # fmt: skip


def test_what_kills_pyav_twice_is_tried_without():
    reason = "not decoded within 0.6 s; without pyav: unreadable: no good"
    names, settings = ["good-1", "chosenfault-2", "chosenhang-3"], replace(HURRIED, decoder="pyav")
    assert decoders_of(map(Path, names), settings) == [("ok", "", "pyav"), ("ok", "", ""), ("timeout", reason, None)]


def test_kills_are_no_proof_against_decord():
    killed, hung = DecodeResult("crash", child.KILLED, {}), DecodeResult("timeout", "not decoded within 1 s", {})
    deaths = process._Deaths("decord")
    assert [deaths.add(hung), deaths.with_chosen] == [True, True]
    assert [deaths.add(killed), deaths.with_chosen] == [True, True]
    assert not deaths.add(killed) and deaths.result(killed) == killed
    deaths = process._Deaths("decord")
    assert [deaths.add(hung), deaths.add(hung), deaths.with_chosen] == [True, True, False]
    crashed = DecodeResult("crash", "signal 11 (SIGSEGV)", {})
    assert not deaths.add(crashed)
    assert deaths.result(crashed).reason == "not decoded within 1 s; without decord: crash: signal 11 (SIGSEGV)"
    assert deaths.result(hung) == hung


def test_unread_videos_in_a_row_stop_the_run():
    names, results = [*[f"unread-{number}" for number in range(4)], "good-4", *["unread-5"] * 5, "good-9"], []
    with Decoder(SETTINGS, worker="hostile_worker") as decoder:
        with pytest.raises(MachineError, match="5 videos in a row could not be read: Input/output error") as caught:
            for result in decoder.decode(map(Path, names)):
                results.append((result.status, result.reason))
    assert caught.value.exit_code == EXIT_IO
    unread = ("retry", "could not be read: Input/output error")
    assert results == [unread] * 4 + [("ok", "")] + [unread] * 4


def test_deadline_is_per_video_not_per_queue():
    began = time.monotonic()
    found = outcomes(["sleep-1", "good-2", "sleep-3"], HURRIED)
    assert [status for status, _, _ in found] == ["timeout", "ok", "timeout"]
    assert time.monotonic() - began > 2 * 3 * HURRIED.video_timeout_s  # each of the two had its own, in three tries


def test_a_slow_consumer_is_no_timeout_of_the_child():
    with Decoder(HURRIED, worker="hostile_worker") as decoder:
        results = decoder.decode(Path(f"good-{number}") for number in range(3))
        statuses = []
        for result in results:
            time.sleep(2 * HURRIED.video_timeout_s)
            statuses.append(result.status)
    assert statuses == ["ok"] * 3


def test_what_a_library_prints_is_no_answer():
    assert outcomes(["print-1", "good-2"]) == [("ok", "", 1), ("ok", "", 2)]


def test_a_child_that_cannot_start_blames_no_video(monkeypatch, tmp_path):
    (tmp_path / "ends_at_once.py").write_text("raise SystemExit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MachineError, match="does not start: exit status 9"):
        outcomes(["good-1"], worker="ends_at_once")


def test_stop_ends_a_decoder_at_work(tmp_path):
    with Decoder(SETTINGS, worker="hostile_worker") as decoder:

        def stop_at_work():
            wait_until((tmp_path / "oncestalled-1.mark").exists)
            decoder.stop()

        threading.Thread(target=stop_at_work).start()
        with pytest.raises(DecoderStopped):
            list(decoder.decode([tmp_path / "oncestalled-1.mp4"]))
        with pytest.raises(DecoderStopped):
            list(decoder.decode([Path("good-2")]))


def pipes_and_blocks():
    """What this process has open of the kinds that a decoder needs; threads of other tests may open and close files."""
    opened = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the list itself
            opened.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return {(fd, name) for fd, name in opened if name.startswith(("pipe:", "/memfd:"))}


def test_closed_decoder_leaves_no_child_nor_open_file():
    before = pipes_and_blocks()
    for _ in range(3):
        with Decoder(SETTINGS, worker="hostile_worker") as decoder:
            results = decoder.decode([Path("good-1"), Path("segfault-2"), Path("good-3")])
            next(results)
            pid = decoder._child.pid
            assert len(pipes_and_blocks() - before) >= 4
        assert has_ended(pid)
        del results
    assert pipes_and_blocks() - before == set()


def test_children_die_with_a_killed_parent(tmp_path):
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(HELPERS)!r}]
from pathlib import Path
from pipeline.common.errors import MachineError
from pipeline.decoding.process import Decoder
from pipeline.common.recipe import Preprocess
from pipeline.ledger.schema import STATUSES
decoder = Decoder(Preprocess(height=16, width=20), worker="hostile_worker")
results = decoder.decode([Path("good-1"), Path("{tmp_path}/oncespin-2.mp4")])
next(results)
print(decoder._child.pid, flush=True)
next(results)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        wait_until((tmp_path / "oncespin-2.mark").exists)
        assert not has_ended(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: has_ended(pid))


def test_a_ctrl_c_does_not_reach_a_decoder():
    with Decoder(SETTINGS, worker="hostile_worker") as decoder:
        results = decoder.decode([Path("good-1")])
        next(results)
        assert os.getpgid(decoder._child.pid) != os.getpgid(0)  # not even while its interpreter starts


def test_time_suspended_does_not_count_as_timeout(tmp_path):
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(HELPERS)!r}]
from pathlib import Path
from pipeline.common.errors import MachineError
from pipeline.decoding.process import Decoder
from pipeline.common.recipe import Preprocess
from pipeline.ledger.schema import STATUSES
decoder = Decoder(Preprocess(height=16, width=20, video_timeout_s=2), worker="hostile_worker")
results = decoder.decode([Path("good-1"), Path("{tmp_path}/waits-2.mp4")])
next(results)
print(decoder._child.pid, flush=True)
print(next(results).status, decoder._child.pid, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        pids = [int(run.stdout.readline()), run.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.3)
        (tmp_path / "waits-2.mark").touch()
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        assert run.stdout.readline() == f"ok {pids[0]}\n"  # by the same child: the first try was long enough


def test_a_real_video_comes_whole_with_its_checksum(tmp_path):
    path = write_mp4(tmp_path / "a b é.mp4", 30, 30)
    with Decoder(SETTINGS) as decoder:
        (result,) = decoder.decode([path])
        data = result.encoded.data
        assert (result.status, data.shape, result.facts["fps"]) == ("ok", (15, 16, 20, 3), 15.0)
        assert zlib.crc32(data.tobytes()) == result.encoded.crc32


def test_bad_video_comes_with_its_container_facts(tmp_path):
    path = truncate(write_mp4(tmp_path / "a.mp4", 30, 30, container_options={"movflags": "faststart"}))
    with Decoder(SETTINGS) as decoder:
        (result,) = decoder.decode([path])
    assert (result.status, result.encoded) == ("truncated", None)
    assert result.facts == {
        "codec": "h264", "source_width": 128, "source_height": 96, "source_bit_depth": 0, "source_fps": 30.0,
        "source_frames": 30, "source_bytes": path.stat().st_size, "source_crc32": zlib.crc32(path.read_bytes()),
    }  # fmt: skip


def test_a_decoder_keeps_to_its_core(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", 5, 15)
    core = max(os.sched_getaffinity(0))
    with Decoder(SETTINGS, core) as decoder:
        (result,) = decoder.decode([path])
        cores = []
        for task in Path(f"/proc/{decoder._child.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # one of the decoder's threads that has just ended
                cores.append(os.sched_getaffinity(int(task.name)))
    assert cores and cores == [{core}] * len(cores)
    assert result.status == "ok"


def test_flipped_bits_never_cost_the_next_video(tmp_path):
    sound = write_mp4(tmp_path / "sound.mp4", 12, 15, options={"g": "4"})
    content, rng, paths = sound.read_bytes(), np.random.default_rng(0), []
    for number in range(30):
        flipped = bytearray(content)
        flipped[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        paths += [tmp_path / f"{number}.mp4", sound]
        paths[-2].write_bytes(flipped)
    with Decoder(SETTINGS) as decoder:
        found = [(one.status, one.encoded and one.encoded.num_frames, one.reason) for one in decoder.decode(paths)]
    assert found[1::2] == [("ok", 12, "")] * 30
    # If the error is concealed, the video is stored completely; otherwise it has a status and a reason.
    assert [one for one in found if (one[0] == "ok") != (one[1] == 12) or bool(one[2]) == (one[0] == "ok")] == []
    assert {status for status, _, _ in found} <= set(STATUSES)
    assert 0 < sum(status == "ok" for status, _, _ in found[::2]) < 30


def test_jpeg_comes_with_its_offsets(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", 10, 10)
    with Decoder(Preprocess(codec="jpeg", height=16, width=20)) as decoder:
        (result,) = decoder.decode([path])
        data, starts = result.encoded.data, result.encoded.starts
        assert len(starts) == 11 and starts[-1] == len(data)
        pictures = [cv2.imdecode(data[a:b], cv2.IMREAD_COLOR) for a, b in zip(starts[:-1], starts[1:], strict=True)]
        assert {picture.shape for picture in pictures} == {(16, 20, 3)}


def test_shared_memory_grows_and_shrinks_with_videos():
    big = Preprocess(height=2000, width=4000)  # 72 to 120 MB a video
    with Decoder(big, worker="hostile_worker") as decoder:
        sizes = []
        for _ in decoder.decode(Path(f"good-{number}") for number in range(4)):
            sizes.append([os.fstat(block.fd).st_size for block in decoder._blocks])
    assert max(max(pair) for pair in sizes) > 64 << 20
    assert np.all([[size >= 72_000_000 or size == 0 for size in pair] for pair in sizes])


def test_a_decoder_works_with_few_files_to_open(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", 5, 15)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 16, hard))
    try:
        assert [status for status, _, _ in outcomes([path] * 20, worker="pipeline.decoding.worker")] == ["ok"] * 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
