"""A disk or file server that fails while a video is read costs no video: it waits, and the next run stores it."""

# The faults are made by a library in C that the decoder processes load first (LD_PRELOAD): read_faults.py.

import errno
import itertools

import pytest
from make_inputs import BY_DECORD, BY_PYAV, files, leftovers, moved, path_of, train_rows
from read_faults import ReadFaults

from pipeline.common.errors import EXIT_IO, MachineError
from pipeline.execution.run import preprocess_store
from pipeline.execution.verification import verify_store
from pipeline.ledger.table import ledger_path

ERRORS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM)


def fail_reads(inputs, undisturbed, folder, monkeypatch, error, row, jobs=1, start=1000):
    """One video cannot be read in a run; the next run reads it."""
    settings = moved(inputs, folder, jobs=jobs)
    with monkeypatch.context() as patch:
        faults = ReadFaults(patch, folder, path_of(settings, row).name, error, start)
        assert preprocess_store(settings) == 0  # one of eight is less than max_bad_fraction
    assert faults.count > 0, "the attack took place"
    rows, expected = train_rows(settings), train_rows(undisturbed)
    unread = rows.iloc[row]
    assert unread["status"] == "retry" and unread["reason"].startswith("could not be read: ")
    others = rows.index != unread.name
    assert rows["status"][others].tolist() == expected["status"][others].tolist()
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)
    assert leftovers(settings) == []


def test_unread_video_is_stored_by_the_next_run(inputs, undisturbed, tmp_path, monkeypatch, caplog):
    fail_reads(inputs, undisturbed, tmp_path, monkeypatch, errno.ESTALE, BY_PYAV)
    assert "1 of 8 videos could not be read" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("error", ERRORS)
def test_no_fault_in_any_place_is_booked_as_the_videos(inputs, undisturbed, tmp_path, monkeypatch, error, jobs):
    for row, start in itertools.product((BY_DECORD, BY_PYAV), (0, 50, 700, 1500)):
        folder = tmp_path / f"{row}-{start}"
        folder.mkdir()
        fail_reads(inputs, undisturbed, folder, monkeypatch, error, row, jobs, start)


@pytest.mark.parametrize("row", [BY_DECORD, pytest.param(BY_PYAV, marks=pytest.mark.slow)])
def test_fault_that_passes_leaves_no_trace(inputs, undisturbed, tmp_path, monkeypatch, row):
    settings = moved(inputs, tmp_path, jobs=1)
    with monkeypatch.context() as patch:
        name = path_of(settings, row).name
        faults = ReadFaults(patch, tmp_path, name, errno.EIO, times=1)
        assert preprocess_store(settings) == 0
    assert faults.count == 1
    assert files(settings) == files(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_disk_that_fails_stops_the_run(inputs, undisturbed, tmp_path, monkeypatch, jobs):
    settings = moved(inputs, tmp_path, jobs=jobs)
    before = ledger_path(settings, "train").read_bytes()
    with monkeypatch.context() as patch:
        ReadFaults(patch, tmp_path, str(inputs.data_root), errno.EIO)
        try:
            code = preprocess_store(settings)
        except MachineError as error:
            assert "videos in a row could not be read: Input/output error" in str(error)
            code = error.exit_code
            assert ledger_path(settings, "train").read_bytes() == before
    assert code == EXIT_IO  # with two decoders of four videos each no row is long enough, and the run ends with this
    assert not set(train_rows(settings)["status"]) & {"truncated", "io", "crash"}
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)


@pytest.mark.slow
def test_verify_says_that_an_unread_video_waits(inputs, undisturbed, tmp_path, monkeypatch, capsys):
    settings = moved(inputs, tmp_path, jobs=1)
    with monkeypatch.context() as patch:
        ReadFaults(patch, tmp_path, path_of(settings, BY_DECORD).name, errno.EIO)
        assert preprocess_store(settings) == 0
    assert verify_store(settings, repair=False) == 0
    assert "1 videos wait to be decoded" in capsys.readouterr().out
