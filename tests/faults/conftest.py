"""What the fault tests share: the run that nothing happens to, and the table in the README.

`python -m pytest tests/faults --write-faults` writes results.json, which the README's table is made of.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import runs

RESULTS = Path(__file__).parent / "results.json"
ROWS = RESULTS.with_suffix(".jsonl")  # while they come in, from several processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # Orbax leaves tasks behind when it cannot read; a command does not show them.
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The workdir of the run of runs.CONFIG that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    runs.run(runs.command(home, "run"))
    return home / "run"


@pytest.fixture
def survived(request) -> Callable[..., None]:
    """Notes a fault that a run has come through: `survived(fault, tries, lost, told)`."""

    def note(fault: str, tries: int, lost: str, told: str) -> None:
        if request.config.getoption("--write-faults"):
            row = {"fault": fault, "tries": tries, "lost": lost, "told": told}
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-faults") and not hasattr(session.config, "workerinput"):
        rows = sorted(map(json.loads, ROWS.read_text().splitlines()), key=lambda row: row["tries"])
        found = {row["fault"]: row for row in rows}  # of two of a kind that of more tries
        ROWS.unlink()
        if not session.testsfailed:
            RESULTS.write_text(json.dumps([found[fault] for fault in sorted(found)], indent=2) + "\n")


def table(rows: list[dict]) -> str:
    """As in the README."""
    lines = ["| Fault | Tries | Lost | How it is told |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {row['fault']} | {row['tries']} | {row['lost']} | {row['told']} |" for row in rows])
