"""The house: imports run one way, and each library is named in one place."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "alexnet_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = {
    "main",
    "paper.experiments",
    "reproduce",
    "evaluate",
    "predict",
    "prepare",
    "report",
    "verify_data",
    "bench.__main__",
    "bench.train",
}


def imports(path: Path) -> set[str]:
    """Full names of what a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_there_are_no_circles():
    known = {name_of(path) for path in MODULES}
    edges = {
        name_of(path): {
            target for name in imports(path) for target in (name, name.rpartition(".")[0]) if target in known
        }
        - {"alexnet_jax", "alexnet_jax.data", "alexnet_jax.data.sources"}
        for path in MODULES
    }
    order: list[str] = []
    while edges:
        free = sorted(name for name, targets in edges.items() if targets <= set(order))
        assert free, f"a circle of imports among {sorted(edges)}"
        order += free
        edges = {name: targets for name, targets in edges.items() if name not in free}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_is_its_to_import(path):
    names, module = imports(path), name_of(path).removeprefix("alexnet_jax.")
    assert not any(re.match(r"configs(\.|$)", name) for name in names), "configs import nothing and nobody imports them"
    if module not in COMMANDS:
        assert not any(name.startswith("alexnet_jax.train") for name in names), "leaves do not know the loop"
    if module.startswith("data"):
        assert not any(re.match(r"(jax|flax|optax|orbax)(\.|$)", name) for name in names), "data/ knows no jax"
    places = {
        "orbax": {"checkpoint"},
        "grain": {"data.loader", "data.records"},
        "ml_collections": {"config_files", "main"},
    }
    for library, homes in places.items():
        if any(re.match(rf"{library}(\.|$)", name) for name in names):
            assert module in homes, f"only {homes} name {library}"
    if re.search(r"shard_map|jax.sharding.*\bPartitionSpec|AxisType", path.read_text()):
        assert module == "sharding", "only sharding.py says shard_map, PartitionSpec and AxisType"


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "configs").glob("*.py"))], ids=name_of)
def test_files_and_functions_stay_small(path):
    tree = ast.parse(path.read_text())
    assert path.read_text().count("\n") <= 250
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 70, f"{node.name} is too long"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            value = ast.unparse(node.func.value)
            assert "config" not in value, f"{value}.get: a config has no defaults outside its file"
