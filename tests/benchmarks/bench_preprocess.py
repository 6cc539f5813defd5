"""What preprocessing costs beside decoding alone, the usual script and ffmpeg.

    python tests/benchmarks/bench_preprocess.py [FILE ...] [--rounds 5] [--ffmpeg PROGRAM]
    python tests/benchmarks/bench_preprocess.py --memory [--frames 3600]

Without files: a dozen videos of the sample dataset (`make sample`), and the H.264 files of ../shared/videos where there
is such a folder.  The arms take turns, A B C A B C ..., on the same files, and the best round of each counts: others on
the machine can only add.  CPU seconds are those of this process and of all its children, found in /proc, per frame of
the source; starting Python is not counted.

    decord only     decord's loop over every frame, one thread, RGB out
    PyAV only       PyAV's, without colour conversion: what of the usual script is decoding
    stage raw       what `make preprocess` does: decoder process, resize, CRC, shared memory, HDF5, fsync
    stage jpeg      the same with codec jpeg
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
        self.raw = Preprocess(data_root="/", store=str(folder))
        self.jpeg = replace(self.raw, codec="jpeg")
        self.cores = sorted(os.sched_getaffinity(0))
        self.decoders = {
            0: Decoder(self.raw, self.cores[0]),
            1: Decoder(self.raw, self.cores[-1]),
            2: Decoder(self.jpeg, self.cores[0]),
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
        settings = self.jpeg if number == 2 else self.raw
        videos = tuple(PlannedVideo(f"video{k:05d}", str(path)) for k, path in enumerate(self.files))
        task = Task(self.folder / f"train-{number:05d}-of-00003.h5", "train", videos)
        write_shard(task, settings, Store(self.folder), self.decoders[number], lambda _outcome: None)

    def stage_jpeg(self) -> None:
        self.stage(2)

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


def default_files() -> list[Path]:
    """Videos that all arms decode to the same frames: decord repeats some where a cut hides others."""
    real = [path for path in sorted((ROOT.parent / "shared/videos").glob("*.m*")) if source_of(path).codec == "h264"]
    sound = []
    for path in real:
        try:
            if decode_video(path, Preprocess()).source.source_frames == count_frames(path):
                sound.append(path)
        except DecodeError:
            continue
    return sound + sorted((ROOT / "data/sample/val").glob("*.mp4"))[:12]


def measure(
    arms: dict[str, Callable[[], None]], rounds: int, clear: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """Least CPU and least wall seconds of each arm; `clear` is called between them."""
    found: dict[str, tuple[float, float]] = {}
    cores = os.sched_getaffinity(0)
    for _ in range(rounds):
        for name, arm in arms.items():
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # one of decord's that has ended since
                    os.sched_setaffinity(int(thread.name), cores if name == TWO else {min(cores)})
            cpu, wall = cpu_seconds(), time.perf_counter()
            arm()
            took = (cpu_seconds() - cpu, time.perf_counter() - wall)
            clear()
            best = found.get(name, took)
            found[name] = (min(best[0], took[0]), min(best[1], took[1]))
    return found


def report(found: dict[str, tuple[float, float]], num_frames: int) -> None:
    """The table, then the ratios with what they should be."""
    print(f"{'arm':26}{'CPU ms/frame':>14}{'wall ms/frame':>15}")
    for name, (cpu, wall) in found.items():
        frames = num_frames * (2 if name == TWO else 1)
        print(f"{name:26}{1e3 * cpu / frames:14.3f}{1e3 * wall / frames:15.3f}")
    stage = found["stage raw"]
    ratios = [
        ("stage / decord only, CPU", stage[0] / found["decord only"][0], "at most 1.18"),
        ("stage jpeg / stage raw, CPU", found["stage jpeg"][0] / stage[0], "at most 1.15"),
        ("usual script / stage, CPU", found["usual script"][0] / stage[0], "at least 2"),
        ("usual, every frame / stage", found["usual, every frame"][0] / stage[0], "at least 2"),
        ("usual, every frame / PyAV only", found["usual, every frame"][0] / found["PyAV only"][0], "the most there is"),
        ("two at once / 2 x one, speed", stage[1] / found[TWO][1], "at least 0.95"),
    ]
    if "ffmpeg" in found:
        ratios.append(("ffmpeg / stage, CPU", found["ffmpeg"][0] / stage[0], "at least 1"))
    for name, ratio, target in ratios:
        print(f"{name:30}{ratio:6.2f}   ({target})")


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
    files = [path.absolute() for path in args.files] or default_files()
    if not files:
        sys.exit("no videos: name some, or run `make sample` first")
    num_frames = sum(count_frames(path) for path in files)
    repeats = max(1, int(MIN_SECONDS / 0.0004 / num_frames))
    sizes = sorted({f"{source.source_width}x{source.source_height}" for source in map(source_of, files)})
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(
        f"{len(files)} files ({', '.join(sizes)}), {num_frames} frames, {repeats} times a round, {args.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        ways = Arms(files * repeats, Path(folder), args.ffmpeg)
        arms: dict[str, Callable[[], None]] = {
            "decord only": ways.decord_only,
            "PyAV only": ways.pyav_only,
            "stage raw": ways.stage,
            "stage jpeg": ways.stage_jpeg,
            "usual script": ways.usual_script,
            "usual, every frame": ways.usual_script_every_frame,
        }
        if args.ffmpeg:
            arms["ffmpeg"] = ways.run_ffmpeg
        arms[TWO] = ways.two_at_once
        try:
            report(measure(arms, args.rounds, ways.clear), num_frames * repeats)
        finally:
            ways.close()


if __name__ == "__main__":
    main()
