"""Two CPU processes under MindSpore's msrun, with batch norms frozen: one of them dies, or only one continues."""

from __future__ import annotations

from paths import ROOT

import model  # noqa: F401  before mindspore

# isort: split
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from make_training import TinyNetwork, checkpoints_of, to_the_waiting_thread, write_config
from mindspore import nn
from parameters import parameter_values
from ports import free_port
from processes import has_ended
from waiting import wait_until

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, EXIT_RETRY, EXIT_SIGINT, EXIT_USAGE
from train import train
from train.device import launch
from train.loop import trainer
from train.loop.running_statistics import RunningStatistics
from train.weights import checkpoint

DIES_AT = 5
NOBODY_DIES = 1  # the seed of a training in which no process dies
OUT = "KINETICS_TEST_OUT"  # where each process records its parameters


def frozen_network() -> TinyNetwork:
    """Its batch norm always uses its running statistics: those of a batch depend on which process has which clip."""
    network = TinyNetwork()
    network.features[1].bn2d.use_batch_statistics = False
    return network


def worker() -> int:
    """What msrun starts twice: train and record the parameters of every step; number 1 dies in the middle."""
    out = Path(os.environ[OUT])
    make_step = trainer.Trainer._step

    def step(self, *args):
        loss = make_step(self, *args)
        np.savez(out / f"rank{self.world.rank}-step{self.position.step}.npz", **parameter_values(self.network))
        if not (noted := out / f"rank{self.world.rank}.pid").exists():
            noted.write_text(str(os.getpid()))
        if self.position.step == DIES_AT and self.world.rank == 1 and self.config.train.seed != NOBODY_DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    def fit(self):
        _note_settled_statistics(out, self.world)  # not in a step: its graph would go into the compile cache
        return train_on(self)

    train_on = trainer.Trainer.fit
    trainer.Trainer.fit = fit
    trainer.Trainer._step = step
    trainer.build_network = lambda _settings: frozen_network()
    return train.main(sys.argv[1:])


def _note_settled_statistics(out: Path, world) -> None:
    """Statistics that differ between two processes, one of which is asked to stop: what both have afterwards."""
    network = nn.SequentialCell(nn.BatchNorm2d(2))
    running = RunningStatistics(network, world.size)
    running.statistics[0].set_data(ms.Tensor([1.0 + world.rank, 5.0], ms.float32))
    asked = running.settle(world.rank == 1)
    np.savez(out / f"rank{world.rank}-settled.npz", mean=running.statistics[0].asnumpy(), asked=asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("distributed")
    write_config(made, save_checkpoint_steps=3)
    return made


def together(folder: Path, *words: str) -> subprocess.Popen:
    """Start two workers; `make train DEVICES=2` does the same."""
    here = ROOT
    return subprocess.Popen(
        [sys.executable, __file__, f"{free_port()}", f"{folder}/msrun", "-c", f"{folder}/tiny.yaml",
         "--train.run_distribute=true", *words],
        cwd=here, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{here}:{here}/tests/helpers", OUT: str(folder)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def died(folder) -> tuple[int, str]:
    """How training ends when one of its two workers has killed itself after step 5: exit code and messages."""
    process = together(folder)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def test_the_death_of_one_ends_all(died, folder):
    code, said = died
    assert code == EXIT_RETRY, said + "".join(path.read_text()[-2000:] for path in (folder / "msrun").glob("*.log"))
    assert said.splitlines()[-1].startswith("error: One process crashed or was killed, so all were stopped. See")
    assert "Resume with --resume auto." in said
    for rank in (0, 1):
        assert has_ended(int((folder / f"rank{rank}.pid").read_text()))
    assert [path.stem for path in checkpoints_of(folder / "runs" / "tiny")] == ["epoch_001-step_000003"]
    assert len(list((folder / "runs" / "tiny").iterdir())) == 1  # only number 0 makes a run folder


def test_all_have_the_same_parameters_in_every_step(died, folder):
    for step in range(1, DIES_AT):
        ours, theirs = (np.load(folder / f"rank{rank}-step{step}.npz") for rank in (0, 1))
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{name} after step {step}")


def test_ranks_average_statistics_and_share_a_stop(died, folder):
    for rank in (0, 1):
        settled = np.load(folder / f"rank{rank}-settled.npz")
        assert settled["mean"].tolist() == [1.5, 5.0]
        assert settled["asked"]


def test_one_process_repeats_and_resumes_steps_of_two(died, folder, monkeypatch):
    monkeypatch.setattr(trainer, "build_network", lambda _settings: frozen_network())
    made = {}
    make_step = trainer.Trainer._step

    def step(self, *args):
        loss = make_step(self, *args)
        made[self.position.step] = parameter_values(self.network)
        return loss

    monkeypatch.setattr(trainer.Trainer, "_step", step)
    words = ["-c", f"{folder}/tiny.yaml", "--data_loader.train.dataset.batch_size=4"]  # the two had 2 each
    assert train.main([*words, f"--train.ckpt_path={folder}/alone"]) == EXIT_OK
    alone = dict(made)
    for number in range(1, DIES_AT):
        together = np.load(folder / f"rank0-step{number}.npz")
        for name in together.files:
            np.testing.assert_allclose(together[name], alone[number][name], atol=1e-5, rtol=1e-5, err_msg=name)
    made.clear()
    shutil.copytree(folder / "runs", folder / "resumed")  # other tests look at the run of the two
    assert train.main([*words, f"--train.ckpt_path={folder}/resumed", "--resume", "auto"]) == EXIT_OK
    assert sorted(made) == [4, 5, 6, 7, 8]
    moved = max(np.abs(alone[8][name] - alone[3][name]).max() for name in alone[8])
    assert moved > 1e-3  # otherwise the comparison would show nothing
    for name in alone[8]:
        np.testing.assert_allclose(made[8][name], alone[8][name], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_RETRY), (signal.SIGINT, EXIT_SIGINT)])
def test_signal_ends_all_with_checkpoint_and_exit_code(tmp_path, number, code):
    write_config(tmp_path, epochs=100_000, eval_epochs=0)
    started = together(tmp_path, "--data_loader.train.dataset.batch_size=4", f"--train.seed={NOBODY_DIES}")
    noted = [tmp_path / f"rank{rank}.pid" for rank in (0, 1)]
    wait_until(lambda: all(path.is_file() and path.read_text() for path in noted))
    pids = [int(path.read_text()) for path in noted]
    started.send_signal(number)
    _, said = started.communicate(timeout=300)
    assert started.returncode == code, said
    assert f"ended with exit code {code}" in said and said.rstrip().endswith("Resume with --resume auto.")
    assert all(map(has_ended, pids))
    (newest,) = checkpoints_of(tmp_path / "runs" / "tiny")
    steps = [int(path.stem.rpartition("step")[2]) for path in tmp_path.glob("rank0-step*.npz")]
    assert checkpoint.read_state(newest)["step"] == max(steps)


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [1, 2])
def test_two_processes_resume_where_one_ended(tmp_path, monkeypatch, group_size):
    monkeypatch.setattr(trainer, "build_network", lambda _settings: frozen_network())
    write_config(tmp_path)
    made = {}
    make_step = trainer.Trainer._step

    def step(self, *args):
        loss = make_step(self, *args)
        made[self.position.step] = parameter_values(self.network)
        if self.position.step == 3 and "runs" in self.config.train.ckpt_path:
            to_the_waiting_thread(self, signal.SIGTERM)
        return loss

    monkeypatch.setattr(trainer.Trainer, "_step", step)
    words = ["-c", f"{tmp_path}/tiny.yaml", f"--train.seed={NOBODY_DIES}"]
    alone = [
        *words,
        f"--data_loader.train.dataset.batch_size={4 // group_size}",
        f"--data_loader.group_size={group_size}",
    ]
    assert train.main([*alone, f"--train.ckpt_path={tmp_path}/whole"]) == EXIT_OK
    whole = dict(made)
    assert train.main([*alone, f"--train.ckpt_path={tmp_path}/runs"]) == EXIT_RETRY
    process = together(tmp_path, *words[2:], "--resume", "auto")  # each with 2 clips
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_OK, said
    assert sorted(int(path.stem[-1]) for path in tmp_path.glob("rank0-step*.npz")) == [4, 5, 6, 7, 8]
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert "resuming" in (run / "train.log").read_text()
    for number in range(4, 9):
        ours, theirs = (np.load(tmp_path / f"rank{rank}-step{number}.npz") for rank in (0, 1))
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
            np.testing.assert_allclose(ours[name], whole[number][name], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_mistake_keeps_its_exit_code(tmp_path):
    write_config(tmp_path)
    process = together(tmp_path, "--model.num_classes=2")
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_USAGE and said.rstrip().endswith("Fix the error there."), said


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        port, log_dir, *rest = sys.argv[1:]
        sys.exit(launch.launch([__file__, *rest], devices=2, port=int(port), log_dir=Path(log_dir)))
    with launch.note_exit_code():
        cli.run(worker)
