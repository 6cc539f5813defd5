"""A folder of videos that is unmounted, renamed or moved in the middle of a run makes no video missing."""

import shutil
from pathlib import Path

import pytest
from make_inputs import files, leftovers, moved, path_of, train_rows

from pipeline.common.errors import EXIT_IO, MachineError
from pipeline.execution.run import ProgressBar, preprocess_store
from pipeline.ledger.table import ledger_path


@pytest.fixture
def settings(inputs, tmp_path):
    """The inputs with videos of their own, and one job."""
    shutil.copytree(inputs.data_root, tmp_path / "data")
    return moved(inputs, tmp_path, jobs=1, data_root=str(tmp_path / "data"))


def after(number, act, monkeypatch):
    """Let `act` happen when a run has finished `number` videos."""
    honest, counted = ProgressBar.done, []

    def done(self, outcome):
        honest(self, outcome)
        counted.append(outcome)
        if len(counted) == number:
            act()

    monkeypatch.setattr(ProgressBar, "done", done)


def take_away(folder, leave):
    """Rename a folder, and leave nothing or, as where a disk was mounted, an empty one; returns the way back."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    if leave:
        folder.mkdir()

    def bring_back():
        if leave:
            folder.rmdir()
        aside.rename(folder)

    return bring_back


def check_lost(settings, undisturbed, folder, leave, number, monkeypatch):
    """A folder vanishes after `number` videos: the run stops, and the next one ends as if nothing had been."""
    before, ways_back = ledger_path(settings, "train").read_bytes(), []
    with monkeypatch.context() as patch:
        after(number, lambda: ways_back.append(take_away(folder, leave)), patch)
        with pytest.raises(MachineError, match=r"this folder of videos is (empty|gone \(No such file)") as caught:
            preprocess_store(settings)
    assert caught.value.exit_code == EXIT_IO and str(settings.data_root) in str(caught.value)
    assert ledger_path(settings, "train").read_bytes() == before, "every row is still pending"
    assert leftovers(settings) == []
    ways_back[0]()
    assert preprocess_store(settings) == 0
    assert files(settings) == files(undisturbed)


def test_videos_of_a_lost_root_stay_pending(settings, undisturbed, monkeypatch):
    check_lost(settings, undisturbed, Path(settings.data_root), True, 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("leave", [False, True], ids=["renamed", "unmounted"])
@pytest.mark.parametrize("below", ["", "train"])
def test_a_folder_may_vanish_at_any_time(settings, undisturbed, monkeypatch, leave, below, number):
    check_lost(settings, undisturbed, Path(settings.data_root) / below, leave, number, monkeypatch)


def test_folder_that_is_away_before_the_run_stops_it(settings):
    before = ledger_path(settings, "train").read_bytes()
    take_away(Path(settings.data_root) / "train", leave=True)
    with pytest.raises(MachineError, match="train: this folder of videos is empty, and .* waits to be decoded"):
        preprocess_store(settings)
    assert ledger_path(settings, "train").read_bytes() == before
    assert not list(Path(settings.store).glob("*.h5"))


@pytest.mark.slow
def test_videos_deleted_during_the_run_are_missing(settings, undisturbed, monkeypatch):
    def delete():
        for row in (0, 1, 3, 5, 6, 7, 8):  # the folder keeps the file that is no video
            path_of(settings, row).unlink()

    with monkeypatch.context() as patch:
        after(1, delete, patch)
        assert preprocess_store(settings) == 0
    rows, expected = train_rows(settings), train_rows(undisturbed)
    gone = rows["status"].eq("missing") & expected["status"].eq("ok")
    assert 4 <= gone.sum() <= 6, "the first two may have been decoded before"
    assert rows["status"][~gone].tolist() == expected["status"][~gone].tolist()
    assert rows.loc[gone, ["source_bytes", "source_crc32"]].eq(0).all(axis=None) and rows["path"][gone].eq("").all()
