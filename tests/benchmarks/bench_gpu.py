"""R(2+1)D-18 on a GPU: checks each arm's logits, then times it, beside PyTorch and a copy.       (make bench-gpu)

    python tests/benchmarks/bench_gpu.py [-c CONFIG] [--seconds 300] [--batches 64 32] [--torch-python PYTHON]
    python tests/benchmarks/bench_gpu.py --device CPU --tiny        a test of the script itself

An arm is one library, layout, precision, feed, jit level and choice of convolutions (Arm in gpu_arms.py), in a process
of its own; one that cannot be measured says why, and the others go on.  Weights are functions of their names, logits
must be torchvision's (tests/resources), and only then steps are timed, each after the one before.  Feeds: `resident`,
the clips are on the device; `uint8`, they come from the host and are normalised on the device; `float32`, they are
normalised on the host; `sink`, MindSpore's queue puts them on the device, and 8 steps are launched at a time (training
only).  `copy` is the bandwidth; `streamed` trains on CONFIG's shards, in turns with steps on a resident batch.
PyTorch may live in another environment (`--torch-python`).  Median of --rounds.  Table on stdout; --json has all of it.
Arms come in the order of what they are worth: with --seconds, all that fits is measured, at batches 64 and 32; run
`make check-gpu` first, in which a new card's driver compiles for minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpu_arms import Arm, MindSpore, Torch, copy_bandwidth, difference, seconds_of, streamed_over_resident
from gpu_stages import report, run_stage

TOLERANCE = {"O0": 5e-3, "O2": 5e-2, "O3": 5e-2}  # of the largest logit; TF32 counts as float32
ARM_S = 1200  # after which an arm that hangs is stopped, with whatever it has started
CLIP_BYTES = 1.8e9  # that a training step moves for a clip of 16 x 112 x 112 in float16, about 14 passes

NAIVE, BEST = Arm("mindspore"), Arm("mindspore", "NTHWC", "O3")
TORCH = (Arm("torch", "NTHWC", "O2"), Arm("torch", "NCTHW", "O2"), Arm("torch"), Arm("torch", "NTHWC"))
ARMS = (
    BEST, TORCH[0], Arm("copy"), NAIVE, Arm("streamed", "NTHWC", "O3"),
    *TORCH[1:], Arm("mindspore", "NTHWC", "O2"), Arm("mindspore", "NTHWC"),
    Arm("mindspore", "NCTHW", "O2"), Arm("mindspore", "NCTHW", "O3"),
    Arm("mindspore", "NCTHW", convolutions="performance"), Arm("mindspore", "NTHWC", convolutions="performance"),
    Arm("mindspore", "unpadded", "O3"), Arm("mindspore", "unfused", "O3"),
    Arm("mindspore", "NTHWC", "O3", "uint8"), Arm("mindspore", "NTHWC", "O3", "float32"),
    Arm("mindspore", "NTHWC", "O3", "sink"), Arm("mindspore", "NTHWC", "O3", "resident", "O1"),
)  # fmt: skip


@dataclass
class Result:
    """What one arm gave.

    Attributes:
        facts: versions and the card.
        difference: of its logits to torchvision's, relative to the largest; None where there are none.
        clips_per_s: by `train` or `forward`, and batch.
        values: anything else: gb_per_s of copy, streamed_over_resident; how far batch norms' statistics are from
            those of the plain layout.
        fault: why it has not been measured, in one line.
    """

    arm: str
    facts: dict[str, str] = field(default_factory=dict)
    difference: float | None = None
    clips_per_s: dict[str, dict[str, float]] = field(default_factory=lambda: {"train": {}, "forward": {}})
    values: dict[str, float] = field(default_factory=dict)
    fault: str = ""


def measure(arm: Arm, args: argparse.Namespace) -> Result:
    """Run one arm in this process; what is known is reported after each batch."""
    result = Result(str(arm))
    shape = (2, 32, 32) if args.tiny else (16, 112, 112)
    try:
        if arm.library == "copy":
            result.values["gb_per_s"] = copy_bandwidth(args.device, 2**24 if args.tiny else 2**30, args.rounds)
            return result
        if arm.library == "streamed":
            ratio = streamed_over_resident(arm, args.device, args.config, args.override, args.rounds)
            result.values["streamed_over_resident"] = ratio
            return result
        library = {"mindspore": MindSpore, "torch": Torch}[arm.library](arm, args.device)
        result.facts, result.difference = library.facts, difference(library.logits())
        if not result.difference <= TOLERANCE[arm.precision]:
            result.fault = f"wrong: logits differ by {result.difference:.1e}, {TOLERANCE[arm.precision]:g} is allowed"
            return result
        if arm.library == "mindspore" and arm.layout != "NCTHW":
            result.values["statistics"] = library.statistics()
            if not result.values["statistics"] <= TOLERANCE[arm.precision]:
                result.fault = f"wrong: batch norms' statistics differ by {result.values['statistics']:.1e}"
                return result
        for batch in args.batches:
            run = library.prepare(batch, shape)
            for what in ("train",) if arm.feed == "sink" else ("train", "forward"):
                result.clips_per_s[what][str(batch)] = batch / seconds_of(run, what, args.rounds)
                report(**asdict(result))
    except Exception as error:  # what was measured before it counts; the table says why there is no more
        lines = [line for line in str(error).splitlines() if line.strip("- ")] or [""]
        result.fault = f"{type(error).__name__}: {lines[0]}"
    return result


@dataclass(frozen=True)
class Target:
    """What is aimed at, as a ratio of training steps, each arm at its best batch.

    Attributes:
        what: over what.
        ratio: measured; None where one of its arms was not.
        least: that is good enough.
    """

    what: str
    ratio: float | None
    least: float

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.what:44} not measured  target {self.least}"
        verdict = "held" if self.ratio >= self.least else "missed"
        return f"{self.what:44} {self.ratio:12.2f}  target {self.least}  {verdict}"


def targets(results: list[Result]) -> list[Target]:
    """Every target, out of the results of every arm."""
    best = {result.arm: max(result.clips_per_s["train"].values(), default=None) for result in results}
    values = {name: value for result in results for name, value in result.values.items()}

    def over(a: float | None, b: float | None) -> float | None:
        return a / b if a and b else None

    ours = best.get(str(BEST))
    torch = max((value for arm in TORCH if (value := best.get(str(arm)))), default=None)
    moved = ours and ours * CLIP_BYTES / 1e9
    return [
        Target("float16 NTHWC / float32 NCTHW", over(ours, best.get(str(NAIVE))), 4.0),
        Target("float16 NTHWC / PyTorch's best", over(ours, torch), 0.95),
        Target("float16 NTHWC / bandwidth bound", over(moved, values.get("gb_per_s")), 0.35),
        Target("streamed from shards / resident", values.get("streamed_over_resident"), 0.99),
    ]


def print_table(results: list[Result], batches: list[int]) -> None:
    """Clips a second of every arm, and why where there are none."""
    columns = [(what, batch) for what in ("train", "forward") for batch in batches]
    print("clips/s of training steps and of forward passes, by batch; logits: largest relative difference")
    print(f"{'arm':44} {'logits':>8}  " + "  ".join(f"{f'{what} {batch}':>11}" for what, batch in columns))
    for result in results:
        cells = [result.clips_per_s[what].get(str(batch)) for what, batch in columns]
        logits = "" if result.difference is None else f"{result.difference:.1e}"
        line = "  ".join(f"{'' if cell is None else f'{cell:.1f}':>11}" for cell in cells)
        other = " ".join(f"{name} {value:.3g}" for name, value in result.values.items())
        print(f"{result.arm:44} {logits:>8}  {line} {other} {result.fault}".rstrip())


def run_arm(arm: Arm, command: list[str], left_s: float) -> Result:
    """Measure an arm in a process of its own; one that is stopped keeps what it has reported."""
    if left_s < 1:
        return Result(str(arm), fault="not started: the time is over")
    outcome = run_stage(str(arm), command, min(ARM_S, left_s))
    result = Result(**outcome.results[-1]) if outcome.results else Result(str(arm), fault="it reported nothing")
    result.fault = outcome.problem or result.fault
    return result


def main(argv: list[str] | None = None) -> None:
    """Run the arms one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", default="train/configs/sample.yaml", help="whose shards are streamed")
    parser.add_argument("--device", choices=("GPU", "CPU"), default="GPU")
    parser.add_argument("--tiny", action="store_true", help="clips of 3x2x32x32: a test of this script")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, help="stop after so long; otherwise every arm is measured")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--arms", nargs="+", default=[str(arm) for arm in ARMS], metavar="LIBRARY[:LAYOUT[:...]]")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that has torch and torchvision")
    parser.add_argument("--json", type=Path, help="write everything here, too")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one arm, in this process
    args, args.override = parser.parse_known_args(argv)
    if wrong := [word for word in args.override if not word.startswith("--") or "=" not in word]:
        parser.error(f"unrecognized argument: {wrong[0]} (overrides of CONFIG look like --section.key=value)")
    args.batches = args.batches or ([1] if args.tiny else [64, 32] if args.seconds else [8, 16, 32, 64, 128])
    args.rounds = args.rounds or (1 if args.tiny else 20)
    if args.measure:
        report(**asdict(measure(Arm.parse(args.measure), args)))
        return
    results: list[Result] = []
    end = time.monotonic() + (args.seconds or float("inf"))
    for arm in map(Arm.parse, args.arms):
        python = args.torch_python if arm.library == "torch" else sys.executable
        words = [*(argv if argv is not None else sys.argv[1:]), "--measure", str(arm)]
        results.append(run_arm(arm, [python, __file__, *words], end - time.monotonic()))
        print(f"{arm}: {results[-1].fault or 'measured'}", file=sys.stderr)
        facts = {key: value for result in results for key, value in result.facts.items()}
        reached = targets(results) if args.device == "GPU" and not args.tiny else []
        if args.json:  # after every arm: a run is long, and may be stopped
            found = {"facts": facts, "results": results, "targets": reached}
            args.json.write_text(json.dumps(found, default=asdict, indent=1))
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print_table(results, args.batches)
    for target in reached:
        print(target)
    if all(result.fault for result in results):
        sys.exit(f"nothing was measured: {results[0].fault}")


if __name__ == "__main__":
    main()
