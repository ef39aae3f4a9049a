"""What the fault tests share: the table in docs/trust.md.

`python -m pytest tests/faults --write-faults` writes results.json, from which that table is made.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results.json"
ROWS = RESULTS.with_suffix(".jsonl")  # while rows come in, from several processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # Orbax leaves tasks behind when it cannot read; a command does not show them.
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture
def survived(request) -> Callable[..., None]:
    """Record a fault that a run has survived: `survived(fault, tries, lost, reported)`."""

    def record(fault: str, tries: int, lost: str, reported: str) -> None:
        if request.config.getoption("--write-faults"):
            row = {"fault": fault, "tries": tries, "lost": lost, "reported": reported}
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")

    return record


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-faults") and not hasattr(session.config, "workerinput"):
        rows = sorted(map(json.loads, ROWS.read_text().splitlines()), key=lambda row: row["tries"])
        by_fault = {row["fault"]: row for row in rows}  # of two of a kind the one of more tries
        ROWS.unlink()
        if not session.testsfailed:
            RESULTS.write_text(json.dumps([by_fault[fault] for fault in sorted(by_fault)], indent=2) + "\n")


def table(rows: list[dict]) -> str:
    """The table in docs/trust.md."""
    lines = ["| Fault | Tries | Lost | How it is reported |", "| --- | --- | --- | --- |"]
    columns = ("fault", "tries", "lost", "reported")
    return "\n".join(lines + [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in rows])
