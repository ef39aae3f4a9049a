"""The long run: python -m tests.fuzz [--cases 10000] [--kinds jpeg,tar] [--seed 0] [--case N] [--json FILE]

Prints a table, and each finding with what makes it again: --kinds KIND --seed SEED --case N. Exit code 1: there are
findings. With --coverage, the cases follow coverage instead, of the kinds manifest and tar; see coverage.py.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz import cases

KINDS = ("jpeg", "tar", "cifar10", "manifest", "record", "workdir")


def follow_coverage(kind: str, cases: int, seed: int) -> int:
    """Prints what libFuzzer says at the end, with the folder of what it found. Returns the exit code."""
    home = tempfile.mkdtemp(prefix="alexnet_jax_fuzz_")
    command = [sys.executable, "-m", "tests.fuzz.coverage", kind, str(cases), str(seed), home]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    lines = done.stderr.splitlines()
    print(kind, *(lines[-40:] if done.returncode else lines[-2:]), sep="\n", flush=True)
    if done.returncode:
        print(f"the input is in {home}")
    else:
        shutil.rmtree(home)
    return done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--coverage", action="store_true", help="let coverage choose the cases; needs atheris")
    arguments = parser.parse_args()
    if arguments.coverage:
        sys.exit(max(follow_coverage(kind, arguments.cases, arguments.seed) for kind in ("manifest", "tar")))
    first, last = (0, arguments.cases) if arguments.case is None else (arguments.case, arguments.case + 1)
    rows, found = [], []
    print(f"{'kind':10} {'cases':>8} {'accepted':>9} {'refused':>9} {'findings':>9} {'seconds':>8}")
    for kind in arguments.kinds.split(","):
        start = time.monotonic()
        result = cases.run(kind, arguments.seed, first, last)
        counts = [result.outcomes[name] for name in ("accepted", "refused", "finding")]
        seconds = round(time.monotonic() - start)
        of_kind = zip(("accepted", "refused", "findings"), counts, strict=True)
        rows.append({"kind": kind, "cases": sum(counts), **dict(of_kind)})
        found += result.findings
        print(f"{kind:10} {sum(counts):>8,} {counts[0]:>9,} {counts[1]:>9,} {counts[2]:>9,} {seconds:>8,}", flush=True)
    for finding in found:
        print(f"\n--kinds {finding.kind} --seed {finding.seed} --case {finding.case}\n{finding.what}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "kinds": rows}, indent=2) + "\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
