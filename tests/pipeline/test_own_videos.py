"""`python -m pipeline.manifests` makes ledgers of own videos out of nothing but their folder, with no edit."""

import json
import os
from pathlib import Path

import pytest
import yaml
from make_ledgers import touch
from paths import CONFIGS, ROOT

from pipeline import manifests
from pipeline.common import recipe
from pipeline.common.errors import EXIT_OK
from pipeline.common.outcome import Outcome
from pipeline.common.settings import Document
from pipeline.common.tables import InputError
from pipeline.ledger.table import read_ledger
from pipeline.shards.format import shard_name
from pipeline.shards.writer import ShardWriter

PER_CLASS = 5


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of videos in class folders, beside an empty current folder with the repository's configurations."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "train").symlink_to(ROOT / "train")
    monkeypatch.chdir(here)
    data = tmp_path / "pets at home"
    touch(data, *(f"{label}/{label} {n}.mp4" for label in ("cat", "dog") for n in range(PER_CLASS)))
    return data


def manifests_of(data, *flags, config="own"):
    return manifests.main(["-c", f"train/configs/{config}.yaml", f"--preprocess.data_root={data}", *flags])


def written(folder="."):
    return {os.path.join(top, name): os.stat(os.path.join(top, name)).st_mtime_ns
            for top, _, names in os.walk(folder) for name in names if name.endswith(".csv")}  # fmt: skip


def test_class_folders_become_ledgers(own, capsys):
    own.chmod(0o555)
    assert manifests_of(own) == EXIT_OK
    train, val = (read_ledger(f"data_manifests/pets_at_home/{split}.csv") for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert set(train["status"]) == {"pending"} and set(train["label_id"]) == {0, 1}
    assert "pets_at_home-train@" in capsys.readouterr().out
    assert sorted(os.listdir(own)) == ["cat", "dog"], "nothing is written beside the videos"
    before = written()
    assert manifests_of(own, "--check") == EXIT_OK and written() == before
    touch(own, "cat/new.mp4")
    with pytest.raises(InputError, match="Run `make manifests`"):
        manifests_of(own, "--check")
    assert manifests_of(own, "--dry-run") == EXIT_OK and written() == before
    assert manifests_of(own, config="finetune") == EXIT_OK
    after = {split: read_ledger(f"data_manifests/pets_at_home/{split}.csv") for split in ("train", "val")}
    assert set(train["path"]) < set(after["train"]["path"]) | {"cat/new.mp4"} and len(after["train"]) == 9
    assert set(val["path"]) == set(after["val"]["path"])


def test_configurations_of_own_videos_share_frames():
    sections = [yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["preprocess"] for name in ("own", "finetune")]
    assert sections[0] == sections[1] == {"dataset": "auto", "store": "auto", "max_bad_fraction": 0.25}


@pytest.mark.parametrize("config", ["own", "finetune"])
@pytest.mark.parametrize("name", ["kinetics-400_val.csv", "annotations/val.csv"])
def test_kinetics_release_needs_its_configuration(own, config, name):
    touch(own, name)
    (own / name).write_text("label,youtube_id,time_start,time_end,split\nzumba,-aaaaaaaaaa,1,11,val\n")
    with pytest.raises(InputError, match=r"label file of Kinetics.*r2plus1d18\.yaml or .*torchvision\.yaml") as error:
        manifests_of(own, "--preprocess.dataset=k400", config=config)
    assert len(str(error.value).splitlines()) == 1 and not written()


def test_json_is_alone_on_stdout(own, capsys):
    assert manifests_of(own, "--json") == EXIT_OK
    assert json.loads(capsys.readouterr().out)["splits"]["val"]["rows"] == 2


def test_subset_of_a_stored_dataset_is_used_as_printed(own, capsys):
    touch(own, *(f"eel/eel {n}.mp4" for n in range(PER_CLASS)))
    manifests_of(own)
    whole = read_ledger("data_manifests/pets_at_home/train.csv")
    store = recipe.load(Document("train/configs/own.yaml", {"preprocess.data_root": str(own)}))
    Path(store.store).mkdir(parents=True)
    with ShardWriter(Path(store.store) / shard_name("train", 0, 1), store, "train") as writer:
        writer.add(Outcome(video_id=whole["video_id"][0], status="timeout"))
    assert manifests_of(own, "--classes", "2", "--per-class", "2", "--seed", "1") == EXIT_OK
    printed = (
        next(line for line in capsys.readouterr().err.splitlines() if "Use it with" in line)
        .split("Use it with ")[1]
        .split()
    )
    name = "pets_at_home-c2-p2-s1"
    assert printed == [f"--preprocess.dataset={name}", f"--preprocess.store=data/{name}-shards"]
    assert manifests_of(own, *printed) == manifests_of(own, *printed[:1]) == EXIT_OK, "auto gives the same store"
    part = read_ledger(f"data_manifests/{name}/train.csv")
    numbers = dict(zip(whole["label"], whole["label_id"], strict=True))
    assert len(part) == 4 and set(part["status"]) == {"pending"}
    assert {label: numbers[label] for label in part["label"]} == dict(zip(part["label"], part["label_id"], strict=True))
