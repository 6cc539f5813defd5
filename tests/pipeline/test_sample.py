"""The sample dataset has the form of Kinetics and the same bytes each time, and is complete or missing."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import sample
from pipeline.common.errors import UserError
from pipeline.common.locking import LockedError, locked_file
from pipeline.sample_videos import dataset
from pipeline.sample_videos.dataset import _FORMATS, MARKER, make_sample, plan_sample
from pipeline.sample_videos.motion import CLASSES, draw_motion, motion_frames

TINY = {"train": 2, "val": 1, "test": 1}
ARGUMENTS = ["--train=2", "--val=1", "--test=1", "--jobs=1"]
PLAN = plan_sample({"train": 320, "val": 96, "test": 16})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a sample, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of 4 good videos and the 3 defective rows."""
    out = tmp_path_factory.mktemp("sample") / "tiny"
    assert sample.main([f"--out={out}", *ARGUMENTS]) == 0
    return out


def test_two_runs_write_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "again", TINY, jobs=2)
    assert digests(tmp_path / "again") == digests(tiny)


def test_the_label_files_have_the_official_columns(tiny: Path) -> None:
    tables = {
        split: list(csv.DictReader((tiny / f"kinetics-sample_{split}.csv").open(encoding="utf-8"))) for split in TINY
    }
    assert list(tables["train"][0]) == ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
    assert list(tables["test"][0]) == ["youtube_id", "time_start", "time_end", "split"]
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 2 + 3, "val": 1, "test": 1}
    for split, rows in tables.items():
        for row in rows:
            assert row["split"] == split
            assert int(row["time_end"]) - int(row["time_start"]) == 10


def test_files_are_named_by_rows_and_one_is_missing(tiny: Path) -> None:
    files = {str(path.relative_to(tiny)) for path in tiny.rglob("*.mp4")}
    planned = {video.file: video.defect for video in plan_sample(TINY)}
    assert {file for file, defect in planned.items() if defect != "missing"} == files
    assert sorted(defect for defect in planned.values() if defect) == ["audio only", "missing", "truncated"]


def test_video_is_h264_with_planned_size_rate_length(tiny: Path) -> None:
    for video in plan_sample(TINY):
        if video.defect:
            continue
        with av.open(str(tiny / video.file)) as container:
            stream = container.streams.video[0]
            assert (stream.codec.canonical_name, stream.average_rate) == ("h264", video.fps)
            assert (stream.height, stream.width) == video.size
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        drawn = motion_frames(video.label, video.motion, video.num_frames, video.size, float(video.fps))
        assert len(frames) == video.num_frames
        assert np.abs(np.stack(frames).astype(int) - drawn).mean() < 8  # of 255: the loss of compression


def test_the_faulty_files_are_faulty_in_their_way(tiny: Path) -> None:
    by_defect = {video.defect: video for video in plan_sample(TINY) if video.defect}
    with av.open(str(tiny / by_defect["audio only"].file)) as container:
        assert [stream.type for stream in container.streams] == ["audio"]
    truncated = by_defect["truncated"]
    shown = 0
    with av.open(str(tiny / truncated.file)) as container:  # its index is complete, its frames are not
        assert container.streams.video[0].frames == truncated.num_frames
        try:
            for _ in container.decode(container.streams.video[0]):
                shown += 1
        except av.FFmpegError:
            pass
    assert 0 < shown < truncated.num_frames


def test_ids_are_as_youtubes_and_some_are_awkward() -> None:
    ids = [video.youtube_id for video in PLAN]
    assert all(len(name) == 11 and set(name) <= set(dataset._CHARACTERS) for name in ids)
    assert len(set(ids)) == len(ids) == 320 + 96 + 16 + 3
    assert any(name.startswith("-") for name in ids)
    assert any(name.isdigit() and name.startswith("0") for name in ids)
    assert any("e" in name and name.replace("e", "0").isdigit() for name in ids)


def test_classes_are_even_and_sizes_and_rates_vary() -> None:
    for split, each in (("train", 40), ("val", 12), ("test", 2)):
        labels = [video.label for video in PLAN if video.split == split and not video.defect]
        assert {label: labels.count(label) for label in CLASSES} == dict.fromkeys(CLASSES, each)
    assert {(video.size, video.fps) for video in PLAN} == {(form[:2], form[2]) for form in _FORMATS}
    assert all(2.0 <= video.num_frames / video.fps <= 3.55 for video in PLAN)


def test_smaller_sample_is_the_start_of_a_larger_one() -> None:
    small = plan_sample(TINY)
    assert small[:2] == PLAN[:2]
    assert small[-3:] == PLAN[-3:]


def test_a_finished_sample_is_left_as_it_is(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert sample.main([f"--out={tiny}", *ARGUMENTS]) == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_folder_that_is_no_sample_is_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "holiday.mp4"
    mine.parent.mkdir()
    mine.write_bytes(b"dear to me")
    with pytest.raises(UserError, match="not a sample dataset") as caught:
        make_sample(mine.parent, TINY)
    assert caught.value.exit_code == 2
    assert [path.name for path in mine.parent.iterdir()] == ["holiday.mp4"]


def test_a_sample_of_other_counts_is_never_touched(tiny: Path) -> None:
    before = digests(tiny)
    with pytest.raises(UserError, match="another sample dataset"):
        make_sample(tiny, {**TINY, "val": 2})
    assert digests(tiny) == before


def test_sample_of_a_killed_run_is_made_again(tiny: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial" / "train"
    partial.mkdir(parents=True)
    (partial / "half.mp4").write_bytes(b"half")
    make_sample(tmp_path / "out", TINY, jobs=1)
    assert digests(tmp_path / "out") == digests(tiny)
    assert not partial.parent.exists()


def test_a_run_that_fails_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "write_video", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_sample(tmp_path / "out", TINY, jobs=1)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".out.lock"] == []


@pytest.mark.parametrize("text", ["not JSON", "[1]", "{}"])
def test_a_marker_of_somebody_else_makes_no_sample(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / MARKER).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="not a sample dataset"):
        make_sample(tmp_path / "mine", TINY)
    assert (tmp_path / "mine" / MARKER).read_text(encoding="utf-8") == text


def test_file_in_place_of_a_folder_is_a_user_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out, said in ((tmp_path / "file", "not a sample dataset"), (tmp_path / "file" / "sample", "not a folder")):
        with pytest.raises(UserError, match=said):
            make_sample(out, TINY)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    counts = {"train": 0, "val": 0, "test": 1}
    target, link = tmp_path / "disk" / "kept", tmp_path / "sample"
    target.parent.mkdir()
    if there:
        target.mkdir()
    link.symlink_to(target)
    assert make_sample(link, counts, jobs=1)
    assert (target / MARKER).is_file()
    assert not make_sample(link, counts, jobs=1)


def test_two_runs_at_once_are_kept_apart(tmp_path: Path) -> None:
    with locked_file(tmp_path / ".out.lock", "{}"), pytest.raises(LockedError, match="is making this") as caught:
        make_sample(tmp_path / "out", TINY)
    assert caught.value.exit_code == 73
    assert not (tmp_path / "out").exists()


def test_drawing_loads_neither_ffmpeg_nor_mindspore() -> None:
    code = "import sys, pipeline.sample; print(sorted({'av', 'decord', 'mindspore'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    pair=st.integers(0, 3),
    num_frames=st.integers(1, 5),
    size=st.tuples(st.integers(16, 80), st.integers(16, 80)),
    fps=st.sampled_from([15.0, 24.0, 30.0]),
)
def test_second_class_of_a_pair_is_the_first_reversed(
    seed: int, pair: int, num_frames: int, size: tuple[int, int], fps: float
) -> None:
    first, second = list(CLASSES)[2 * pair : 2 * pair + 2]
    motion = draw_motion(np.random.default_rng(seed))
    frames = motion_frames(first, motion, num_frames, size, fps)
    assert frames.shape == (num_frames, *size, 3)
    np.testing.assert_array_equal(motion_frames(second, motion, num_frames, size, fps), frames[::-1])


# The transform from the first frame to the second, if the motion matches the label: the 2x3 matrix of a step of
# d pixels, or of d / 100 (radians, or fraction of size) about the pivot.  Image coordinates: y points down.
STEPS = {
    "moving left": lambda d: (np.eye(2), (-d, 0)),
    "moving right": lambda d: (np.eye(2), (d, 0)),
    "moving up": lambda d: (np.eye(2), (0, -d)),
    "moving down": lambda d: (np.eye(2), (0, d)),
    "rotating clockwise": lambda d: (np.array([[1, -d / 100], [d / 100, 1]]), None),
    "rotating counterclockwise": lambda d: (np.array([[1, d / 100], [-d / 100, 1]]), None),
    "growing": lambda d: (np.eye(2) * (1 + d / 100), None),
    "shrinking": lambda d: (np.eye(2) / (1 + d / 100), None),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("label", CLASSES)
def test_the_picture_moves_as_its_label_says(label: str, seed: int) -> None:
    motion = draw_motion(np.random.default_rng(seed))
    first, second = motion_frames(label, motion, 2, (128, 172), 15.0).astype(np.float32)
    pivot = np.array([motion.pivot[0] * 172, motion.pivot[1] * 128])
    errors = {}
    for name, step in STEPS.items():
        linear, shift = step(4)
        shift = pivot - linear @ pivot if shift is None else np.array(shift)
        moved = cv2.warpAffine(first, np.column_stack([linear, shift]), (172, 128))
        errors[name] = np.abs(moved - second)[16:-16, 16:-16].mean()
    assert min(errors, key=lambda name: errors[name]) == label


def test_a_single_frame_is_the_same_in_all_classes() -> None:
    for seed in range(4):
        motion = draw_motion(np.random.default_rng(seed))
        # A motion starts with the first frame, or with the last if its class is the pair's other one played backwards.
        starts = [
            motion_frames(label, motion, 3, (64, 86), 15.0)[0 if direction > 0 else -1]
            for label, (_, direction) in CLASSES.items()
        ]
        for start in starts[1:]:
            np.testing.assert_array_equal(start, starts[0])
