"""Every benchmark runs once at its smallest size, so that it still works when its numbers are needed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from make_videos import write_mp4
from paths import ROOT

FOLDER = ROOT / "tests" / "benchmarks"
ELSEWHERE = {"bench_gpu"}  # test_bench_gpu.py runs it
NO_TORCH = ["--torch-python", shutil.which("false") or "false"]  # the arm is left out, wherever PyTorch is installed

# The words of each run, the beginning of each row of its table, and how many numbers the row has at least.
RUNS = {
    "bench_evaluate": (
        ["--videos", "50", "--rounds", "1", "--tiny"],
        {"  views of 50 videos  ": 2, "  results of 50 videos, 400 classes  ": 2,
         "  evaluation / bare forward, clips/s  ": 3},
    ),
    "bench_infer": (
        ["--tiny"],
        {"  infer  ": 3, "  decoding alone  ": 3, "  eval alone  ": 3, "  infer / one after the other  ": 2,
         "  infer / the slower of the two  ": 2, "  infer --window=1  ": 3},
    ),
    "bench_loader": (
        ["--rounds", "1", "--videos", "16", *NO_TORCH],
        {
            "  loader  ": 3, "  memcpy  ": 3, "  loader, flip 0.5  ": 3, "  = loader / memcpy  ": 1,
            "  = loader, flip 0.5 / memcpy  ": 1, "  = first 50 batches / the rest, flat out, epoch 0  ": 1,
            "  = first 50 batches / the rest, flat out, later  ": 1, "  = the first batch, ms  ": 1,
            "  = the next 50 batches / the rest  ": 1, "  = time spent waiting after the first, %  ": 1,
            "  = reader / np.memmap  ": 1, "  = reader / h5py, its own chunks  ": 1,
            "  = reader / h5py, a frame a chunk  ": 1, "  = reader / from the video  ": 1,
            "  = read ahead / mapped only, one thread  ": 1, "  = clips/s of one core  ": 1,
        },
    ),
    "bench_loader_scale": (
        ["--shards", "2", "--batches", "20"],
        {"120 rows, ": 2, "first batch: ": 3, "  memory at its highest ": 5, "batch     10: ": 4, "batch     20: ": 4},
    ),
    "bench_manifests": (
        ["--rows", "60", "--own", "800", "--shards"],
        {
            "60 rows, ": 1, "  build (no ledgers yet)  ": 3, "  rebuild (ledgers there)  ": 3, "  check  ": 3,
            "  3 shards:": 0, "  rebuild from CSVs and shards  ": 3, "  rebuild, every row filled in  ": 3,
            "  check, every row filled in  ": 3, "  microseconds of CPU time a row: ": 6,
            "800 own videos in 400 class folders:": 0,
        },
    ),
    "bench_preprocess": (
        ["VIDEO", "--rounds", "1"],
        {
            "decord only  ": 3, "PyAV only  ": 3, "stage raw  ": 3, "stage jpeg  ": 3, "stage pyav  ": 3,
            "usual script  ": 3, "usual, every frame  ": 3, "two at once  ": 3, "stage / decord only  ": 3,
            "stage pyav / PyAV only  ": 4, "usual, every frame / stage pyav  ": 3, "usual script / stage pyav  ": 2,
            "usual, every frame / stage  ": 2, "usual script / stage  ": 2, "usual, every frame / PyAV only  ": 2,
            "stage pyav / stage  ": 2, "stage jpeg / stage  ": 3, "two at once / 2 x one, speed  ": 3,
        },
    ),
    "bench_preprocess --memory": (["--memory", "--frames", "30"], {"raw  ": 3, "jpeg  ": 3}),
    "bench_report": (["--videos", "40", "--classes", "6"], {"  report of 40 videos, 6 classes  ": 4}),
    "bench_step": (
        ["--rounds", "1", "--batch", "1", *NO_TORCH],
        {"train, 1 clips of ": 1, "forward, 1 clips of ": 1, "  MindSpore  ": 3, "  ONNX  ": 3},
    ),
    "bench_train streaming": (
        ["streaming", "--tiny"],
        {"streaming, sample's network, ": 6, "  clips/s, streamed over resident: ": 6,
         "  clips per CPU second, streamed over resident: ": 6},
    ),
    "bench_train streaming-full": (
        ["streaming-full", "--tiny"],
        {"streaming, R(2+1)D-18, ": 6, "  clips/s, streamed over resident: ": 6,
         "  clips per CPU second, streamed over resident: ": 6},
    ),
    "bench_train checkpoint": (["checkpoint", "--tiny"], {"checkpoint of ": 4}),
    "bench_train start": (["start", "--tiny"], {"process start to ": 3, "loop entered to ": 3}),
}  # fmt: skip


def test_every_benchmark_has_a_tiny_run():
    assert {path.stem for path in FOLDER.glob("bench_*.py")} == {name.split()[0] for name in RUNS} | ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_benchmark_runs_at_its_smallest_size(name: str, tmp_path: Path):
    words, rows = RUNS[name]
    video = str(write_mp4(tmp_path / "video.mp4"))
    words = [video if word == "VIDEO" else word for word in words]
    command = [sys.executable, str(FOLDER / f"{name.split()[0]}.py"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for start, count in rows.items():
        found = [line.removeprefix(start) for line in lines if line.startswith(start)]
        assert found, f"no row {start!r} in:\n{done.stdout}"
        for rest in found:
            assert len(re.findall(r"\d[\d,.]*", rest)) >= count, f"{start}{rest}"
            assert "nan" not in rest
