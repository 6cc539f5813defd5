"""Everything that benchmarks import of this project exists, so that a rename cannot break them unnoticed."""

import ast
import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("test_"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_benchmark_imports_exist_in_this_project(path):
    gone = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("pipeline", "model", "train"):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name) and not importlib.util.find_spec(f"{node.module}.{name.name}"):
                    gone.append(f"{node.module}.{name.name}")
    assert gone == []
