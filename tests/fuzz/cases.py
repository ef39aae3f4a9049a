"""Starts workers and collects their results. A case is identified by (kind, seed, number)."""

import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

from tests.conftest import ROOT

CASES_PER_WORKER = 2000


class Finding(NamedTuple):
    kind: str
    seed: int
    case: int
    description: str


class Result(NamedTuple):
    kind: str
    outcomes: collections.Counter[str]  # accepted, refused, finding
    findings: list[Finding]


def run(kind: str, seed: int, first: int, last: int) -> Result:
    """Run cases `first`..`last`-1 of a kind."""
    result = Result(kind, collections.Counter(), [])
    while first < last:
        stop = min(last, first + CASES_PER_WORKER)
        first = _run_worker(result, seed, first, stop)
    return result


def _run_worker(result: Result, seed: int, first: int, last: int) -> int:
    """Run cases in one process until it ends, and return the first case that was not run."""
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_fuzz_") as home, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "tests.fuzz.worker", result.kind, *map(str, (seed, first, last)), home]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            ready = process.stdout.readline()
            for line in process.stdout:
                case, outcome, description = json.loads(line)
                result.outcomes[outcome] += 1
                if outcome == "finding":
                    result.findings.append(Finding(result.kind, seed, case, description))
                first = case + 1
        code = process.returncode
        errors.seek(0)
        stderr = errors.read()[-2000:].decode(errors="replace")
    if not ready:
        raise RuntimeError(f"the worker did not start: {stderr}")
    if code and first < last:
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        result.outcomes["finding"] += 1
        result.findings.append(Finding(result.kind, seed, first, f"the process ended with {reason}: {stderr}"))
        first += 1
    return first
