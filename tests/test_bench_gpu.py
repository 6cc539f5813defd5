"""The GPU benchmark, as far as a CPU can run it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from make_training import write_config

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "benchmarks" / "bench_gpu.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module
    spec.loader.exec_module(module)
    return module


def test_targets_are_ratios_of_what_was_measured_and_nothing_else(bench):
    def result(arm, **by_batch):
        return bench.Result(str(arm), clips_per_s={"train": by_batch, "forward": {}})

    best, naive = result(bench.BEST, a=500.0, b=400.0), result(bench.NAIVE, a=100.0)
    torch = [result(arm, a=value) for arm, value in zip(bench.TORCH, (50.0, 60.0, 400.0, 250.0), strict=True)]
    copy, streamed = bench.Result("copy", values={"gb_per_s": 1800.0}), bench.Result("streamed")
    streamed.values["streamed_over_resident"] = 0.995
    rows = bench.targets([best, naive, *torch, copy, streamed])
    assert [(round(ratio, 3), target) for _, ratio, target in rows] == [
        (5.0, 4.0), (1.25, 0.95), (0.5, 0.35), (0.995, 0.99)
    ]  # fmt: skip
    assert bench.targets([best, bench.Result(str(bench.NAIVE), fault="out of memory")]) == []


def test_an_arm_is_its_text(bench):
    assert all(bench.Arm.parse(str(arm)) == arm for arm in bench.ARMS)
    assert bench.Arm.parse("torch:NTHWC") == bench.Arm("torch", "NTHWC", "O0", "resident", "O0")


def run(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess, dict]:
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), *words, "--json", str(found)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done, json.loads(found.read_text())


def test_without_a_gpu_nothing_is_reported_as_measured(tmp_path):
    done, found = run(tmp_path, "--arms", "mindspore", "copy")
    assert done.returncode == 1 and "nothing was measured" in done.stderr
    assert all("CUDA_VISIBLE_DEVICES hides every card" in result["fault"] for result in found["results"])
    assert found["targets"] == [] and not found["results"][0]["clips_per_s"]["train"]


@pytest.mark.slow
def test_every_kind_of_arm_runs_on_the_cpu(tmp_path):
    arms = ["mindspore", "mindspore:NTHWC", "mindspore:NTHWC:O3", "mindspore:NTHWC:O0:float32", "copy", "streamed"]
    config = write_config(tmp_path)
    done, found = run(tmp_path, "--device", "CPU", "--tiny", "-c", str(config), "--arms", *arms)
    assert done.returncode == 0, done.stderr
    assert not [result["fault"] for result in found["results"] if result["fault"]]
    for result in found["results"][:4]:
        assert result["difference"] < 0.05
        assert result["clips_per_s"]["train"]["1"] > 0 and result["clips_per_s"]["forward"]["1"] > 0
    assert found["results"][4]["values"]["gb_per_s"] > 0
    assert found["results"][5]["values"]["streamed_over_resident"] > 0
    assert "held" not in done.stdout  # targets are of a GPU
