"""What preprocessing costs beside decoding alone, the usual script and ffmpeg.

    python tests/benchmarks/bench_preprocess.py [FILE ...] [--rounds 5] [--ffmpeg PROGRAM]
    python tests/benchmarks/bench_preprocess.py --memory [--frames 3600]

Without files: the H.264 files of ../shared/videos where there is such a folder (real), and a dozen videos of the sample
dataset (`make sample`).  The arms take turns, A B C A B C ..., on the same files, and the median round of each counts.
CPU seconds are those of this process and of all its children, found in /proc, per frame of the source; starting Python
is not counted.  Ratios are of CPU seconds.

    decord only     decord's loop over every frame, one thread, RGB out
    PyAV only       PyAV's, without colour conversion: what of the usual script is decoding
    stage raw       what `make preprocess` does: decoder process, resize, CRC, shared memory, HDF5, fsync
    stage jpeg      the same with codec jpeg
    stage pyav      stage raw with preprocess.decoder: pyav
    usual script    PyAV, to_ndarray, cv2.resize, create_dataset of the same frames
    ffmpeg          ffmpeg -vf fps,scale to raw RGB through a pipe (needs the program)
    two at once     the stage twice, each on its own copy of the work and on its own core

All arms but the last have one core for all their threads and processes: each overlaps some work, and would look the
faster for it beside the arm that has work for both cores.

`--memory` makes a video of 1080p instead, two minutes long, and prints the most memory of a decoder process (VmHWM).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import decord
import h5py
import numpy as np

from pipeline.shards.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.common.recipe import Preprocess  # noqa: E402
from pipeline.decoding.container import Source, probe  # noqa: E402
from pipeline.decoding.decode import decode_video  # noqa: E402
from pipeline.decoding.process import Decoder  # noqa: E402
from pipeline.decoding.video_file import DecodeError, open_video  # noqa: E402
from pipeline.execution.plan import PlannedVideo, Task  # noqa: E402
from pipeline.execution.write_shard import write_shard  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def source_of(path: Path) -> Source:
    """What a video's container says."""
    with open_video(path) as file:
        return probe(file)


TWO = "two at once"
MIN_SECONDS = 2.0  # of decoding a round: /proc counts hundredths


def cpu_seconds() -> float:
    """User and system time of this process, its live children and those it has waited for."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    return total + sum((int(fields[11]) + int(fields[12])) / TICKS for fields in children().values())


def children() -> dict[Path, list[str]]:
    """Folders in /proc of this process's live children, and the fields of their `stat` behind the name."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended since
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found[Path(entry.path)] = fields
    return found


class Arms:
    """The ways of doing it; each takes the files and returns nothing."""

    def __init__(self, files: list[Path], folder: Path, ffmpeg: str | None) -> None:
        self.files, self.folder, self.ffmpeg = files, folder, ffmpeg
        raw = Preprocess(data_root="/", store=str(folder))
        self.settings = [raw, raw, replace(raw, codec="jpeg"), replace(raw, decoder="pyav")]
        cores = sorted(os.sched_getaffinity(0))
        self.decoders = {
            number: Decoder(settings, cores[-1 if number == 1 else 0]) for number, settings in enumerate(self.settings)
        }
        for decoder in self.decoders.values():
            list(decoder.decode(files[:1]))  # started and warm

    def decord_only(self) -> None:
        for path in self.files:
            reader = decord.VideoReader(str(path), num_threads=1)
            for _ in range(len(reader)):
                reader.next()

    def pyav_only(self) -> None:
        for path in self.files:
            with av.open(str(path)) as container:
                stream = container.streams.best("video")
                stream.codec_context.thread_count = 1
                for _ in container.decode(stream):
                    pass

    def stage(self, number: int = 0) -> None:
        videos = tuple(PlannedVideo(f"video{k:05d}", str(path)) for k, path in enumerate(self.files))
        task = Task(self.folder / f"train-{number:05d}-of-00004.h5", "train", videos)
        write_shard(task, self.settings[number], Store(self.folder), self.decoders[number], lambda _outcome: None)

    def stage_jpeg(self) -> None:
        self.stage(2)

    def stage_pyav(self) -> None:
        self.stage(3)

    def two_at_once(self) -> None:
        threads = [threading.Thread(target=self.stage, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def usual_script(self) -> None:
        path = self.folder / "usual.h5"
        with h5py.File(path, "w") as out:
            for number, video in enumerate(self.files):
                frames = []
                with av.open(str(video)) as container:
                    stream = container.streams.best("video")
                    step = max(1.0, float(stream.average_rate) / 15)
                    for count, frame in enumerate(container.decode(stream)):
                        if count == int(len(frames) * step):
                            frames.append(cv2.resize(frame.to_ndarray(format="rgb24"), (171, 128)))
                out.create_dataset(str(number), data=np.stack(frames))

    def usual_script_every_frame(self) -> None:
        path = self.folder / "every.h5"
        with h5py.File(path, "w") as out:
            for number, video in enumerate(self.files):
                with av.open(str(video)) as container:
                    pictures = container.decode(container.streams.best("video"))
                    frames = [cv2.resize(picture.to_ndarray(format="rgb24"), (171, 128)) for picture in pictures]
                out.create_dataset(str(number), data=np.stack(frames))

    def run_ffmpeg(self) -> None:
        for video in self.files:
            one_thread = ["-threads", "1", "-filter_threads", "1"]
            shape = ["-vf", "fps=15,scale=171:128:flags=bilinear", "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:"]
            command = [str(self.ffmpeg), "-v", "error", *one_thread, "-i", str(video), *shape]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                while process.stdout.read(1 << 20):
                    pass

    def clear(self) -> None:
        """Remove what an arm has written: it would be copied from instead of decoded again, and takes time to free."""
        for path in self.folder.glob("*.h5"):
            path.unlink()

    def close(self) -> None:
        for decoder in self.decoders.values():
            decoder.close()


def count_frames(path: Path) -> int:
    """Frames by decord's account."""
    return len(decord.VideoReader(str(path), num_threads=1))


def default_files() -> dict[str, list[Path]]:
    """Real and sample videos that all arms decode to the same frames: decord repeats some where a cut hides others."""
    real = [path for path in sorted((ROOT.parent / "shared/videos").glob("*.m*")) if source_of(path).codec == "h264"]
    sound = []
    for path in real:
        try:
            if decode_video(path, Preprocess()).source.source_frames == count_frames(path):
                sound.append(path)
        except DecodeError:
            continue
    sets = {"real": sound, "sample": sorted((ROOT / "data/sample/val").glob("*.mp4"))[:12]}
    return {name: files for name, files in sets.items() if files}


Seconds = dict[str, dict[str, tuple[float, float]]]
"""CPU and wall seconds a frame of each arm, for each set of files and the whole."""


def measure(arms: dict[str, Callable[[], None]], ways: Arms, sets: dict[str, list[Path]], rounds: int) -> Seconds:
    """Run the arms by turns on each set of files; the medians of the rounds."""
    frames = {name: sum(map(count_frames, files)) for name, files in sets.items()}
    repeats = {name: max(1, int(MIN_SECONDS / 0.0004 / len(sets) / count)) for name, count in frames.items()}
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {name: {each: [] for each in sets} for name in arms}
    cores = os.sched_getaffinity(0)
    for _ in range(rounds):
        for name, arm in arms.items():
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # one of decord's that has ended since
                    os.sched_setaffinity(int(thread.name), cores if name == TWO else {min(cores)})
            for each, files in sets.items():
                ways.files = files * repeats[each]
                cpu, wall = cpu_seconds(), time.perf_counter()
                arm()
                count = frames[each] * repeats[each] * (2 if name == TWO else 1)
                taken[name][each].append(((cpu_seconds() - cpu) / count, (time.perf_counter() - wall) / count))
                ways.clear()
    result: Seconds = {}
    for name, by_set in taken.items():
        medians = {each: tuple(map(statistics.median, zip(*pairs, strict=True))) for each, pairs in by_set.items()}
        whole = [sum(frames[each] * medians[each][k] for each in sets) / sum(frames.values()) for k in (0, 1)]
        result[name] = {**medians, "whole": (whole[0], whole[1])}  # type: ignore[dict-item]
    return result


def report(taken: Seconds) -> None:
    """The table, then the ratios with what they should be."""
    sets = list(taken["PyAV only"])
    print(f"{'ms a frame: CPU':34}{''.join(f'{each:>9}' for each in sets)}{'wall':>9}")
    for name, seconds in taken.items():
        columns = [seconds[each][0] for each in sets] + [seconds["whole"][1]]
        print(f"{name:34}{''.join(f'{1e3 * value:9.3f}' for value in columns)}")
    ratios = [
        ("stage / decord only", "stage raw", "decord only", "at most 1.15"),
        ("stage pyav / PyAV only", "stage pyav", "PyAV only", "at most 1.40 real, 1.50 whole"),
        ("usual, every frame / stage pyav", "usual, every frame", "stage pyav", "at least 1.7"),
        ("usual script / stage pyav", "usual script", "stage pyav", ""),
        ("usual, every frame / stage", "usual, every frame", "stage raw", ""),
        ("usual script / stage", "usual script", "stage raw", ""),
        ("usual, every frame / PyAV only", "usual, every frame", "PyAV only", "the most there is"),
        ("stage pyav / stage", "stage pyav", "stage raw", ""),
        ("stage jpeg / stage", "stage jpeg", "stage raw", "at most 1.15"),
    ]
    if "ffmpeg" in taken:
        ratios.append(("ffmpeg / stage", "ffmpeg", "stage raw", "at least 1"))
    for label, one, other, target in ratios:
        values = [taken[one][each][0] / taken[other][each][0] for each in sets]
        print(f"{label:34}{''.join(f'{value:9.2f}' for value in values)}   {target}".rstrip())
    speed = [taken["stage raw"][each][1] / taken[TWO][each][1] / 2 for each in sets]
    print(f"{'two at once / 2 x one, speed':34}{''.join(f'{value:9.2f}' for value in speed)}   at least 0.95")


def write_long_video(path: Path, num_frames: int) -> None:
    """A video of 1080p at 30 frames/s: a noisy picture that moves."""
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (136, 256), np.uint8), (2048, 1088)) // 2 + rng.integers(
        0, 64, (1088, 2048), np.uint8
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        planes = np.full((1620, 1920), 128, np.uint8)
        for number in range(num_frames):
            planes[:1080] = texture[number % 8 : 1080 + number % 8, number % 128 : 1920 + number % 128]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))


def report_memory(folder: Path, num_frames: int) -> None:
    """The most memory of a decoder process on a long, large video, beside the target."""
    path = folder / "long.mp4"
    write_long_video(path, num_frames)
    for codec in ("raw", "jpeg"):
        settings = replace(Preprocess(), codec=codec, video_timeout_s=600.0)
        with Decoder(settings) as decoder:
            (result,) = decoder.decode([path])
            assert result.status == "ok", result.reason
            (child,) = children()
            status = child.joinpath("status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
        print(f"{codec:5}{peak:5.0f} MB   (less than 400)   {result.facts['source_frames']} frames of 1920x1080")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ffmpeg", default=shutil.which("ffmpeg"), help="program (default: the one on the path)")
    parser.add_argument("--memory", action="store_true", help="the most memory of a decoder on a video of 1080p")
    parser.add_argument("--frames", type=int, default=3600, help="of that video (default %(default)s)")
    args = parser.parse_args()
    if args.memory:
        with tempfile.TemporaryDirectory() as folder:
            report_memory(Path(folder), args.frames)
        return
    sets = {"given": [path.absolute() for path in args.files]} if args.files else default_files()
    if not sets:
        sys.exit("no videos: name some, or run `make sample` first")
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    for name, files in sets.items():
        sizes = sorted({f"{source.source_width}x{source.source_height}" for source in map(source_of, files)})
        print(f"{name}: {len(files)} files ({', '.join(sizes)}), {sum(map(count_frames, files))} frames")
    with tempfile.TemporaryDirectory() as folder:
        ways = Arms(next(iter(sets.values())), Path(folder), args.ffmpeg)
        arms: dict[str, Callable[[], None]] = {
            "decord only": ways.decord_only,
            "PyAV only": ways.pyav_only,
            "stage raw": ways.stage,
            "stage jpeg": ways.stage_jpeg,
            "stage pyav": ways.stage_pyav,
            "usual script": ways.usual_script,
            "usual, every frame": ways.usual_script_every_frame,
        }
        if args.ffmpeg:
            arms["ffmpeg"] = ways.run_ffmpeg
        arms[TWO] = ways.two_at_once
        try:
            report(measure(arms, ways, sets, args.rounds))
        finally:
            ways.close()


if __name__ == "__main__":
    main()
