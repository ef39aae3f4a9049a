"""What the fault tests share: the run that nothing happens to, and the table in the README.

`python -m pytest tests/faults --write-faults` writes results.json, which the README's table is made of.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import runs

RESULTS = Path(__file__).parent / "results.json"
ROWS: list[dict] = []


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The workdir of the run of runs.CONFIG that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    runs.run(runs.command(home, "run"))
    return home / "run"


@pytest.fixture
def survived() -> Callable[..., None]:
    """Notes a fault that a run has come through: `survived(fault, tries, lost, told)`."""

    def note(fault: str, tries: int, lost: str, told: str) -> None:
        ROWS.append({"fault": fault, "tries": tries, "lost": lost, "told": told})

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-faults") and not session.testsfailed:
        RESULTS.write_text(json.dumps(sorted(ROWS, key=lambda row: row["fault"]), indent=2) + "\n")


def table(rows: list[dict]) -> str:
    """As in the README."""
    lines = ["| Fault | Tries | Lost | How it is told |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {row['fault']} | {row['tries']} | {row['lost']} | {row['told']} |" for row in rows])
