"""The page of a dataset that is not decoded yet, has no labels, or lists many reasons and classes."""

import re

from make_store import make_ledger, make_split

from pipeline.ledger.table import ledger_path, write_ledgers
from train.experiment.sections import Config
from train.pages.dataset import dataset_page


def texts_of(config: Config, folder) -> dict[str, str]:
    return {section.title: repr(section.blocks) for section in dataset_page(config, folder).sections}


def test_dataset_that_is_not_decoded_yet(config, tmp_path):
    write_ledgers({ledger_path(config.preprocess, "train"): make_ledger(6, "train", bad=(0,))})
    texts = texts_of(config, tmp_path)
    assert "['pending', '5', '5'], ['missing', '1', '1']" in texts["Statuses and reasons"]
    assert "Run `make preprocess`" in texts["Durations, rates and sizes"]
    assert "none of its 6 videos is stored" in texts["What the network sees"]


def test_dataset_without_labels_has_one_sheet(config, tmp_path):
    table = make_split(config.preprocess, "train", 6)
    table["label"], table["label_id"] = "", -1
    write_ledgers({ledger_path(config.preprocess, "train"): table})
    texts = texts_of(config, tmp_path)
    assert "The videos have no labels." in texts["Classes"]
    assert "videos without labels" in texts["What the network sees"] and "no label" in texts["Clips after augmentation"]
    assert sorted(path.name for path in tmp_path.glob("files/*.jpg"))[-1] == "class-0000.jpg"


def test_reasons_that_differ_in_numbers_are_one(config, tmp_path):
    table = make_ledger(60, "train")
    table["status"] = "truncated"
    table["reason"] = [f"packet {row} is cut short" if row % 2 else f"reason {'x' * (row + 1)}" for row in range(60)]
    write_ledgers({ledger_path(config.preprocess, "train"): table})
    text = texts_of(config, tmp_path)["Statuses and reasons"]
    assert len(re.findall("packet", text)) == 1 and re.search("packet [0-9]+ is cut short', '[^']+', '30'", text)
    assert "1 rarer reasons are in the ledgers" in text


def test_many_classes_have_a_chart_and_smaller_sheets(config, tmp_path):
    table = make_split(config.preprocess, "train", 60)
    table["label_id"], table["label"] = range(60), [f"class {number}" for number in range(60)]
    write_ledgers({ledger_path(config.preprocess, "train"): table})
    texts = texts_of(config, tmp_path)
    assert "files/classes.png" in texts["Classes"]
    assert "From left to right" not in texts["What the network sees"]
    assert len(list(tmp_path.glob("files/class-*.jpg"))) == 60
