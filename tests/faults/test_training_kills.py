"""Trainings that are killed, and runs whose files are damaged, end in the weights of an undisturbed training."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from paths import ROOT

from train.runs.metrics import read_metrics

KILLS, DAMAGES, RECORDS, PAIRS = 100, 300, 22, 20


def kills(folder: Path, count: int) -> dict[str, object]:
    """SIGKILL trainings at random moments and resume them, until there were `count` kills."""
    import fork_training as fork

    config, draw = fork.write_folder(folder), random.Random(1)
    log, undisturbed = folder / "log", folder / "undisturbed"
    fork.wait(fork.train_apart(config, undisturbed, log))  # its first reads are slow
    began = time.monotonic()
    assert fork.wait(fork.train_apart(config, folder / "timed", log)) == 0, log.read_text()
    seconds = time.monotonic() - began
    expected, outcomes = fork.final_weights(undisturbed), Counter()
    while outcomes["killed"] < count:
        runs = folder / f"runs{outcomes['trainings']}"
        outcomes["trainings"] += 1
        while True:
            last = outcomes["killed"] >= count
            moment = None if last else draw.uniform(0, seconds)
            code = fork.wait(fork.train_apart(config, runs, log, "--resume", "auto"), moment)
            text = log.read_text()
            assert "Traceback" not in text and code in (0, -9), text
            outcomes["killed"] += code == -9
            if code == 0:
                break
        assert fork.final_weights(runs) == expected, text
        (run,) = {path.parents[1] for path in runs.glob("tiny/*/ckpt/*.json")}
        steps = [record["step"] for record in read_metrics(run / "metrics.jsonl") if "train/loss" in record]
        assert steps == list(range(1, fork.NUM_STEPS + 1))  # each once
        assert not list(run.rglob(".*.tmp*"))
        shutil.rmtree(runs)
    return dict(outcomes)


def records(folder: Path, count: int) -> dict[str, object]:
    """SIGKILL trainings after their first record, their second, and so on, and resume each."""
    import fork_training as fork

    from train.runs.append_file import AppendFile
    from train.runs.starts import read_starts

    config, log, outcomes, write = fork.write_folder(folder), folder / "log", Counter(), AppendFile.write
    assert fork.wait(fork.train_apart(config, folder / "undisturbed", log)) == 0, log.read_text()
    expected = fork.final_weights(folder / "undisturbed")
    for number in range(1, count + 1):
        runs, written = folder / f"runs{number}", []

        def counting(file: AppendFile, record: bytes, written: list[str] = written, last: int = number) -> None:
            write(file, record)
            if file._path.name != "train.log":
                written.append(file._path.name)
            if len(written) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        AppendFile.write = counting  # type: ignore[method-assign]  in the child only
        pid = fork.train_apart(config, runs, log)
        AppendFile.write = write  # type: ignore[method-assign]
        killed = fork.wait(pid) == -signal.SIGKILL
        assert fork.wait(fork.train_apart(config, runs, log, "--resume", "auto")) == 0, log.read_text()
        assert fork.final_weights(runs) == expected, number
        (run,) = {path.parents[1] for path in runs.glob("tiny/*/ckpt/*.json")}
        trained = [record["step"] for record in read_metrics(run / "metrics.jsonl") if "train/loss" in record]
        assert trained == list(range(1, fork.NUM_STEPS + 1)), number
        assert all(start["settings"] for start in read_starts(run))
        outcomes["killed" if killed else "ended before"] += 1
        shutil.rmtree(runs)
    return dict(outcomes)


def pairs(folder: Path, count: int) -> dict[str, object]:
    """Start two trainings at once with `--resume auto`, without a run and again after one of them was killed."""
    import fork_training as fork

    config, logs, outcomes = fork.write_folder(folder), [folder / "log1", folder / "log2"], Counter()
    assert fork.wait(fork.train_apart(config, folder / "undisturbed", logs[0])) == 0, logs[0].read_text()
    expected = fork.final_weights(folder / "undisturbed")
    for number in range(count):
        runs = folder / f"runs{number}"
        for killed in (True, False):
            for log in logs:
                log.write_text("")
            pids = [fork.train_apart(config, runs, log, "--resume", "auto") for log in logs]
            while killed and not any("checkpoint:" in log.read_text() for log in logs):
                time.sleep(0.01)
            for pid in pids if killed else ():
                os.kill(pid, signal.SIGKILL)
            codes = [fork.wait(pid) for pid in pids]
            if killed:
                outcomes["killed"] += -signal.SIGKILL in codes
                continue
            (refused,) = [text for text in (log.read_text() for log in logs) if "error:" in text]
            assert sorted(codes) == [0, 73] and "Traceback" not in refused and refused.count("error:") == 1, refused
            outcomes["refused at the start" if "same moment" in refused else "refused by the lock"] += 1
        assert fork.final_weights(runs) == expected
        assert len(list(runs.glob("tiny/*"))) == 1
        shutil.rmtree(runs)
    return dict(outcomes)


def damages(folder: Path, count: int) -> dict[str, object]:
    """Damage a file of a run that can be resumed, and resume it, `count` times."""
    import fork_training as fork

    config, draw, outcomes = fork.write_folder(folder), random.Random(2), Counter()
    log, kept = folder / "log", folder / "kept"
    assert fork.wait(fork.train_apart(config, kept, log, "--train.keep_checkpoint_max=9")) == 0, log.read_text()
    expected = fork.final_weights(kept)
    (checkpoints,) = kept.glob("tiny/*/ckpt")
    for path in checkpoints.glob(f"*step_{fork.NUM_STEPS:06d}*"):
        path.unlink()
    (checkpoints / "latest.json").write_text('{"stem": "epoch_002-step_000007"}')
    for path in checkpoints.glob("epoch_001-step_00000[123]*"):
        path.unlink()
    for number in range(count):
        runs = folder / f"runs{number}"
        shutil.copytree(kept, runs)
        (run,) = runs.glob("tiny/*")
        files = [*run.glob("ckpt/*"), run / "metrics.jsonl"]
        # Of seven damages one each: the newest checkpoint's three files, the pointers, the metrics, and any file.
        newest = [run / "ckpt" / f"epoch_002-step_000007{ending}" for ending in (".json", ".ckpt", ".optimizer.ckpt")]
        named = [*newest, run / "ckpt/best.json", run / "ckpt/latest.json", run / "metrics.jsonl"]
        victims = [[*named, draw.choice(files)][number % 7]]
        if number % 10 == 9:
            victims = [path for path in files if path.name.startswith("epoch_") and path.suffix == ".json"]
        kind = draw.choice(["flip", "cut", "zeros"])
        must_be_named = []
        for victim in victims:
            content = victim.read_bytes()
            victim.write_bytes(damaged(content, kind, draw))
            harmless = victim.suffix == ".json" and kind == "flip"  # a space, or the name of the checksum
            if victim in newest and victim.read_bytes() != content and not harmless:
                must_be_named.append(victim.name)
        before = {path: path.read_bytes() for path in files}
        code = fork.wait(fork.train_apart(config, runs, log, "--resume", "auto"))
        text = log.read_text()
        assert "Traceback" not in text, text
        if code == 0:
            assert fork.final_weights(runs) == expected, (kind, victims, text)
            assert not must_be_named or any(name in text for name in must_be_named), (kind, victims, text)
            outcomes["same weights"] += 1
        else:
            (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
            assert code == 2 and any(path.name in line or path.stem in line for path in victims), text
            assert {path: path.read_bytes() for path in files} == before
            outcomes["refused by name"] += 1
        shutil.rmtree(runs)
    return dict(outcomes)


def damaged(content: bytes, kind: str, draw: random.Random) -> bytes:
    """The content with one flipped bit, without its end, or with zeros in it."""
    at = draw.randrange(len(content))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    block = min(draw.randrange(1, 600), len(content) - at)
    return content[:at] + bytes(block) + content[at + block :]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("attack", "count"), [("kills", KILLS), ("damages", DAMAGES), ("records", RECORDS), ("pairs", PAIRS)]
)
def test_every_attack_ends_in_the_same_weights(attack, count, tmp_path):
    paths = f"{ROOT}:{ROOT / 'tests/helpers'}"
    done = subprocess.run(
        [sys.executable, __file__, attack, str(count), str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    print(attack, outcomes)
    assert outcomes["same weights" if attack == "damages" else "killed"] >= 0.8 * count


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        attacks = {"kills": kills, "damages": damages, "records": records, "pairs": pairs}
        print(json.dumps(attacks[sys.argv[1]](Path(sys.argv[3]), int(sys.argv[2]))))
