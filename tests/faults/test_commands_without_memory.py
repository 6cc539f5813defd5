"""Memory that runs out in evaluate, infer or export is one line; weights that cannot be read now are not corrupted."""

import errno
import os
import resource
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from paths import CONFIGS

from pipeline.common.errors import machine_fault
from train import evaluate, export, infer
from train.loop.health import OutOfMemoryError
from train.weights.files import WeightFileError, read_ckpt, read_safetensors, write_safetensors

# MindSpore's message for a CPU whose memory is full.
FULL = "\n-----\n- Memory not enough:\n-----\nMemory isn't enough and alloc failed, kernel name: x, alloc size: 96B.\n"


@pytest.mark.parametrize(
    ("command", "section", "doing", "key"),
    [
        (evaluate, "eval", "score", "data_loader.eval.dataset.batch_size: got 16"),
        (infer, "infer", "predict_files", "data_loader.eval.dataset.batch_size: got 16"),
        (export, "export", "export", "export.batch_size: got 1"),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError(FULL), MemoryError("Unable to allocate 3 GiB")])
def test_memory_that_runs_out_is_one_line(
    command: ModuleType, section: str, doing: str, key: str, error: Exception, tmp_path, monkeypatch
):
    def full(*_: object, **__: object) -> None:
        raise error

    for name in ("load_predictor", "load_weights", "build_network"):
        monkeypatch.setattr(command, name, lambda *_, **__: (None, {}), raising=False)
    videos, plan = SimpleNamespace(class_names=[], name="x"), SimpleNamespace(counts=[])
    source = SimpleNamespace(videos=videos, plan=plan, num_batches=1)
    monkeypatch.setattr(evaluate, "Evaluation", lambda _, **__: source)
    monkeypatch.setattr(evaluate, "load_for", lambda *_: (None, {}))
    monkeypatch.setattr(export, "metadata", lambda *_: {})
    monkeypatch.setattr(command, doing, full)
    weights = tmp_path / "w.ckpt"
    weights.touch()
    words = ["-c", str(CONFIGS / "sample.yaml"), f"--preprocess.manifests={tmp_path}"]
    words += [f"--{section}.pretrained_model={weights}", f"--infer.output_dir={tmp_path}"]
    with pytest.raises(OutOfMemoryError) as caught:
        command.main([*words, f"--infer.image_path={weights}"])
    assert str(caught.value).startswith(f"{key}, which does not fit in memory (") and "\n" not in str(caught.value)


def test_weights_that_cannot_be_read_now_are_intact(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"a": np.ones(3, np.float32)}, {"model": "x"})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for read in (read_safetensors, read_ckpt):
        with pytest.raises(OSError, match="Too many open files") as caught:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
                read(path)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert caught.value.errno == errno.EMFILE and machine_fault(caught.value).startswith(f"{path}: too many open")
    assert read_safetensors(path)[1] == {"model": "x"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightFileError, match="corrupted"):
        read_safetensors(path)


def test_disk_error_under_torch_is_no_damage(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from train.weights.files import read_pth

    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(3)}, path)

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
        read_pth(path)


def test_traceback_of_a_child_becomes_its_last_line():
    told = 'Traceback (most recent call last):\n  File "a.py", line 1\nImportError: libx.so: failed to map segment'
    error = ImportError("libx.so")
    error.__cause__ = RuntimeError(f'\n"""\n{told}\n"""')  # as joblib tells it
    assert machine_fault(error) == "out of memory: libx.so: failed to map segment"
