"""Mutated inputs of all kinds: python -m tests.fuzz [--cases 10000] [--kinds jpeg tar ...] [--seed 0]

Each kind runs in a process of its own, with limits on memory and on the time of a case, so that a crash or a hang of
native code is a finding too: it names the case, and the next process goes on behind it. A case depends on kind, seed
and number only: `--kinds tar --first 17 --cases 1` runs that one again.
"""

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import ROOT
from tests.fuzz.targets import KINDS

SECONDS, MEMORY = 20, 2**33  # of a case; of the process, bytes of addresses


def work(kind: str, seed: int, first: int, cases: int) -> None:
    """Runs cases, and prints a line before and after each."""
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_fuzz_") as home:
        case = KINDS[kind](Path(home))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for number in range(first, first + cases):
            print(json.dumps({"begins": number}), flush=True)
            signal.alarm(SECONDS)
            try:
                outcome: dict[str, Any] = {
                    "accepted": bool(case(np.random.default_rng([sum(kind.encode()), seed, number])))
                }
            except BaseException as error:
                frames = traceback.extract_tb(error.__traceback__)
                at = next((f for f in reversed(frames) if "alexnet_jax/" in f.filename), frames[-1])
                outcome = {
                    "finding": f"{type(error).__name__}: {str(error)[:200]} ({Path(at.filename).name}:{at.lineno})"
                }
            signal.alarm(0)
            print(json.dumps(outcome), flush=True)


def fuzz(kind: str, seed: int, first: int, cases: int) -> dict[str, Any]:
    """Counts, and findings as (case, what)."""
    result: dict[str, Any] = {"kind": kind, "cases": 0, "accepted": 0, "refused": 0, "findings": []}
    end = first + cases
    while first < end:
        words = [
            "-m",
            "tests.fuzz",
            "--work",
            "--kinds",
            kind,
            f"--seed={seed}",
            f"--first={first}",
            f"--cases={end - first}",
        ]
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            told = json.loads(line)
            if "begins" in told:
                first = told["begins"]
                continue
            result["cases"] += 1
            if "finding" in told:
                result["findings"].append((first, told["finding"]))
            else:
                result["accepted" if told["accepted"] else "refused"] += 1
        if done.returncode:
            assert done.stdout, done.stderr  # it did not even begin
            what = "took too long" if done.returncode == -signal.SIGALRM else f"ended the process ({done.returncode})"
            result["findings"].append((first, what))
            result["cases"] += 1
        first += 1
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.kinds[0], arguments.seed, arguments.first, arguments.cases)
        return
    found = False
    print(f"{'kind':10} {'cases':>7} {'accepted':>9} {'refused':>8} {'findings':>9}")
    for kind in arguments.kinds:
        result = fuzz(kind, arguments.seed, arguments.first, arguments.cases)
        counts = [result[key] for key in ("cases", "accepted", "refused")]
        print(f"{kind:10} {counts[0]:7} {counts[1]:9} {counts[2]:8} {len(result['findings']):9}", flush=True)
        for number, what in result["findings"]:
            found = True
            print(f"  {kind} {number}: {what}", flush=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
