"""The rules for tests: short names, one line of intent per file, and no two helpers with the same name."""

import ast
import functools
from collections import defaultdict
from pathlib import Path

import pytest
from paths import HELPERS, ROOT

LONGEST = 50  # so that a failure is one line of pytest's summary
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
FILES = sorted({*TESTS, *(ROOT / "tests").rglob("conftest.py"), *HELPERS.glob("*.py")})  # benchmarks are programs
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def relative(path: Path) -> str:
    """The path of a file in the repository."""
    return str(path.relative_to(ROOT))


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def definitions(path: Path) -> list[Definition]:
    """The functions and classes at the top of a file."""
    return [node for node in tree(path).body if isinstance(node, Definition)]


def is_test(node: Definition) -> bool:
    """Whether pytest collects it."""
    return node.name.startswith("test_")


def is_fixture(node: Definition) -> bool:
    """Whether one of its decorators is `pytest.fixture`, called or not."""
    return any("pytest.fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_names_are_short_and_unique_in_their_file(path: Path):
    names = [node.name for node in definitions(path) if is_test(node)]
    assert [name for name in names if len(name) > LONGEST] == []
    assert sorted(names) == sorted(set(names)), "the second of a name hides the first, which then never runs"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_begins_with_one_line_of_intent(path: Path):
    docstring = ast.get_docstring(tree(path)) or ""
    assert len(docstring.splitlines()) == 1 and docstring.endswith("."), f"{relative(path)} begins with {docstring!r}"


def test_no_two_files_have_one_name():
    names = [path.name for path in FILES if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names)), "pytest cannot collect the second of a name"


def test_no_two_files_define_a_helper_of_one_name():
    places = defaultdict(list)
    for path in FILES:
        for node in definitions(path):
            if not is_test(node) and not is_fixture(node):
                places[node.name].append(relative(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
