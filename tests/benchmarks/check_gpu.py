"""Whether a GPU computes what this project needs, in minutes: operators, network, training.           (make check-gpu)

    python tests/benchmarks/check_gpu.py [--seconds 1800] [--json FILE]
    python tests/benchmarks/check_gpu.py --device CPU --tiny        a rehearsal without a card

Stages: the machine; the plug-in, and whose libraries it loads; the first operators; every operator against a CPU's
numbers (float32, TF32, float16); in each layout and precision the logits against torchvision's and three training steps
against PyTorch's losses; training and evaluation on a tiny store; the doctor.  Each stage is a process with a time
limit, and one that fails does not stop the others.  Every line is shown at once; exit code 1 if a stage failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from gpu_arms import ROOT, Arm, MindSpore, difference, loss_difference, open_mindspore
from gpu_stages import Outcome, report, run_stage

sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

AT_ONCE = 4  # stages that only check; each compiles graphs on about one core
STEPS = 3
# Largest relative difference of logits and of losses, by precision; float32 is O0.
LOGITS = {"float32": 1e-4, "TF32": 5e-3, "O2": 5e-2, "O3": 5e-2}
LOSSES = {"float32": 1e-4, "TF32": 5e-3, "O2": 2e-2, "O3": 2e-2}


@dataclass(frozen=True)
class Stage:
    """A process.

    Attributes:
        name: the function that it runs, and that function's words.
        limit_s: seconds.
    """

    name: str
    limit_s: float


class WrongError(Exception):
    """A stage's numbers, or a command in it, are wrong."""


def stages(args: argparse.Namespace) -> tuple[list[Stage], list[Stage]]:
    """Those that run one after the other, and those that may run side by side after them."""
    on_gpu = args.device == "GPU"
    first = [Stage("machine", 60), *([Stage("load", 120)] if on_gpu else []), Stage("first", 900)]
    number_formats = ("float32",) if args.tiny else ("float32", "TF32", "float16")
    precisions = ("float32",) if args.tiny else ("O3", "O2", "TF32", "float32")
    checks = [f"operators {each}" for each in number_formats]
    checks += [f"network {layout} {each}" for each in precisions for layout in ("NTHWC", "NCTHW")]
    beside = [Stage(name, 300) for name in (*checks, "train", "doctor")]
    return [*first, Stage("reference", 300)], beside


# --- what runs in a stage's process ----------------------------------------------------------------------------------
def machine(args: argparse.Namespace) -> None:
    """Versions, and the card with its driver."""
    import importlib.metadata

    import train
    from train.device import nvidia

    report(python=sys.version.split()[0], cores=os.cpu_count(), mindspore=importlib.metadata.version("mindspore"))
    if args.device == "CPU":
        return
    if train.GPU_PROBLEM:
        raise WrongError(train.GPU_PROBLEM)
    driver = nvidia.Driver()
    report(card=driver.cards[0].name, driver=driver.version, cuda=driver.cuda,
         compute_capability=".".join(map(str, driver.cards[0].capability)))  # fmt: skip
    report(**{name: importlib.metadata.version(name) for name, _, _ in nvidia.LIBRARIES})


def load(_args: argparse.Namespace) -> None:
    """MindSpore's plug-in, with the libraries of NVIDIA's wheels; the card is not used yet."""
    from train import doctor
    from train.device import nvidia

    maps, problem = doctor.maps_with_plugin()
    if problem:
        raise WrongError(problem)
    check_libraries(maps, nvidia.find_libraries())


def check_libraries(maps: str, wheels: list[Path]) -> None:
    """Report which of NVIDIA's libraries in a process are not of the wheels."""
    from train.device import nvidia

    foreign = nvidia.foreign_libraries(maps, wheels)
    report(foreign_libraries=foreign)
    if foreign:
        raise WrongError(f"not of NVIDIA's wheels: {', '.join(foreign)}")


def first(args: argparse.Namespace) -> None:
    """The first operators: the driver compiles MindSpore's kernels if it must, then cuDNN and cuBLAS are opened."""
    from train.device import kernel_cache, nvidia

    cache = None
    if args.device == "GPU":
        driver = nvidia.Driver()
        if not kernel_cache.has_code_for(driver.cards[0]):
            cache = kernel_cache.KernelCache.of(driver.cards[0], driver)
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
            cache.announce(driver.cards[0])
    ms = open_mindspore(args.device)
    from mindspore import ops

    ones = lambda *shape: ms.Tensor(np.ones(shape, np.float32))  # noqa: E731
    for name, run, expected in (
        ("add", lambda: ones(8) + ones(8), 2), ("add again", lambda: ones(8) + ones(8), 2),
        ("conv2d", lambda: ops.conv2d(ones(1, 8, 6, 6), ones(4, 8, 3, 3)), 72),
        ("matmul", lambda: ops.matmul(ones(8, 16), ones(16, 8)), 16),
    ):  # fmt: skip
        began = time.perf_counter()
        values = run().asnumpy()
        report(operator=name, seconds=round(time.perf_counter() - began, 2))
        if not (values == expected).all():
            raise WrongError(f"{name}: got {values.ravel()[0]}, expected {expected}")
    if cache is not None:
        cache.set_warm()
        report(cache=cache.describe())
    if args.device == "GPU":
        check_libraries(Path("/proc/self/maps").read_text(), nvidia.find_libraries())


def reference(args: argparse.Namespace) -> None:
    """The CPU's numbers of every operator."""
    open_mindspore("CPU")
    import gpu_operators

    arrays = {}
    for case in gpu_operators.cases():
        arrays |= {f"{case.name}/{index:03}": array for index, array in enumerate(case.arrays("float32"))}
    np.savez(args.work / "reference.npz", **arrays)
    report(arrays=len(arrays))


def operators(args: argparse.Namespace, number_format: str, first_case: str = "0") -> None:
    """Every operator in one number format, from a case on; each case is reported when it begins and when it ends."""
    open_mindspore(args.device)
    import gpu_operators

    if args.device == "GPU":
        from train.device.select import allow_tf32

        allow_tf32(number_format == "TF32")
    expected = np.load(args.work / "reference.npz")
    cases = [case for case in gpu_operators.cases() if number_format in case.formats]
    for number, case in enumerate(cases[int(first_case) :], int(first_case)):
        report(case=case.name, number=number)
        bound = gpu_operators.TOLERANCES[case.kind][number_format]
        ours = [expected[key] for key in sorted(expected) if key.rpartition("/")[0] == case.name]
        try:
            off, problem = gpu_operators.difference(case.arrays(number_format), ours), ""
        except Exception as error:  # the next one may work
            off, problem = float("inf"), f"{type(error).__name__}: {first_line(str(error))}"
        if not problem and not off <= bound:
            problem = f"differs by {off:.1e}, {bound:g} is allowed"
        report(case=case.name, number=number, off=off if math.isfinite(off) else None, problem=problem)


def network(args: argparse.Namespace, layout: str, precision: str) -> None:
    """Logits against torchvision's, then training steps against PyTorch's losses."""
    arm = Arm("mindspore", layout, precision if precision.startswith("O") else "O0")
    library = MindSpore(arm, args.device, tf32=precision == "TF32")
    off = difference(library.logits())
    report(logits=off, allowed=LOGITS[precision])
    losses = library.losses(STEPS)
    losses_off = loss_difference(losses)
    report(losses=losses, off=losses_off, allowed=LOSSES[precision])
    if not off <= LOGITS[precision]:
        raise WrongError(f"logits differ by {off:.1e}, {LOGITS[precision]:g} is allowed")
    if not losses_off <= LOSSES[precision]:
        raise WrongError(f"losses differ by {losses_off:.1e}, {LOSSES[precision]:g} is allowed")


def train(args: argparse.Namespace) -> None:
    """The commands of `make train` and `make eval`, on a store of tiny clips."""
    from make_training import write_config

    folder = args.work / "train"
    folder.mkdir()
    words = ["-c", str(write_config(folder)), f"--device_target={args.device}", "--train.epochs=1"]
    if args.device == "GPU":
        words += ["--train.amp_level=O3", "--optimizer.loss_scale=dynamic"]
    if args.tiny:
        words += ["--model.stage_channels=[8,8,8,8]"]
    for module in ("train.train", "train.evaluate"):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT)
        report(module=module, exit_code=done.returncode, seconds=round(time.perf_counter() - began, 1))
        if done.returncode:
            raise WrongError(f"{module} ended with exit code {done.returncode}")


def doctor(args: argparse.Namespace) -> None:
    """What `make doctor` shows."""
    done = subprocess.run([sys.executable, "-m", "train.doctor", f"--device_target={args.device}"], cwd=ROOT)
    if done.returncode:
        raise WrongError(f"the doctor ended with exit code {done.returncode}")


WORK: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (machine, load, first, reference, operators, network, train, doctor)
}


def first_line(text: str) -> str:
    """The first line of an error message that has words."""
    return next((line.strip() for line in text.splitlines() if line.strip("- ")), "")


# --- what runs the stages --------------------------------------------------------------------------------------------
class Runner:
    """Runs stages until the time is over; shows their lines and keeps their results.

    Args:
        args: of the command.
        work: a folder for files that stages share.
    """

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.outcomes: list[Outcome] = []
        self._end = time.monotonic() + args.seconds
        self._lock = threading.Lock()

    def show(self, stage: str, line: str) -> None:
        """Print a line of a stage with the time."""
        with self._lock:
            print(f"{time.strftime('%T')} [{stage}] {line[:400]}", flush=True)

    def run(self, stage: Stage) -> None:
        """Run a stage, and print how it ended."""
        kind = stage.name.split()[0]
        outcome = self.operators(stage) if kind == "operators" else self.process(stage, stage.name)
        self.show(stage.name, f"{outcome.problem or 'ok'}, {outcome.seconds:.1f} s")
        with self._lock:
            self.outcomes.append(outcome)
            self.write()

    def process(self, stage: Stage, words: str) -> Outcome:
        """Run a stage's process with these words."""
        left = self._end - time.monotonic()
        if left < 1:
            return Outcome(stage.name, "not started: the time is over")
        command = [sys.executable, __file__, "--stage", words, "--work", str(self.work), "--device", self.args.device]
        command += ["--tiny"] if self.args.tiny else []
        return run_stage(stage.name, command, min(stage.limit_s, left), lambda line: self.show(stage.name, line))

    def operators(self, stage: Stage) -> Outcome:
        """Run the cases of a stage; after one that ended its process, go on with the next."""
        whole = Outcome(stage.name)
        problems, next_case = [], 0
        while True:
            part = self.process(stage, f"{stage.name} {next_case}")
            whole.seconds += part.seconds
            whole.results += part.results
            problems += [f"{each['case']}: {each['problem']}" for each in part.results if each.get("problem")]
            last = part.results[-1] if part.results else {}
            if part.problem and "off" not in last and last:  # it had begun this case
                problems.append(f"{last['case']}: {part.problem}")
                next_case = last["number"] + 1
                continue
            if part.problem:
                problems.append(part.problem)
            break
        whole.problem = "; ".join(problems)
        return whole

    def write(self) -> None:
        """Write what is known."""
        if self.args.json:
            whole = {"device": self.args.device, "tiny": self.args.tiny, "stages": list(map(asdict, self.outcomes))}
            self.args.json.write_text(json.dumps(whole, indent=1))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", choices=("GPU", "CPU"), default="GPU")
    made.add_argument("--tiny", action="store_true", help="only float32, and a narrow network for training")
    made.add_argument("--seconds", type=float, default=1800, help="after which no stage runs (default 1800)")
    made.add_argument("--json", type=Path, help="write every result here, too")
    made.add_argument("--stage", help=argparse.SUPPRESS)  # one stage, in this process
    made.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return made


def run_all(args: argparse.Namespace) -> list[Outcome]:
    """Run every stage."""
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as folder:
        runner = Runner(args, Path(folder))
        one_by_one, side_by_side = stages(args)
        for stage in one_by_one:
            runner.run(stage)
        with ThreadPoolExecutor(AT_ONCE if args.device == "GPU" else 1) as pool:
            list(pool.map(runner.run, side_by_side))
    return runner.outcomes


def main(argv: list[str] | None = None) -> None:
    """Run one stage, or all."""
    args = parser().parse_args(argv)
    if args.stage:
        kind, *words = args.stage.split()
        code = 0
        try:
            WORK[kind](args, *words)
        except WrongError as error:
            code = 1
            print(error)
        except Exception as error:  # MindSpore's messages have many lines, of which the first says most
            code = 1
            traceback.print_exc(file=sys.stdout)
            print(f"{type(error).__name__}: {first_line(str(error))}")
        sys.stdout.flush()
        os._exit(code)  # MindSpore's own end of a process can hang, or fail after all is done
    outcomes = run_all(args)
    for outcome in outcomes:
        verdict = "FAILED" if outcome.problem else "ok"
        print(f"{verdict:6} {outcome.seconds:7.1f} s  {outcome.stage:24} {outcome.problem}".rstrip())
    sys.exit(any(outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    main()
