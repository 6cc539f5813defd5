"""Commands look at the newest run of their dataset and classes, whatever it is called, and say which one that is."""

import json
import logging
from pathlib import Path

import pytest
import yaml

from pipeline.common.errors import UserError
from pipeline.common.recipe import Preprocess
from pipeline.common.settings import Document
from train.experiment.sections import Config, Train
from train.runs.choose import config_of_run, has_best, newest_weights, now, run_folder, runs, runs_of, weights_of
from train.weights.checkpoint import CheckpointError

STEM = "epoch_001-step_000004"


def make_run(root: Path, name: str, started: str | None, dataset: str = "mine", classes=("a", "b"), best=True) -> Path:
    """The files of a run that a choice looks at."""
    folder = root / name
    (folder / "ckpt").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"preprocess": {"dataset": dataset}}))
    (folder / "env.json").write_text(json.dumps({"started": started} if started else {}))
    (folder / "ckpt" / f"{STEM}.json").write_text(json.dumps({"classes": classes, "sha256": {}}))
    if best:
        (folder / "ckpt" / "best.json").write_text(json.dumps({"stem": STEM}))
    return folder


def config_for(root: Path, dataset: str = "mine") -> Config:
    return Config(train=Train(ckpt_path=str(root)), preprocess=Preprocess(dataset=dataset))


def test_newest_is_by_recorded_utc_time(tmp_path, caplog):
    make_run(tmp_path, "own/20991231-235959", "2026-10-25T00:30:00+00:00")  # a clock that was wrong, or another zone
    newer = make_run(tmp_path, "own/20261025-013000", "2026-10-25T01:30:00+00:00")
    make_run(tmp_path, "other/20261025-020000", "2026-10-25T03:30:00+02:30")  # 01:00 UTC
    with caplog.at_level(logging.INFO):
        assert newest_weights(config_for(tmp_path), None) == newer / "ckpt" / f"{STEM}.ckpt"
    assert caplog.messages == [f"run: {newer} (dataset mine, started 2026-10-25 01:30 UTC)"]


def test_earlier_versions_runs_have_their_first_record(tmp_path):
    old = make_run(tmp_path, "own/20990101-000000", None)
    (old / "metrics.jsonl").write_text('{"step": 1, "time": 1590000000.5}\n{"step": 2, "time": 9990000000}\n')
    broken = make_run(tmp_path, "own/20980101-000000", "yesterday")
    (broken / "metrics.jsonl").write_bytes(b"\xff\x00{")
    new = make_run(tmp_path, "own/20200101-000000", "2020-11-26T08:00:00+00:00")
    assert [run.path for run in runs(tmp_path)][1:] == [new, old]  # the broken one is as old as its folder: now
    assert [run.started for run in runs(tmp_path)][2] == 1590000000.5


def test_only_runs_of_dataset_and_classes_count(tmp_path, caplog):
    caplog.set_level("WARNING")
    mine = make_run(tmp_path, "b/1", "2026-01-01T00:00:00+00:00")
    make_run(tmp_path, "own/2", "2026-02-01T00:00:00+00:00", dataset="other")
    renamed = make_run(tmp_path, "own/3", "2026-03-01T00:00:00+00:00", classes=("a", "c"))
    fewer = make_run(tmp_path, "own/4", "2026-04-01T00:00:00+00:00", classes=("a",))
    config = config_for(tmp_path)
    assert newest_weights(config, ["a", "b"]).parents[1] == mine
    reasons = {fewer: "1 there, 2 here", renamed: "class 1 is 'c' there and 'b' here"}
    assert caplog.messages == [
        f"warning: The run {run} has other classes than the ledgers ({why}). It is not used."
        for run, why in reasons.items()
    ]
    assert [run.path for run in runs_of(config, None)] == [fewer, renamed, mine]
    assert newest_weights(config, ["", "b"]).parents[1] == mine  # a subset has the numbers of the whole
    with pytest.raises(CheckpointError, match=r"no run of dataset yours \(there are runs of mine, other\) has a check"):
        newest_weights(config_for(tmp_path, "yours"), None)


def test_run_of_unknown_dataset_is_named(tmp_path, caplog):
    caplog.set_level("WARNING")
    mine = make_run(tmp_path, "own/1", "2026-01-01T00:00:00+00:00")
    broken = make_run(tmp_path, "own/2", "2026-02-01T00:00:00+00:00") / "config.yaml"
    broken.write_text("{: x")
    assert [run.path for run in runs_of(config_for(tmp_path), None)] == [mine]
    reason = "missing or corrupted, so the dataset of its run is unknown. The run is not used."
    assert caplog.messages == [f"warning: {broken}: {reason}"]


def test_newer_run_without_best_checkpoint_is_named(tmp_path, caplog):
    caplog.set_level("WARNING")
    older = make_run(tmp_path, "own/1", "2026-01-01T00:00:00+00:00")
    newer = make_run(tmp_path, "own/2", "2026-02-01T00:00:00+00:00", best=False)
    assert newest_weights(config_for(tmp_path), None).parents[1] == older
    latest = newer / "ckpt" / f"{STEM}.ckpt"
    assert caplog.messages == [
        f"warning: The newest run, {newer}, has no best checkpoint (its latest: CKPT={latest}). An earlier run is used."
    ]


def test_ckpt_takes_a_run_folder_or_a_file(tmp_path):
    run = make_run(tmp_path, "own/1", now())
    newer, config = make_run(tmp_path, "own/2", now()), config_for(tmp_path)
    expected = run / "ckpt" / f"{STEM}.ckpt"
    for given in (run, run / "ckpt"):
        assert weights_of(str(given), config, Document(None), None) == expected
    assert weights_of("x.pth", config, Document(None), None) == Path("x.pth")
    assert weights_of("", config, Document(None), None).parents[1] == newer
    assert weights_of("", config, Document(run / "config.yaml"), None) == expected
    with pytest.raises(CheckpointError, match="expected a run folder or a file of weights"):
        weights_of(str(tmp_path), config, Document(None), None)


def test_run_folder_of_what_is_in_it(tmp_path):
    run = make_run(tmp_path, "own/1", now())
    for inside in (".", "ckpt", "ckpt/x.ckpt", "export/x.mindir"):
        assert run_folder(run / inside) == run
    assert run_folder(tmp_path / "x.ckpt") is None


def test_without_c_the_settings_are_the_runs_own(tmp_path):
    older = make_run(tmp_path, "own/1", "2026-01-01T00:00:00+00:00", dataset="first")
    newer = make_run(tmp_path, "own/2", "2026-02-01T00:00:00+00:00", dataset="second")
    where = {"train.ckpt_path": str(tmp_path)}
    assert config_of_run(None, where, has_best) == newer / "config.yaml"
    assert config_of_run(None, {**where, "preprocess.dataset": "first"}, has_best) == older / "config.yaml"
    assert config_of_run(str(older), where, has_best) == older / "config.yaml"
    assert config_of_run(str(older / "ckpt" / "x.ckpt"), where, has_best) == older / "config.yaml"
    assert config_of_run(str(tmp_path / "x.pth"), where, has_best) is None
    assert config_of_run(None, {"train.ckpt_path": str(tmp_path / "none")}, has_best) is None


def test_no_run_at_all_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no run of dataset mine has a checkpoint. Run `make train`, or give one with"):
        newest_weights(config_for(tmp_path), None)
