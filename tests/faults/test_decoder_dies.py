"""A decoder that dies or stalls while it reads a video changes no byte of what a run stores."""

import logging
import signal

import pytest
from make_inputs import BY_DECORD, files, leftovers, moved, path_of, train_rows
from read_faults import ReadFaults

from pipeline.execution.run import preprocess_store

DEATHS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP)


def kill_once(inputs, undisturbed, folder, monkeypatch, caplog, death, start=700, jobs=1, victim=BY_DECORD):
    """A run whose decoder dies once at one video; its log."""
    deadline_s = 2.0 if death == signal.SIGSTOP else 60.0  # only a stopped decoder needs it
    settings = moved(inputs, folder, jobs=jobs, video_timeout_s=deadline_s)
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        faults = ReadFaults(patch, folder, path_of(settings, victim).name, -death, start, times=1)
        assert preprocess_store(settings) == 0
    assert faults.count == 1, "the attack took place"
    assert files(settings) == files(undisturbed)
    assert leftovers(settings) == []
    return caplog.text


def test_run_stores_the_same_after_one_death(inputs, undisturbed, tmp_path, monkeypatch, caplog):
    log = kill_once(inputs, undisturbed, tmp_path, monkeypatch, caplog, signal.SIGSEGV)
    assert log.count("decoded again") == 1


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.name)
def test_death_at_any_read_changes_nothing(inputs, undisturbed, tmp_path, monkeypatch, caplog, death, jobs):
    rows = train_rows(undisturbed)
    victims = [number for number, status in enumerate(rows["status"]) if status == "ok"]
    for victim in victims:
        for start in (0, 700):
            folder = tmp_path / f"{victim}-{start}"
            folder.mkdir()
            kill_once(inputs, undisturbed, folder, monkeypatch, caplog, death, start, jobs, victim)
