"""The rules for imports: which layer may import which, and that nothing imports a command."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

# Each folder, and the folders of this project that it may import.
ALLOWED = {
    "pipeline.common": "",
    "pipeline.labels": "pipeline.common",
    "pipeline.ledger": "pipeline.common",
    "pipeline.shards": "pipeline.common",
    "pipeline.sample_videos": "pipeline.common",
    "pipeline.videos": "pipeline.common pipeline.labels",
    "pipeline.decoding": "pipeline.common pipeline.shards",
    "pipeline.rebuild": "pipeline.common pipeline.labels pipeline.videos pipeline.ledger pipeline.shards",
    "pipeline.execution": "pipeline.common pipeline.ledger pipeline.shards pipeline.decoding",
    "train.experiment": "pipeline.common",
    "train.device": "pipeline.common model train train.experiment",
    "train.data": "pipeline.common pipeline.ledger pipeline.shards train.experiment",
    "train.weights": "pipeline.common model train.experiment",
    "train.network": "pipeline.common model train.experiment train.weights",
    "train.evaluation": "pipeline.common train.experiment train.data train.weights train.network",
    "train.runs": "pipeline.common train.experiment train.weights",
    "train.pictures": "pipeline.common pipeline.decoding",
    "train.inference": (
        "pipeline.common pipeline.ledger pipeline.shards pipeline.videos pipeline.decoding train.experiment train.data "
        "train.evaluation train.pictures"
    ),
    "train.pages": (
        "pipeline.common pipeline.ledger pipeline.shards train.experiment train.data train.weights train.runs "
        "train.pictures"
    ),
    "train.loop": (
        "pipeline.common model train.experiment train.device train.data train.weights train.network train.evaluation "
        "train.runs"
    ),
    "model": "",
}  # fmt: skip
STAGES = ("pipeline", "train")
COMMANDS = {f"{stage}.{path.stem}" for stage in STAGES for path in ROOT.glob(f"{stage}/[a-z]*.py")}
MODULES = sorted(path for top in ("model", *STAGES) for path in ROOT.glob(f"{top}/**/*.py"))


def layer(module: str) -> str:
    """`pipeline.shards` of `pipeline.shards.reader`; a module without a folder: only the package."""
    parts = module.split(".")
    folder = (ROOT / parts[0] / parts[1]).is_dir() if len(parts) > 1 else False
    return ".".join(parts[:2]) if folder else parts[0]


def imports(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
        yield from (name for name in names if name.split(".")[0] in ("pipeline", "model", "train"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_layers_below(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = set(imports(path))
    assert not {name for name in found if ".".join(name.split(".")[:2]) in COMMANDS}, "nothing imports a command"
    own = layer(module)
    if own in ALLOWED:
        allowed = {own, *ALLOWED[own].split()}
        assert {name for name in found if layer(name) not in allowed} == set()
    else:  # a command, or a package's __init__.py, may import anything of its stage
        assert own in STAGES
        assert own == "train" or {name.split(".")[0] for name in found} <= {"pipeline"}


def test_every_folder_has_its_rule():
    folders = {layer(".".join(path.relative_to(ROOT).parts[:-1] + ("x",))) for path in MODULES}
    assert folders - set(STAGES) == set(ALLOWED)


def test_heavy_libraries_have_one_layer():
    layers = {"decord": {"pipeline.decoding"}, "h5py": {"pipeline.shards"}}
    found: dict[str, set[str]] = {name: set() for name in layers}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} & set(layers):
                found[name].add(layer(".".join(path.relative_to(ROOT).with_suffix("").parts)))
    assert found == layers
