"""Graphs for a GPU, compiled by MindSpore's own plug-in with fake NVIDIA libraries."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from make_cuda import make_cuda
from make_driver import compile_library, make_driver
from paths import ROOT

PROGRAM = """
import os, sys
from dataclasses import replace
import train
assert train.GPU_PROBLEM == "", train.GPU_PROBLEM
import mindspore as ms
import numpy as np
from pipeline.common.settings import Document
from model import channels_last
from model.r2plus1d import VideoResNet
from train.experiment.load import load_config
from train.experiment.sections import Model, Optimizer
from train.network.build import NETWORKS, build_network
from train.device.select import start_device
from train.network.normalize import Normalize
from train.loop.running_statistics import RunningStatistics
from train.network.predictor import Predictor
from train.network.precision import set_amp_level
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer

layout, precision, channels_last.FUSE, others = sys.argv[1], sys.argv[2], "apart" not in sys.argv, "others" in sys.argv
# One block per stage, to compile fast; mid-planes 5, 18, 28, 36 are all padded.
NETWORKS["R2Plus1d18"] = lambda **options: VideoResNet(("split",) * 4, (1, 1, 1, 1), 1, **options)
settings = load_config(Document("train/configs/sample.yaml", {}))
assert start_device(replace(settings, device_target="auto")) == "GPU"
made = build_network(Model(layout=layout, num_classes=5, stage_channels=(8, 8, 16, 16)))
set_amp_level(made, precision)
normalize = Normalize((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
options = Optimizer(loss_scale="dynamic", clip_norm=1.0, ema_decay=0.9)
step = TrainStep(NetworkWithLoss(made, normalize), make_optimizer(options, made, [0.01] * 4), options).set_train(True)
clips, labels = ms.Tensor(np.zeros((2, 4, 24, 24, 3), np.uint8)), ms.Tensor(np.array([1, 3], np.int32))
step.compile(clips, labels)
print("training compiled", file=sys.stderr, flush=True)
if others:
    Predictor(made, normalize).set_train(False).compile(clips)
    step.exchange.compile()
    statistics = RunningStatistics(made)
    statistics.compile(ms.Tensor(np.zeros(1, np.float32)), ms.Tensor(statistics.previous))
print("all compiled", flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> dict[str, str]:
    """Variables of a process that sees a card."""
    if shutil.which("cc") is None or shutil.which("nm") is None:
        pytest.skip("no C compiler and nm to make stand-ins of NVIDIA's libraries with")
    folder = tmp_path_factory.mktemp("cuda")
    make_driver(folder / "driver")
    make_cuda(folder / "site")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "LD_LIBRARY_PATH"))}
    found = {"LD_LIBRARY_PATH": str(folder / "driver"), "PYTHONPATH": f"{folder / 'site'}:{ROOT}"}
    return (
        kept | found | {"STUB_CARDS": "1", "STUB_CAPABILITY": "8", "STUB_LOG": "1", "HOME": str(folder), "GLOG_v": "1"}
    )


def compiled(machine: dict[str, str], *words: str) -> tuple[Counter, Counter]:
    """The calls to cuDNN while training was compiled: batch norms (direction, operators) and algorithms."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, cwd=ROOT, env=machine, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "all compiled\n", done.stderr[-2000:]
    assert "will try to backoff on CPU" not in done.stderr  # an operator without a kernel in the plug-in
    said = done.stderr.partition("training compiled")[0]
    norms = Counter(re.findall(r"^cuda: (forward|backward) \d (\d)$", said, re.MULTILINE))
    return norms, Counter(re.findall(r"^cuda: cudnn(Find|Get)Convolution", said, re.MULTILINE))


ALONE, WITH_RELU = "0", "1"  # cudnnBatchNormOps_t
NUM_NORMS, NUM_BEFORE_RELU = 21, 14  # of 2 and 2 in the stem, 4 and 3 in a block, 3 and 0 in shortcuts


@pytest.mark.slow
def test_float16_fuses_every_batch_norm_and_relu(machine):
    norms, algorithms = compiled(machine, "auto", "O3")
    for direction in ("forward", "backward"):
        assert norms[direction, WITH_RELU] == NUM_BEFORE_RELU
        assert norms[direction, ALONE] == NUM_NORMS - NUM_BEFORE_RELU
    assert not algorithms


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("precision", ["O0", "O2"])
def test_convolutions_searched_float32_norms_not_fused(machine, layout, precision):
    norms, algorithms = compiled(machine, layout, precision, "others")
    assert norms == {("forward", ALONE): NUM_NORMS, ("backward", ALONE): NUM_NORMS}
    # Forward, of the input, of the weights; the first convolution's input has no gradient.
    # MindSpore's two-dimensional ones do not call it in float16.
    asks = precision == "O0" or layout == "NCTHW"
    assert algorithms == ({"Find": 3 * NUM_NORMS - 1} if asks else {})


@pytest.mark.slow
def test_float16_norms_without_fusion_stay_separate(machine):
    for layout in ("NCTHW", "NTHWC"):
        norms, _ = compiled(machine, layout, "O3", "apart", "others")
        assert norms == {("forward", ALONE): NUM_NORMS, ("backward", ALONE): NUM_NORMS}


COPIES = """
import os, sys
import train
import mindspore as ms
import numpy as np
from mindspore import nn, ops
sys.path.insert(0, "tests/benchmarks")
from gpu_arms import resident

ms.set_device("GPU")
ms.set_context(mode=ms.GRAPH_MODE)
target = ms.Parameter(ms.Tensor(np.zeros(123457, np.uint8)), name="target")

class Copy(nn.Cell):
    def construct(self, x):
        return ops.assign(target, x)

for given in (ms.Tensor(np.ones(123457, np.uint8)), resident(ms, np.full(123457, 2, np.uint8))):
    copy = Copy()
    copy(given), target.asnumpy()
    print("compiled", file=sys.stderr, flush=True)
    for _ in range(3):
        copy(given), target.asnumpy()
    print("called", target.asnumpy().sum(), file=sys.stderr, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_a_resident_batch_is_copied_to_the_device_once(machine, tmp_path):
    program = tmp_path / "copies.py"  # MindSpore reads the source of a cell
    program.write_text(COPIES)
    done = subprocess.run([sys.executable, program], cwd=ROOT, env=machine, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    calls = re.findall(r"^compiled$(.*?)^called (\d+)$", done.stderr, re.MULTILINE | re.DOTALL)
    copies = [(said.count("cuda: to the device 123457\n"), int(total)) for said, total in calls]
    assert copies == [(3, 123457), (0, 2 * 123457)]  # of a Tensor, of `resident`


DOCTOR = """
import sys
from train import doctor
doctor.importlib.metadata.version = lambda name: "1.2"  # no wheel is installed
doctor.main(["-c", "train/configs/sample.yaml"])
"""


@pytest.mark.slow
def test_doctor_loads_the_plugin(machine, tmp_path):
    def lines(**variables: str) -> list[str]:
        command = [sys.executable, "-c", DOCTOR]
        done = subprocess.run(command, cwd=ROOT, env=machine | variables, capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if line.startswith("MindSpore on GPU")]

    (line,) = lines()
    assert line.split() == ["MindSpore", "on", "GPU", "ok", "lib/plugin/libmindspore_gpu.so.11.6,", "with", "NVIDIA's",
                            "wheels"]  # fmt: skip
    site = tmp_path / "site"
    shutil.copytree(machine["PYTHONPATH"].partition(":")[0], site)
    compile_library("", site / "nvidia" / "cufft" / "lib" / "libcufft.so.10")
    (line,) = lines(PYTHONPATH=f"{site}:{ROOT}")
    assert " missing " in line and "undefined symbol: cufftExec" in line and line.endswith("Run `make check-gpu`.")
    foreign = tmp_path / "libcublas.so.11"
    shutil.copy(site / "nvidia" / "cublas" / "lib" / "libcublas.so.11", foreign)
    (line,) = lines(LD_PRELOAD=str(foreign))
    assert " missing " in line and f"not of NVIDIA's wheels: {foreign}. Remove them from LD_PRELOAD" in line
