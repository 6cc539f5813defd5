"""The parts of the GPU benchmark that a CPU can run."""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from make_training import write_config
from paths import ROOT

SCRIPT = ROOT / "tests" / "benchmarks" / "bench_gpu.py"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(SCRIPT.parent))
    return importlib.import_module("bench_gpu")


def test_targets_are_ratios_of_measured_arms_only(bench):
    def result(arm, **by_batch):
        return bench.Result(str(arm), clips_per_s={"train": by_batch, "forward": {}})

    best, naive = result(bench.BEST, a=500.0, b=400.0), result(bench.NAIVE, a=100.0)
    torch = [result(arm, a=value) for arm, value in zip(bench.TORCH, (50.0, 60.0, 400.0, 250.0), strict=True)]
    copy, streamed = bench.Result("copy", values={"gb_per_s": 1800.0}), bench.Result("streamed")
    streamed.values["streamed_over_resident"] = 0.995
    reached = bench.targets([best, naive, *torch, copy, streamed])
    assert [(round(target.ratio, 3), target.least) for target in reached] == [
        (5.0, 4.0), (1.25, 0.95), (0.5, 0.35), (0.995, 0.99)
    ]  # fmt: skip
    assert all(str(target).endswith("  held") for target in reached)
    assert str(bench.targets([best, result(bench.NAIVE, a=200.0)])[0]).endswith(" 2.50  target 4.0  missed")
    without = bench.targets([best, bench.Result(str(bench.NAIVE), fault="out of memory")])
    assert [target.ratio for target in without] == [None] * 4
    assert all("not measured" in str(target) for target in without)


def test_an_arm_is_its_text(bench):
    assert all(bench.Arm.parse(str(arm)) == arm for arm in bench.ARMS)
    assert str(bench.NAIVE) == "mindspore" and str(bench.Arm("torch", feed="uint8")) == "torch:NCTHW:O0:uint8"
    assert bench.Arm.parse("torch:NTHWC") == bench.Arm("torch", "NTHWC", "O0", "resident", "O0", "normal")


def test_each_lever_has_an_arm_that_differs_only_in_it(bench):
    arms = [asdict(arm) for arm in bench.ARMS if arm.library == "mindspore"]
    alone = {
        frozenset((key, one[key], other[key]) for key in one if one[key] != other[key])
        for one in arms for other in arms
    }  # fmt: skip
    for lever in (
        ("layout", "NCTHW", "NTHWC"), ("layout", "unpadded", "NTHWC"), ("layout", "unfused", "NTHWC"),
        ("convolutions", "normal", "performance"), ("precision", "O0", "O2"),
        ("precision", "O2", "O3"), ("jit", "O0", "O1"), ("feed", "resident", "uint8"), ("feed", "uint8", "float32"),
        ("feed", "uint8", "sink"),
    ):  # fmt: skip
        assert frozenset({lever}) in alone


def test_seconds_are_per_step_when_a_run_makes_several(bench, monkeypatch):
    ticks = iter(range(0, 1000, 8))  # each look at the clock is 8 seconds after the one before
    monkeypatch.setattr(bench.seconds_of.__globals__["time"], "perf_counter", lambda: next(ticks))
    assert bench.seconds_of(lambda _what: 8, "train", 3) == 1.0
    assert bench.seconds_of(lambda _what: 1, "train", 3) == 8.0


@pytest.mark.parametrize("loops", [1, 8])
def test_steps_of_a_sink_launch_are_counted(bench, loops):
    import mindspore as ms
    import numpy as np

    made = ms.Parameter(ms.Tensor([0], ms.int32), name="global_step")

    class Step:
        optimizer = SimpleNamespace(global_step=made)

        def set_train(self, mode):
            assert mode

        def __call__(self, clips, labels):
            assert clips.shape == (3, 2, 8, 8, 3) and clips.dtype == ms.uint8
            assert labels.shape == (3,) and labels.dtype == ms.int32
            made.set_data(made + 1)
            return ms.Tensor(0.5), None

    def data_sink(step, dataset, sink_size, jit_config):
        def launch():
            for _ in range(loops):  # as MindSpore's runtime may, inside each of its Python's `sink_size` calls
                *_, out = [step(*item) for item in dataset.create_tuple_iterator(num_epochs=1)]
            return out

        assert sink_size == dataset.get_dataset_size() == 8
        return launch

    library = SimpleNamespace(
        ms=SimpleNamespace(dataset=ms.dataset, JitConfig=ms.JitConfig, data_sink=data_sink), arm=bench.Arm("mindspore")
    )
    run_steps = bench.MindSpore._sunk(library, Step(), np.zeros((3, 2, 8, 8, 3), np.uint8))
    assert [run_steps("train") for _ in range(3)] == [8 * loops] * 3


def run_bench(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess, dict]:
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), *words, "--json", str(found)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done, json.loads(found.read_text())


def test_without_a_gpu_nothing_is_reported_as_measured(tmp_path):
    done, found = run_bench(tmp_path, "--arms", "mindspore", "copy")
    assert done.returncode == 1 and "nothing was measured" in done.stderr
    assert all("CUDA_VISIBLE_DEVICES hides every card" in result["fault"] for result in found["results"])
    assert not [target for target in found["targets"] if target["ratio"] is not None]
    assert done.stdout.count("not measured") == 4 and not found["results"][0]["clips_per_s"]["train"]


def test_arm_that_hangs_is_stopped_and_others_continue(bench, tmp_path, monkeypatch, capsys):
    hangs = tmp_path / "python"
    measured = '{"arm": "ARM", "values": {"gb_per_s": 5.0}}'
    reports = f"echo 'RESULT {measured}'"
    hangs.write_text(
        f"#!/bin/sh\ncase $* in *copy) {reports}; sleep 60;; *) {reports.replace('ARM', 'mindspore')};; esac\n"
    )
    hangs.chmod(0o755)
    monkeypatch.setattr(bench.sys, "executable", str(hangs))
    monkeypatch.setattr(bench, "ARM_S", 2)
    bench.main(["--arms", "copy", "mindspore", "--json", str(tmp_path / "found.json")])
    assert "copy: stopped after 2 s" in capsys.readouterr().err
    stopped, other = json.loads((tmp_path / "found.json").read_text())["results"]
    assert stopped["fault"] == "stopped after 2 s" and stopped["values"] == {"gb_per_s": 5.0}  # reported before
    assert other == asdict(bench.Result("mindspore", values={"gb_per_s": 5.0}))


def test_arms_in_order_of_value_stop_in_time(bench, tmp_path, monkeypatch, capsys):
    first = ["mindspore:NTHWC:O3", "torch:NTHWC:O2", "copy", "mindspore", "streamed:NTHWC:O3"]
    assert [str(arm) for arm in bench.ARMS[:5]] == first and len({*bench.ARMS}) == len(bench.ARMS) == 20
    slow = tmp_path / "python"
    slow.write_text("""#!/bin/sh\nsleep 1.5; echo 'RESULT {"arm": "mindspore"}'\n""")
    slow.chmod(0o755)
    monkeypatch.setattr(bench.sys, "executable", str(slow))
    began = time.monotonic()
    bench.main(["--seconds", "4", "--json", str(tmp_path / "found.json"), "--torch-python", str(slow)])
    assert time.monotonic() - began < 20
    faults = [result["fault"] for result in json.loads((tmp_path / "found.json").read_text())["results"]]
    assert faults[0] == "" and set(faults[3:]) == {"not started: the time is over"} and len(faults) == 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kind_of_arm_runs_on_the_cpu(tmp_path):
    arms = [
        "mindspore",
        "mindspore:NTHWC",
        "mindspore:unpadded",
        "mindspore:unfused:O3",
        "mindspore:NTHWC:O0:float32",
    ]
    arms += ["copy", "streamed", "mindspore:NTHWC:O0:sink"]
    config = write_config(tmp_path)
    done, found = run_bench(tmp_path, "--device", "CPU", "--tiny", "-c", str(config), "--arms", *arms)
    assert done.returncode == 0, done.stderr
    *mindspore, copy, streamed, sunk = found["results"]  # sunk is refused: MindSpore has no queue on a CPU
    assert sunk["difference"] < 0.05 and sunk["fault"].startswith("ValueError: Data sinking supports ascend or gpu")
    assert not [result["fault"] for result in (*mindspore, copy, streamed) if result["fault"]]
    for result in mindspore:
        assert result["difference"] < 0.05
        assert result["clips_per_s"]["train"]["1"] > 0 and result["clips_per_s"]["forward"]["1"] > 0
    assert copy["values"]["gb_per_s"] > 0
    assert streamed["values"]["streamed_over_resident"] > 0
    assert found["targets"] == [] and "  target " not in done.stdout  # they are of a GPU
