"""Lists of own videos keep their numbers, and the forms that other projects publish are recognised."""

import json

import pytest

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError
from pipeline.labels.label_files import load_labels
from pipeline.labels.made_split import listing_path


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def put(data, **texts):
    """Write text files; `__` in a name is a slash."""
    for name, text in texts.items():
        stem, _, ending = name.rpartition("_")
        path = data / f"{stem.replace('__', '/')}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(data, videos=(), **keys):
    keys = {"dataset": "d", "data_root": str(data), "manifests": str(data.parent / "ledgers"), **keys}
    return load_labels(Preprocess(**keys), sorted(videos))


def rows(labels):
    return labels.table[["path", "label", "label_id", "split"]].to_numpy().tolist()


def said(labels):
    return "\n".join([*labels.verdict, *labels.warnings])


CATS = {"c/1.mp4", "d/2.mp4", "d/3.mp4"}


@pytest.mark.parametrize("line", ["{} {}", "{},{}", "{}\t{}", "{} 120 {}", '"{}" {}'])
def test_lists_in_data_are_found_with_their_numbers(data, line):
    put(data, train_txt=f"{line.format('c/1.mp4', 5)}\n{line.format('d/2.mp4', 2)}\n",
        val_txt=line.format("d/3.mp4", 2), cls2index_json=json.dumps({"zebra": 2, "ape": 5, "unused": 0}))  # fmt: skip
    labels = read(data, CATS)
    assert rows(labels) == [
        ["c/1.mp4", "ape", 5, "train"], ["d/2.mp4", "zebra", 2, "train"], ["d/3.mp4", "zebra", 2, "val"],
    ]  # fmt: skip
    assert "with the numbers of the label files, 0..5; 4 of these numbers have no video" in said(labels)
    assert "model.num_classes auto is 6" in said(labels) and labels.warnings == []
    assert ("frames" in said(labels)) == ("120" in line)


def test_names_of_numbers_beside_a_list(data):
    put(data, train_txt="c/1.mp4 0\nd/2.mp4 1\n", label_map_x_txt="zero\none\n")
    assert [row[1] for row in rows(read(data, CATS))] == ["zero", "one"]
    put(data, train_txt="c/1.mp4 2\nd/2.mp4 1\n")
    labels = read(data, CATS)
    assert [row[1:3] for row in rows(labels)] == [["one", 1], ["zero", 0]]
    assert "label_map_x.txt counts from 1, so label_id is the number less 1" in said(labels)
    put(data, train_txt="c/1.mp4 2\nd/2.mp4 3\n")
    with pytest.raises(InputError, match=r"train\.txt:1: label_id: got '2', expected one of .*label_map_x"):
        read(data, CATS)
    put(data, classInd_txt="1 first\n2 second\n3 third\n")
    assert [row[1:3] for row in rows(read(data, CATS))] == [["second", 1], ["third", 2]]


def test_numbers_without_names_are_named_by_folders(data):
    put(data, train_csv="c/1.mp4 1\nd/2.mp4 2\nd/3.mp4 2\n")
    labels = read(data, CATS)
    assert [row[1:3] for row in rows(labels)] == [["c", 1], ["d", 2], ["d", 2]]
    assert "no row has the number 0. Numbers are kept" in said(labels)
    put(data, train_csv="c/1.mp4 7\nd/2.mp4 7\nd/3.mp4 0\n")
    assert [row[1:3] for row in rows(read(data, CATS))] == [["class_0007", 7], ["class_0007", 7], ["class_0000", 0]]


@pytest.mark.parametrize(
    ("names", "ids", "words"),
    [
        (["0", "2", "10"], [0, 2, 10], "whose labels are numbers and stay their label_id, 0..10; 8 of these numbers"),
        (["1", "2", "3"], [1, 2, 3], "0..3; 1 of these numbers have no video"),
        (["9", "10", "2020"], [0, 1, 2], "numbered in the order of the labels, which are numbers"),
        (["1", "02", "3"], [1, 0, 2], "in the order of the sorted labels"),
    ],
)
def test_labels_that_are_numbers(data, names, ids, words):
    put(data, train_csv="path,label\n" + "".join(f"{n}.mp4,{name}\n" for n, name in enumerate(names)))
    labels = read(data)
    assert [row[2] for row in rows(labels)] == ids and words in said(labels)


def test_official_numbers_of_kinetics400_are_defended(data):
    put(data, train_txt="a/1.mp4 1\nz/2.mp4 0\n", cls2index_json=json.dumps({"zumba": 0, "abseiling": 1}))
    with pytest.raises(InputError, match="'abseiling' has the number 1, but 0 in kinetics400_classes.csv"):
        read(data, dataset="kinetics400")
    assert [row[2] for row in rows(read(data))] == [1, 0]


def test_label_with_two_numbers_is_refused(data):
    put(data, train_csv="path,label,label_id\na.mp4,x,0\nb.mp4,x,1\n")
    with pytest.raises(InputError, match="the label 'x' has two numbers: 0 and 1"):
        read(data)
    put(data, train_csv="path,label,label_id\na.mp4,x,0\nb.mp4,y,1e9\n")
    with pytest.raises(InputError, match=r"train\.csv:3: label_id: got '1e9', expected a class number"):
        read(data)


@pytest.mark.parametrize("where", ["", "ucfTrainTestlist__"])
@pytest.mark.parametrize("above", ["", "UCF-101/"])
def test_ucf101(data, where, above):
    files = [f"{name}/v_{name}_g0{g}_c01.avi" for name in ("Zoo", "Apply") for g in (1, 8)]
    put(data, **{f"{where}classInd_txt": "1 Apply\n2 Zoo\n"})
    for n in "123":
        lines = [f"{files[1]} 2", f"{files[3]} 1"] if n == "1" else [f"{files[0]} 2"]
        put(data, **{f"{where}trainlist0{n}_txt": "\r\n".join(lines), f"{where}testlist0{n}_txt": f"{files[0]}\n"})
    labels = read(data, [above + file for file in files])
    assert sorted(rows(labels)) == [
        [above + files[3], "Apply", 0, "train"], [above + files[0], "Zoo", 1, "val"],
        [above + files[1], "Zoo", 1, "train"],
    ]  # fmt: skip
    assert "counts from 1" in said(labels) and "whose test split is used as val" in said(labels)
    assert (f"paths: {data}" in said(labels)) == bool(above)


def test_hmdb51(data):
    for name in ("brush_hair", "wave"):
        for n in "12":
            put(data, **{f"{name}_test_split{n}_txt": f"{name}_a.avi {n} \n{name}_b.avi 2 \n{name}_c.avi 0 \n"})
    files = [f"{name}/{name}_{letter}.avi" for name in ("brush_hair", "wave") for letter in "abc"]
    assert rows(read(data, files)) == [
        [files[0], "brush_hair", 0, "train"], [files[1], "brush_hair", 0, "val"],
        [files[3], "wave", 1, "train"], [files[4], "wave", 1, "val"],
    ]  # fmt: skip


@pytest.mark.parametrize("separator", [" ", ","])
@pytest.mark.parametrize("root", ["real", "symlink", "other machine", "windows"])
def test_lists_with_absolute_paths(data, separator, root):
    (data / "c").mkdir()
    (data.parent / "link").symlink_to(data)
    prefix = {"real": data, "symlink": data.parent / "link", "other machine": "/home/x/k400", "windows": "D:\\k"}[root]
    for split in ("train", "val", "test"):
        end = "c\\1.mp4" if root == "windows" else "c/1.mp4"
        slash = "\\" if root == "windows" else "/"
        put(data, **{f"{split}_csv": f"{prefix}{slash}{split}{slash}{end}{separator}0\n"})
    videos = [f"{split}/c/1.mp4" for split in ("train", "val", "test")]
    labels = read(data, videos)
    assert {(path, split) for path, _, _, split in rows(labels)} == {(path, path.split("/")[0]) for path in videos}
    assert ("is left out at the beginning" in said(labels)) == (root in ("other machine", "windows"))
    assert ("\\ is read as /" in said(labels)) == (root == "windows")
    through = read(data.parent / "link", videos, labels=tuple(str(data / f"{s}.csv") for s in ("train", "val")))
    assert {row[0] for row in rows(through)} == {"train/c/1.mp4", "val/c/1.mp4"}


def test_paths_of_no_file_name_the_nearest(data):
    put(data, train_csv="".join(f"/home/x/dogs/{n}.mp4 0\n" for n in range(50)))
    with pytest.raises(InputError) as error:
        read(data, ["cats/a.mp4", "cats/77.mp4"])
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(f"{data}/train.csv:1: looked for /home/x/dogs/0.mp4, and none of the 50 paths")
    assert "The nearest file is cats/a.mp4" in str(error.value)
    put(data, train_csv="path,label\ndogs/1.mp4,x\ndogs/2.mp4,y\n")
    assert f"looked for {data}/dogs/1.mp4" in read(data, ["dogs/11.mp4"]).hint, "these may be in shards"


def test_csv_without_split_gets_one(data):
    text = "path,label\n" + "".join(f"{label}{n}.mp4,{label}\n" for label in "ab" for n in range(5))
    put(data, mine_csv=text)
    videos = [f"{label}{n}.mp4" for label in "ab" for n in range(5)]
    labels = read(data, videos)
    assert labels.table["split"].value_counts().to_dict() == {"train": 8, "val": 2}
    settings = Preprocess(dataset="d", manifests=str(data.parent / "ledgers"))
    listed = listing_path(settings)
    listed.parent.mkdir(parents=True)
    labels.listing.to_csv(listed, index=False)
    kept = dict(zip(labels.table["path"], labels.table["split"], strict=True))
    put(data, mine_csv=text.replace("a0.mp4,a", "a0.mp4,b") + "a9.mp4,a\n")
    again = read(data, [*videos, "a9.mp4"])
    splits = dict(zip(again.table["path"], again.table["split"], strict=True))
    assert {path: splits[path] for path in kept} == kept and splits["a9.mp4"] == "train"
    assert again.table.set_index("path").loc["a0.mp4", "label"] == "b", "labels are the CSV's"
    assert load_labels(settings).table["split"].to_dict() == labels.table["split"].to_dict(), "without data_root"


def test_list_without_split_keeps_its_numbers(data):
    put(data, all_txt="".join(f"{c}/{n}.mp4 {number}\n" for c, number in (("x", 4), ("a", 9)) for n in range(5)))
    videos = [f"{c}/{n}.mp4" for c in "xa" for n in range(5)]
    labels = read(data, videos, labels=("all.txt",))
    assert labels.listing.columns.tolist() == ["path", "label", "split", "label_id"]
    settings = Preprocess(dataset="d", manifests=str(data.parent / "ledgers"))
    listing_path(settings).parent.mkdir(parents=True)
    labels.listing.to_csv(listing_path(settings), index=False)
    table = load_labels(settings).table
    assert dict(zip(table["label"], table["label_id"], strict=True)) == {"x": 4, "a": 9}


def test_files_with_and_without_split_are_one_line(data):
    put(data, mine_csv="path,label\na.mp4,x\nb.mp4,y\n", train_csv="path,label\na.mp4,x\nb.mp4,y\n")
    with pytest.raises(InputError, match=r"mine\.csv: no split, but .*train\.csv has one"):
        read(data)
    put(data, mine_csv="youtube_id,time_start,time_end,label\n-aaaaaaaaaa,1,11,x\n")
    with pytest.raises(InputError, match=r"mine\.csv: no split: there is no column split") as error:
        read(data)
    assert len(str(error.value).splitlines()) == 1


def test_test_list_that_repeats_val_is_left_out(data):
    put(data, train_csv="c/1.mp4 0\n", val_csv="d/2.mp4 1\n", test_csv="d/2.mp4 1\n")
    labels = read(data, CATS)
    assert [row[3] for row in rows(labels)] == ["train", "val"]
    assert "test has the same videos as val, and is left out" in said(labels)


def test_unreadable_names_are_one_line(data):
    put(data, train_txt="c/1.mp4 0\nd/2.mp4 1\n")
    (data / "label_map.txt").write_bytes("f\u00f6len\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"label_map\.txt: not readable as text"):
        read(data, CATS)
    for text in ("[" * 100_000, '{"a": 0, "b": 0}', '{"a": "0"}', "{"):
        put(data, cls2index_json=text)
        with pytest.raises(InputError, match="Fix or remove it") as error:
            read(data, CATS)
        assert len(str(error.value).splitlines()) == 1
