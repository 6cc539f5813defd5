"""Random damage to ledgers and label files: the same result as without it, or an error that names the file."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_ledgers import ledger_bytes, touch
from make_store import LABELS, make_split, settings_for

from pipeline import manifests
from pipeline.common.errors import ShardError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError
from pipeline.ledger.table import ledger_folder, read_ledgers
from pipeline.shards.reader import ShardReader
from train.data.videos import Videos, read_videos

KINDS = ("bit", "cut", "NUL", "swapped", "lost line", "line twice")
COUNTS = [6, pytest.param(300, marks=pytest.mark.slow)]


def damage_of(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """`content` with one damage of a kind at a random place."""
    place = int(rng.integers(len(content)))
    if kind == "cut":
        return content[:place]
    if kind == "bit":
        return content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]
    if kind == "NUL":
        length = min(int(rng.integers(1, 200)), len(content) - place)
        return content[:place] + bytes(length) + content[place + length :]
    lines = content.splitlines(keepends=True)
    one, other = (int(number) for number in rng.integers(len(lines), size=2))
    if kind == "swapped":
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == "lost line":
        del lines[one]
    else:
        lines.insert(one, lines[one])
    return b"".join(lines)


def make_damages(path: Path, count: int, seed: int) -> list[tuple[str, bytes]]:
    content, rng = path.read_bytes(), np.random.default_rng(seed)
    made = ((kind, damage_of(content, rng, kind)) for kind in KINDS * -(-count // len(KINDS)))
    return [each for each in made if each[1] != content][:count]


def content_below(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder but locks."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".lock" not in path.name
    }


def refusal_of(act: Callable[[], object], folder: Path) -> str:
    """The message of the error that `act` ends with, after which no file has changed; empty if it succeeds."""
    before = content_below(folder)
    try:
        act()
    except UserError as error:
        assert error.exit_code in (2, 65, 70, 73, 74) and content_below(folder) == before
        words = str(error)
        assert "pandas" not in words and "C error" not in words and "Traceback" not in words
        return words
    return ""


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Preprocess:
    settings = settings_for(tmp_path_factory.mktemp("stored"))
    for split in ("train", "val"):
        make_split(settings, split, 24)
    return settings


def copy_ledgers(stored: Preprocess, folder: Path) -> Preprocess:
    settings = Preprocess(**{**stored.__dict__, "manifests": str(folder / "manifests")})
    shutil.copytree(stored.manifests, settings.manifests)
    return settings


@pytest.mark.parametrize("count", COUNTS)
def test_any_damage_to_a_recorded_ledger_is_named(stored, tmp_path, count):
    settings = copy_ledgers(stored, tmp_path)
    path = ledger_folder(settings) / "train.csv"
    content = path.read_bytes()
    for kind, broken in make_damages(path, count, seed=1):
        path.write_bytes(broken)
        for read in (lambda: read_videos(settings, "train"), lambda: read_ledgers(settings)):
            words = refusal_of(read, Path(settings.manifests))
            assert str(path) in words, f"{kind}: {words}"
    path.write_bytes(content)
    assert same_videos(read_videos(settings, "train"), read_videos(stored, "train"))


@pytest.mark.parametrize("count", COUNTS)
def test_any_damage_to_the_record_is_named_or_harmless(stored, tmp_path, count):
    settings = copy_ledgers(stored, tmp_path)
    path, expected = ledger_folder(settings) / "ledgers.json", read_videos(stored, "train")
    for kind, broken in make_damages(path, count, seed=2):
        path.write_bytes(broken)
        if not refusal_of(lambda: read_videos(settings, "train"), Path(settings.manifests)):
            assert same_videos(read_videos(settings, "train"), expected), kind


def same_videos(one: Videos, other: Videos) -> bool:
    """Whether training sees the same videos with the same labels; the summed size is for the choice of a cache only."""
    return video_rows(one) == video_rows(other) and one.class_names == other.class_names


def video_rows(videos: Videos) -> list[tuple[object, ...]]:
    shards = [videos.shards[number].name for number in videos.shard_of]
    columns = (videos.video_ids, videos.label_ids.tolist(), videos.num_frames.tolist(), videos.crc32.tolist(), shards)
    return list(zip(*columns, strict=True))


def contradicts_a_shard(videos: Videos) -> bool:
    """Whether a shard's index differs from a row, which training compares when it opens the shard."""
    for video_id, _, num_frames, crc32, shard in video_rows(videos):
        path = next(path for path in videos.shards if path.name == shard)
        reader = ShardReader(path)
        try:
            row = reader.row_of(str(video_id))
        except ShardError:
            return True
        if (int(reader.num_frames[row]), int(reader.crc32[row])) != (num_frames, crc32):
            return True
    return False


@pytest.mark.parametrize("count", COUNTS)
def test_damage_to_a_ledger_without_a_record(stored, tmp_path, count):
    settings = copy_ledgers(stored, tmp_path)
    path, expected = ledger_folder(settings) / "train.csv", read_videos(stored, "train")
    (path.parent / "ledgers.json").unlink()
    results: Counter[str] = Counter()
    for kind, broken in make_damages(path, count, seed=3):
        path.write_bytes(broken)
        if refusal_of(lambda: read_videos(settings, "train"), Path(settings.manifests)):
            results["refused"] += 1
            continue
        videos = read_videos(settings, "train")
        if same_videos(videos, expected):
            results["same"] += 1
        elif set(video_rows(videos)) < set(video_rows(expected)):
            # The one thing that only the record notices: whole lines are gone, or a row is no longer `ok`.
            results["fewer rows"] += 1
        else:
            assert contradicts_a_shard(videos), kind
            results["contradicts its shard"] += 1
    assert results["refused"] >= count // 3


@pytest.fixture
def labelled(tmp_path) -> list[str]:
    """The words of a command that builds the ledgers of a few own videos."""
    root = tmp_path / "data"
    videos = [(label, split, number) for split in ("train", "val") for label in LABELS for number in range(3)]
    lines = [f"{label}/{split}{number}.mp4,{label},{split}" for label, split, number in videos]
    touch(root, *(line.split(",")[0] for line in lines))
    (root / "labels.csv").write_text("\n".join(["path,label,split", *lines, ""]))
    (tmp_path / "c.yaml").write_text("{}")
    paths = {
        "data_root": root,
        "labels": f"{root}/labels.csv",
        "manifests": tmp_path / "ledgers",
        "store": tmp_path / "s",
    }
    words = [f"--preprocess.{key}={value}" for key, value in paths.items()]
    return ["-c", f"{tmp_path}/c.yaml", "--preprocess.dataset=own", *words]


@pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_damage_to_a_label_file_is_named_or_reported(labelled, tmp_path, capsys, count):
    path, root = tmp_path / "data" / "labels.csv", tmp_path / "data"
    assert manifests.main([*labelled, "--json"]) == 0
    expected, counts = ledger_bytes(root), json.loads(capsys.readouterr().out)["splits"]
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "ledgers", kept)
    for kind, broken in make_damages(path, count, seed=4):
        path.write_bytes(broken)
        words = refusal_of(lambda: manifests.main([*labelled, "--json"]), tmp_path)
        result = json.loads(capsys.readouterr().out)
        if words:
            assert "error" in result and ledger_bytes(root) == expected, kind
            continue
        now = {name: content for name, content in ledger_bytes(root).items() if "extra" not in name}
        # A valid row with another meaning cannot be known to be damage: it is reported, and a rebuild undoes it.
        reported = result["warnings"] or any(result["splits"].get(split) != part for split, part in counts.items())
        assert now == expected or reported, kind
        shutil.rmtree(tmp_path / "ledgers")
        shutil.copytree(kept, tmp_path / "ledgers")


def test_a_misspelt_label_is_named_by_a_rebuild(labelled, tmp_path, capsys):
    manifests.main(labelled)
    path = tmp_path / "data" / "labels.csv"
    path.write_text(path.read_text().replace(",clapping,", ",clappimg,", 1))
    capsys.readouterr()
    assert manifests.main([*labelled, "--json"]) == 0
    (warning,) = [each for each in json.loads(capsys.readouterr().out)["warnings"] if "class list" in each]
    assert warning == (
        "The class list changed. 1 labels are new: 'clappimg'. 3 labels have another number: 'clapping', 'jumping', "
        "'running'. Weights trained on the earlier ledgers do not fit."
    )


def test_garbage_in_an_extra_list_is_one_line(labelled, tmp_path):
    manifests.main(labelled)
    path = tmp_path / "ledgers" / "own" / "other.extra.csv"
    for content in (b"", b"\xff\xfe\x00", b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"other\.extra\.csv: corrupted, expected columns path,reason"):
            manifests.main([*labelled, "--check"])
