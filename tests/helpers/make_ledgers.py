"""A small Kinetics for tests: label files, empty videos, shards, and their ledgers."""

import json
from pathlib import Path

import numpy as np
from make_store import add_frames

from pipeline import manifests
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.ledger.table import fill_ledger, ledger_path, read_ledger, write_ledger
from pipeline.rebuild.join import join_sources
from pipeline.shards.format import shard_name
from pipeline.shards.store import Store, open_shard, outcomes_table
from pipeline.shards.writer import ShardWriter

# (label, youtube_id, start, end): with labels that copies of Kinetics write differently, and ids that look like flags.
ROWS = [
    ("massaging person's head", "-aaaaaaaaaa", 1, 11),
    ("skiing (not slalom or crosscountry)", "1e100000000", 2, 12),
    ("skiing crosscountry", "b_b-b_b-b_b", 3, 13),
    ("training dog", "__c00000000", 4, 14),
    ("zumba", "ddddddddddd", 5, 15),
    ("zumba", "ddddddddddd", 50, 60),
]
IDS = [f"{name}_{start:06d}_{end:06d}" for _, name, start, end in ROWS]


def label_file(root, split="val", rows=ROWS, name=None):
    root.mkdir(parents=True, exist_ok=True)
    lines = [f'"{label}",{name},{start},{end},{split}' for label, name, start, end in rows]
    path = root / (name or f"kinetics-400_{split}.csv")
    path.write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines, ""]))


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def recipe_of(root, **keys):
    keys = {"dataset": "kinetics400", "height": 2, "width": 3, "videos_per_shard": 4, **keys}
    return Preprocess(
        data_root=str(root), manifests=str(root.parent / "ledgers"), store=str(root.parent / "store"), **keys
    )


def command(root, *flags, **keys):
    settings = recipe_of(root, **keys)
    config = root.parent / "c.yaml"
    names = ("dataset", "data_root", "manifests", "store", "height", "width", "videos_per_shard")
    config.write_text(json.dumps({"preprocess": {name: getattr(settings, name) for name in names}}))
    return manifests.main(["-c", str(config), *flags])


def build_ledgers(settings):
    """The ledgers of a dataset by split, as a rebuild makes them; nothing is written."""
    return join_sources(settings, Store(Path(settings.store))).ledgers


def joined(root, **keys):
    settings = recipe_of(root, **keys)
    return join_sources(settings, Store(Path(settings.store)))


def ledger_bytes(root):
    folder = root.parent / "ledgers"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def val(root, **keys):
    return read_ledger(ledger_path(recipe_of(root, **keys), "val")).set_index("video_id")


OUTCOMES = {
    0: ("ok", ""),
    1: ("timeout", "60 s\nwere not enough"),
    2: ("ok", ""),
    3: ("unreadable", "moov atom not found"),
    4: ("missing", ""),
    5: ("ok", ""),
}


def write_shards(root, outcomes=OUTCOMES, complete=True, **keys):
    """Two shards that hold the rows of ROWS as preprocess would."""
    settings = recipe_of(root, **keys)
    Path(settings.store).mkdir(exist_ok=True)
    for number, rows in enumerate(([5, 0, 3, 1], [2, 4])):
        with ShardWriter(Path(settings.store) / shard_name("val", number, 2), settings, "val") as writer:
            for row in rows:
                status, reason = outcomes[row]
                if status == "ok":
                    frames = np.full((row + 1, settings.height, settings.width, 3), row, np.uint8)
                    outcome = Outcome(
                        video_id=IDS[row], status="ok", codec="h264", source_width=340, source_height=256,
                        source_bit_depth=8, source_fps=30000 / 1001, source_frames=300, source_bytes=12_345,
                        source_crc32=0xABCDEF01, num_frames=row + 1, fps=15.0,
                    )  # fmt: skip
                    add_frames(writer, outcome, frames, settings)
                else:
                    writer.add(Outcome(video_id=IDS[row], status=status, reason=reason))


def preprocess(root):
    """Label files, videos, shards, and the ledger as preprocess writes it: read, filled, written."""
    touch(root, *(f"val/{IDS[row]}.mp4" for row in (0, 1, 2, 3, 5)))
    command(root)
    write_shards(root)
    settings = recipe_of(root)
    outcomes = outcomes_table(map(open_shard, sorted(Path(settings.store).glob("*.h5"))))
    path = ledger_path(settings, "val")
    write_ledger(path, fill_ledger(read_ledger(path), outcomes))
    return root
