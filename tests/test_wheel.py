"""The wheel, in an empty folder and an environment that holds nothing else of the project."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from alexnet_jax.data.sources.embedded import digits
from tests.conftest import ROOT
from tests.runs import environment

pytestmark = pytest.mark.slow

LIBRARY = """
import alexnet_jax
net = alexnet_jax.load("runs/x")
print(net.predict("digit.png").top(3))
print(net.features("digit.png", layer="fc7").shape)
print({name: (a.values.shape, a.axes) for name, a in net.activations("digit.png").items()}["conv1"])
print(net.evaluate(views=10)["top1_interval"], net.step, net.classes, net.config.model.towers, sorted(net.params))
again = alexnet_jax.train(alexnet_jax.config("digits", **{"train.max_steps": 2}), "runs/y")
print("again", again.step)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves files behind where it builds, and would pack old ones
    for name in ("alexnet_jax", "configs"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    (built,) = folder.glob("alexnet_jax-*.whl")
    return built


def test_the_wheel_holds_what_the_package_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in [*(ROOT / "alexnet_jax").rglob("*.py"), *(ROOT / "alexnet_jax").rglob("*.j2")]:
        assert str(path.relative_to(ROOT)) in names
    assert {f"alexnet_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= names
    assert "alexnet_jax/py.typed" in names
    explorer = ROOT / "alexnet_jax/explorer"
    page = {str(path.relative_to(ROOT)) for path in (explorer / "built").rglob("*") if path.is_file()}
    assert page and page <= names and not [name for name in names if name.startswith("alexnet_jax/explorer/web")]
    assert {name.partition("/")[0] for name in names} == {"alexnet_jax", "alexnet_jax-0.1.0.dist-info"}


@pytest.mark.long
def test_an_installed_wheel_needs_no_checkout(wheel, tmp_path):
    """Train, evaluate, predict and report by the command, and the library's example."""
    home, env = tmp_path / "home", tmp_path / "env"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    install = [env / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", ROOT / "launch/constraints.txt", wheel], check=True, capture_output=True)
    Image.fromarray(digits().splits["test"].read(0).content).save(home / "digit.png")

    def run(*command: str) -> str:
        process = subprocess.run(
            [env / "bin" / command[0], *command[1:]], cwd=home, env=environment(), capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout

    where = run("python", "-c", "import alexnet_jax; print(alexnet_jax.__file__)")
    assert where.startswith(str(env))
    flags = ["--config=digits", "--workdir=runs/x", "--simulated_devices=2", "--config.train.epochs=1"]
    assert "one tower per device" in (trained := run("alexnet", "train", *flags)) and "finished step 45" in trained
    assert re.search(r"top-1 error +[\d.]+%  \[", run("alexnet", "evaluate", "--workdir=runs/x"))
    assert run("alexnet", "predict", "--workdir=runs/x", "digit.png").startswith("digit.png\n")
    assert "wrote runs/x/report.html" in run("alexnet", "report", "--workdir=runs/x")
    facts = run("alexnet", "facts")
    assert "60,965,224" in facts
    lines = run("python", "-c", LIBRARY).splitlines()
    assert lines[-1] == "again 2" and "(1, 512)" in lines and any("'tower', 'height'" in line for line in lines)
