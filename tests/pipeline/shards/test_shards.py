"""Shards return the frames stored in them, and corrupted or unfinished ones are refused by name."""

import errno
import fcntl
import mmap
import os
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from make_store import add_frames, edited, frames_of, make_format_1, renumber, settings_for

from pipeline.common.errors import ShardError
from pipeline.common.outcome import Outcome
from pipeline.shards import checksum
from pipeline.shards.direct_io import DirectFile
from pipeline.shards.format import shard_name
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import open_shard, outcomes_table
from pipeline.shards.writer import ShardWriter

IDS = ("-abcdefghij_000001_000011", "with space", "é_1", "zzz")
LENGTHS = (12, 1, 5, 30)
BAD = Outcome(video_id="not_there", status="missing")


def write_small_shard(folder: Path, codec: str = "raw", **changes: object) -> Path:
    """A shard of four videos and a missing one."""
    settings = settings_for(folder, codec=codec, **changes)
    path = folder / shard_name("val", 0, 1)
    with ShardWriter(path, settings, "val") as writer:
        for number, (video_id, length) in enumerate(zip(IDS, LENGTHS, strict=True)):
            outcome = Outcome(
                video_id=video_id, status="ok", codec="vp9", source_fps=29.97, num_frames=length, fps=15.0
            )
            add_frames(writer, outcome, frames_of(number, length, settings), settings)
            if number == 1:
                writer.add(BAD)
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_small_shard(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    return write_small_shard(tmp_path_factory.mktemp("jpeg"), codec="jpeg")


def test_names_sort_as_they_count():
    assert shard_name("train", 12, 480) == "train-00012-of-00480.h5"


def test_a_shard_says_what_it_holds(raw):
    reader = ShardReader(raw)
    assert reader.video_ids == list(IDS)
    assert reader.num_frames.tolist() == list(LENGTHS)
    assert reader.row_of("é_1") == 2
    outcomes = outcomes_table([open_shard(raw)])
    assert outcomes["video_id"].tolist() == [*IDS[:2], "not_there", *IDS[2:]]
    assert outcomes["status"].tolist() == ["ok", "ok", "missing", "ok", "ok"]
    assert outcomes["shard"].tolist() == [raw.name, raw.name, "", raw.name, raw.name]
    assert outcomes["source_fps"].tolist() == [29.97, 29.97, 0.0, 29.97, 29.97]
    assert open_shard(raw).recipe_sha256 == reader.recipe_sha256


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_every_frame_has_its_time(request, codec):
    path = request.getfixturevalue(codec)
    reader = ShardReader(path)
    with h5py.File(path) as file:
        stored = file["times_s"][:]
    assert stored.dtype == np.float32 and len(stored) == sum(LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert reader.times_s(row).tolist() == (np.arange(length) / 15).astype(np.float32).tolist()
    assert np.concatenate([reader.times_s(row) for row in range(len(IDS))]).tolist() == stored.tolist()


def test_offsets_point_at_the_bytes_that_hdf5_reads(raw):
    outcomes = outcomes_table([open_shard(raw)]).set_index("video_id")
    content = raw.read_bytes()
    with h5py.File(raw) as file:
        for video_id in IDS:
            start, size = outcomes.at[video_id, "offset"], outcomes.at[video_id, "nbytes"]
            assert content[start : start + size] == file[f"frames/{video_id}"][:].tobytes()


clips = st.tuples(st.integers(0, 3), st.lists(st.integers(0, 29), min_size=1, max_size=12), st.data())


@example_settings(max_examples=150)
@given(row=st.integers(0, 3), data=st.data())
def test_any_clip_is_that_of_numpy(raw, row, data):
    settings = settings_for(raw.parent)
    frame = st.integers(0, LENGTHS[row] - 1)
    indices = data.draw(st.lists(frame, min_size=1, max_size=12))
    if data.draw(st.booleans()):  # what samplers draw: equal strides
        step = data.draw(st.sampled_from([1, 2, 3, 4, -1]))
        indices = range(indices[0], LENGTHS[row] if step > 0 else -1, step)
    height, width = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 20))
    top, left = data.draw(st.integers(0, 16 - height)), data.draw(st.integers(0, 20 - width))
    flip = data.draw(st.booleans())
    out = np.empty((len(indices), height, width, 3), np.uint8)
    reader = ShardReader(raw)
    reader.use_map = data.draw(st.booleans())
    reader.copy_clip(row, indices, top, left, out, flip=flip)
    crop = frames_of(row, LENGTHS[row], settings)[indices, top : top + height, left : left + width]
    assert (out == (crop[:, :, ::-1] if flip else crop)).all()


def test_jpeg_clips_are_close_to_what_was_stored(jpeg):
    reader = ShardReader(jpeg)
    out = np.empty((3, 10, 12, 3), np.uint8)
    reader.copy_clip(3, [29, 0, 7], 2, 4, out, flip=True)
    expected = frames_of(3, 30, settings_for(jpeg.parent))[[29, 0, 7], 2:12, 4:16][:, :, ::-1]
    assert np.abs(out.astype(int) - expected).mean() < 4
    reader.verify(3)


@pytest.mark.parametrize("indices", [[-1], [0, 12], [99], range(-1, 3), range(10, 13), range(0, 13, 6)])
def test_frames_that_are_not_there_are_no_other_frames(raw, indices):
    with pytest.raises(IndexError, match="of 12"):
        ShardReader(raw).copy_clip(0, indices, 0, 0, np.empty((len(indices), 4, 4, 3), np.uint8))


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (13, 0), (0, 17)])
def test_pixels_that_are_not_there_are_no_other_pixels(raw, jpeg, top, left):
    for path in (raw, jpeg):
        with pytest.raises(IndexError, match=r"4 x 4 pixels at .* of frames of \(16, 20\)"):
            ShardReader(path).copy_clip(0, range(2), top, left, np.empty((2, 4, 4, 3), np.uint8))


def test_pickled_reader_carries_no_frames(raw):
    reader = ShardReader(raw)
    out, again = np.empty((2, 12, 16, 20, 3), np.uint8)
    reader.copy_clip(0, range(12), 0, 0, out)
    copied = pickle.dumps(reader)
    assert len(copied) < 5000
    pickle.loads(copied).copy_clip(0, range(12), 0, 0, again)  # noqa: S301  our own
    assert (out == again).all()


def test_a_reader_holds_no_file_open(raw):
    reader = ShardReader(raw)
    frames = reader.frames(0)
    moved = raw.with_name("moved.h5")
    shutil.move(raw, moved)
    assert (frames == frames_of(0, 12, settings_for(raw.parent))).all()
    shutil.move(moved, raw)
    reader.close()


def test_a_shard_cut_short_while_it_is_read_is_named(raw, tmp_path):
    path = Path(shutil.copy(raw, tmp_path))
    reader = ShardReader(path)
    reader.use_map = False  # with a mapped file, the kernel would end the process
    out = np.empty((4, 8, 8, 3), np.uint8)
    reader.copy_clip(3, range(4), 0, 0, out)
    os.truncate(path, reader.offset(3) + 900)
    with pytest.raises(ShardError, match=rf"{path}: the shard was truncated after it was opened. Run `make verify"):
        reader.copy_clip(3, range(4), 0, 0, out)


def test_same_inputs_same_bytes(raw, jpeg, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "j").mkdir()
    assert write_small_shard(tmp_path / "r").read_bytes() == raw.read_bytes()
    assert write_small_shard(tmp_path / "j", codec="jpeg").read_bytes() == jpeg.read_bytes()


def test_direct_io_writes_the_same_bytes(tmp_path, monkeypatch):
    settings = settings_for(tmp_path, height=128, width=171)
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct writes")
    past_cache = []
    write_through = os.pwrite

    def note(fd, data, offset):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            past_cache.append(len(data))
        return write_through(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    written = {}
    for begin in (0, 1):  # where the frames begin in a page of memory; direct reads need 0
        memory = mmap.mmap(-1, 1 << 20)
        past_cache.clear()
        path = tmp_path / shard_name("val", begin, 2)
        with ShardWriter(path, settings, "val") as writer:
            for number, length in enumerate((3, 1, 2)):
                frames = frames_of(number, length, settings)
                room = np.frombuffer(memory, np.uint8)[begin : begin + frames.nbytes].reshape(frames.shape)
                room[:] = frames
                add_frames(writer, Outcome(video_id=str(number), status="ok", num_frames=length), room, settings)
        reader = ShardReader(path)
        assert all((reader.frames(n) == frames_of(n, t, settings)).all() for n, t in enumerate((3, 1, 2)))
        # Frames of 65,664 bytes; the rest of the last block is read in the ordinary way.
        assert past_cache == ([] if begin else [48 * 4096, 16 * 4096, 32 * 4096])
        written[begin] = path.read_bytes()
    assert written[0] == written[1]


def test_a_disk_that_has_no_direct_writes_will_do(raw, tmp_path, monkeypatch):
    honest = os.open

    def without(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes here")
        return honest(path, flags, *more)

    monkeypatch.setattr(os, "open", without)
    assert write_small_shard(tmp_path).read_bytes() == raw.read_bytes()


def test_a_disk_that_takes_back_direct_writes_will_do(tmp_path, monkeypatch):
    honest = os.pwrite
    refused = []

    def without(fd, data, offset):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "blocks of 64 KiB only")
        return honest(fd, data, offset)

    path = tmp_path / "file"
    path.touch()
    memory = np.frombuffer(mmap.mmap(-1, 3 * 4096), np.uint8)
    memory[:] = np.random.default_rng(0).integers(0, 256, memory.shape)
    monkeypatch.setattr(os, "pwrite", without)
    file = DirectFile(path)
    try:
        file.write(memory, 0)
    finally:
        file.close()
    assert path.read_bytes() == memory.tobytes()
    assert refused in ([3 * 4096], [])  # none, if direct writes are not possible here


@pytest.mark.parametrize("use_map", [True, False])
def test_replaced_shard_is_not_read_by_the_old_index(raw, tmp_path, use_map):
    path = Path(shutil.copy(raw, tmp_path))
    reader = ShardReader(path)
    reader.use_map = use_map
    out = np.zeros((4, 8, 8, 3), np.uint8)
    reader.copy_clip(0, range(4), 0, 0, out)  # from now on it keeps the file, even if its name gets another one
    os.replace(shutil.copy(raw, tmp_path / "other"), path)
    reader.copy_clip(0, range(4), 0, 0, out)
    reader.close()
    with pytest.raises(
        ShardError, match="replaced by another file after its index was read. Start again .training: with --resume auto"
    ):
        reader.copy_clip(0, range(4), 0, 0, out)


def test_a_reader_has_one_descriptor_however_it_reads(raw, jpeg):
    for path in (raw, jpeg):
        reader = ShardReader(path)
        reader.use_map = False
        before, out = len(os.listdir("/proc/self/fd")), np.zeros((3, 8, 8, 3), np.uint8)
        for frames in (range(3), range(0, 6, 2), [0, 2, 1], range(3)):
            reader.read_ahead(0, frames)
            reader.copy_clip(0, frames, 0, 0, out)
            reader.verify(0)
            assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_an_error_publishes_nothing(tmp_path):
    settings = settings_for(tmp_path)
    path = tmp_path / shard_name("val", 0, 1)
    with pytest.raises(ZeroDivisionError), ShardWriter(path, settings, "val") as writer:
        add_frames(writer, Outcome(video_id="a", status="ok", num_frames=3), frames_of(0, 3, settings), settings)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_shard_gets_its_name_in_one_step(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EIO, f"{Path(target).name} refused")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="val-00000-of-00001.h5 refused"):
        write_small_shard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_old_shard_stays_until_the_new_one_is_whole(raw, tmp_path):
    path = tmp_path / raw.name
    shutil.copy(raw, path)
    with pytest.raises(ZeroDivisionError), ShardWriter(path, settings_for(tmp_path), "val"):
        raise ZeroDivisionError
    assert path.read_bytes() == raw.read_bytes()


def change(path: Path, name: str, value: object) -> None:
    with edited(path) as file:
        file.attrs[name] = value


def reseal(path: Path) -> None:
    with open(path, "r+b") as file:
        checksum.write(file.fileno(), [])


def strip(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


DAMAGES = {
    "missing": (lambda path: path.unlink(), "no such shard"),
    "empty": (lambda path: path.write_bytes(b""), "no seal at its end"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 64), "no seal at its end"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:9000]), "no seal at its end"),
    "cut by a byte": (lambda path: strip(path, 1), "no seal at its end"),
    "changed by another program": (
        lambda path: h5py.File(path, "r+").attrs.update(more=1),
        "no seal|CRC-32",
    ),
    "sealed, but no HDF5": (lambda path: (path.write_bytes(b"x" * 600), reseal(path)), "not a valid HDF5 file"),
    "unfinished": (lambda path: change(path, "complete", False), "unfinished"),
    "of other settings": (lambda path: change(path, "recipe", "{}"), "the recipe does not match its fingerprint"),
    "newer": (lambda path: renumber(path, 99), "shard format 99, this program reads 3"),
    "older": (make_format_1, "shard format 1, this program reads 3\\. .*`make preprocess` into another STORE=DIR"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "no such shard"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_finished_shard_is_refused_by_name(raw, tmp_path, damage):
    path = tmp_path / raw.name
    shutil.copy(raw, path)
    act, said = DAMAGES[damage]
    act(path)
    for read in (ShardReader, open_shard):
        with pytest.raises(ShardError, match=said) as error:
            read(path)
        assert str(path) in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize("value", [1 << 40, -1, -9])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("column", ["offset", "nbytes", "num_frames", "starts", "times_s"])
def test_an_index_that_points_elsewhere_is_refused(request, tmp_path, codec, column, value):
    path = Path(shutil.copy(request.getfixturevalue(codec), tmp_path))
    with edited(path) as file:
        table = file["index"][:]
        table[column][0] = value
        file["index"][:] = table
    with pytest.raises(ShardError, match="truncated|do not fit"):
        ShardReader(path)


def test_small_file_that_declares_terabytes_is_refused(tmp_path):
    path = tmp_path / "val-00000-of-00001.h5"
    with h5py.File(path, "w") as file:
        recipe, fingerprint = settings_for(tmp_path).to_json(), settings_for(tmp_path).fingerprint()
        file.attrs.update(
            {"format_version": 3, "complete": True, "recipe": recipe, "recipe_sha256": fingerprint, "split": "val"}
        )
        for name in ("index", "outcomes"):
            file.create_dataset(name, shape=(1 << 36,), dtype="<i8", chunks=(1 << 20,))
    reseal(path)
    with pytest.raises(ShardError, match="not a contiguous dataset"):
        outcomes_table([open_shard(path)])


def test_no_video_of_that_name(raw):
    with pytest.raises(ShardError, match=": nobody: the ledger names this shard .*make manifests"):
        ShardReader(raw).row_of("nobody")


def outside_frames(path: Path) -> list[int]:
    """Positions of all bytes except those of the videos."""
    inside: set[int] = set()
    for offset, nbytes in outcomes_table([open_shard(path)])[["offset", "nbytes"]].itertuples(index=False):
        inside.update(range(offset, offset + nbytes))
    return sorted(set(range(path.stat().st_size)) - inside)


def try_flips(path: Path, flips: list[tuple[int, int]]) -> None:
    """Flip bits of bytes, one at a time; each must be refused in one line that names the shard and what to run."""
    with open(path, "r+b", buffering=0) as file:
        for place, bits in flips:
            byte = os.pread(file.fileno(), 1, place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ bits]), place)
            for read in (ShardReader, open_shard):
                with pytest.raises(ShardError) as error:
                    read(path)
                said = str(error.value)
                assert str(path) in said and "Run `make " in said and "\n" not in said, (place, bits, said)
            os.pwrite(file.fileno(), bytes([byte]), place)
    ShardReader(path)


def in_a_child(act: Callable[[], None], deadline_s: int) -> int:
    """Run `act` in a child where a hang or a crash can be observed; returns the wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        signal.alarm(deadline_s)  # without a handler, it kills
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_flipped_metadata_bits_are_refused(codec, request, tmp_path):
    path = Path(shutil.copy(request.getfixturevalue(codec), tmp_path))
    places = outside_frames(path)
    chosen = {*places[:64], *places[::40], *places[-64:], *attribute_places(path)}
    bits = np.random.default_rng(0).integers(0, 8, len(chosen))
    flips = [(place, 1 << int(bit)) for place, bit in zip(sorted(chosen), bits, strict=True)]
    assert in_a_child(lambda: try_flips(path, flips), deadline_s=60) == 0


def attribute_places(path: Path) -> list[int]:
    """The global heap, where the attributes' texts are: flips there make libhdf5 loop forever."""
    begin = path.read_bytes().index(b"GCOL")
    return list(range(begin, begin + 600))


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_all_flipped_metadata_bits_are_refused(codec, request, tmp_path):
    path = Path(shutil.copy(request.getfixturevalue(codec), tmp_path))
    flips = [(place, 1 << bit) for place in outside_frames(path) for bit in range(8)]
    assert in_a_child(lambda: try_flips(path, flips), deadline_s=900) == 0


@example_settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_byte_is_named_wherever_it_is(raw, tmp_path, data):
    content = bytearray(raw.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4, unique=True)):
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / raw.name
    path.write_bytes(content)
    with pytest.raises(ShardError, match="Run `make verify ARGS=--repair`"):
        reader = ShardReader(path)
        for row in range(len(reader.video_ids)):
            reader.verify(row)


def declared(path: Path) -> dict[str, str]:
    """The encoding that each column of texts declares to HDF5 tools."""
    encodings = {}
    with h5py.File(path) as file:
        for name in ("index", "outcomes"):
            kinds = file[name].dtype
            texts = [field for field in kinds.names if kinds[field].kind == "S"]
            encodings |= {f"{name}.{field}": h5py.check_string_dtype(kinds[field]).encoding for field in texts}
    return encodings


def test_ids_beyond_ascii_are_declared_as_utf8(raw, tmp_path):
    utf8 = {name for name, encoding in declared(raw).items() if encoding == "utf-8"}
    assert utf8 == {"index.video_id", "outcomes.video_id"}
    settings = settings_for(tmp_path)
    with ShardWriter(tmp_path / shard_name("val", 0, 1), settings, "val") as writer:
        outcome = Outcome(video_id="plain", status="ok", codec="vp9", source_fps=29.97, num_frames=3, fps=15.0)
        add_frames(writer, outcome, frames_of(0, 3, settings), settings)
    assert set(declared(tmp_path / shard_name("val", 0, 1)).values()) == {"ascii"}  # bytes as in earlier versions
