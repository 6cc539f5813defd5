"""The video of each label row is found in every layout of folders, and no video outside data_root."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from make_ledgers import IDS, ROWS, build_ledgers, command, joined, label_file, recipe_of, touch

from pipeline.common.errors import EXIT_OK
from pipeline.common.tables import InputError
from pipeline.decoding.decode import decode_video
from pipeline.decoding.video_file import DecodeError
from pipeline.videos.names import ENDINGS
from pipeline.videos.scan import scan_videos


def underscored(label):
    return label.replace(" ", "_")


def torchvision(label):
    return underscored(label).translate(str.maketrans("", "", "'()"))


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (lambda label: "val/", "videos: val/: 6, flat"),
        (lambda label: "", "videos: ./: 6, flat"),
        (lambda label: "validate/", "videos: validate/: 6, flat"),
        (lambda label: f"val/{label}/", "5 class folders (labels with spaces)"),
        (lambda label: f"{label}/", "videos: ./: 6, 5 class folders (labels with spaces)"),
        (lambda label: f"videos_val/{underscored(label)}/", "5 class folders (labels with underscores)"),
        (lambda label: f"val/{torchvision(label)}/", "5 class folders (torchvision's: underscores, without '()"),
    ],
)
def test_every_layout_is_found_and_told(root, folder, said):
    paths = [f"{folder(label)}{name}.mp4" for (label, *_), name in zip(ROWS, IDS, strict=True)]
    touch(root, *paths)
    built = joined(root)
    table = built.ledgers["val"].set_index("video_id")
    assert table.loc[IDS, "path"].tolist() == paths
    assert set(table["status"]) == {"pending"}
    assert any(said in line for line in built.verdict), built.verdict
    assert built.warnings == [] and built.extra.empty


@pytest.mark.parametrize("ending", [*ENDINGS, ".MP4", ".WebM", ""])
def test_every_ending_and_none(root, ending):
    touch(root, *(f"val/{name}{ending}" for name in IDS))
    assert set(build_ledgers(recipe_of(root))["val"]["status"]) == {"pending"}


def test_bare_ids_are_matched_unless_they_could_be_two(root):
    touch(root, "val/-aaaaaaaaaa.mp4", "val/b_b-b_b-b_b.mkv", "val/__c00000000", "val/ddddddddddd.mp4")
    built = joined(root)
    table = built.ledgers["val"].set_index("video_id")["path"]
    assert table[IDS].tolist() == ["val/-aaaaaaaaaa.mp4", "", "val/b_b-b_b-b_b.mkv", "val/__c00000000", "", ""]
    assert "2 label rows have this id (5-15, 50-60)" in built.extra["reason"].item()


def test_class_folder_separates_segments_of_a_bare_id(tmp_path):
    label_file(tmp_path / "data", rows=[("archery", "ddddddddddd", 5, 15), ("zumba", "ddddddddddd", 50, 60)])
    touch(tmp_path / "data", "val/zumba/ddddddddddd.mp4", "val/archery/ddddddddddd.mp4")
    paths = build_ledgers(recipe_of(tmp_path / "data"))["val"]["path"].tolist()
    assert paths == ["val/archery/ddddddddddd.mp4", "val/zumba/ddddddddddd.mp4"]


def test_replacement_video_wins_over_the_corrupted_one(root):
    name = f"{IDS[0]}.mp4"
    touch(root, f"val/{name}", f"replacement/{name}", f"train/{name}")
    built = joined(root)
    assert built.ledgers["val"].set_index("video_id").loc[IDS[0], "path"] == f"replacement/{name}"
    assert sorted(built.extra["path"]) == [f"train/{name}", f"val/{name}"]
    assert all(f"second copy of replacement/{name}" == why for why in built.extra["reason"])


def test_what_no_label_row_names_is_listed_apart(root):
    touch(root, f"val/{IDS[0]}.mp4", "val/-aaaaaaaaaa_000007_000017.mp4", "train/eeeeeeeeeee_000001_000011.mkv",
          "val/holiday.mp4", "x/fffffffffff_000001_000011", "readme.txt", "README", f"{IDS[1]}.mp4.part")  # fmt: skip
    assert command(root) == EXIT_OK
    folder = root.parent / "ledgers" / "kinetics400"
    extra = {path.name: pd.read_csv(path)["path"].tolist() for path in folder.glob("*.extra.csv")}
    assert extra == {
        "val.extra.csv": ["val/-aaaaaaaaaa_000007_000017.mp4", "val/holiday.mp4"],
        "train.extra.csv": ["train/eeeeeeeeeee_000001_000011.mkv"],
        "other.extra.csv": ["x/fffffffffff_000001_000011"],
    }
    why = pd.read_csv(folder / "val.extra.csv")["reason"].tolist()
    assert why == ["label files have this id with other times: 1-11", "not named {youtube_id}_{start}_{end}"]
    (root / "x/fffffffffff_000001_000011").unlink()
    assert command(root) == EXIT_OK
    assert not (folder / "other.extra.csv").exists()


def test_fifo_named_like_video_is_listed(root):
    touch(root, f"val/{IDS[0]}.mp4")
    os.mkfifo(root / f"val/{IDS[1]}.mp4")
    touch(root, f"val/{IDS[2]}.mp4/frame.mp4", f"val/{IDS[3]}/frame.mp4")
    os.mkfifo(root / "pipe")
    (root / f"val/{IDS[4]}.mp4").symlink_to(root / "pipe")
    (root / f"val/{IDS[5]}.mp4").symlink_to(root / f"val/{IDS[3]}")
    table = build_ledgers(recipe_of(root))["val"].set_index("video_id")
    odd = [IDS[1], IDS[2], IDS[4], IDS[5]]
    assert table["path"].loc[[IDS[0], *odd]].tolist() == [f"val/{name}.mp4" for name in (IDS[0], *odd)]
    assert table["status"].loc[[IDS[0], *odd, IDS[3]]].tolist() == ["pending"] * 5 + ["missing"]
    for name in odd:
        with pytest.raises(DecodeError, match="io: not a regular file"):
            decode_video(root / table.at[name, "path"], recipe_of(root))


def test_no_path_leaves_data_root(root, tmp_path):
    outside = tmp_path / "outside"
    touch(outside, f"{IDS[0]}.mp4", f"deep/{IDS[1]}.mp4")
    touch(root, f"store/{IDS[2]}.mp4", "val/.hidden.mp4")
    (root / "val" / f"{IDS[0]}.mp4").symlink_to(outside / f"{IDS[0]}.mp4")
    (root / "val" / "far").symlink_to(outside / "deep")
    (root / "val" / "near.mp4").symlink_to(tmp_path / "nowhere")
    (root / "val" / f"{IDS[2]}.mp4").symlink_to(root / "store" / f"{IDS[2]}.mp4")
    (root / "val" / "ring").symlink_to(root / "val")
    built = joined(root)
    table = built.ledgers["val"].set_index("video_id")
    assert table.loc[IDS[0], ["status", "path", "reason"]].tolist() == ["missing", "", "symlink out of data_root"]
    assert table.loc[IDS[1], "status"] == "missing"
    assert table.loc[IDS[2], "path"] == f"val/{IDS[2]}.mp4"
    assert dict(zip(built.extra["path"], built.extra["reason"], strict=True)) == {
        f"store/{IDS[2]}.mp4": f"second copy of val/{IDS[2]}.mp4",
        f"val/{IDS[0]}.mp4": "symlink out of data_root",
        "val/far": "symlink out of data_root",
        "val/near.mp4": "symlink to a missing file",
    }
    assert "3 files cannot be used" in built.warnings[-1]


def forbid_scan(monkeypatch, folder, number):
    """Listing `folder` fails: root may read everything, so permissions cannot be taken away."""
    scandir = os.scandir

    def failing(path):
        if Path(path) == folder:
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)


def test_folder_without_permission_is_named_rest_stays(root, monkeypatch):
    touch(root, f"val/{IDS[0]}.mp4", f"val/closed/{IDS[1]}.mp4", f"val/open/{IDS[2]}.mp4")
    forbid_scan(monkeypatch, root / "val" / "closed", errno.EACCES)
    built = joined(root)
    assert "1 files cannot be used: val/closed (folder with unknown videos: Permission denied)" in built.warnings
    table = built.ledgers["val"].set_index("video_id")
    assert table["status"].loc[IDS[:3]].tolist() == ["pending", "missing", "pending"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_data_root_that_cannot_be_read_is_an_error(root, monkeypatch, number):
    touch(root, f"val/{IDS[0]}.mp4")
    forbid_scan(monkeypatch, root if number == errno.EACCES else root / "val", number)
    with pytest.raises(OSError) as caught:
        scan_videos(root)
    assert caught.value.errno == number


def test_split_folder_linked_outside_gets_advice(root, tmp_path):
    touch(tmp_path / "fast" / "val", *(f"{name}.mp4" for name in IDS))
    (root / "val").symlink_to(tmp_path / "fast" / "val")
    with pytest.raises(InputError, match="none of the 6 videos") as error:
        build_ledgers(recipe_of(root))
    told = [line for line in str(error.value).splitlines() if "val (symlink out of data_root)" in line]
    assert len(told) == 1 and "Set data_root to the real folder" in told[0]
    moved = recipe_of(tmp_path / "fast", labels=(str(root / "kinetics-400_val.csv"),))
    assert set(build_ledgers(moved)["val"]["status"]) == {"pending"}, "what it says to do is what helps"


def test_file_names_that_a_ledger_cannot_hold(root):
    touch(root, f"val/{IDS[0]}.mp4")
    for name in (b"a\nb.mp4", b"\xff\xfe.mp4", b"back\\slash.mp4"):
        os.close(os.open(os.fsencode(root / "val") + b"/" + name, os.O_CREAT))
    assert command(root) == EXIT_OK
    lines = (root.parent / "ledgers/kinetics400/val.extra.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and lines[1].startswith("val/\\udcff")


def test_videos_in_another_class_folder_are_told(root):
    touch(root, f"val/zumba/{IDS[0]}.mp4")
    assert any("another class's folder" in line for line in joined(root).warnings)


def test_own_videos_by_path(tmp_path):
    root = tmp_path / "data"
    touch(root, "train/a b/1.mp4", "train/ü/2.MTS", "more.mp4")
    (root / "train.csv").write_text("path,label\na b/1.mp4,x\ntrain/ü/2.MTS,y\ngone.mp4,y\n", encoding="utf-8")
    built = joined(root, dataset="mine")
    table = built.ledgers["train"].set_index("video_id")
    assert table["path"].to_dict() == {"a_b_1": "train/a b/1.mp4", "gone": "", "train_ü_2": "train/ü/2.MTS"}
    assert table["label_id"].to_dict() == {"a_b_1": 0, "gone": 1, "train_ü_2": 1}
    assert built.extra["path"].tolist() == ["more.mp4"]
