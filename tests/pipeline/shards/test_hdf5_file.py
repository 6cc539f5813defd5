"""What is read without libhdf5 is what libhdf5 reads, and what only it can read is refused."""

from pathlib import Path

import h5py
import pytest
from make_store import add_frames, frames_of, settings_for

from pipeline.common.outcome import Outcome
from pipeline.shards.format import ATTRIBUTES, shard_name
from pipeline.shards.hdf5_file import Hdf5Error, Hdf5File
from pipeline.shards.store import open_shard
from pipeline.shards.writer import ShardWriter

NUM_VIDEOS = 700  # names in a tree of two levels


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A shard of many videos, with names of many lengths."""
    settings = settings_for(tmp_path_factory.mktemp("many"), codec="jpeg", height=1, width=1)
    path = tmp_path_factory.mktemp("store") / shard_name("train", 0, 1)
    with ShardWriter(path, settings, "train") as writer:
        for number in range(NUM_VIDEOS):
            frames = frames_of(number, 1 + number % 3, settings)
            name = f"{number * 7919 % NUM_VIDEOS} {'é' * (number % 97)}"
            add_frames(writer, Outcome(video_id=name, status="ok", num_frames=len(frames), fps=15.0), frames, settings)
    return path


@pytest.fixture
def ours(path):
    with open(path, "rb") as file:
        yield Hdf5File(file.fileno())


def test_same_names_and_places_as_libhdf5(path, ours):
    with h5py.File(path) as theirs:
        for group in ("frames", "jpeg"):
            assert ours.names(group) == set(theirs[group]) and len(ours.names(group)) == NUM_VIDEOS
        assert ours.names() == set(theirs)
        names = [f"{group}/{name}" for group in ("frames", "jpeg") for name in theirs[group]]
        for name in (*names, "index", "outcomes", "times_s"):
            other = theirs[name]
            assert ours.dataset(name) == (other.shape, other.dtype, other.id.get_offset())
    assert open_shard(path, with_structure=True).structure_errors == []


def test_same_tables_and_attributes_as_libhdf5(path, ours):
    with h5py.File(path) as theirs:
        for name in ("index", "outcomes"):
            assert (ours.rows(name) == theirs[name][:]).all()
        assert {name: ours.attribute(name) for name in ATTRIBUTES} == dict(theirs.attrs)


def test_empty_shard_is_read(tmp_path):
    path = tmp_path / shard_name("val", 0, 1)
    with ShardWriter(path, settings_for(tmp_path), "val") as writer:
        writer.add(Outcome(video_id="a", status="missing"))
    shard = open_shard(path, with_structure=True)
    assert shard.planned() == ["a"] and shard.stored() == [] and shard.structure_errors == []


@pytest.mark.parametrize("content", [b"", b"x" * 8, b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(88)])
def test_what_is_no_hdf5_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb") as file, pytest.raises(Hdf5Error):
        Hdf5File(file.fileno())


def test_names_that_are_not_there_are_refused(ours):
    for name in ("nothing", "frames/nothing", "nothing/at/all", "index/video_id", ""):
        with pytest.raises(Hdf5Error, match="not in this file|not a group|not a contiguous"):
            ours.dataset(name)
    with pytest.raises(Hdf5Error, match="not a table"):
        ours.rows("times_s")
    with pytest.raises(Hdf5Error, match="not a contiguous dataset"):
        ours.dataset("frames")
