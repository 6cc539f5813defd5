"""The problems of a week of training, in minutes: nothing grows, and a kill at any moment does no harm."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from make_training import TinyNetwork, write_config
from paths import ROOT

from pipeline.common.errors import EXIT_OK
from train import train
from train.loop import trainer


def in_use() -> dict[str, int]:
    """Resident memory in KiB, open files, threads of this process."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = sum(int(status[key].split()[0]) for key in ("RssAnon", "RssShmem"))
    return {"memory": own, "files": len(os.listdir("/proc/self/fd")), "threads": int(status["Threads"])}


@pytest.mark.slow
def test_memory_files_and_threads_stay_what_they_were(tmp_path, monkeypatch):
    config = write_config(tmp_path, epochs=500, eval_epochs=2, save_checkpoint_epochs=1, log_steps=4)
    monkeypatch.setattr(trainer, "build_network", lambda _settings: TinyNetwork())
    seen = {}
    make_step = trainer.Trainer._step

    def step(self, *args):
        if self.position.step % 500 == 250:  # always the same step of an epoch
            seen[self.position.step] = in_use()
        return make_step(self, *args)

    monkeypatch.setattr(trainer.Trainer, "_step", step)
    words = ["-c", str(config), "--optimizer.ema_decay=0.9", "--train.keep_checkpoint_max=2"]
    assert train.main(words) == EXIT_OK
    for number, values in seen.items():
        print(number, values)
    early, late = seen[1250], seen[3750]
    assert late["files"] <= early["files"] and late["threads"] <= early["threads"]
    assert late["memory"] - early["memory"] < 4096  # KiB in 2,500 steps, 312 epochs
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert len(list((run / "ckpt").iterdir())) <= 3 * 3 + 2  # two newest and the best, and the pointers
    for name, num_lines in (("metrics.jsonl", 500 * 2 + 250), ("train.log", 500 * 3 + 250 + 20)):
        lines = (run / name).read_text().splitlines()
        assert len(lines) <= num_lines and max(map(len, lines)) < 400


@pytest.mark.slow
def test_ten_kills_at_any_moment_change_no_bit(tmp_path):
    config = write_config(tmp_path, epochs=300, eval_epochs=3, save_checkpoint_steps=3, keep_checkpoint_max=3)
    here = ROOT

    def start(runs: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "tests/helpers/make_training.py",
            "SIGKILL",
            "0",
            "-c",
            str(config),
            "--resume",
            "auto",
        ]
        options = [
            f"--train.ckpt_path={tmp_path}/{runs}",
            "--optimizer.loss_scale=dynamic",
            "--optimizer.ema_decay=0.9",
        ]
        environment = {**os.environ, "PYTHONPATH": str(here)}
        return subprocess.Popen([*command, *options], cwd=here, env=environment, text=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip

    with start("whole") as whole:
        _, said = whole.communicate(timeout=300)
    assert whole.returncode == EXIT_OK, said
    moments, kills = random.Random(0), 0
    while True:
        with start("killed") as process:
            assert process.stderr is not None
            for line in process.stderr:  # until it trains
                if " loss is " in line:
                    break
            try:
                _, said = process.communicate(timeout=moments.uniform(0, 0.5) if kills < 10 else 120)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
                continue
        assert process.returncode == EXIT_OK, said
        break
    assert kills == 10
    last = "epoch_300-step_002400"
    whole_files, killed_files = (
        [(tmp_path / runs / "tiny").glob(f"*/ckpt/{last}{end}") for end in (".ckpt", ".optimizer.ckpt")]
        for runs in ("whole", "killed")
    )
    for ours, theirs in zip(whole_files, killed_files, strict=True):
        assert next(ours).read_bytes() == next(theirs).read_bytes()
