"""`make manifests` overwrites nothing on bad input, and its check, diff and subset are right."""

import json

import pandas as pd
import pytest
from count_opens import count_opens, once_each
from make_ledgers import IDS, ROWS, build_ledgers, command, label_file, ledger_bytes, recipe_of, touch, val
from paths import SHARED

from pipeline.common.errors import EXIT_OK, EXIT_USAGE
from pipeline.common.locking import LockedError, locked
from pipeline.common.tables import InputError
from pipeline.ledger.table import read_ledger, write_ledger

REAL = SHARED / "kinetics"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the official label files are not beside the repository")


@pytest.mark.parametrize("spoil", ["no root", "no csv", "empty csv", "no column", "no video", "two labels"])
def test_bad_input_overwrites_nothing(root, spoil):
    touch(root, f"val/{IDS[0]}.mp4")
    command(root)
    before = ledger_bytes(root)
    path = root / "kinetics-400_val.csv"
    if spoil == "no root":
        root.rename(root.with_name("moved"))
    elif spoil == "no csv":
        path.unlink()
    elif spoil == "empty csv":
        path.write_text("")
    elif spoil == "no column":
        path.write_text(path.read_text().replace("youtube_id", "id"))
    elif spoil == "two labels":
        path.write_text(path.read_text() + f"archery,{IDS[0][:11]},1,11,val\n")
    else:
        (root / "val" / f"{IDS[0]}.mp4").unlink()
    with pytest.raises(InputError) as error:
        command(root)
    assert error.value.exit_code == EXIT_USAGE
    assert ledger_bytes(root) == before
    assert len(str(error.value).splitlines()) == (3 if spoil == "two labels" else 1)


def test_dry_run_writes_nothing(root):
    touch(root, f"val/{IDS[0]}.mp4")
    assert command(root, "--dry-run") == EXIT_OK
    assert not (root.parent / "ledgers").exists()


def test_build_opens_each_shard_once(preprocessed, monkeypatch):
    opened = count_opens(monkeypatch)
    assert command(preprocessed) == EXIT_OK
    names = [path.name for path in (preprocessed.parent / "store").glob("*.h5")]
    assert +opened == once_each(names) and len(names) == 2


def test_check_passes_until_the_disk_changes(root, capsys):
    touch(root, f"val/{IDS[0]}.mp4")
    with pytest.raises(InputError, match="no ledgers"):
        command(root, "--check")
    command(root)
    before = ledger_bytes(root)
    assert command(root, "--check") == EXIT_OK
    touch(root, f"val/{IDS[1]}.mp4")
    (root / "val" / f"{IDS[0]}.mp4").unlink()
    capsys.readouterr()
    with pytest.raises(InputError, match="out of date with the files on disk. Run `make manifests`") as stale:
        command(root, "--check", "--json")
    assert f"\n  val: 1 videos are no longer on disk: val/{IDS[0]}.mp4\n" in str(stale.value)
    said = json.loads(capsys.readouterr().out)
    assert said["details"] == [
        f"val: 1 videos are no longer on disk: val/{IDS[0]}.mp4",
        f"1 videos on disk are in no ledger and no extra list: val/{IDS[1]}.mp4",
    ]
    command(root)
    label_file(root, rows=[*ROWS[:5], ("zumba", "ddddddddddd", 70, 80)])
    with pytest.raises(InputError) as error:
        command(root, "--check")
    assert {bad.value for bad in error.value.bad_values} == {IDS[5], "ddddddddddd_000070_000080"}
    assert set(ledger_bytes(root)) == set(before)


def test_check_passes_with_a_symlink_to_a_used_video(root):
    touch(root, f"val/{IDS[0]}.mp4", "val/copies/holiday.mp4")
    (root / "val" / "copies" / f"{IDS[0]}.mp4").symlink_to(root / "val" / f"{IDS[0]}.mp4")
    command(root)
    assert command(root, "--check") == EXIT_OK
    (root / "val" / f"{IDS[1]}.mp4").symlink_to(root / "val" / "copies" / "holiday.mp4")
    with pytest.raises(InputError, match=f"in no ledger and no extra list: val/{IDS[1]}.mp4"):
        command(root, "--check")


def test_diff(root, capsys):
    touch(root, *(f"val/{name}.mp4" for name in IDS))
    command(root)
    command(root, dataset="kinetics400-b")
    there = root.parent / "ledgers" / "kinetics400-b" / "val.csv"
    table = read_ledger(there)
    table.loc[table["video_id"] == IDS[1], "status"] = "crash"
    write_ledger(there, table[table["video_id"] != IDS[0]])
    capsys.readouterr()
    assert command(root, "--diff", str(there), "--json") == EXIT_OK
    said = json.loads(capsys.readouterr().out)["val"]
    assert said["only_here"] == [IDS[0]] and said["only_there"] == []
    assert said["changed"]["status"] == [[IDS[1], "pending", "crash"]]
    assert command(root, "--diff", str(there.parent)) == EXIT_OK
    out = capsys.readouterr().out
    assert f"only here: 1: {IDS[0]}" in out and "'pending' here, 'crash' there" in out


def test_leaks(root, capsys, tmp_path):
    touch(root, f"val/{IDS[0]}.mp4")
    command(root)
    other = tmp_path / "k600.csv"
    other.write_text("label,youtube_id,time_start,time_end,split\nx,-aaaaaaaaaa,9,19,val\nx,nnnnnnnnnnn,9,19,val\n")
    capsys.readouterr()
    assert command(root, "--leaks", str(other)) == EXIT_OK
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("val: 1 of 5 YouTube ids are in") and out[1] == "val -aaaaaaaaaa"
    with pytest.raises(InputError, match="no such file. Give --leaks"):
        command(root, "--leaks", str(tmp_path / "gone.csv"))


def test_coverage_for_people_and_for_machines(preprocessed, capsys):
    assert command(preprocessed, "--min-per-class", "1") == EXIT_OK
    table = capsys.readouterr().out
    assert command(preprocessed, "--json", "--min-per-class", "1") == EXIT_OK
    said = json.loads(capsys.readouterr().out)
    part = said["splits"]["val"]
    assert (part["rows"], part["found"], part["missing"], part["bad"]) == (6, 5, 1, 2)
    by_label = {entry["label"]: entry for entry in part["classes"]}
    assert {key: by_label["zumba"][key] for key in ("rows", "found", "missing", "bad", "usable")} == {
        "rows": 2, "found": 1, "missing": 1, "bad": 0, "usable": 1,
    }  # fmt: skip
    assert set(part["few"]) == {"skiing (not slalom or crosscountry)", "training dog"}
    assert part["identity"].startswith("k400-val@") and part["identity"].endswith("(3 of 6)")
    assert part["identity"] in table and "have fewer than 1 usable videos" in "\n".join(said["warnings"])


def test_subset_is_its_own_dataset_with_parent_ids(tmp_path, capsys):
    root = tmp_path / "data"
    for split, letter in (("train", "t"), ("val", "v")):
        rows = [(label, f"{letter}{index:02d}{number:08d}", 1, 11)
                for index, label in enumerate(("abseiling", "archery", "zumba")) for number in range(6)]  # fmt: skip
        label_file(root, split, rows)
        touch(root, *(f"{split}/{name}_000001_000011.mp4" for _, name, _, _ in rows[1:]))
    command(root)
    parent = ledger_bytes(root)
    flags = ("--classes", "2", "--per-class", "3", "--seed", "1")
    capsys.readouterr()
    assert command(root, *flags, "--dry-run") == EXIT_OK
    assert "would have 12 videos: train 6, val 6" in capsys.readouterr().out and ledger_bytes(root) == parent
    assert command(root, *flags) == EXIT_OK
    made = {name: text for name, text in ledger_bytes(root).items() if name not in parent}
    assert {name: text for name, text in ledger_bytes(root).items() if name in parent} == parent
    assert command(root, *flags) == EXIT_OK
    assert {name: text for name, text in ledger_bytes(root).items() if name not in parent} == made
    folder = next((tmp_path / "ledgers").glob("kinetics400-*"))
    train, held_out = read_ledger(folder / "train.csv"), read_ledger(folder / "val.csv")
    assert len(train) == len(held_out) == 6
    assert set(train["label_id"]) == set(held_out["label_id"]) < {0, 5, 399}
    assert set(train["label"].value_counts()) == {3} and set(train["status"]) == {"pending"}
    settings = recipe_of(root, dataset=folder.name)
    assert build_ledgers(settings)["train"].equals(train), "rebuilding a subset is the subset"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--per-class", "-1"], "--per-class: got -1, expected at least 1"),
        (["--per-class", "0"], "--per-class: got 0, expected at least 1"),
        (["--classes", "2", "--seed", "-1"], "--seed: got -1, expected at least 0"),
        (["--check", "--classes", "3"], "--classes writes ledgers and --check only reads them"),
        (["--diff", "x", "--per-class", "3"], "--per-class writes ledgers and --diff only reads them"),
        (["--seed", "1"], "--seed only applies to subsets. Add --classes N or --per-class N."),
        (["--forget", "too_short"], "invalid choice: 'too_short'"),
        (["--leaks", "x", "--forget", "crash"], "--forget writes ledgers and --leaks only reads them"),
    ],
)
def test_impossible_flags_are_refused_before_any_write(root, flags, said, capsys):
    touch(root, *(f"val/{name}.mp4" for name in IDS))
    with pytest.raises(SystemExit) as caught:
        command(root, *flags)
    assert caught.value.code == EXIT_USAGE and said in capsys.readouterr().err
    assert ledger_bytes(root) == {}


@needs_real
def test_the_real_validation_split(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    official = pd.read_csv(REAL / "kinetics-400_val.csv", dtype=str)
    (root / "kinetics-400_val.csv").write_bytes((REAL / "kinetics-400_val.csv").read_bytes())
    names = official["youtube_id"] + "_" + official["time_start"].str.zfill(6) + "_" + official["time_end"].str.zfill(6)
    touch(root, *(f"val/{name}.mp4" for name in names[:100]))
    assert command(root) == EXIT_OK
    table = val(root)
    assert len(table) == 19_906 and table["status"].value_counts().to_dict() == {"missing": 19_806, "pending": 100}
    assert command(root, "--check") == EXIT_OK
    capsys.readouterr()
    assert command(root, "--leaks", str(REAL / "kinetics-600_val_head.csv"), "--json") == EXIT_OK
    shared = json.loads(capsys.readouterr().out)["val"]["shared"]
    other = pd.read_csv(REAL / "kinetics-600_val_head.csv", dtype=str)["youtube_id"]
    assert shared == sorted(set(official["youtube_id"]) & set(other)) and len(shared) == 1_326


def test_ledgers_locked_by_preprocess_are_not_changed(root):
    touch(root, f"val/{IDS[0]}.mp4")
    command(root)
    before = ledger_bytes(root)
    touch(root, f"val/{IDS[1]}.mp4")
    with locked(root.parent / "ledgers" / recipe_of(root).dataset), pytest.raises(LockedError, match="is writing here"):
        command(root)
    assert ledger_bytes(root) == before
