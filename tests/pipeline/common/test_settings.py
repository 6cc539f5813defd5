"""A YAML file becomes checked settings, and every wrong key is reported with its line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import RESOURCES

from pipeline.common import recipe
from pipeline.common.settings import Document, SettingsError, build, to_file, to_plain
from pipeline.common.value_types import NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Inner:
    rate: NonNegativeFloat = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    name: str | None = None
    rate: PositiveFloat | Literal["source"] = "source"
    flag: bool = False
    level: Literal["low", "high"] | None = "high"
    other: Inner = field(default_factory=lambda: Inner(0.5, "b"))


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
        ("preprocess:\n  codec: JPEG\n", r"got 'JPEG', expected raw \| jpeg; nearest valid: jpeg"),
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
        ("- 1\n", r"expected a mapping of sections, got a list"),
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


def test_only_twenty_errors_are_listed(tmp_path):
    text = "preprocess:\n" + "".join(f"  key{number}: 1\n" for number in range(57))
    with pytest.raises(SettingsError) as caught:
        recipe.load(Document(write_yaml(tmp_path, text)))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "and 37 more"
    assert "preprocess.key19: unknown key" in lines[-2]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.yaml: no such configuration file"):
        Document(tmp_path / "nothing.yaml")


def test_overrides_win_and_are_named(tmp_path):
    path = write_yaml(tmp_path, "preprocess:\n  fps: 15\n  height: 128\n")
    settings = recipe.load(Document(path, {"preprocess.fps": "source", "preprocess.width": "64"}))
    assert (settings.fps, settings.height, settings.width) == ("source", 128, 64)
    with pytest.raises(SettingsError, match=r"--preprocess\.width: got 'wide'"):
        recipe.load(Document(path, {"preprocess.width": "wide"}))


TEXTS = [
    "/x/shards #2",
    "a: b.mp4",
    "[4K] x.mp4",
    "42",
    "yes",
    "null",
    "2001-02-30",
    "~",
    "{a",
    "'x'",
    " x ",
    "$HOME/~",
    "!x",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_override_is_taken_as_typed(text):
    overrides = {f"preprocess.{key}": text for key in ("store", "manifests", "scheduler")}
    settings = recipe.load(Document(None, overrides))
    assert [settings.store, settings.manifests, settings.scheduler] == [text] * 3
    assert {type(getattr(settings, key)) for key in ("store", "scheduler")} == {str}


BAD_NAMES = [
    "",
    "a/b",
    "../evil",
    "/etc",
    ".",
    "..",
    "a\\b",
    "a\nb",
    "a\tb",
    "\x1b[2J",
    "a\u202eb",
    "x" * 101,
    "é" * 51,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_names_one_file_or_folder(name):
    typed, written = Document(None, {"preprocess.dataset": name}), Document(None)
    written.values["preprocess"] = {"dataset": name}
    for document in (typed, written):
        with pytest.raises(SettingsError, match="dataset: got .*, expected a name of at most 100 bytes without /"):
            recipe.load(document)


@pytest.mark.parametrize("name", ["kinetics-400", "my videos", "-x", ".hidden", "a..b", "$HOME", "видео", "x" * 100])
def test_an_ordinary_name_is_taken_as_typed(name):
    assert recipe.load(Document(None, {"preprocess.dataset": name})).dataset == name


def test_shards_are_not_stored_among_the_videos():
    with pytest.raises(SettingsError, match="store: got 'x/', which is data_root"):
        recipe.load(Document(None, {"preprocess.data_root": "./x", "preprocess.store": "x/"}))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[42, b c.csv, 'd, e', null, yes]", ("42", "b c.csv", "d, e", "null", "yes")),
        ("[]", ()),
        ("labels.csv", ("labels.csv",)),
        ("[4K] labels.csv", ("[4K] labels.csv",)),
        ("a: b.csv", ("a: b.csv",)),
        ("{a: b}", ("{a: b}",)),
        ("[[a]]", ("[[a]]",)),
        ("42", ("42",)),
        ("null", None),  # those in data_root
    ],
)
def test_override_of_texts_is_a_list_or_one_text(text, labels):
    assert recipe.load(Document(None, {"preprocess.labels": text})).labels == labels


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.sizes", "[[1, 2], [3, 4]]", ((1, 2), (3, 4))),
        ("train.inner.rate", "1e-3", 0.001),
        ("train.inner.kind", "b", "b"),
        ("train.inner", "{kind: b}", Inner(0.1, "b")),
        ("train.name", "null", "null"),  # a text
        ("train.name", "", ""),
        ("train.rate", "source", "source"),
        ("train.rate", "30", 30.0),
        ("train.flag", "yes", True),
        ("train.level", "null", None),
        ("train.level", "low", "low"),
    ],
)
def test_override_is_converted_by_the_type_of_its_key(name, text, value):
    outer = build(Outer, Document(None, {name: text}), "train")
    for word in name.split(".")[1:]:
        outer = getattr(outer, word)
    assert outer == value and type(outer) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("preprocess.height", "", r"--preprocess\.height: got '', expected whole number at least 1"),
        ("preprocess.height", "[", r"--preprocess\.height: got '\[', expected whole number"),
        ("preprocess.height", "9" * 5000, r"--preprocess\.height: got '9{70,80}\.\.\., expected whole number"),
        ("preprocess.fps", "9" * 400, r"--preprocess\.fps: got '9+\.\.\., expected number more than 0"),
        ("preprocess.fps", "-3", r"--preprocess\.fps: got -3, expected number more than 0 \| source"),
        ("preprocess.codec", "jpg", r"--preprocess\.codec: got 'jpg', expected raw \| jpeg; nearest valid: jpeg"),
        ("preprocess.labels", "", r"--preprocess\.labels: got '', expected \[path, \.\.\.\] \| null"),
        ("preprocess", "3", r"preprocess: expected keys, got 3"),
    ],
)
def test_wrong_override_is_named_with_what_was_got(name, text, message):
    with pytest.raises(SettingsError, match=message):
        recipe.load(Document(None, {name: text}))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/x", "/home/me/x"),
        ("$DISK/x", "/d/x"),
        ("${DISK}er/$DISK", "/der//d"),
        ("a~b $ c", "a~b $ c"),
        ("x", "x"),
        ("a$$DISK", "a$DISK"),
    ],
)
def test_paths_are_expanded_in_a_file_but_not_if_typed(tmp_path, monkeypatch, text, path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/d")
    file = write_yaml(tmp_path, f"preprocess:\n  store: '{text}'\n  labels: ['{text}']\n  scheduler: '{text}'\n")
    settings = recipe.load(Document(file))
    assert (settings.store, settings.labels, settings.scheduler) == (path, (path,), text)  # a name is not a path
    assert recipe.load(Document(file, {"preprocess.store": text})).store == text


@pytest.mark.parametrize("text", ["$NOT_THERE/x", "${NOT_THERE}"])
def test_unknown_variable_is_named_with_line_and_key(tmp_path, monkeypatch, text):
    monkeypatch.delenv("NOT_THERE", raising=False)
    message = r"yaml:3: preprocess\.store: got '\S+', expected a path; the environment variable NOT_THERE is not set"
    with pytest.raises(SettingsError, match=message):
        recipe.load(Document(write_yaml(tmp_path, f"preprocess:\n  fps: 3\n  store: {text}\n")))


def test_overrides_of_section_and_keys_go_together():
    settings = recipe.load(Document(None, {"preprocess": "{fps: 3, width: 9}", "preprocess.fps": "4"}))
    assert (settings.fps, settings.width) == (4.0, 9)
    with pytest.raises(SettingsError, match=r"--preprocess\.fps\.more: preprocess\.fps has no keys"):
        Document(None, {"preprocess.fps": "4", "preprocess.fps.more": "4"})


def test_a_section_left_empty_takes_overrides(tmp_path):
    path = write_yaml(tmp_path, "preprocess:\ndata_loader:\n  train: {dataset: {path: /videos}}\n")
    settings = recipe.load(Document(path, {"preprocess.width": "64"}))
    assert (settings.width, settings.data_root) == (64, "/videos")
    assert recipe.load(Document(path)).data_root == "/videos"


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
    assert base.fingerprint() == recipe.Preprocess(decoder="decord").fingerprint()
    for change in (
        {"fps": 30.0},
        {"height": 64},
        {"codec": "jpeg"},
        {"seed": 1},
        {"videos_per_shard": 2},
        {"decoder": "pyav"},
    ):
        assert base.fingerprint() != recipe.Preprocess(**change).fingerprint()
    said = recipe.differences(base.to_json(), recipe.Preprocess(fps=30.0).to_json())
    assert said == "fps: 15.0 here, 30.0 there"


def test_absent_keys_keep_the_default_of_their_section():
    document = Document(None, {"train.other.kind": "a"})
    assert build(Outer, document, "train").other == Inner(0.5, "a")


def test_later_key_at_default_is_not_in_fingerprint(monkeypatch):
    before = recipe.Preprocess()
    kept = before.to_json()
    monkeypatch.setattr(recipe, "_LATER_STORED_KEYS", ("video_timeout_s",))
    assert before.to_json() == kept
    changed = recipe.Preprocess(video_timeout_s=5.0)
    assert changed.stored()["video_timeout_s"] == 5.0 and changed.fingerprint() != before.fingerprint()
    assert recipe.differences(kept, changed.to_json()) == "video_timeout_s: 60.0 here, 5.0 there"
    assert recipe.differences(changed.to_json(), kept) == "video_timeout_s: 5.0 here, 60.0 there"


def test_fingerprint_of_existing_stores_is_unchanged():
    settings = recipe.load(Document(RESOURCES / "made_by_24d7eab" / "kept.yaml"))
    saved = RESOURCES / "made_by_24d7eab/runs/kept/20261126-000000/ckpt/epoch_001-step_000002.json"
    assert settings.fingerprint() == json.loads(saved.read_text())["recipe_sha256"]


@pytest.mark.parametrize("path", ["~/$DISK", "a$$b${HOME}", "$", "~", "plain"])
def test_typed_path_survives_the_runs_own_file(tmp_path, path):
    settings = recipe.load(Document(None, {"preprocess.store": path, "preprocess.labels": path}))
    file = write_yaml(tmp_path, json.dumps({"preprocess": to_file(settings)}))
    again = recipe.load(Document(file))
    assert [Path(again.store), *map(Path, again.labels)] == [Path("./" + path)] * 2
    assert again.dataset == settings.dataset


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"b": "9"}, "--first.b: got 9, expected at most a, 5"),
        ({"a": "1"}, "{file}:1: first.b: got 2, expected at most a, 1 (given: --first.a)"),
        ({"a": "1", "b": "3"}, "--first.b: got 3, expected at most a, 1 (given: --first.a)"),
    ],
)
def test_contradiction_names_the_override(overrides, message, tmp_path):
    @dataclass(frozen=True)
    class First:
        a: int = 5
        b: int = 2

        def __post_init__(self) -> None:
            if self.b > self.a:
                raise ValueError(f"b: got {self.b}, expected at most a, {self.a}")

    path = tmp_path / "x.yaml"
    path.write_text("model: {a: 5}\n")
    document = Document(path, {f"model.{key}": value for key, value in overrides.items()})
    with pytest.raises(SettingsError) as caught:
        build(First, document, "model")
    assert str(caught.value) == message.replace("first.", "model.").format(file=path)


def test_items_of_an_override_have_no_line_of_the_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("data_loader:\n  train:\n    map:\n      operations:\n        - {type: VideoRescale}\n")
    name = "data_loader.train.map.operations"
    document = Document(path, {name: "[{type: VideoRescale}]"})
    assert document.where((*name.split("."), "0", "type")) == f"--{name}: {name}.0.type"
