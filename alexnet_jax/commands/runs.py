"""The runs below a folder, their errors, and in which config keys they differ: alexnet runs DIR

Reads no arrays, so that hundreds of runs are listed at once. A run that is damaged is named and passed over.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.run import workdir

EVALUATION = "evaluation.json"
COLUMNS = ("run", "step", "best error", "last error", "evaluated", "written")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder with workdirs of alexnet_jax.main below it")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")


def run(arguments: argparse.Namespace) -> None:
    if not arguments.directory.is_dir():
        raise UserError(f"there is no folder {arguments.directory}")
    found, damaged = listed(arguments.directory)
    if not found and not damaged:
        raise UserError(f"{arguments.directory} holds no run; give the folder above --workdir of alexnet_jax.main")
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(table(found))
    if damaged:
        raise UserError("not listed: " + "; ".join(damaged))


def listed(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs in and below a folder by name, and what is wrong with those that cannot be read.

    Keys of a run: run, step (of the newest checkpoint), best_error and last_error (top-1, fractions, of validations),
    evaluation (of evaluation.json), written (ISO 8601), and config (the keys in which not all runs agree).
    """
    found, flat, damaged = [], [], []
    for file in sorted(directory.rglob(workdir.CONFIG)):
        if not (file.parent / workdir.RUN).exists():
            continue
        try:
            values, one = workdir.flat_config(file.parent), _one(file.parent, directory)
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            damaged.append(f"{file.parent}: {' '.join(str(error).split())[:200]}")
            continue
        found.append(one)
        flat.append(values)
    keys = sorted({key for values in flat for key in values})
    differ = [key for key in keys if len({json.dumps(values.get(key)) for values in flat}) > 1]
    for one, values in zip(found, flat, strict=True):
        one["config"] = {key: values.get(key) for key in differ}
    return found, damaged


def _one(directory: Path, above: Path) -> dict[str, Any]:
    metrics = directory / workdir.METRICS
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    validated = [line["top1_error"] for line in lines if "epoch" not in line]  # those of training have it
    steps = [int(path.name) for path in (directory / workdir.CHECKPOINTS).glob("*") if path.name.isdigit()]
    evaluation = directory / EVALUATION
    written = max(path.stat().st_mtime for path in (directory / workdir.CONFIG, metrics, evaluation) if path.exists())
    return {
        "run": str(directory.relative_to(above)),
        "step": max(steps, default=None),
        "best_error": min(validated, default=None),
        "last_error": validated[-1] if validated else None,
        "evaluation": json.loads(evaluation.read_text()) if evaluation.exists() else None,
        "written": datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="minutes"),
    }


def table(found: list[dict[str, Any]]) -> str:
    """The runs as lines, columns side by side."""
    keys = list(found[0]["config"]) if found else []
    rows = [[*COLUMNS, *keys]]
    for one in found:
        evaluation = one["evaluation"]
        evaluated = (
            f"{_percent(evaluation['top1_error'])} {evaluation['split']} x{evaluation['views']}" if evaluation else "-"
        )
        step = "-" if one["step"] is None else str(one["step"])
        errors_ = [_percent(one[key]) for key in ("best_error", "last_error")]
        values = ["-" if value is None else str(value) for value in one["config"].values()]
        rows.append([one["run"], step, *errors_, evaluated, one["written"][:16], *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2%}"
