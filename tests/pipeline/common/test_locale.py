"""Names beyond ASCII are found, stored and shown whatever the locale, because Python starts again in UTF-8 mode."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from pipeline.ledger.table import read_ledger

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "caf\u00e9 \u65e5\u672c"


def manifests(folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Build the ledgers of one video whose folder, file and label have a name beyond ASCII."""
    data = folder / NAME
    data.mkdir(exist_ok=True)
    (data / f"{NAME}.mp4").touch()
    (data / "train.csv").write_text(f"path,label\n{NAME}.mp4,{NAME}\n", encoding="utf-8")
    keys = {"dataset": "d", "data_root": str(data)}
    (folder / "x.yaml").write_text(json.dumps({"preprocess": keys}, ensure_ascii=False), encoding="utf-8")
    words = ["-m", "pipeline.manifests", "-c", str(folder / "x.yaml"), f"--preprocess.store={folder / NAME}-shards",
             f"--preprocess.manifests={folder}/m"]  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if key != "LANG" and not key.startswith(("LC_", "PYTHON"))}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env={**clean, **environment}, capture_output=True)


def check(folder: Path, **environment: str) -> None:
    done = manifests(folder, **environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    ledger = read_ledger(folder / "m" / "d" / "train.csv")
    assert ledger[["path", "label", "status"]].to_numpy().tolist() == [[f"{NAME}.mp4", NAME, "pending"]]


def test_ascii_locale_finds_every_file(tmp_path):
    check(tmp_path, **ASCII)


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "ascii"}])
def test_other_ascii_settings_find_every_file(environment, tmp_path):
    check(tmp_path, **environment)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("localedef"), reason="localedef makes the locale")
def test_latin_locale_finds_every_file(tmp_path):
    (tmp_path / "locales").mkdir()
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "locales" / "en_US.ISO-8859-1"])
    if made.returncode > 1:
        pytest.skip("no sources of locales")
    check(tmp_path, LOCPATH=str(tmp_path / "locales"), LC_ALL="en_US.ISO-8859-1")


def test_stdout_shows_what_it_cannot_print(tmp_path):
    program = f"""
import runpy, sys
sys.argv[:1] = ["-m"]
import pipeline
print({NAME!r}, "\\udce9")
"""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout == rb"caf\xe9 \u65e5\u672c \udce9" + b"\n"
