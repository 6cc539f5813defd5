"""Verbs run for real with hostile paths: nothing is lost on the way from the shell to the disk, and nothing is run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import CONFIGS, ROOT
from run_make import clone, environment_of_make

pytestmark = pytest.mark.slow
ODD = "R&D 'x' \"y\"; `touch x` $(touch x) $HOME #1 \u65e5\u672c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A clone whose Python is this one; its sample has 16, 6 and 3 videos."""
    made = clone(tmp_path_factory.mktemp("runs") / ODD)
    python = made / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    for name in ("pipeline", "train", "model", "data_manifests"):
        (made / name).symlink_to(ROOT / name)
    shutil.copy(CONFIGS / "sample.yaml", made / f"-{ODD}.yaml")
    run_verb(made, "sample", f"ARGS=--out={quoted(f'data/{ODD}')} --train=16 --val=6 --test=3")
    return made


def quoted(text: str) -> str:
    """A word as a shell quotes it."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def run_verb(folder: Path, *words: str) -> str:
    """Run make, and return what it prints on stdout."""
    environment = environment_of_make(XDG_CACHE_HOME=os.environ["XDG_CACHE_HOME"])
    command = ["make", "-s", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not (folder / "x").exists(), "the shell ran a part of a path"
    return done.stdout


@pytest.fixture(scope="module")
def settings(folder) -> list[str]:
    return [f"CONFIG=-{ODD}.yaml", f"DATA=data/{ODD}", f"STORE=-store {ODD}", f"NAME=-{ODD}"]


@pytest.fixture(scope="module")
def trained(folder, settings) -> str:
    """What `make train` prints."""
    small = "--model.stage_channels=[4,4,4,4] --train.epochs=1 --data_loader.train.dataset.batch_size=4"
    odd = f"--preprocess.manifests={quoted(f'ledgers {ODD}')} --preprocess.max_bad_fraction=0.3"
    return run_verb(folder, "train", *settings, f"ARGS={small} --context.mode=1 {odd} --train.ckpt_path=runs")


def test_train_writes_only_where_it_was_told(trained, folder):
    assert "video top-1" in trained and len(trained.splitlines()) == 1
    assert len(list((folder / f"ledgers {ODD}" / f"-{ODD}").glob("*.csv"))) >= 3
    assert list((folder / f"-store {ODD}").glob("*.h5"))
    assert not (folder / "data_manifests" / f"-{ODD}").exists()


def test_infer_takes_the_run_just_trained(trained, folder):
    source = next((folder / "data" / ODD / "val").glob("*.mp4"))
    video = shutil.copy(source, folder / f"-{ODD}.mp4").name
    out = run_verb(folder, "infer", f"VIDEO={video}", f"OUT=-out {ODD}", "ARGS=--context.mode=1")
    assert out.startswith("1. ") and (folder / f"-out {ODD}" / f"-{ODD}-predicted.gif").is_file()


def test_other_verbs_take_the_run_too(trained, folder):
    run_folder = next((folder / "runs").glob("*/*"))
    assert "video top-1" in run_verb(folder, "eval", "ARGS=--context.mode=1")
    moved = shutil.copytree(run_folder, folder / f"-run {ODD}")
    assert "video top-1" in run_verb(folder, "eval", f"CKPT={moved.name}", "SPLIT=train", "ARGS=--context.mode=1")
    run_verb(folder, "export", f"CKPT={moved.name}")
    assert list(moved.glob("export/*.mindir"))
    run_verb(folder, "report", f"CKPT={moved.name}")
    assert (moved / "report" / "index.html").is_file() and (moved / "report" / "learning_curves.png").is_file()


def test_convert_verify_estimate_and_doctor(trained, folder, settings):
    weights = next((folder / "runs").glob("*/*/ckpt/*[0-9].ckpt"))
    shutil.copy(weights, folder / f"-{ODD}.ckpt")
    narrow = "ARGS=--model.stage_channels=[4,4,4,4]"
    run_verb(folder, "convert", f"FROM=-{ODD}.ckpt", f"TO=-{ODD}.safetensors", settings[0], narrow)
    assert (folder / f"-{ODD}.safetensors").is_file()
    ledgers = f"ARGS=--preprocess.manifests={quoted(f'ledgers {ODD}')}"
    assert "3 shards" in run_verb(folder, "verify", *settings, ledgers)
    for verb in ("estimate", "preprocess"):
        run_verb(folder, verb, *settings, ledgers + " --preprocess.max_bad_fraction=0.3")
    assert run_verb(folder, "manifests", *settings, ledgers + " --json").startswith("{")
    assert "All is right" in run_verb(folder, "manifests", *settings, ledgers + " --check")
