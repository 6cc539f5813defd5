"""Label files of every kind become one table, and every error in them is listed with file and row."""

import json

import pandas as pd
import pytest
from paths import SHARED

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError
from pipeline.labels.class_ids import KINETICS400, read_class_list
from pipeline.labels.label_files import load_labels

REAL = SHARED / "kinetics"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the official label files are not beside the repository")
VAL = "label,youtube_id,time_start,time_end,split\n"


def settings(root, dataset="k", **keys):
    return Preprocess(dataset=dataset, data_root=str(root), manifests=str(root / "ledgers"), **keys)


def load(root, dataset="k", **keys):
    return load_labels(settings(root, dataset, **keys))


def write(root, name, text, encoding="utf-8"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def places(error):
    return [(bad.row, bad.column) for bad in error.value.bad_values]


A, B = "-aaaaaaaaaa", "1e100000000"  # ids that a shell and a spreadsheet would spoil


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("kinetics-400_val.csv", "label,youtube_id,time_start,time_end,split,is_cc\n"
         f'"arm wrestling",{A},1,11,val,0\nzumba,{B},2,12,val,1\n', "ActivityNet crawler's form, Kinetics-400"),
        ("kinetics-600_val.csv", f"{VAL}arm wrestling,{A},1,11,val\nzumba,{B},2,12,val\n", "Kinetics-600, 5 columns"),
        ("validate.csv", f"{VAL}arm wrestling,{A},1.0,11.0,validate\nzumba,{B},2.7,12.7,validate\n", "DeepMind tarball"),  # noqa: E501
        ("annotations/val.csv", "label,youtube_id,time_start,time_end,split,is_cc\n"
         f"arm wrestling,{A},1,11,val,0\nzumba,{B},2,12,val,0\n", "CVDF's annotations"),
        ("kinetics700_2020_val.csv", f"{VAL}arm wrestling,{A},1,11,val\nzumba,{B},2,12,val\n", "Kinetics-700"),
        ("val.csv", f"\ufeff{VAL}arm wrestling,{A},1,11,val\nzumba,{B},2,12,val".replace("\n", "\r\n"), "5 columns"),
        ("val.csv", f"{VAL}arm wrestling,{A},1,11,val\nzumba,{B},2,12,val\n".replace(",", ";"), "5 columns"),
        ("val.csv", f"{VAL}\n  arm wrestling ,{A},1,11,val\n\nzumba,{B},2,12,val\n\n", "5 columns"),
        ("val.csv", f"label,youtube_id,time_start,time_end\narm wrestling,{A},1,11\nzumba,{B},2,12\n", "4 columns"),
    ],
)  # fmt: skip
def test_every_flavour_is_the_same_table(tmp_path, name, text, said):
    write(tmp_path, name, text)
    found = load(tmp_path)
    assert found.table["video_id"].tolist() == [f"{A}_000001_000011", f"{B}_000002_000012"]
    assert found.table["label"].tolist() == ["arm wrestling", "zumba"]
    assert found.table["label_id"].tolist() == [0, 1]
    assert set(found.table["split"]) == {"val"}
    assert found.kinetics and found.warnings == []
    assert said in found.verdict[0]


def test_ids_that_look_like_numbers_or_null_stay_text(tmp_path):
    ids = ["00000000001", "1e100000000", "0x123456789", "1_000_000_0", "NaN________", "-Infinity--", "TRUE_______"]
    write(tmp_path, "val.csv", VAL + "".join(f"zumba,{one},1,11,val\n" for one in ids))
    assert load(tmp_path).table["youtube_id"].tolist() == ids


def test_utf_16_from_a_spreadsheet(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}arm wrestling,{A},1,11,val\n", "utf-16")
    assert load(tmp_path).table["youtube_id"].tolist() == [A]


@pytest.mark.parametrize("blank", [False, True])
def test_a_test_split_may_go_without_labels(tmp_path, blank):
    write(tmp_path, "train.csv", f"{VAL}zumba,{A},1,11,train\n")
    text = f"{VAL},{B},2,12,test\n" if blank else f"youtube_id,time_start,time_end,split\n{B},2,12,test\n"
    write(tmp_path, "test.csv", text)
    found = load(tmp_path)
    assert found.table.set_index("split")["label_id"].to_dict() == {"train": 0, "test": -1}
    assert "without labels; 1 rows (test 1)" in found.verdict[0]


def test_labelled_test_split_uses_the_classes_of_train(tmp_path):
    write(tmp_path, "train.csv", f"{VAL}zumba,{A},1,11,train\narchery,{B},1,11,train\n")
    write(tmp_path, "test.csv", f"{VAL}zumba,{B},2,12,test\n")
    table = load(tmp_path).table.set_index("split")
    assert table.loc["test", "label_id"] == 1


def test_one_id_may_have_two_segments_with_two_labels(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},1,11,val\narchery,{A},20,30,val\n")
    assert load(tmp_path).table["label_id"].tolist() == [1, 0]


def test_video_with_two_labels_or_splits_is_an_error(tmp_path):
    write(tmp_path, "train.csv", f"{VAL}zumba,{A},1,11,train\narchery,{A},1,11,train\nzumba,{B},5,15,train\n")
    write(tmp_path, "val.csv", f"{VAL}zumba,{B},5,15,val\nzumba,{A},3,13,val\n")
    with pytest.raises(InputError, match="2 videos have two labels or are in two splits") as error:
        load(tmp_path)
    assert sorted(places(error)) == [(2, "label"), (2, "split"), (3, "label"), (4, "split")]
    assert "'zumba' and 'archery'" in str(error.value) and "'train' and 'val'" in str(error.value)


def test_a_repeated_row_counts_once_and_is_told(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},1,11,val\nzumba,{A},1,11,val\n")
    found = load(tmp_path)
    assert len(found.table) == 1
    assert "1 label rows repeat an earlier row" in found.warnings[0] and "val.csv:3" in found.warnings[0]


def test_footage_of_one_video_in_train_and_val_is_told(tmp_path):
    write(tmp_path, "train.csv", f"{VAL}zumba,{A},1,11,train\n")
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},20,30,val\n")
    assert "1 YouTube ids have segments in train and in val" in load(tmp_path).warnings[0]


def test_errors_of_all_files_come_in_one_report(tmp_path):
    write(tmp_path, "train.csv", f"{VAL}zumba,short,1,11,train\n,{A},9,3,train\nzumba,{B},-1,11,train\n")
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},1,eleven,val\nzumba,{B},inf,11,holdout\n\nzumba,#NAME?,1,11,val\n")
    with pytest.raises(InputError, match="label files: 8 errors. Fix them and run this command again.") as error:
        load(tmp_path)
    assert sorted(places(error)) == [
        (2, "time_end"), (2, "youtube_id"), (3, "label"), (3, "split"), (3, "time_end"), (3, "time_start"),
        (4, "time_start"), (5, "youtube_id"),
    ]  # fmt: skip
    assert "val.csv:2: time_end: got 'eleven', expected whole seconds after time_start" in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("header", "blank", "lacking", "columns"),
    [
        (f"{VAL.strip()},is_cc", ",,,,,", "zumba,,,,val,0", {"youtube_id", "time_start", "time_end"}),
        (f"{VAL.strip()},is_cc", ",,,,,", ",,,,,0", {"youtube_id", "time_start", "time_end", "label", "split"}),
        ("path,label,split", ",,", ",y,val", {"path"}),
    ],
)
def test_only_a_row_without_any_value_is_blank(tmp_path, header, blank, lacking, columns):
    write(tmp_path, "val.csv", f"{header}\n{blank}\n\n{lacking}\n")
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert set(places(error)) == {(4, column) for column in columns}


def test_times_are_compared_as_they_are_stored(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},11.9,12.1,val\nzumba,{A},12.2,12.9,val\nzumba,{A},-0.5,9,val\n")
    with pytest.raises(InputError, match="got '12.9', expected whole seconds after time_start") as error:
        load(tmp_path)
    assert places(error) == [(3, "time_end"), (4, "time_start")]
    write(tmp_path, "val.csv", f"path,label\n{A}_000001_000011.mp4,x\n{B}_000012_000012.mp4,x\n")
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert places(error) == [(3, "path")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "val.csv: The file is empty. Expected columns youtube_id"),
        ("\n\n", "val.csv: The file is empty"),
        (VAL, "val.csv: The file has a header but no rows."),
        ("label,youtube_id,time_start,split\nzumba,-aaaaaaaaaa,1,val\n", "val.csv:1: no column time_end, got label"),
        ("label,time_start,time_end\nzumba,1,11\n", "val.csv:1: no column youtube_id"),
        (
            "youtube_id,time_start,time_end,split\n-aaaaaaaaaa,1,11,val\n",
            "no column label, got youtube_id,time_start,time_end,split. Only a test split",
        ),
        (f"{VAL}zumba, a dance,{A},1,11,val\n", "val.csv:2: more values than the 5 columns"),
        (
            f"{VAL}zumba,{A},1,11,val\nzumba, a dance,{A},1,11,val\n",
            "val.csv:3: got 6 values, expected 5. Put a label with a comma in quotes.",
        ),
    ],
)
def test_file_that_is_no_label_file_is_one_clear_line(tmp_path, text, said):
    write(tmp_path, "val.csv", text)
    with pytest.raises(InputError, match=said) as error:
        load(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_non_utf8_file_is_named_with_its_line(tmp_path):
    text = f"{VAL}zumba,{A},1,11,val\nfölen,{B},1,11,val\n"
    (tmp_path / "val.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"val\.csv:3: not UTF-8. Save the file as UTF-8."):
        load(tmp_path)


def test_no_label_file_at_all(tmp_path):
    write(tmp_path, "prices.csv", "what,price\ntea,3\n")
    with pytest.raises(InputError, match="no label CSV here or in annotations/"):
        load(tmp_path)
    with pytest.raises(InputError, match="preprocess.labels: no such file: gone.csv"):
        load(tmp_path, labels=("gone.csv",))
    with pytest.raises(InputError, match="data_root and preprocess.labels are not set"):
        load_labels(Preprocess(dataset="k", manifests=str(tmp_path)))


def test_two_files_for_one_split_must_be_named(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},1,11,val\n")
    write(tmp_path, "annotations/val.csv", f"{VAL}zumba,{B},1,11,val\n")
    with pytest.raises(InputError, match="split val has 2 label files"):
        load(tmp_path)
    assert len(load(tmp_path, labels=("val.csv", "annotations/val.csv")).table) == 2


def test_labels_that_differ_in_case_are_two_classes(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}Zumba,{A},1,11,val\nzumba,{B},1,11,val\n")
    found = load(tmp_path)
    assert found.table["label_id"].tolist() == [0, 1]
    assert "1 groups of labels differ only in case, spaces or Unicode form" in found.warnings[0]


def test_the_frozen_classes_are_torchvisions_order():
    names = read_class_list(KINETICS400)
    assert len(names) == 400 and names == sorted(names)
    assert names[0] == "abseiling" and names[399] == "zumba"
    assert names[308] == "skiing (not slalom or crosscountry)" and names[309] == "skiing crosscountry"


def test_a_part_of_kinetics400_keeps_the_official_ids(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},1,11,val\nabseiling,{B},1,11,val\n")
    found = load(tmp_path, "kinetics400")
    assert found.table["label_id"].tolist() == [399, 0]
    assert "2 of the 400 classes of kinetics400_classes.csv" in found.verdict[-1]


def test_misspelt_kinetics400_label_is_an_error(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumbaa,{A},1,11,val\nabseiling,{B},1,11,val\n")
    with pytest.raises(InputError, match="'zumbaa' .nearest: 'zumba'"):
        load(tmp_path, "kinetics400")


def test_other_release_named_kinetics400_is_refused(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}zumba,{A},1,11,val\nadjusting glasses,{B},1,11,val\n")
    with pytest.raises(InputError, match="set --preprocess.dataset to a name of your own, such as kinetics600"):
        load(tmp_path, "kinetics400")
    assert load(tmp_path, "kinetics600").table["label_id"].tolist() == [1, 0]


def test_other_labels_named_kinetics400_are_renumbered(tmp_path):
    write(tmp_path, "val.csv", f"{VAL}mine,{A},1,11,val\n")
    found = load(tmp_path, "kinetics400")
    assert found.table["label_id"].tolist() == [0]
    assert "Set preprocess.dataset" in found.verdict[-1]


def test_own_videos_by_path_and_label(tmp_path):
    write(tmp_path, "train.csv", f'path,label\ncats/a b.mp4,cat\n"{tmp_path.resolve()}/dogs/1.mp4",dog\n')
    write(tmp_path, "val.csv", "path,label\n./cats/c.mov,cat\n")
    found = load(tmp_path)
    assert not found.kinetics
    assert found.table["video_id"].tolist() == ["cats_a_b", "dogs_1", "cats_c"]
    assert found.table["path"].tolist() == ["cats/a b.mp4", "dogs/1.mp4", "cats/c.mov"]
    assert found.table["label_id"].tolist() == [0, 1, 0]
    assert found.table["split"].tolist() == ["train", "train", "val"]


def test_own_videos_whose_folder_says_the_split(tmp_path):
    write(tmp_path, "videos.csv", "path,label\ntrain/a.mp4,x\nval/b.mp4,x\n")
    assert load(tmp_path, labels=("videos.csv",)).table["split"].tolist() == ["train", "val"]


def test_own_paths_that_leave_data_root_are_errors(tmp_path):
    write(tmp_path, "train.csv", "path,label\n../a.mp4,x\n/etc/b.mp4,x\nc/../../d.mp4,x\nok.mp4,x\n")
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert places(error) == [(2, "path"), (3, "path"), (4, "path")]


def test_own_files_with_like_names_are_two_videos(tmp_path):
    write(tmp_path, "train.csv", "path,label\na b.mp4,x\nc d.mp4,y\n")
    assert load(tmp_path).table["video_id"].tolist() == ["a_b", "c_d"]
    write(tmp_path, "train.csv", "path,label\na b.mp4,x\na_b.mp4,y\na_b.avi,y\nc d.mp4,x\n")
    ids = load(tmp_path).table["video_id"].tolist()
    assert ids[3] == "c_d" and len(set(ids)) == 4
    assert all(name.startswith("a_b-") for name in ids[:3]), "none takes over what was stored as a_b"


@pytest.mark.parametrize("line", ["cats/a b.mp4 {}", "cats/a b.mp4,{}", "cats/a b.mp4\t{}"])
def test_lists_of_path_and_label_id(tmp_path, line):
    write(tmp_path, "train_list.txt", f"{line.format(1)}\ndogs/x.mp4 0\n")
    write(tmp_path, "cls2index.json", json.dumps({"dog": 0, "cat": 1}))
    found = load(tmp_path, labels=("train_list.txt",))
    assert found.table["label"].tolist() == ["cat", "dog"]
    assert found.table["label_id"].tolist() == [1, 0], "the list's own numbers are kept"
    assert found.warnings == []


def test_csv_numbered_unlike_cls2index_is_a_warning(tmp_path):
    write(tmp_path, "train.csv", "path,label\na.mp4,cat\nb.mp4,dog\n")
    write(tmp_path, "cls2index.json", json.dumps({"dog": 0, "cat": 1}))
    assert "numbers 2 classes differently ('cat' is 1 there and 0 here)" in load(tmp_path).warnings[0]


def test_a_list_with_a_label_map_and_one_without(tmp_path):
    write(tmp_path, "val.txt", "a.mp4 0\nb.mp4 2\n")
    assert load(tmp_path, labels=("val.txt",)).table["label"].tolist() == ["class_0000", "class_0002"]
    write(tmp_path, "label_map_x.txt", "zero\none\ntwo\n")
    assert load(tmp_path, labels=("val.txt",)).table["label"].tolist() == ["zero", "two"]
    write(tmp_path, "val.txt", "a.mp4 0\nb.mp4 9\n")
    with pytest.raises(InputError) as error:
        load(tmp_path, labels=("val.txt",))
    assert places(error) == [(2, "label_id")]


def test_a_list_of_kinetics_files_is_kinetics(tmp_path):
    write(tmp_path, "val.txt", f"zumba/{A}_000001_000011.mp4 399\n")
    found = load(tmp_path, "kinetics400", labels=("val.txt",))
    assert found.kinetics
    assert found.table[["video_id", "label", "label_id"]].to_numpy().tolist() == [[f"{A}_000001_000011", "zumba", 399]]


@needs_real
def test_the_official_label_files(tmp_path):
    paths = tuple(str(REAL / name) for name in ("kinetics-400_val.csv", "kinetics-400_test_head.csv"))
    found = load(tmp_path, "kinetics400", labels=paths)
    val = found.table[found.table["split"] == "val"]
    assert len(val) == 19_906 and val["label"].nunique() == 400
    assert val["youtube_id"].str.startswith("-").sum() == 644
    assert sorted(val["label"].unique()) == read_class_list(KINETICS400)
    official = pd.read_csv(paths[0], dtype=str, keep_default_na=False)
    assert val["youtube_id"].tolist() == official["youtube_id"].tolist()
    assert (found.table.loc[found.table["split"] == "test", "label_id"] == -1).all()


@needs_real
def test_the_official_kinetics600(tmp_path):
    found = load(tmp_path, "kinetics600", labels=(str(REAL / "kinetics-600_val_head.csv"),))
    assert len(found.table) == 3_000 and found.table["video_id"].is_unique
    assert "ActivityNet crawler's form, Kinetics-600, 5 columns" in found.verdict[0]
