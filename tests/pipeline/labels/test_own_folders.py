"""Class folders become a label CSV with a split that is stratified, seeded, editable, and never changed again."""

import csv

import pytest

from pipeline.common.recipe import Preprocess, name_of_folder
from pipeline.common.tables import InputError
from pipeline.labels.label_files import load_labels
from pipeline.labels.made_split import listing_path


def own(tmp_path, **keys):
    return Preprocess(**{"dataset": "auto", "store": "auto", "data_root": str(tmp_path / "My videos"),
                         "manifests": str(tmp_path / "ledgers"), **keys})  # fmt: skip


def classes(counts, name="{label}/{label} {number}.mp4"):
    return sorted(name.format(label=label, number=k) for label, count in counts.items() for k in range(count))


def write_listing(settings, labels):
    """Write the listing as `make manifests` does; the rows as dictionaries by path."""
    path = listing_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    if labels.listing is not None:
        labels.listing.to_csv(path, index=False)
    with path.open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def splits_of(labels):
    return dict(zip(labels.table["path"], labels.table["split"], strict=True))


def test_folders_are_labels_and_val_is_a_fifth(tmp_path):
    settings = own(tmp_path)
    videos = classes({"cat": 10, "dog": 5, "eel": 2})
    found = load_labels(settings, videos)
    assert settings.dataset == "My_videos" and settings.store == "data/My_videos-shards"
    table = found.table
    assert table.groupby(["label", "split"]).size().to_dict() == {
        ("cat", "train"): 8, ("cat", "val"): 2, ("dog", "train"): 4, ("dog", "val"): 1,
        ("eel", "train"): 1, ("eel", "val"): 1,
    }  # fmt: skip
    assert dict(zip(table["label"], table["label_id"], strict=True)) == {"cat": 0, "dog": 1, "eel": 2}
    rows = write_listing(settings, found)
    assert list(rows) == videos and {row["split"] for row in rows.values()} == {"train", "val"}
    assert splits_of(load_labels(own(tmp_path, seed=1, manifests=str(tmp_path)), videos)) != splits_of(found)


def test_class_with_one_video_stays_in_train(tmp_path):
    found = load_labels(own(tmp_path), classes({"cat": 4, "dog": 1, "eel": 1}))
    alone = found.table[found.table["label"].isin(["dog", "eel"])]
    assert set(alone["split"]) == {"train"}
    assert "2 classes have one video (or one recording) and are in train only: dog, eel" in found.warnings


@pytest.mark.parametrize("layout", ["{s}/{c}/{n}.mp4", "{s}/{c}/deep/er/{n}.mp4", "{c}/2024/may/{n}.mov"])
def test_layouts_of_class_folders(tmp_path, layout):
    videos = sorted({layout.format(s=s, c=c, n=n) for s in ("train", "Validation") for c in ("a b", "c") for n in "12"})
    table = load_labels(own(tmp_path), videos).table
    assert sorted(set(table["label"])) == ["a b", "c"] and len(table) == len(videos)
    if "{s}" in layout:
        expected = ["val" if path.startswith("Val") else "train" for path in table["path"]]
        assert table["split"].tolist() == expected


def test_val_is_made_out_of_train_and_test_stays(tmp_path):
    videos = [f"{split}/{label}/{n}.mp4" for split in ("test", "train") for label in "ab" for n in range(5)]
    table = load_labels(own(tmp_path), videos).table
    assert table.groupby("split").size().to_dict() == {"test": 10, "train": 8, "val": 2}
    assert set(table.loc[table["split"] == "test", "path"].str[:5]) == {"test/"}


def test_classes_may_be_called_train(tmp_path):
    table = load_labels(own(tmp_path), classes({"bus": 2, "train": 2})).table
    assert sorted(set(table["label"])) == ["bus", "train"]


def test_later_runs_keep_splits_and_append_new_files(tmp_path):
    settings = own(tmp_path)
    first = classes({"cat": 10, "dog": 5})
    rows = write_listing(settings, load_labels(settings, first))
    moved = next(path for path, row in rows.items() if row["split"] == "train")
    text = listing_path(settings).read_text().replace(f"{moved},cat,train", f"{moved},kitten,val")
    listing_path(settings).write_text(text)  # a person edits it
    again = load_labels(settings, first)
    assert again.listing is None and splits_of(again)[moved] == "val" and "kitten" in set(again.table["label"])
    more = load_labels(settings, [*first, *classes({"emu": 5})])
    after = write_listing(settings, more)
    assert list(after)[:15] == first, "new files come last"
    kept = {**{path: row["split"] for path, row in rows.items()}, moved: "val"}
    assert {path: splits_of(more)[path] for path in first} == kept
    assert sorted(splits_of(more)[path] for path in classes({"emu": 5})) == ["train"] * 4 + ["val"]


def test_rows_of_deleted_videos_stay_and_are_named(tmp_path):
    settings = own(tmp_path)
    videos = classes({"cat": 5, "dog": 5})
    write_listing(settings, load_labels(settings, videos))
    found = load_labels(settings, videos[1:])
    assert set(found.table["path"]) == set(videos) and found.listing is None
    assert any("1 videos of" in line and videos[0] in line for line in found.warnings)
    assert set(load_labels(settings, []).table["path"]) == set(videos), "all videos are gone"


def test_other_videos_of_one_folder_name_are_refused(tmp_path):
    settings = own(tmp_path)
    write_listing(settings, load_labels(settings, classes({"cat": 5, "dog": 5})))
    with pytest.raises(InputError, match="none of its 10 videos is in .* choose another|set another") as error:
        load_labels(settings, classes({"emu": 3, "fox": 3}))
    assert len(str(error.value).splitlines()) == 1


def test_group_by_keeps_pieces_on_one_side(tmp_path):
    videos = [f"{c}/game{g}_{p:02d}.mp4" for c in ("goal", "foul") for g in range(6) for p in range(4)]
    plain = load_labels(own(tmp_path), videos)
    assert any("48 names look like pieces of 12 recordings, such as goal/game0_00.mp4" in one for one in plain.verdict)
    grouped = load_labels(own(tmp_path, group_by=r"(game\d+)_"), videos)
    sides = {}
    for path, split in splits_of(grouped).items():
        sides.setdefault(path.split("/")[1].split("_")[0], set()).add(split)
    assert all(len(side) == 1 for side in sides.values()) and {"train", "val"} == set.union(*sides.values())
    assert not any("look like pieces" in one for one in grouped.verdict)
    with pytest.raises(ValueError, match=r"group_by: got '\(', expected a regular expression"):
        own(tmp_path, group_by="(")


def test_recordings_of_a_class_are_in_both_splits(tmp_path):
    videos = [f"{c}/r{r}_{p}.mp4" for c in "ab" for r in range(2) for p in range(10)]
    table = load_labels(own(tmp_path, group_by=r"\w/r\d+"), videos).table
    assert table.groupby(["label", "split"]).size().tolist() == [10] * 4


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        (["a.mp4", "b.mp4"], "2 videos, none in a class folder"),
        (["clips/a.mp4", "clips/b.mp4"], "all 2 videos are in one class folder, 'clips'; expected DATA/<class>"),
        (["v/cat/a.mp4", "v/dog/b.mp4"], "Its 2 subfolders may be the classes: give that folder as DATA"),
        ([], "no label CSV here or in annotations/, and no video"),
    ],
)
def test_folders_without_classes_are_one_line(tmp_path, videos, words):
    with pytest.raises(InputError, match=words) as error:
        load_labels(own(tmp_path), videos)
    assert len(str(error.value).splitlines()) == 1


def test_videos_in_no_class_folder_are_named(tmp_path):
    found = load_labels(own(tmp_path), ["stray.mp4", *classes({"cat": 2, "dog": 2})])
    assert "1 videos are in no class folder and are left out: stray.mp4" in found.warnings


@pytest.mark.parametrize(
    ("folder", "name"),
    [("/x/My videos (2)/", "My_videos_2"), ("/x/-vid.eos-", "vid.eos"), ("/", "own-videos"), ("/x/auto", "auto-videos"),
     ("/x/cafe\u0301", "caf\u00e9"), ("/x/a'b\"$c`d", "a_b_c_d")],
)  # fmt: skip
def test_dataset_is_named_after_its_folder(folder, name):
    assert name_of_folder(folder) == name


def test_names_that_are_given_are_kept(tmp_path):
    settings = own(tmp_path, dataset="mine")
    assert (settings.dataset, settings.store) == ("mine", "data/mine-shards")
