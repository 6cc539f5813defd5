"""Other programs can read the files in a run folder, and a refused start leaves no folder."""

import json
import logging

import pytest

from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from train.experiment.load import load_config
from train.pictures.charts import series
from train.runs.metrics import read_metrics
from train.runs.run_folder import RunFolder, runs_root


@pytest.fixture(scope="module")
def settings():
    return load_config(Document("train/configs/sample.yaml", {}))


def test_metrics_are_json_for_everyone(settings, tmp_path):
    with RunFolder(tmp_path, settings, {}) as run:
        run.begin(0)
        run.record(1, {"train/loss": float("nan"), "train/clip_top1": 0.5})
        run.record(2, {"train/loss": 1.5, "train/clip_top1": 0.5})

    def refuse(word):
        raise AssertionError(word)

    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line, parse_constant=refuse)["train/loss"] for line in lines]
    assert losses == [None, 1.5]
    steps, values = series(read_metrics(run.path / "metrics.jsonl"), "train/loss")
    assert steps.tolist() == [1, 2] and str(values.tolist()) == "[nan, 1.5]"


def test_a_start_that_is_refused_leaves_no_folder(settings, tmp_path):
    with pytest.raises(UserError, match="no such data"), RunFolder(tmp_path, settings, {}) as run:
        logging.getLogger().warning("before anything begins")
        assert list(tmp_path.iterdir()) == []  # so one that is killed here leaves nothing either
        raise UserError("no such data")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="later"), RunFolder(tmp_path, settings, {}) as run:
        run.begin(0)
        raise UserError("later")
    assert (run.path / "train.log").read_text().endswith(" error: later\n")
    with pytest.raises(UserError, match="again"), RunFolder(tmp_path, settings, {}, existing=run.path):
        raise UserError("again")
    assert (run.path / "metrics.jsonl").is_file()
    assert list(tmp_path.iterdir()) == [run.path] and "again" not in (run.path / "train.log").read_text()
    with pytest.raises(ValueError, match="a bug"), RunFolder(tmp_path, settings, {}, existing=run.path) as again:
        again.begin(0)
        raise ValueError("a bug")
    assert (run.path / "train.log").read_text().endswith("\nValueError: a bug\n")


def test_begin_keeps_earlier_metrics_and_no_temporary(settings, tmp_path):
    with RunFolder(tmp_path, settings, {}) as run:
        run.begin(0)
        for step in (1, 2, 3):
            run.record(step, {"train/loss": 1.0})
    (run.path / ".metrics.jsonl.12.tmp").touch()  # of a run that was killed
    with RunFolder(tmp_path, settings, {}, existing=run.path) as again:
        again.begin(2)
    assert [record["step"] for record in read_metrics(run.path / "metrics.jsonl")] == [1, 2]
    assert (run.path / "env.json").read_bytes() == b"{}"
    assert {path.name for path in run.path.rglob(".*")} <= {".lock"}


def test_runs_in_the_place_of_a_file_are_refused(settings, tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"file.*: .*\. Set train\.ckpt_path to another folder\."):
            RunFolder(root, settings, {})
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize("name", ["...yaml", "..yaml", "a\x1bb.yaml", "x" * 101 + ".yaml"])
def test_a_configuration_must_have_a_folder_name(tmp_path, name):
    (tmp_path / name).write_text("{}")
    document = Document(tmp_path / name)
    with pytest.raises(UserError, match="its runs need a folder of this name, expected a name of at most 100 bytes"):
        runs_root(load_config(document), document)
