"""`make check-gpu`: crashes, hangs and wrong numbers are found and named, and the rest goes on."""

import importlib
import json
import shutil
import subprocess
import sys
import threading
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
from paths import ROOT
from run_make import environment_of_make

SCRIPT = ROOT / "tests" / "benchmarks" / "check_gpu.py"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """Benchmarks are programs: their folder is on the path only for these tests."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def check(scripts):
    return importlib.import_module("check_gpu")


@pytest.fixture(scope="module")
def operators(scripts):
    return importlib.import_module("gpu_operators")


def ran(check, program: str, limit_s: float = 200, show=lambda _line: None):
    """The outcome of a Python program as a stage."""
    head = f"import os, signal, subprocess, sys, time; sys.path.insert(0, {str(SCRIPT.parent)!r}); "
    command = [sys.executable, "-c", f"{head}from gpu_stages import report\n{program}"]
    return check.run_stage("stage", command, limit_s, show)


def test_results_and_lines_come_at_once(check, tmp_path):
    shown, seen = [], tmp_path / "seen"

    def show(line: str) -> None:
        shown.append(line)
        if line == "words":
            seen.touch()

    waits = f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)"
    program = f"report(a=1)\nprint('words', flush=True)\n{waits}\nreport(b=[2.5, None])\ntime.sleep(0.3)"
    outcome = ran(check, program, show=show)
    assert outcome.problem == "" and outcome.results == [{"a": 1}, {"b": [2.5, None]}] and outcome.seconds >= 0.3
    assert shown == ['RESULT {"a": 1}', "words", 'RESULT {"b": [2.5, null]}']


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("print('why'); print('----'); sys.exit(3)", "exit code 3: why"),
        ("sys.exit(3)", "exit code 3: it printed nothing"),
        ("raise ValueError('a reason')", "exit code 1: ValueError: a reason"),
    ],
)
def test_a_crash_is_named_and_keeps_results(check, program, problem):
    outcome = ran(check, f"report(a=1)\n{program}")
    assert outcome.problem == problem and outcome.results == [{"a": 1}]


def test_stage_that_hangs_is_killed_with_its_children(check, monkeypatch):
    reported, given = threading.Event(), []

    def timer(seconds, act):
        given.append(seconds)
        thread = threading.Thread(target=lambda: (reported.wait(), act()))
        thread.cancel = lambda: None
        return thread

    monkeypatch.setattr(threading, "Timer", timer)
    # The child also has the pipe: if it were not killed too, this would end after ten minutes.
    program = "child = subprocess.Popen(['sleep', '600'])\nreport(a=1)\nchild.wait()"
    outcome = ran(check, program, 3, lambda _line: reported.set())
    assert outcome.problem == "stopped after 3 s" and outcome.results == [{"a": 1}] and given == [3]


def test_difference_sees_whatever_is_wrong(operators):
    expected = [np.array([1.0, -4.0]), np.array([np.inf, 2.0])]
    assert operators.difference([each.copy() for each in expected], expected) == 0
    assert operators.difference([np.array([1.0, -4.4]), expected[1]], expected) == pytest.approx(0.1)
    for wrong in ([expected[0]], [np.array([1.0]), expected[1]], [np.array([1.0, np.nan]), expected[1]],
                  [expected[0], np.array([1.0, 2.0])]):  # fmt: skip
        assert operators.difference(wrong, expected) == np.inf


def results_of(capfd) -> list[dict]:
    lines = capfd.readouterr().out.splitlines()
    return [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]


def test_a_wrong_operator_is_named_and_others_run(check, operators, tmp_path, monkeypatch, capfd):
    def fails(_half):
        raise RuntimeError("\n----\nno kernel\nmore")

    made = [
        operators.Case("right", "simple", lambda _half: [np.ones(3)]),
        operators.Case("wrong", "simple", lambda _half: [np.array([1, 1.001, 1])]),
        operators.Case("fails", "simple", fails),
        operators.Case("only once", "simple", fails, ("float32",)),
        operators.Case("last", "simple", lambda _half: [np.array([1, 1.001, 1])]),
    ]
    np.savez(tmp_path / "reference.npz", **{f"{case.name}/000": np.ones(3) for case in made})
    monkeypatch.setattr(operators, "cases", lambda: made)
    monkeypatch.setattr(check, "open_mindspore", lambda _device: None)
    args = Namespace(device="CPU", work=tmp_path)
    check.operators(args, "float16")
    done = {each["case"]: each["problem"] for each in results_of(capfd) if "problem" in each}
    assert done == {"right": "", "wrong": "", "fails": "RuntimeError: no kernel", "last": ""}  # float16 is coarse
    check.operators(args, "float32", "1")
    wrong, *_others = [each for each in results_of(capfd) if "problem" in each]
    assert wrong["case"] == "wrong" and wrong["problem"] == "differs by 1.0e-03, 1e-05 is allowed"


def test_case_that_ends_its_process_is_passed_over(check, tmp_path, monkeypatch):
    parts = [
        check.Outcome("", "killed by SIGSEGV", 1.0, [{"case": "a", "number": 0},
                      {"case": "a", "number": 0, "off": 0.0, "problem": ""}, {"case": "b", "number": 1}]),
        check.Outcome("", "", 2.0, [{"case": "c", "number": 2},
                                    {"case": "c", "number": 2, "off": 1.0, "problem": "off"}]),
    ]  # fmt: skip
    words = []

    def process(_self, _stage, given):
        words.append(given)
        return parts[len(words) - 1]

    monkeypatch.setattr(check.Runner, "process", process)
    runner = check.Runner(Namespace(seconds=100, json=tmp_path / "found.json", device="GPU", tiny=False), tmp_path)
    runner.run(check.Stage("operators float32", 9))
    assert words == ["operators float32 0", "operators float32 2"]
    (stage,) = json.loads((tmp_path / "found.json").read_text())["stages"]
    assert stage["problem"] == "b: killed by SIGSEGV; c: off" and stage["seconds"] == 3.0


def test_no_stage_starts_after_the_time(check, tmp_path):
    runner = check.Runner(Namespace(seconds=0.5, json=None, device="CPU", tiny=True), tmp_path)
    runner.run(check.Stage("operators float32", 9))
    runner.run(check.Stage("doctor", 9))
    assert [each.problem for each in runner.outcomes] == ["not started: the time is over"] * 2


@pytest.mark.parametrize(("logits", "losses", "problem"), [
    (1e-5, 1e-5, ""), (float("nan"), 0.0, "logits differ by nan"), (2e-4, 0.0, "logits differ by 2.0e-04, 0.0001 is "),
    (0.0, 1e-3, "losses differ by 1.0e-03, 0.0001 is allowed"),
])  # fmt: skip
def test_wrong_network_is_found(check, monkeypatch, capfd, logits, losses, problem):
    library = SimpleNamespace(logits=lambda: None, losses=lambda _steps: [1.0])
    monkeypatch.setattr(check, "MindSpore", lambda _arm, _device, tf32: library)
    monkeypatch.setattr(check, "difference", lambda _logits: logits)
    monkeypatch.setattr(check, "loss_difference", lambda _losses: losses)
    args = Namespace(device="CPU")
    if not problem:
        return check.network(args, "NTHWC", "float32")
    with pytest.raises(check.WrongError, match=f"^{problem}"):
        check.network(args, "NTHWC", "float32")


def test_every_stage_has_its_function_and_formats(check, operators):
    for device in ("CPU", "GPU"):
        names = {tiny: [stage.name for part in check.stages(Namespace(device=device, tiny=tiny)) for stage in part]
                 for tiny in (True, False)}  # fmt: skip
        assert {name.split()[0] for name in names[False]} == set(check.WORK) - ({"load"} if device == "CPU" else set())
        assert set(names[True]) < set(names[False])
        assert {f"operators {each}" for each in operators.FORMATS} < set(names[False])
    assert len({case.name for case in operators.cases()}) == len(operators.cases())
    assert all(case.formats[0] in operators.TOLERANCES[case.kind] for case in operators.cases())


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_norms_of_large_activations_match_numpy(operators, layout):
    ms, before = operators.ms, operators.ms.get_context("mode")
    (case,) = [each for each in operators.cases() if each.name == f"{layout} norm, large, training"]
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        out, *others = case.arrays("float32")
    finally:
        ms.set_context(mode=before)
    x = np.clip(operators.draw("large", 4, 2, 6, 6, 16) * 2e4, -3e4, 3e4).astype(np.float16).astype(np.float64)
    assert np.square(x).max() > np.finfo(np.float16).max  # a square, or the variance, needs float32
    mean, variance = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    gamma, beta = (operators.draw(f"norm, large.{name}", 16) * 0.5 for name in ("gamma", "beta"))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    if layout == "NCTHW":
        expected = expected.transpose(0, 4, 1, 2, 3)
    assert operators.difference([out], [expected]) < 1e-5
    assert all(np.isfinite(each).all() for each in others)
    assert np.abs(others[-1] / (0.9 + 0.1 * variance) - 1).max() < 0.01  # the running variance


def test_make_installs_nothing_for_a_rehearsal(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()

    def would_do(*words: str) -> str:
        command = ["make", "-n", *words]
        clean = environment_of_make()
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True).stdout

    for verb in ("check-gpu", "bench-gpu"):
        for words in ("--device CPU --tiny", "--tiny --device=CPU"):
            done = would_do(verb, f"ARGS={words}")
            assert "-m pip install" not in done and f"{verb.replace('-', '_')}.py" in done
        assert "[gpu]" in would_do(verb) and "[gpu]" in would_do(verb, "ARGS=--tiny")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whole_rehearsal_passes_on_a_cpu(operators, tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--device", "CPU", "--tiny", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    stages = {each["stage"]: each for each in json.loads(found.read_text())["stages"]}
    assert not [each["problem"] for each in stages.values() if each["problem"]]
    assert list(stages) == ["machine", "first", "reference", "operators float32", "network NTHWC float32",
                            "network NCTHW float32", "train", "doctor"]  # fmt: skip
    assert len(stages["operators float32"]["results"]) == 2 * len(operators.cases())
    assert [each["exit_code"] for each in stages["train"]["results"]] == [0, 0]
    assert all(f"ok{each['seconds']:12.1f} s" in done.stdout for each in stages.values())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_a_card_every_stage_on_it_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    stages = {each["stage"]: each["problem"] for each in json.loads(found.read_text())["stages"]}
    assert [name for name, problem in stages.items() if not problem] == ["reference"]
    assert stages["machine"].endswith("CUDA_VISIBLE_DEVICES hides every card. Unset it to use one.")
