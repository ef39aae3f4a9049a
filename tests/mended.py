"""Defects that were mended, brought back one by one: python -m tests.mended [--only TEXT] [--write]

mended.json lists them: what users saw, the test, and the change to the code that brings the defect back. Each is made
in a copy of the project, where the test must fail; without any, all the tests must pass.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

LIST = ROOT / "tests" / "mended.json"


def defects() -> list[dict]:
    return json.loads(LIST.read_text())


def run(copy: Path, *tests: str) -> int:
    """The exit code of pytest: 0 if all pass, 1 if some fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mended", description=__doc__)
    parser.add_argument("--only", default="", help="only those whose description or test holds this text")
    parser.add_argument("--write", action="store_true", help="write the outcomes to mended.json")
    arguments = parser.parse_args()
    listed = defects()
    chosen = [defect for defect in listed if arguments.only in defect["defect"] + defect["test"]]
    if not chosen:
        parser.error(f"no defect or test holds {arguments.only!r}")
    missed = 0
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_mended_") as folder:
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, Path(folder) / name, follow_symlinks=False)
        failing = run(Path(folder), *dict.fromkeys(defect["test"] for defect in chosen))
        print(f"as it is: {'all tests pass' if failing == 0 else 'SOME TESTS FAIL'}", flush=True)
        for defect in chosen:
            file = Path(folder) / defect["file"]
            mended = file.read_text()
            file.write_text(mended.replace(defect["find"], defect["replace"]))
            defect["caught"] = run(Path(folder), defect["test"]) == 1
            file.write_text(mended)
            missed += not defect["caught"]
            print(f"{'caught' if defect['caught'] else 'MISSED'}: {defect['defect']} ({defect['test']})", flush=True)
    if arguments.write:
        LIST.write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
    print(f"{len(chosen) - missed} of {len(chosen)} are caught")
    sys.exit(bool(missed or failing))


if __name__ == "__main__":
    main()
