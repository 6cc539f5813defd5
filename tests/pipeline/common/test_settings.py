"""A YAML file becomes checked settings, and each wrong key is named with its line, for who writes one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import recipe
from pipeline.common.settings import Document, NonNegativeFloat, PositiveInt, SettingsError, build, to_plain


def write_yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preprocess:\n  fpss: 15\n", r"yaml:2: preprocess\.fpss: unknown key; nearest valid: fps"),
        (
            "preprocess:\n  height: 0\n",
            r"yaml:2: preprocess\.height: got 0, expected whole number at least 1",
        ),
        ("preprocess:\n  height: 12.5\n", r"preprocess\.height: got 12.5, expected whole number"),
        ("preprocess:\n  jpeg_quality: 101\n", r"got 101, expected whole number at least 1 and at most 100"),
        ("preprocess:\n  codec: jpg\n", r"got 'jpg', expected raw \| jpeg; nearest valid: jpeg"),
        ("preprocess:\n  fps: .nan\n", r"preprocess\.fps: got nan, expected number more than 0 \| source"),
        ("preprocess:\n  fps: true\n", r"preprocess\.fps: got True"),
        ("preprocess:\n  jobs: 0\n", r"jobs: got 0, expected -1"),
        ("preprocess: 3\n", r"yaml:1: preprocess: expected keys, got 3"),
        ("preprocess:\n  fps: 1\n  fps: 2\n", r"yaml:3: preprocess\.fps: given twice"),
        ("preproces:\n  fps: 1\n", r"yaml:1: preproces: unknown section; nearest valid: preprocess"),
        ("on: 1\n", r"yaml:1: on: unknown section"),
        ("12: 1\n", r"yaml:1: 12: unknown section"),
        ("preprocess:\n  fps: 15\n  no: 1\n", r"yaml:3: preprocess\.no: unknown key"),
        ("- 1\n", r"expected a mapping of sections, got list"),
        ("", r"expected a mapping of sections"),
        ("preprocess:\n\tfps: 1\n", r"cannot be read as YAML"),
        ("preprocess: !!python/object/apply:os.system ['true']\n", r"cannot be read as YAML"),
    ],
)
def test_errors_name_file_key_and_what_is_allowed(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        recipe.load(Document(write_yaml(tmp_path, text)))


def test_all_errors_come_at_once(tmp_path):
    text = "preprocess:\n  fpss: 1\n  height: no\n  codec: zip\n"
    with pytest.raises(SettingsError) as caught:
        recipe.load(Document(write_yaml(tmp_path, text)))
    assert len(str(caught.value).splitlines()) == 3


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.yaml: no such configuration file"):
        Document(tmp_path / "nothing.yaml")


def test_overrides_win_and_are_named(tmp_path):
    path = write_yaml(tmp_path, "preprocess:\n  fps: 15\n  height: 128\n")
    settings = recipe.load(Document(path, {"preprocess.fps": "source", "preprocess.width": "64"}))
    assert (settings.fps, settings.height, settings.width) == ("source", 128, 64)
    with pytest.raises(SettingsError, match=r"--preprocess\.width: got 'wide'"):
        recipe.load(Document(path, {"preprocess.width": "wide"}))


def test_a_section_left_empty_takes_overrides(tmp_path):
    path = write_yaml(tmp_path, "preprocess:\ndata_loader:\n  train: {dataset: {path: /videos}}\n")
    settings = recipe.load(Document(path, {"preprocess.width": "64"}))
    assert (settings.width, settings.data_root) == (64, "/videos")
    assert recipe.load(Document(path)).data_root == "/videos"


@dataclass(frozen=True)
class Inner:
    rate: NonNegativeFloat = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    name: str | None = None


@given(
    rate=st.floats(min_value=0, max_value=1e9),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3),
    name=st.none() | st.text(),
)
def test_built_settings_survive_the_round_trip(rate, sizes, name):
    made = Outer(Inner(rate, "b"), tuple(sizes), name)
    document = Document(None)
    document.values["train"] = to_plain(made)
    assert build(Outer, document, "train") == made


def test_yaml_reads_exponents_as_numbers(tmp_path):
    document = Document(write_yaml(tmp_path, "train:\n  inner: {rate: 1e-4}\n"))
    assert build(Outer, document, "train").inner.rate == 1e-4


def test_fingerprint_holds_what_decides_the_bytes_only():
    base = recipe.Preprocess()
    assert base.fingerprint() == recipe.Preprocess(store="/elsewhere", jobs=3, video_timeout_s=1).fingerprint()
    for change in ({"fps": 30.0}, {"height": 64}, {"codec": "jpeg"}, {"seed": 1}, {"videos_per_shard": 2}):
        assert base.fingerprint() != recipe.Preprocess(**change).fingerprint()
    said = recipe.differences(base.to_json(), recipe.Preprocess(fps=30.0).to_json())
    assert said == "fps: 15.0 here, 30.0 there"
