"""Settings of a small dataset for the tests of pages."""

import pytest
from make_store import settings_for

from train.experiment.sections import Config, DataLoader, Dataset, Loader
from train.experiment.transforms import standard_map
from train.pages import charts
from train.pages.blocks import Picture


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    """Settings of a dataset of 16 x 20 frames in `tmp_path`, whose charts are not drawn."""
    monkeypatch.setattr(charts, "draw", lambda _folder, name, _plot, **_: Picture(f"files/{name}.png", (1, 1), ""))
    (tmp_path / "files").mkdir()
    train = Loader(Dataset(seq=4), standard_map((16, 20), "random", (16, 16), flip=0.5))
    evaluated = Dataset(split="val", seq=4, seq_mode="uniform", shuffle=False)
    loaders = DataLoader(train=train, eval=Loader(evaluated, standard_map((16, 20), "centre", (16, 16))))
    return Config(preprocess=settings_for(tmp_path), data_loader=loaders)
