"""The structure of the code: imports run one way, a library is named in one place, files and functions stay small."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "alexnet_jax"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / "configs"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# The story: what the top level of the package holds. Everything else lies in a folder, by its role.
TOP_LEVEL = {
    *(
        "__init__",
        "__main__",
        "main",
        "training",
        "trainer",
        "loop",
        "steps",
        "model",
        "ops",
        "pooling",
        "sharding",
        "optim",
    ),
    *("augment", "metrics", "run_config", "model_config", "errors", "replay", "virtual_shards", "blocks", "batch_norm"),
    "compiling",
    "explorer",
    *("kernels", "run", "inference", "commands", "data", "paper", "interop", "serving", "bench", "configs", "doctor"),
}
ONLY_IN = {  # library -> the modules that may name it
    "orbax": {"run.checkpoint"},
    "grain": {"data.loader"},
    "huggingface_hub": {"data.hub"},
    "ml_collections": {"run.config_files", "main"},
}


def imports(path: Path) -> set[str]:
    """Full names of what a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of import-linter in pyproject.toml."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_imports_run_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_imports_against_the_order_are_noticed(tmp_path):
    """The contracts hold every file and folder of the top level, and see an import that they forbid."""
    contracts = (ROOT / "pyproject.toml").read_text().partition("[tool.importlinter]")[2]
    listed = set(re.findall(r"alexnet_jax\.(\w+)", contracts))
    assert listed == TOP_LEVEL - {"__init__"}
    (tmp_path / "alexnet_jax").mkdir()
    for path in MODULES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True, parents=True)
        copy.write_text(path.read_text())
    (tmp_path / "alexnet_jax/configs").mkdir()
    (tmp_path / "alexnet_jax/configs/__init__.py").touch()
    errors = tmp_path / "alexnet_jax/errors.py"
    errors.write_text(errors.read_text() + "\n\ndef late():\n    from alexnet_jax.run import workdir\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    done = lint(tmp_path)
    assert done.returncode == 1 and "alexnet_jax.errors -> alexnet_jax.run.workdir" in done.stdout, done.stderr


def test_the_top_level_is_the_story():
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert present == TOP_LEVEL


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_library_is_named_in_one_place(path):
    names, module = imports(path), name_of(path).removeprefix("alexnet_jax.")
    if module.startswith("data"):
        assert not any(re.match(r"(jax|flax|optax|orbax)(\.|$)", name) for name in names), "data/ imports no JAX"
    for library, homes in ONLY_IN.items():
        if any(re.match(rf"{library}(\.|$)", name) for name in names):
            assert module in homes, f"only {homes} may import {library}"
    if re.search(r"shard_map|jax.sharding.*\bPartitionSpec|AxisType", path.read_text()):
        assert module in ("sharding", "virtual_shards"), "only they may say shard_map, PartitionSpec and AxisType"


@pytest.mark.slow
@pytest.mark.parametrize("path", [*MODULES, *CONFIGS, *TESTS], ids=name_of)
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert source.count("\n") <= (400 if path in TESTS else 250)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 70, f"{node.name} is too long"
        if path not in TESTS and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            value = ast.unparse(node.func.value)
            assert node.func.attr != "get" or "config" not in value, f"{value}.get: a config has no defaults"


def test_folders_hold_what_their_name_says():
    """A subcommand is one file with arguments and text; a test lies in tests/ or in a folder of it."""
    for path in (PACKAGE / "commands").glob("[!_]*.py"):
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert "add_arguments" in functions, path
    tests = {path for path in TESTS if re.match(r"test_|.*_test$", path.stem)}
    assert {path.parent.name for path in tests} == {"tests", "faults", "fuzz", "launch"}
    assert not [path for path in ROOT.rglob("test_*.py") if path not in tests and ".venv" not in path.parts]
