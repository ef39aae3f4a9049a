"""The launch scripts with a stand-in for alexnet_jax.main, which shows quickly what they do with it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import runs
from tests.conftest import ROOT

STAND_INS = Path(__file__).parent / "stand_ins"


def path_to(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])


def wait_for(condition: Callable[[], object], what: str, log: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for {what}: {log.read_text() if log.exists() else 'no log'}"
        time.sleep(0.1)


class Project:
    """A folder with the launch scripts and the stand-in, which writes notes."""

    def __init__(self, home: Path):
        self.home, self.notes = home, home / "notes"
        shutil.copytree(ROOT / "launch", home / "launch")
        for folder in ("alexnet_jax", "configs"):
            (home / folder).mkdir()
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, home)
        (home / "alexnet_jax/__init__.py").touch()
        shutil.copy(STAND_INS / "main.py", home / "alexnet_jax")
        self.env = runs.environment() | {"PATH": path_to(), "NOTES": str(self.notes)}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", f"launch/{script}", *arguments],
            cwd=self.home,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def noted(self, *words: str) -> list[str]:
        """The lines of the notes that contain all `words`."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line for line in lines if all(word in line for word in words)]

    def wait_for(self, count: int, *words: str) -> None:
        wait_for(lambda: len(self.noted(*words)) >= count, f"{count} x {words}", self.notes)

    def still_running(self) -> list[int]:
        """The processes of the stand-in that have not ended."""
        pids = [int(line.split()[2]) for line in self.noted(" pid ")]
        stats = [Path(f"/proc/{pid}/stat") for pid in pids]
        return [int(stat.parent.name) for stat in stats if stat.exists() and ") Z " not in stat.read_text()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path / "project of $(touch x)")
    yield project
    for process in project.started:
        process.kill()
    for pid in project.still_running():  # they keep the output open
        os.kill(pid, 9)
    for process in project.started:
        process.communicate(timeout=60)
    assert not list(tmp_path.rglob("x"))
