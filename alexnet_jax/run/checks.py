"""What `alexnet verify-run` has found of a run, in verified.json: each check, the last one last."""

from pathlib import Path

import pydantic

from alexnet_jax.data.files import write_text
from alexnet_jax.errors import keeping, reading

VERIFIED = "verified.json"


class Check(pydantic.BaseModel):
    """One check: steps that were taken again, and what was compared."""

    time: str
    verified: bool
    problem: str = ""  # the first difference
    stretches: list[tuple[int, int]] = []  # those that are the same
    lines: int = 0
    validations: int = 0  # of the lines
    checkpoints: int = 0
    differences: list[str]  # between the machine of the run and that of the check
    environment: dict


CHECKS = pydantic.TypeAdapter(list[Check])


def read(directory: Path) -> list[Check]:
    """The checks of a workdir. Raises DataError if the file is damaged."""
    path = directory / VERIFIED
    with reading(f"{path} is damaged", "; delete it, and check the run again"):
        return CHECKS.validate_json(path.read_bytes()) if path.exists() else []


def write(directory: Path, checks: list[Check]) -> None:
    """Keep the checks of a workdir, if it can be written."""
    with keeping(directory / VERIFIED):
        write_text(directory / VERIFIED, CHECKS.dump_json(checks, indent=2).decode() + "\n")


def summary(checks: list[Check]) -> str | None:
    """What the last check says, in a word: the steps that are verified, or NO. None without a check."""
    if not checks:
        return None
    return ",".join(f"{first}-{last}" for first, last in checks[-1].stretches) if checks[-1].verified else "NO"
