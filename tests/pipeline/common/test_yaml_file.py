"""Which YAML files are read, and that every other file is refused fast and in few lines."""

import os

import pytest
from speed import second, seconds_of

from pipeline.common import recipe
from pipeline.common.errors import SettingsError
from pipeline.common.settings import Document
from pipeline.common.yaml_file import parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, -2, 0x10, 1.5, 1e3, .inf]", [1, -2, 16, 1.5, "1e3", float("inf")]),
        ("[yes, off, True, ~, null, '']", [True, False, True, None, None, ""]),
        ("['1', \"no\", !!str 3, !!int 3, !!float 3]", ["1", "no", "3", 3, 3.0]),
        ("[2001-02-03, 2001-02-30, =, <<]", ["2001-02-03", "2001-02-30", "=", "<<"]),
        ("{on: 1, 12: 2, null: 3}", {"on": 1, "12": 2, "null": 3}),
        ("{a: &a {x: 1, y: 2}, b: *a}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}}),
        ("{a: &a {x: 1, y: 2}, b: {y: 3, <<: *a}}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("{<<: [{x: 1}, {x: 2, y: 3}]}", {"x": 1, "y": 3}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("", None),
    ],
)
def test_value_is_of_a_kind_that_json_has(text, value):
    assert parse_value(text) == value


def test_lines_are_those_of_the_keys(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("# comment\ntrain: &t\n  epochs: 3\n\neval:\n  <<: *t\n  more: [1,\n         2]\n")
    document = Document(path)
    assert document.where(("eval", "epochs")) == f"{path}:3: eval.epochs"  # the line of the merged key
    assert document.where(("eval", "more")) == f"{path}:7: eval.more"
    assert document.where(("eval", "more", "1")) == f"{path}:8: eval.more.1"


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))
MERGES = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(5000)) + "}\nb:\n" + "- <<: *a\n" * 5000
KEYS = "".join(f" k{n}: 1\n" for n in range(20_000))
NOT_YAML = r"x\.yaml(:\d+)?: cannot be read as YAML: "
HOSTILE = {
    "a list": ("- 1\n", r"x\.yaml: expected a mapping of sections, got a list"),
    "empty": ("", r"x\.yaml: expected a mapping of sections, got nothing"),
    "one text": ("preprocess", r"x\.yaml: expected a mapping of sections, got one value"),
    "anchor bomb": (LAUGHS, NOT_YAML + "more than 100,000 values once its aliases are expanded"),
    "anchor chain": (CHAIN, NOT_YAML + "more than 50 levels once its aliases are expanded"),
    "merge bomb": (MERGES, NOT_YAML + "more than 100,000 values"),
    "anchor in itself": ("preprocess: &t\n  height: *t\n", r"x\.yaml:2: .* the anchor &t contains itself"),
    "unknown alias": ("preprocess: *t\n", r"x\.yaml:1: .* unknown alias \*t"),
    "deep flow": ("preprocess: " + "[" * 900 + "]" * 900, NOT_YAML + "nested deeper than 50 levels"),
    "deep block": ("\n".join(" " * n + "k:" for n in range(600)), NOT_YAML + "nested deeper than 50 levels"),
    "date": ("preprocess:\n  height: 2001-02-30\n", r"x\.yaml:2: preprocess\.height: got '2001-02-30', expected whole"),
    "!!int": ("preprocess:\n  height: !!int abc\n", r"x\.yaml:2: .* tag 'tag:yaml.org,2002:int'"),
    "!!bool": ("preprocess:\n  height: !!bool x\n", r"x\.yaml:2: .* tag 'tag:yaml.org,2002:bool'"),
    "!!timestamp": ("preprocess: !!timestamp x\n", r"x\.yaml:1: .* tag 'tag:yaml.org,2002:timestamp'"),
    "!!float": ("preprocess: !!float x\n", r"x\.yaml:1: .* tag 'tag:yaml.org,2002:float'"),
    "!!binary": ('preprocess: !!binary "%"\n', r"x\.yaml:1: .* tag 'tag:yaml.org,2002:binary'"),
    "!!python": ("preprocess: !!python/object/apply:os.system [a]\n", r"x\.yaml:1: .* tag 'tag:.*:python/object/apply"),
    "complex key": ("? [a, b]\n: 1\n", r"x\.yaml:1: .* expected a word as a key"),
    "mapping as key": ("? {a: b}\n: 1\n", r"x\.yaml:1: .* expected a word as a key"),
    "5,000 digits": ("preprocess:\n  height: " + "9" * 5000, r"x\.yaml:2: \S+\.height: got '9+\.\.\., expected whole"),
    "5,000 hexadecimal": ("preprocess:\n  height: 0x" + "f" * 5000, r"x\.yaml:2: \S+\.height: got '0xf+\.\.\."),
    "tab": ("preprocess:\n\theight: 1\n", r"x\.yaml:2: .* found character that cannot start any token"),
    "NUL": ("preprocess:\n  height: \0\n", NOT_YAML),
    "not UTF-8": (b"preprocess:\n  height: \xff\n", r"x\.yaml:2: .* not UTF-8"),
    "50 MB": ("preprocess: {height: 1}\n" + "#\n" * 25_000_000, NOT_YAML + "larger than 256 KiB"),
    "100,000 unknown keys": ("".join(f"k{n:06}: 1\n" for n in range(100_000)), NOT_YAML + "larger than 256 KiB"),
    "20,000 unknown keys": ("preprocess:\n" + KEYS, r"preprocess\.k0: unknown key.*\n(.*\n)+and 19,980 more"),
    "20,000 unknown sections": (KEYS.replace(" k", "k"), r" k0: unknown section.*\n(.*\n)+and 19,980 more"),
    "long key": ("preprocess:\n ? " + "x" * 100_000 + "\n : 1\n", r"preprocess\.'x+\.\.\.: unknown key"),
    "key of lines": ('preprocess: {"a\\nb": 1}\n', r"preprocess\.'a\\nb': unknown key"),
    "duplicate": ("preprocess:\n  height: 1\n  height: 2\n", r"x\.yaml:3: preprocess\.height: given twice"),
    "merge of no mapping": ("preprocess:\n  <<: 3\n", r"x\.yaml:2: .* <<: expected a mapping"),
    "merge of a list of texts": ("preprocess:\n  <<: [a]\n", r"x\.yaml:2: .* <<: expected a mapping"),
    "two documents": ("preprocess:\n---\neval:\n", r"x\.yaml:2: .* expected one document"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_soon(tmp_path, name):
    text, message = HOSTILE[name]
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    errors = []

    def read() -> None:
        with pytest.raises(SettingsError, match=message) as caught:
            recipe.load(Document(path))
        errors.append(caught.value)

    assert seconds_of(read) < 3 * second()  # half a second at most; what a bomb holds has no end
    lines = str(errors[0]).split("\n")
    assert len(lines) <= 21 and max(map(len, lines)) < 400 + len(str(path))
    assert errors[0].exit_code == 2


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, message in ((fifo, "got a folder, a pipe or a device"), (tmp_path, "got a folder, a pipe or a device"),
                          (tmp_path / "gone.yaml", "no such configuration file"),
                          (tmp_path / ("x" * 300), "cannot be read: File name too long")):  # fmt: skip
        with pytest.raises(SettingsError, match=f": .*{message}") as caught:
            Document(path)
        assert "\n" not in str(caught.value)
