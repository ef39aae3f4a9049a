"""The long run: python -m tests.fuzz [--cases 10000] [--kinds jpeg,tar] [--seed 0] [--case N] [--json FILE]

Prints a table, and each finding with the options that reproduce it: --kinds KIND --seed SEED --case N. Exits with
code 1 if there are findings. With --coverage, coverage guides the cases of the kinds manifest and tar; see coverage.py.
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

KINDS = ("jpeg", "tar", "layout", "cifar10", "manifest", "record", "workdir")


def run_coverage(kind: str, cases: int, seed: int) -> int:
    """Run libFuzzer, print its summary and the folder of its finding, and return its exit code."""
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
    parser.add_argument("--cases", type=int, default=10_000, help="number of cases of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run only this case")
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    parser.add_argument("--coverage", action="store_true", help="guide the cases by coverage; needs atheris")
    arguments = parser.parse_args()
    if arguments.coverage:
        sys.exit(max(run_coverage(kind, arguments.cases, arguments.seed) for kind in ("manifest", "tar")))
    first, last = (0, arguments.cases) if arguments.case is None else (arguments.case, arguments.case + 1)
    rows, findings = [], []
    print(f"{'kind':10} {'cases':>8} {'accepted':>9} {'refused':>9} {'findings':>9} {'seconds':>8}")
    for kind in arguments.kinds.split(","):
        start = time.monotonic()
        result = cases.run(kind, arguments.seed, first, last)
        counts = [result.outcomes[name] for name in ("accepted", "refused", "finding")]
        seconds = round(time.monotonic() - start)
        named = zip(("accepted", "refused", "findings"), counts, strict=True)
        rows.append({"kind": kind, "cases": sum(counts), **dict(named)})
        findings += result.findings
        print(f"{kind:10} {sum(counts):>8,} {counts[0]:>9,} {counts[1]:>9,} {counts[2]:>9,} {seconds:>8,}", flush=True)
    for finding in findings:
        print(f"\n--kinds {finding.kind} --seed {finding.seed} --case {finding.case}\n{finding.description}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "kinds": rows}, indent=2) + "\n")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
