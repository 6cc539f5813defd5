"""Clips a second: our loader beside plain copying and beside the usual ways.

    python tests/benchmarks/bench_loader.py [--rounds 7] [--videos 128] [--torch-python PYTHON]

Writes shards of 128 x 171 frames (1.3 GiB) to a temporary folder, so that all arms read from the page cache.  Arms of
a group take turns, A B C A B C ..., and medians and their ratios are printed.  Clips are 16 x 112 x 112, batches 16.

    loader          2 threads, 16 of 150 frames, random crops, through GeneratorDataset; and with flips (p = 0.5)
    memcpy          2 threads copying as many batches from memory to memory
    torch           torch's DataLoader, 2 worker processes, one sample an item, np.memmap of the same shards
    reader, memmap  one thread, the same clips through ShardReader and out of np.memmap
    stride 2        every other frame: ShardReader, and h5py slicing a chunked dataset (its own chunks; a frame a chunk)
    from the video  one thread: open the mp4 with decord, decode the clip, resize it, crop it
    jpeg            one thread, codec jpeg
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import decord
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from make_store import make_ledger  # noqa: E402
from make_videos import write_mp4  # noqa: E402

import model  # noqa: E402, F401  before mindspore
from pipeline.common.outcome import Outcome  # noqa: E402
from pipeline.common.recipe import Preprocess  # noqa: E402
from pipeline.decoding.resample import steady_times  # noqa: E402
from pipeline.execution.plan import plan_shards  # noqa: E402
from pipeline.ledger.table import fill_ledger, ledger_path, write_ledger  # noqa: E402
from pipeline.shards.encoding import encode  # noqa: E402
from pipeline.shards.reader import ShardReader  # noqa: E402
from pipeline.shards.store import open_shard, outcomes_table  # noqa: E402
from pipeline.shards.writer import ShardWriter
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate  # noqa: E402
from train.data.videos import read_videos  # noqa: E402
from train.experiment.sections import Dataset, Loader  # noqa: E402
from train.experiment.transforms import standard_map  # noqa: E402

NUM_FRAMES, CLIP_LEN, CROP, BATCH, THREADS = 150, 16, (112, 112), 16, 2
CLIP_SHAPE = (CLIP_LEN, *CROP, 3)

TORCH = """
import sys, time
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset

files, offsets = sys.argv[2:], eval(sys.argv[1])

class Clips(Dataset):
    def __init__(self):
        self.maps = None
    def __len__(self):
        return ITEMS
    def __getitem__(self, item):
        if self.maps is None:
            self.maps = [np.memmap(file, np.uint8, "r") for file in files]
        file, offset = offsets[item % len(offsets)]
        frames = self.maps[file][offset : offset + 150 * 128 * 171 * 3].reshape(150, 128, 171, 3)
        start, top, left = (int(torch.randint(n, ())) for n in (135, 17, 60))
        return torch.from_numpy(frames[start : start + 16, top : top + 112, left : left + 112].copy()), item % 400

loader = DataLoader(Clips(), 16, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=4)
next(iter(loader))
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    for clips, labels in loader:
        pass
    print(time.perf_counter() - began, flush=True)
"""


def pictures(num_frames: int) -> NDArray[np.uint8]:
    """Frames with about as much detail as Kinetics': at quality 95 a JPEG is a seventh of the raw frame."""
    rng = np.random.default_rng(0)
    frames = np.empty((num_frames, 128, 171, 3), np.uint8)
    for frame in frames:
        coarse = cv2.resize(rng.integers(0, 256, (8, 11, 3), np.uint8), (171, 128), interpolation=cv2.INTER_CUBIC)
        frame[:] = np.clip(coarse + rng.normal(0, 3.5, (128, 171, 1)), 0, 255)
    return frames


def write_store(folder: Path, num_videos: int, videos_per_shard: int, codec: str = "raw") -> Preprocess:
    """Shards and the ledger of a split `train`; all videos hold the same frames, at places of their own."""
    settings = Preprocess(
        dataset=f"bench-{codec}", manifests=f"{folder}/manifests", store=f"{folder}/{codec}", codec=codec,
        videos_per_shard=videos_per_shard,
    )  # fmt: skip
    Path(settings.store).mkdir()
    encoded = encode(pictures(NUM_FRAMES), steady_times(np.arange(NUM_FRAMES), 15.0), settings)
    if codec == "jpeg":
        print(f"JPEGs are 1/{65664 * NUM_FRAMES / encoded.data.nbytes:.1f} of the raw frames")
    table = make_ledger(num_videos, "train")
    outcomes = []
    for task in plan_shards(table, settings, "train"):
        with ShardWriter(task.path, settings, "train") as writer:
            for video in task.videos:
                outcome = Outcome(video_id=video.video_id, status="ok", num_frames=NUM_FRAMES, fps=15.0)
                writer.add(outcome, encoded)
        outcomes.append(outcomes_table([open_shard(task.path)]))
    filled = fill_ledger(table, pd.concat(outcomes, ignore_index=True))
    write_ledger(ledger_path(settings, "train"), filled)
    return settings


def loader(*, flip: float = 0.0, **options: object) -> Loader:
    """Random crops, and 16 consecutive frames unless told otherwise."""
    chosen = {"batch_size": BATCH, "seq": CLIP_LEN, "num_parallel_workers": THREADS, **options}
    return Loader(Dataset(**chosen), standard_map(Preprocess().frame_size, "random", CROP, flip))  # type: ignore[arg-type]


def source(settings: Preprocess, **options: object) -> ClipBatches:
    """Random clips of a store's videos: those of an epoch of 320 batches, or `num_clips` of each video."""
    videos = read_videos(settings, "train")
    chosen = loader(**{"num_clips": 320 * BATCH // len(videos.video_ids), **options})  # type: ignore[arg-type]
    return ClipBatches(videos, chosen, settings, seed=0, drop_remainder=True)


class Loading:
    """Our loader, an epoch a turn; notes the first 50 batches beside the rest, too."""

    def __init__(self, settings: Preprocess, **options: object) -> None:
        self.batches = source(settings, **options)
        self.first: list[float] = []
        self.epoch = 0

    def __call__(self) -> float:
        """Seconds of a clip."""
        began = time.perf_counter()
        for number, _batch in enumerate(iterate(self.batches, self.epoch), start=1):
            if number == 50:
                middle = time.perf_counter()
        ended = time.perf_counter()
        rest = (ended - middle) / (self.batches.num_batches - 50)
        self.first.append(rest / ((middle - began) / 50))
        self.epoch += 1
        return (ended - began) / (self.batches.num_batches * BATCH)


class Training:
    """A consumer that takes 1,200 clips/s, as a fast GPU would; notes how long it waits."""

    rate = 1200.0

    def __init__(self, settings: Preprocess, **options: object) -> None:
        self.make = lambda: source(settings, **options)
        self.start: list[float] = []
        self.waits: list[float] = []
        self.first: list[float] = []

    def __call__(self) -> float:
        """Seconds of a clip, of 200 batches after the first, from a loader that has opened nothing yet."""
        batches = iterate(self.make(), 0)
        asked = time.perf_counter()
        next(batches)
        self.start.append(time.perf_counter() - asked)
        began, waited, marks = time.perf_counter(), 0.0, []
        for _ in range(200):
            time.sleep(BATCH / self.rate)
            asked = time.perf_counter()
            next(batches)
            marks.append(time.perf_counter() - began)
            waited += time.perf_counter() - asked
        self.waits.append(waited / marks[-1])
        self.first.append((50 / marks[49]) / (150 / (marks[-1] - marks[49])))
        return marks[-1] / (200 * BATCH)


class Memcpy:
    """Threads copying ready batches, more than a cache holds, into as many buffers as the loader uses."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.ready = [np.full((BATCH, *CLIP_SHAPE), number, np.uint8) for number in range(48)]
        self.buffers = [np.zeros((BATCH, *CLIP_SHAPE), np.uint8) for _ in range(8)]

    def __call__(self) -> float:
        """Seconds of a clip."""

        def copy(first: int) -> None:
            for number in range(first, self.num_batches, THREADS):
                np.copyto(self.buffers[number % 8], self.ready[number % 48])

        began = time.perf_counter()
        threads = [threading.Thread(target=copy, args=(first,)) for first in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - began) / (self.num_batches * BATCH)


class TorchLoader:
    """torch's DataLoader in a process of its own, which may be of another environment."""

    def __init__(self, python: str, readers: list[ShardReader], num_items: int) -> None:
        places = [(file, reader.offset(row)) for file, reader in enumerate(readers) for row in range(len(reader.crc32))]
        self.num_items = num_items
        self.process = subprocess.Popen(
            [python, "-c", TORCH.replace("ITEMS", str(num_items)), repr(places), *(str(each.path) for each in readers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.reason = ""
        if self.process.stdout.readline().strip() != "ready":
            self.reason = (self.process.stderr.read().strip().splitlines() or ["no answer"])[-1]

    def __call__(self) -> float:
        """Seconds of a clip."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline()) / self.num_items

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Places:
    """The same random clips for every arm that reads clip by clip in one thread."""

    def __init__(self, num_videos: int, span: int, count: int) -> None:
        rng = np.random.default_rng(0)
        spare = (128 - CROP[0] + 1, 171 - CROP[1] + 1)
        self.each = [
            (int(rng.integers(num_videos)), int(rng.integers(NUM_FRAMES - span + 1)), *map(int, rng.integers(spare)))
            for _ in range(count)
        ]

    def timed(self, copy: Callable[[int, int, int, int, NDArray[np.uint8]], None]) -> Callable[[], float]:
        """An arm: seconds of a clip when `copy` copies each (video, start, top, left) into a batch's memory."""
        out = np.zeros((BATCH, *CLIP_SHAPE), np.uint8)

        def run() -> float:
            began = time.perf_counter()
            for number, place in enumerate(self.each):
                copy(*place, out[number % BATCH])
            return (time.perf_counter() - began) / len(self.each)

        return run


def interleaved(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of a clip of each arm; the arms take turns, after one turn each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            seconds = arm()
            if number:
                found[name].append(seconds)
    medians = {name: statistics.median(each) for name, each in found.items()}
    for name, seconds in medians.items():
        low, high = min(found[name]), max(found[name])
        print(f"  {name:34}{1 / seconds:10,.0f} clips/s   ({1 / high:,.0f} to {1 / low:,.0f})")
    return medians


def say(what: str, ratio: float, target: str) -> None:
    """One line of results."""
    print(f"  = {what:52}{ratio:9.2f}   (target {target})", flush=True)


def bench_loader(raw: Preprocess, rounds: int, torch_python: str) -> None:
    """Through GeneratorDataset: against memcpy and torch, with flips, and the first 50 batches."""
    print(f"Batches of {BATCH} clips, {THREADS} threads:")
    ours, flipping = Loading(raw), Loading(raw, flip=0.5)
    arms: dict[str, Callable[[], float]] = {
        "loader": ours, "memcpy": Memcpy(ours.batches.num_batches), "loader, flip 0.5": flipping,
    }  # fmt: skip
    torch = TorchLoader(torch_python, [ShardReader(path) for path in ours.batches.videos.shards], 1024)
    if torch.reason:
        print(f"  torch's DataLoader: left out, {torch_python} says: {torch.reason}")
    else:
        arms["torch DataLoader"] = torch
    found = interleaved(arms, rounds)
    torch.close()
    say("loader / memcpy", found["memcpy"] / found["loader"], "at least 0.6")
    say("loader, flip 0.5 / memcpy", found["memcpy"] / found["loader, flip 0.5"], "none")
    if not torch.reason:
        say("loader / torch's DataLoader", found["torch DataLoader"] / found["loader"], "at least 1.5")
    say("first 50 batches / the rest, flat out, epoch 0", ours.first[0], "none: shards are opened, memory is new")
    say("first 50 batches / the rest, flat out, later", statistics.median(ours.first[1:]), "at least 0.95")
    print("Taken at 1,200 clips/s, from a loader that has opened nothing yet:")
    training = Training(raw)
    interleaved({"loader": training}, 3)
    say("the first batch, ms", 1000 * statistics.median(training.start), "none")
    say("the next 50 batches / the rest", statistics.median(training.first), "at least 0.95")
    say("time spent waiting after the first, %", 100 * statistics.median(training.waits), "below 1")


def bench_cold(raw: Preprocess, rounds: int) -> None:
    """Out of the disk: with and without having the kernel read all clips of a batch at once."""
    print("Not in the page cache:")

    def cold(read_ahead: bool) -> Callable[[], float]:
        def run() -> float:
            batches = source(raw, num_clips=1)
            for path in batches.videos.shards:
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            batches.set_epoch(0)
            batches.read_ahead = read_ahead
            began = time.perf_counter()
            for number in range(batches.num_batches):
                batches.batch(number)
            return (time.perf_counter() - began) / (batches.num_batches * BATCH)

        return run

    found = interleaved({"read ahead": cold(True), "mapped only": cold(False)}, rounds)
    say("read ahead / mapped only, one thread", found["mapped only"] / found["read ahead"], "none")


def bench_reader(raw: Preprocess, folder: Path, rounds: int) -> None:
    """Clip by clip in one thread: np.memmap, h5py, a video file."""
    reader = ShardReader(read_videos(raw, "train").shards[0])
    num_videos = len(reader.video_ids)
    flat = np.memmap(reader.path, np.uint8, "r")
    nbytes = NUM_FRAMES * 128 * 171 * 3
    steps = np.arange(CLIP_LEN)

    def ours(stride: int) -> Callable[[int, int, int, int, NDArray[np.uint8]], None]:
        def copy(video: int, start: int, top: int, left: int, out: NDArray[np.uint8]) -> None:
            reader.copy_clip(video, range(start, start + stride * CLIP_LEN, stride), top, left, out)

        return copy

    def memmap(video: int, start: int, top: int, left: int, out: NDArray[np.uint8]) -> None:
        begin = reader.offset(video)
        frames = flat[begin : begin + nbytes].reshape(NUM_FRAMES, 128, 171, 3)
        out[:] = frames[start : start + CLIP_LEN, top : top + CROP[0], left : left + CROP[1]]

    print("One thread, clip by clip:")
    places = Places(num_videos, CLIP_LEN, 1000)
    found = interleaved({"reader": places.timed(ours(1)), "np.memmap": places.timed(memmap)}, 3 * rounds)
    say("reader / np.memmap", found["np.memmap"] / found["reader"], "at least 0.97")

    with h5py.File(folder / "chunked.h5", "w") as file:
        frames = reader.frames(0)
        sets = {
            "h5py, its own chunks": file.create_dataset("auto", data=frames, chunks=True),
            "h5py, a frame a chunk": file.create_dataset("frame", data=frames, chunks=(1, 128, 171, 3)),
        }

        def sliced(name: str) -> Callable[[int, int, int, int, NDArray[np.uint8]], None]:
            def copy(_video: int, start: int, top: int, left: int, out: NDArray[np.uint8]) -> None:
                out[:] = sets[name][start : start + 2 * CLIP_LEN : 2, top : top + CROP[0], left : left + CROP[1]]

            return copy

        few = Places(num_videos, 2 * CLIP_LEN, 5)
        many = Places(num_videos, 2 * CLIP_LEN, 1000)
        arms = {"reader, stride 2": many.timed(ours(2)), **{name: few.timed(sliced(name)) for name in sets}}
        print(f"Every other frame; h5py's own chunks are {sets['h5py, its own chunks'].chunks}:")
        found = interleaved(arms, rounds)
        for name in sets:
            say(f"reader / {name}", found[name] / found["reader, stride 2"], "at least 300")

    path = write_mp4(folder / "video.mp4", 300, 30, (256, 340), options={"g": "250"})

    def online(_video: int, start: int, top: int, left: int, out: NDArray[np.uint8]) -> None:
        video = decord.VideoReader(str(path), num_threads=1)
        pictures = video.get_batch(2 * start + 2 * steps).asnumpy()  # 15 of its 30 frames a second
        for slot, picture in enumerate(pictures):
            out[slot] = cv2.resize(picture, (171, 128))[top : top + CROP[0], left : left + CROP[1]]

    print("Against decoding in training (H.264, 340 x 256, 30 fps, a key frame every 250), one thread:")
    few = Places(num_videos, CLIP_LEN, 5)
    found = interleaved({"reader": places.timed(ours(1)), "open, decode, resize": few.timed(online)}, rounds)
    say("reader / from the video", found["open, decode, resize"] / found["reader"], "at least 100")


def bench_jpeg(jpeg: Preprocess, rounds: int) -> None:
    """Codec jpeg: one thread, and through GeneratorDataset."""
    batches = source(jpeg, num_clips=20)
    batches.set_epoch(0)

    def one_thread() -> float:
        began = time.perf_counter()
        for number in range(batches.num_batches):
            batches.batch(number)
        return (time.perf_counter() - began) / (batches.num_batches * BATCH)

    print("JPEG:")
    arms: dict[str, Callable[[], float]] = {"one thread": one_thread, "loader": Loading(jpeg, num_clips=60)}
    found = interleaved(arms, rounds)
    say("clips/s of one core", 1 / found["one thread"], "at least 400")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--videos", type=int, default=128, help=f"of 10 MB each; at least {BATCH} (default %(default)s)"
    )
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that has torch")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        raw = write_store(Path(folder), args.videos, args.videos // 4)
        jpeg = write_store(Path(folder), 16, 8, codec="jpeg")
        bench_loader(raw, args.rounds, args.torch_python)
        bench_reader(raw, Path(folder), args.rounds)
        bench_cold(raw, args.rounds)
        bench_jpeg(jpeg, args.rounds)


if __name__ == "__main__":
    main()
