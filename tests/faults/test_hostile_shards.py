"""Shards with right checksums and hostile content are refused in one line; none crashes, hangs or fills the memory."""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from make_store import add_frames, edited, frames_of, make_split, settings_for
from paths import ROOT

from pipeline.common.errors import ShardError
from pipeline.common.outcome import Outcome
from pipeline.execution.verification import verify_store
from pipeline.shards import checksum
from pipeline.shards.format import shard_name
from pipeline.shards.libhdf5 import end
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import open_shard
from pipeline.shards.writer import ShardWriter

LENGTHS = (6, 1, 4)


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def intact(request, tmp_path_factory) -> Path:
    """A shard of three videos and a bad one."""
    settings = settings_for(tmp_path_factory.mktemp(request.param), codec=request.param)
    path = Path(settings.manifests).parent / shard_name("val", 0, 1)
    with ShardWriter(path, settings, "val") as writer:
        for number, length in enumerate(LENGTHS):
            outcome = Outcome(video_id=f"video {number}", status="ok", num_frames=length, fps=15.0)
            add_frames(writer, outcome, frames_of(number, length, settings), settings)
        writer.add(Outcome(video_id="video 9", status="crash", reason="signal 11"))
    return path


@pytest.fixture
def copy(intact, tmp_path) -> Path:
    return Path(shutil.copy(intact, tmp_path))


def read_all(path: Path) -> list[object]:
    """All that the readers of training, `manifests`, `preprocess` and `verify` take from a shard."""
    reader = ShardReader(path)
    shard = open_shard(path, with_structure=True)
    content: list[object] = [shard.recipe, shard.split, shard.structure_errors, shard.planned(), shard.stored()]
    content += [values.tolist() for values in shard.outcomes.values()]
    for row in range(len(reader.video_ids)):
        with contextlib.suppress(ShardError):  # the frames of one video: the others can be read
            reader.verify(row)
            content += [reader.encoded(row).times_s.tobytes(), reader.frames(row).tobytes()]
            reader.copy_clip(row, [0], 0, 0, np.empty((1, 4, 4, 3), np.uint8))
    reader.close()
    return content


def assert_refused(path: Path, what: str) -> None:
    """Every reader that reads what is wrong refuses it in one line that names the shard."""
    with pytest.raises(ShardError, match=what) as error:
        read_all(path)
    message = str(error.value)
    assert str(path) in message and len(message) < 600 and message.isprintable(), message


def set_recipe(path: Path, text: str) -> None:
    """Another recipe, with its right fingerprint."""
    with edited(path) as file:
        file.attrs["recipe"], file.attrs["recipe_sha256"] = text, hashlib.sha256(text.encode()).hexdigest()


def changed(path: Path, **keys: object) -> str:
    """The recipe of a shard with other values; `...` leaves a key out, and bytes are JSON as it is."""
    recipe = {**json.loads(open_shard(path).recipe), **keys}
    texts = {key: value.decode() if isinstance(value, bytes) else json.dumps(value) for key, value in recipe.items()
             if value is not ...}  # fmt: skip
    return "{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in texts.items()) + "}"


RECIPES = {
    "infinite rate": {"fps": b"1e400"},
    "negative infinite rate": {"fps": b"-1e400"},
    "no number": {"fps": b"NaN"},
    "zero rate": {"fps": 0},
    "number as text": {"fps": "15"},
    "negative height": {"height": -16},
    "no height": {"height": 0},
    "height beyond int64": {"height": 1 << 70},
    "height of a thousand digits": {"height": b"1" * 1000},
    "height of five thousand digits": {"height": b"1" * 5000},
    "width of gigabytes": {"width": 1 << 30},
    "fractional width": {"width": 20.5},
    "width is true": {"width": True},
    "codec unknown": {"codec": "zip"},
    "codec with escape": {"codec": "raw\x1b[2J"},
    "dataset with line end": {"dataset": "a\nb"},
    "dataset absurdly long": {"dataset": "x" * 10_000},
    "dataset a list": {"dataset": ["tiny"]},
    "no codec": {"codec": ...},
    "quality out of range": {"jpeg_quality": 10**9},
    "later key infinite": {"later": b"1e999"},
    "later key nested": {"later": b"[" * 20_000 + b"]" * 20_000},
    "later key no word": {"a\x07b": 1},
    "format from elsewhere": {"format_version": "3"},
}


@pytest.mark.parametrize("keys", RECIPES.values(), ids=RECIPES)
def test_impossible_recipes_are_refused(copy, keys):
    set_recipe(copy, changed(copy, **keys))
    assert_refused(copy, "the recipe is not one of this format")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "3", "[" * 60_000, '{"a":' * 12_000, "\ud83d".encode("utf-8", "surrogatepass")]
)
def test_text_that_is_no_recipe_is_refused(copy, text):
    if isinstance(text, bytes):
        with edited(copy) as file:
            file.attrs.create("recipe", text, dtype=h5py.string_dtype())
            file.attrs["recipe_sha256"] = hashlib.sha256(text).hexdigest()
    else:
        set_recipe(copy, text)
    assert_refused(copy, "recipe|not a valid HDF5 file")


def test_recipe_of_a_later_version_is_read(copy):
    set_recipe(copy, changed(copy, later="word", another=1.5))
    assert "later" in open_shard(copy).recipe


ATTRIBUTES = {
    "recipe": [1, 1.5, b"bytes", np.bytes_(b"fixed"), np.arange(3), ["a", "b"], h5py.Empty("f"), np.zeros(2, "V3"),
               np.zeros((), [("a", "i4")]), True, 1j],
    "recipe_sha256": [1, "0", np.bytes_(b"x")],
    "complete": [1, "yes", 2.0, np.array([True])],
    "split": [0, "../../x", "val\n", "", "valid", np.array(["val"], dtype=object)],
    "format_version": ["3", 3.0, 4, -1, np.uint64(3), np.array([3])],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ATTRIBUTES.items() for value in values])
def test_attributes_of_other_types_are_refused(copy, name, value):
    with edited(copy) as file:
        del file.attrs[name]
        file.attrs[name] = value
    assert_refused(copy, "not a valid HDF5 file|fingerprint")


def test_attributes_that_h5py_cannot_read_are_refused(copy):
    with edited(copy) as file:
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        for number, kind in enumerate((h5py.h5t.UNIX_D32LE, h5py.h5t.STD_REF_OBJ, h5py.h5t.STD_B64LE)):
            name = ("recipe", "split", "complete")[number]
            del file.attrs[name]
            h5py.h5a.create(file.id, name.encode(), kind, space)
    assert_refused(copy, "not a valid HDF5 file")


@pytest.mark.parametrize("name", ["recipe", "recipe_sha256", "complete", "split", "format_version"])
def test_a_missing_attribute_is_refused(copy, name):
    with edited(copy) as file:
        del file.attrs[name]
    assert_refused(copy, f"0 attributes {name}, expected 1")


def change_table(path: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Write a table again: what `change` returns, or the rows it has changed."""
    with edited(path) as file:
        rows = file[name][:]
        other = change(rows)
        del file[name]
        file[name] = rows if other is None else other


def assign(column: str, *values: object) -> Callable[[np.ndarray], None]:
    """A change of the first values of a column."""

    def change(rows: np.ndarray) -> None:
        rows[column][: len(values)] = values

    return change


LARGEST = (1 << 63) - 1
INDEX = {
    "name with a line end": (assign("video_id", b"a\nb"), "video id"),
    "name with an escape": (assign("video_id", b"\x1b[2J"), "video id"),
    "name with a folder": (assign("video_id", b"../x"), "video id"),
    "no name": (assign("video_id", b""), "video id"),
    "name twice": (assign("video_id", b"video 1"), "twice"),
    "name not UTF-8": (assign("video_id", b"\xff\xfe"), "not a valid HDF5 file"),
    "frames at the end of int64": (assign("offset", LARGEST), "truncated"),
    "bytes at the end of int64": (assign("nbytes", LARGEST), "truncated"),
    "frames that wrap": (assign("num_frames", LARGEST), "truncated"),
    "frames whose times wrap": (assign("num_frames", 1 << 62), "truncated"),
    "times that wrap": (assign("times_s", LARGEST - 3), "truncated"),
    "negative offset": (assign("offset", -1), "truncated"),
    "negative frames": (assign("num_frames", -1), "truncated"),
    "frames of two videos overlap": (lambda rows: assign("offset", *rows["offset"][[0, 0]] + [0, 1])(rows), "overlap"),
    "same place twice": (lambda rows: assign("offset", *rows["offset"][[0, 0]])(rows), "overlap"),
    "times in frames": (lambda rows: assign("times_s", rows["offset"][2])(rows), "overlap"),
    "no frames": (assign("num_frames", 0), "do not fit"),
    "more frames than bytes": (assign("num_frames", 7), "overlap|do not fit"),
    "a column more": (lambda rows: np.zeros(2, plain_dtype(rows, ("more", "<i8"))), "other columns"),
    "a column less": (lambda rows: rows[[*rows.dtype.names[:-1]]].copy(), "other columns"),
    "columns in another order": (lambda rows: rows[[*rows.dtype.names[::-1]]].copy(), "other columns"),
    "numbers as floats": (lambda rows: rows.astype([(n, "S9" if n == "video_id" else "<f8") for n in rows.dtype.names]),
                          "other columns"),
    "big-endian numbers": (lambda rows: rows.astype(rows.dtype.newbyteorder(">")), "another dtype"),
    "no columns": (lambda rows: np.arange(3), "not a table"),
    "two dimensions": (lambda rows: rows[None].copy(), "not a table"),
    "scalar": (lambda rows: rows[0], "not a table"),
    "text": (lambda rows: "index", "index has another dtype|not a contiguous"),
    "nested columns": (lambda rows: np.zeros(2, [("video_id", [("a", "i4")])]), "another dtype"),
    "arrays in columns": (lambda rows: np.zeros(2, [("video_id", "i4", (3,))]), "another dtype"),
    "padded columns": (lambda rows: np.zeros(2, plain_dtype(rows, align=True)), "other columns|another dtype"),
    "variable-length texts": (lambda rows: np.array([("a",)], [("video_id", h5py.string_dtype())]), "another dtype"),
}  # fmt: skip


def plain_dtype(rows: np.ndarray, *more: tuple[str, str], align: bool = False) -> np.dtype:
    """The dtype of a table without h5py's notes, with more columns."""
    return np.dtype([*((name, rows.dtype[name].str) for name in rows.dtype.names), *more], align=align)


@pytest.mark.parametrize(("change", "what"), INDEX.values(), ids=INDEX)
def test_impossible_indices_are_refused(copy, change, what):
    change_table(copy, "index", change)
    assert_refused(copy, what)


OUTCOMES = {
    "unknown status": assign("status", b"good"),
    "negative frames": assign("num_frames", -1),
    "no frames": assign("num_frames", 0),
    "infinite rate": assign("source_fps", np.inf),
    "rate not a number": assign("fps", np.nan),
    "negative size": assign("source_bytes", -(1 << 63)),
    "name with a line end": assign("video_id", b"a\rb"),
    "name twice": assign("video_id", b"video 1"),
    "text not UTF-8": assign("codec", b"\xff"),
    "no table": lambda rows: np.arange(4),
    "a column less": lambda rows: rows[[*rows.dtype.names[1:]]].copy(),
}


@pytest.mark.parametrize("change", OUTCOMES.values(), ids=OUTCOMES)
def test_impossible_outcomes_are_refused(copy, change):
    change_table(copy, "outcomes", change)
    assert_refused(copy, "outcomes|not a valid HDF5 file")


def index_as_soft_link(file):
    file.move("index", "elsewhere")
    file["index"] = h5py.SoftLink("/elsewhere")


def index_as_link_to_root(file):
    del file["index"]
    file["index"] = h5py.SoftLink("/")


def index_as_external_link(file):
    del file["index"]
    file["index"] = h5py.ExternalLink("other.h5", "index")


def frames_as_external_link(file):
    del file["frames"]
    file["frames"] = h5py.ExternalLink("other.h5", "frames")


def replaced(**options):
    def change(file):
        rows = file["index"][:]
        del file["index"]
        file.create_dataset("index", shape=rows.shape, dtype=rows.dtype, **options)

    return change


def index_as_virtual(file):
    rows = file["index"][:]
    layout = h5py.VirtualLayout(rows.shape, rows.dtype)
    layout[...] = h5py.VirtualSource("other.h5", "index", rows.shape)
    del file["index"]
    file.create_virtual_dataset("index", layout)


def index_as_compact(file):
    rows = file["index"][:]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    del file["index"]
    kind, space = h5py.h5t.py_create(rows.dtype), h5py.h5s.create_simple(rows.shape)
    h5py.h5d.create(file.id, b"index", kind, space, creation)


def committed_type(file):
    rows = file["index"][:]
    file["type"] = rows.dtype
    del file["index"]
    file.create_dataset("index", data=rows, dtype=file["type"])


def group_for_table(file):
    del file["index"]
    file.create_group("index")


def table_for_group(file):
    del file["frames"]
    file["frames"] = np.arange(3)


STRUCTURES = [
    index_as_soft_link, index_as_link_to_root, index_as_external_link, frames_as_external_link, index_as_virtual,
    index_as_compact, committed_type, group_for_table,
    replaced(external=[("other.bin", 0, h5py.h5f.UNLIMITED)]), replaced(chunks=(1,)), replaced(maxshape=(None,)),
    replaced(compression="gzip"), replaced(chunks=(1,), fletcher32=True), replaced(chunks=(1,), shuffle=True),
]  # fmt: skip


@pytest.mark.parametrize("change", STRUCTURES)
def test_structures_of_no_shard_are_refused(copy, change):
    for name in ("other.h5", "other.bin"):  # a FIFO: a program that opens it waits for ever
        os.mkfifo(copy.with_name(name))
    with edited(copy) as file:
        change(file)
    assert_refused(copy, "not a group|not a contiguous dataset|not in this file|not of fixed size")


def test_a_table_in_place_of_frames_is_named(copy):
    with edited(copy) as file:
        table_for_group(file)
    assert ("", "frames is not a group of this file") in (open_shard(copy, with_structure=True).structure_errors or [])


def test_strange_names_are_shown_escaped(copy):
    with edited(copy) as file:
        file["frames/\x1b[2J\n"] = 1
        file["a\rb"] = 1
    errors = open_shard(copy, with_structure=True).structure_errors or []
    assert len(errors) == 2 and all(text.isprintable() for error in errors for text in error)


@pytest.mark.parametrize("version", ["v108", "v110", "latest"])
def test_files_of_newer_hdf5_are_refused(copy, version):
    with h5py.File(copy, "w", libver=version) as file:
        file.attrs["complete"] = True
    with open(copy, "r+b") as raw:
        checksum.write(raw.fileno(), [])
    assert_refused(copy, "no superblock of version 0")


def sparse(path: Path, rows: int, name: str = "index") -> None:
    """A table of a great many rows that takes no room on the disk, sealed as if it were frames."""
    with edited(path) as file:
        dtype = file[name].dtype
        del file[name]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        made = h5py.h5d.create(
            file.id, name.encode(), h5py.h5t.py_create(dtype), h5py.h5s.create_simple((rows,)), creation
        )
        place = made.get_offset(), made.get_storage_size()
    with open(path, "r+b") as raw:
        os.ftruncate(raw.fileno(), max(end(raw.fileno()), sum(place)))
        checksum.write(raw.fileno(), [place])


@pytest.mark.parametrize("name", ["index", "outcomes"])
@pytest.mark.parametrize("rows", [1 << 21, 1 << 26, 1 << 33])
def test_counts_of_gigabytes_are_refused_unread(copy, rows, name, monkeypatch):
    with bounded_by_disk():
        monkeypatch.setattr(checksum, "_crc", lambda *_: 0)  # here only the sealing would read the holes
        sparse(copy, rows, name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert_refused(copy, "rows in .* bytes, expected at most")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@contextlib.contextmanager
def bounded_by_disk():
    try:
        yield
    except OSError as error:
        pytest.skip(f"no sparse file of this size here: {error}")


def test_seals_of_gigabytes_are_refused_unread(copy):
    with open(copy, "r+b") as file:
        file.truncate(1 << 37)
        file.seek(0, os.SEEK_END)
        file.write(checksum._TAIL.pack(checksum._MAGIC, 3, 1 << 32 - 1, 0))
    assert_refused(copy, "offsets, expected at most")
    with open(copy, "r+b") as file:
        file.seek(-checksum._TAIL.size, os.SEEK_END)
        file.write(checksum._TAIL.pack(checksum._MAGIC, 3, 0, 0))
    assert_refused(copy, "bytes outside of its videos, expected at most")


def test_a_jpeg_that_says_it_is_12_gb_is_not_decoded(intact, copy):
    if "jpeg" not in open_shard(intact).recipe.split('"codec":')[1][:7]:
        pytest.skip("raw frames say nothing")
    reader = ShardReader(copy)
    with open(copy, "r+b") as file:
        data = bytearray(reader.stored(0).tobytes())
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = b"\xff\xdc\xff\xdc"  # height and width
        os.pwrite(file.fileno(), data, reader.offset(0))
    with pytest.raises(ShardError, match=r"frame 0 is \(65500, 65500\) pixels, expected \(16, 20\)"):
        ShardReader(copy).copy_clip(0, [0], 0, 0, np.empty((1, 4, 4, 3), np.uint8))


def test_reading_does_not_load_libhdf5():
    program = "import sys, pipeline.shards.reader, pipeline.shards.store; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_hostile_shard_costs_itself_not_the_verb(tmp_path, capsys):
    settings = settings_for(tmp_path)
    make_split(settings, "train", 12)
    paths = sorted(Path(settings.store).glob("*.h5"))
    (tmp_path / "data").mkdir()
    set_recipe(paths[1], changed(paths[1], fps=b"1e400"))
    with edited(paths[2]) as file:
        index_as_external_link(file)
    with pytest.raises(ShardError, match="discrepancies"):
        verify_store(settings, repair=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split(":")[0] for line in lines] == [path.name for path in paths[1:]]


def patched(path: Path, place: int, data: bytes) -> None:
    """Write bytes of the HDF5 part, and seal the file again."""
    with open(path, "r+b") as file:
        file.truncate(end(file.fileno()))
        os.pwrite(file.fileno(), data, place)
        checksum.write(file.fileno(), [])


def test_circles_of_names_are_refused(copy):
    for marker in (copy.read_bytes().index(b"TREE"), copy.read_bytes().rindex(b"TREE")):
        patched(copy, marker + 5, b"\1")  # its children are trees
        patched(copy, marker + 32, marker.to_bytes(8, "little"))
    assert_refused(copy, "their tree has a circle")


def test_object_header_without_end_is_refused(copy):
    root = int.from_bytes(copy.read_bytes()[64:72], "little")
    patched(copy, root + 2, b"\xff\xff")  # messages
    patched(
        copy, root + 16, b"\x10\0\x10\0" + bytes(4) + (root + 16).to_bytes(8, "little") + (24).to_bytes(8, "little")
    )
    assert_refused(copy, "the object header of / has no end")


def test_attribute_texts_outside_the_file_are_refused(copy):
    content = copy.read_bytes()
    for name in (b"recipe\0", b"split\0"):
        place = content.index(name) + content[content.index(name) :].index(content.index(b"GCOL").to_bytes(8, "little"))
        for address in (1 << 62, (1 << 64) - 1, len(content) - 8, 0):
            patched(copy, place, address.to_bytes(8, "little"))
            assert_refused(copy, "not a valid HDF5 file")
        patched(copy, place, content[place : place + 8])


def mutate(path: Path, original: bytes, outside: list[int], runs: list[tuple[int, int]], number: int) -> None:
    """Change some bytes outside of the frames, and seal the file again."""
    rng = random.Random(number)
    content = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.choice(outside)
        content[place] = rng.choice((0, 1, 2, 8, 0x7F, 0x80, 0xFF, content[place] ^ 1 << rng.randrange(8)))
    if not rng.randrange(4):  # a field of eight bytes, such as an address or a size
        place = rng.choice(outside) // 8 * 8
        content[place : place + 8] = rng.choice(
            (place, place + 8, rng.choice(outside), 1 << 62, (1 << 64) - 1, (1 << 63) - 1, 1 << 32, len(content))
        ).to_bytes(8, "little")
    path.write_bytes(content[: len(original)])
    with open(path, "r+b") as file:
        checksum.write(file.fileno(), runs)


REFUSED, OTHERWISE = 3, 4


def result_of(path: Path, expected: list[object]) -> tuple[str, int]:
    """What reading gives in a child, and its greatest memory in KiB."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)  # without a handler, it kills
            content = read_all(path)
            os._exit(0 if content == expected else OTHERWISE)
        except ShardError as error:
            line = str(error)
            os._exit(REFUSED if str(path) in line and line.isprintable() and len(line) < 600 else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status, usage = os.wait4(child, 0)
    names = {0: "read as before", REFUSED: "refused", OTHERWISE: "read as it says"}
    code = os.waitstatus_to_exitcode(status)
    return names.get(code, f"exit {code}"), usage.ru_maxrss


def fuzz(intact: Path, path: Path, numbers: range) -> Counter[str]:
    """How many of these changed shards are read, and how many refused."""
    expected = read_all(intact)
    with open(intact, "rb") as raw:
        original = raw.read(end(raw.fileno()))
    reader = ShardReader(intact)
    runs = [(reader.offset(row), len(reader.stored(row))) for row in range(len(LENGTHS))]
    inside = {place for begin, nbytes in runs for place in range(begin, begin + nbytes)}
    # Gaps between the parts are zeros; few changes go there.
    outside = [place for place in range(len(original)) if place not in inside and (original[place] or place % 16 == 0)]
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + (1 << 18)  # 256 MiB more than now
    results: Counter[str] = Counter()
    for number in numbers:
        mutate(path, original, outside, runs, number)
        result, memory = result_of(path, expected)
        assert result in ("read as before", "refused", "read as it says"), (number, result)
        assert memory < limit, (number, memory)
        results[result] += 1
    return results


def test_changed_metadata_is_read_or_refused(intact, tmp_path):
    results = fuzz(intact, tmp_path / intact.name, range(20))
    assert results["refused"] > 5


@pytest.mark.slow
def test_much_changed_metadata_is_read_or_refused(intact, tmp_path):
    results = fuzz(intact, tmp_path / intact.name, range(1000))
    print(results)
    assert results["refused"] > 300
