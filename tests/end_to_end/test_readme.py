"""The READMEs are true and short: the links, verbs, keys and commands in them exist."""

import argparse
import dataclasses
import importlib
import re
import shlex
import typing
from pathlib import Path

import pytest
from make_store import make_split, settings_for
from paths import CONFIGS, ROOT
from run_make import clone, run_make

from pipeline.common import cli
from pipeline.common.settings import TOP_KEYS
from train.experiment.load import load_config
from train.experiment.sections import Config

FRONT = ROOT / "README.md"
READMES = sorted(
    path
    for path in (FRONT, *(ROOT / "data_manifests").glob("*.md"), *ROOT.glob("[pmt]*/**/README.md"))
    if "resources" not in path.parts
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VERBS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M))
VARIABLES = set(re.search(r"^VARIABLES = (.*)", MAKEFILE, re.M)[1].split())  # type: ignore[index]
CODE = [path for top in ("pipeline", "model", "train", "tests") for path in ROOT.glob(f"{top}/**/*.py")]
ENDINGS = {"py", "csv", "log", "yaml", "json", "txt"}  # endings of files, whose names look like keys
FOREIGN = {"--nthreads"}  # of Dask


STAGES = ("pipeline", "train")


class Parsed(Exception):  # noqa: N818  no error: the command has understood its words
    """Raised where a command would start its work."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return clone(tmp_path_factory.mktemp("clone"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def spans(text: str) -> list[str]:
    """Contents of the inline code, with line ends as spaces."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[str]:
    """Commands in shell blocks, without comments, and those in inline code that begin with a program."""
    lines = "\n".join(blocks(text, "shell")).replace("\\\n", " ").splitlines()
    shell = [re.sub(r"\s+#\s.*", "", line).strip() for line in lines]
    programs = ("make", "python", ".venv/bin/")
    inline = [span.removeprefix("time ") for span in spans(text)]
    return [*filter(None, shell), *(span for span in inline if span.startswith(programs))]


def make_commands(path: Path) -> list[str]:
    return sorted({each for each in commands(path.read_text(encoding="utf-8")) if re.match(r"make\b", each)})


def cells(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [cell.strip() for row in rows for cell in row.strip("|").split("|")]


def is_key(dotted: str) -> bool:
    kind: typing.Any = Config
    for part in dotted.split("."):
        if not dataclasses.is_dataclass(kind):
            return False
        kind = typing.get_type_hints(kind).get(part)
    return kind is not None


def test_front_page_is_short():
    content = FRONT.read_bytes()
    assert len(content.splitlines()) <= 150
    assert len(content) <= 9_000


def test_readmes_are_all_found():
    names = {name_of(path) for path in READMES}
    assert names >= {"README.md", "data_manifests/README.md", "model/README.md", "pipeline/README.md",
                     "tests/README.md", "tests/benchmarks/README.md", "train/README.md"}  # fmt: skip


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_table_cells_are_short(path):
    longest = 120
    assert [cell for cell in cells(path.read_text(encoding="utf-8")) if len(cell) > longest] == []


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_relative_links_exist(path):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists():
            broken.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            broken += [link] if anchor not in slugs else []
    assert broken == []


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_named_files_and_folders_exist(path):
    text = path.read_text(encoding="utf-8")
    named = [span for span in spans(text) if re.fullmatch(r"(pipeline|model|train|tests)/[\w./-]*", span)]
    assert [name for name in named if not (ROOT / name).exists()] == []
    programs = [span.split()[0] for span in spans(text) if span.startswith("bench_")]
    assert [name for name in programs if not (ROOT / "tests" / "benchmarks" / name).is_file() and ".py" in name] == []


@pytest.mark.parametrize("path", [path for path in READMES if path.parent.name in ("pipeline", "train", "model")],
                         ids=name_of)  # fmt: skip
def test_files_of_a_stage_are_all_named(path):
    text = path.read_text(encoding="utf-8")
    named = {name for span in spans(text) for name in re.findall(r"[\w]+\.py", span)}
    inside = {file.name for file in path.parent.glob("*/*.py")} | (
        {file.name for file in path.parent.glob("*.py")} if path.parent.name == "model" else set()
    )
    assert inside - {"__init__.py"} - named == set(), "not described"
    assert {name for name in named if not name.startswith(("test_", "bench_"))} <= {file.name for file in CODE}


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_verbs_and_variables_of_make_exist(path):
    wrong = []
    for command in make_commands(path):
        for word in shlex.split(command)[1:]:
            name, equals, _ = word.partition("=")
            if not equals and name == "ARGS" or name == "-n":
                continue
            wrong += [f"{command}: {word}"] if name not in (VARIABLES if equals else VERBS) else []
    assert wrong == []


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_modules_keys_and_flags_exist(path):
    text = path.read_text(encoding="utf-8")
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    overrides = re.findall(r"--([a-z_]+(?:\.[a-z_]+)+)", text)
    keys = [span.split(":")[0] for span in spans(text) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+(:.*)?", span)]
    keys = [key for key in keys if key.split(".")[0] in TOP_KEYS and key.split(".")[-1] not in ENDINGS]
    assert [key for key in (*overrides, *keys) if not is_key(key)] == []
    code = "\n".join(file.read_text(encoding="utf-8") for file in CODE)
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?![\w.-])", text)) - FOREIGN
    assert [flag for flag in sorted(flags) if f'"{flag}"' not in code] == []


def test_shards_are_read_as_the_readme_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {"dataset": "kinetics-sample", "manifests": "data_manifests", "store": "data/sample-shards"}
    make_split(settings_for(tmp_path, height=64, width=86, **places), "train", 5, length=16)
    (code,) = blocks((ROOT / "pipeline" / "README.md").read_text(encoding="utf-8"), "python")
    names: dict[str, typing.Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (names["clip"] == names["frames"][0:16:2, 4:60, 15:71]).all()
    assert capsys.readouterr().out == "clapping 0 (16, 64, 86, 3) (8, 56, 56, 3)\n"


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_commands_are_understood(path, folder, monkeypatch):
    """Each command's parser gets the words that make would give it; the command is stopped before it works."""
    parse, parse_args = cli.parse, argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None, *more):
        _, document = parse(parser, argv, *more)
        if document.path:
            load_config(document)
        raise Parsed

    def parse_args_and_stop(parser, argv=None, namespace=None):
        parse_args(parser, argv, namespace)
        raise Parsed

    monkeypatch.setattr(cli, "parse", parse_and_stop)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args_and_stop)
    for command in make_commands(path):
        filled_in = re.sub(r"\$\(ls [^)]*\)", "clip.mp4", command).replace("DEVICES=N", "DEVICES=2")
        made = run_make(folder, *shlex.split(filled_in)[1:])
        assert made.code == 0, f"{command}: {made.err}"
        for words in made.calls:
            if words[:1] != ["-m"] or words[1] == "pipeline.common.cli" or words[1].split(".")[0] not in STAGES:
                continue
            module, argv = words[1], [word.replace("=mine.yaml", f"={CONFIGS}/r2plus1d18.yaml") for word in words[2:]]
            if module == "train.msrun":  # the words after its own are for another command
                evaluates = argv[0] == "--program=evaluate"
                module, argv = ("train.evaluate", argv[3:]) if evaluates else ("train.train", argv[2:])
            try:
                importlib.import_module(module).main(argv)
                pytest.fail(f"{command}: {module} began to work")
            except Parsed:
                pass
            except SystemExit:
                pytest.fail(f"{command}: {module} does not understand {argv}")
