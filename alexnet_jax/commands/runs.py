"""List the runs below a folder: their errors, and the config keys in which they differ.

Reads no arrays, so hundreds of runs are listed at once. Damaged runs are named and left out.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from alexnet_jax.errors import UserError
from alexnet_jax.run import checks, progress, workdir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder with runs below it")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")


def run(arguments: argparse.Namespace) -> None:
    if not arguments.directory.is_dir():
        raise UserError(f"there is no folder {arguments.directory}")
    runs, damaged = _listed(arguments.directory)
    if not runs and not damaged:
        raise UserError(f"{arguments.directory} holds no run; give the folder above the --workdir of training runs")
    print(json.dumps(runs, indent=2) if arguments.json else _table(runs))
    if damaged:
        raise UserError("not listed: " + "; ".join(damaged))


def _listed(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs in and below a folder, sorted by name, and what is wrong with those that cannot be read.

    Keys of a run: run, step (of the newest checkpoint), best_error and last_error (top-1, fractions, of validations),
    evaluation (the content of evaluation.json), verified (the steps of the last `verify-run`, or NO), written (ISO
    8601), seconds (what its time went to), and config (the keys in which the runs differ).
    """
    runs, damaged = [], []
    for path in sorted(file.parent for file in directory.rglob(workdir.CONFIG)):
        try:
            if (path / workdir.RUN).exists():
                runs.append(_described(path, directory))
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            damaged.append(f"{path}: {' '.join(str(error).split())[:200]}")
    flat = [run["config"] for run in runs]
    names = sorted({name for keys in flat for name in keys})
    differing = [name for name in names if len({json.dumps(keys.get(name)) for keys in flat}) > 1]
    for run, keys in zip(runs, flat, strict=True):
        run["config"] = {name: keys.get(name) for name in differing}
    return runs, damaged


def _described(directory: Path, root: Path) -> dict[str, Any]:
    errors = [line["top1_error"] for line in workdir.read_metrics(directory) if line["phase"] == "validation"]
    files = [directory / name for name in (workdir.CONFIG, workdir.METRICS, workdir.EVALUATION)]
    written = max(path.stat().st_mtime for path in files if path.exists())
    return {
        "run": str(directory.relative_to(root)),
        "step": max(workdir.saved_steps(directory), default=None),
        "best_error": min(errors, default=None),
        "last_error": errors[-1] if errors else None,
        "evaluation": workdir.read_evaluation(directory),
        "verified": checks.summary(checks.read(directory)),
        "written": datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="minutes"),
        "seconds": progress.summary(progress.read(directory)),
        "config": workdir.flat_config(directory),
    }


def _table(runs: list[dict[str, Any]]) -> str:
    rows = []
    for run in runs:
        result = run["evaluation"]
        evaluated = f"{result['top1_error']:.2%} {result['split']} x{result['views']}" if result else None
        errors = [None if run[key] is None else f"{run[key]:.2%}" for key in ("best_error", "last_error")]
        seconds = run["seconds"]
        time = tqdm.format_interval(sum(seconds.values())) if seconds else None
        share = f"{seconds.get('training', 0) / sum(seconds.values()):.0%}" if seconds else None
        row = [run["run"], run["step"], *errors, evaluated, run["verified"], run["written"][:16], time, share]
        rows.append([*row, *run["config"].values()])
    headers = ["run", "step", "best error", "last error", "evaluated", "verified", "written", "time", "training"]
    headers += runs[0]["config"] if runs else ()
    return tabulate(rows, headers, tablefmt="plain", missingval="-", disable_numparse=True)
