#!/usr/bin/env bash
# All checks from nothing: format, lint, types, tests, in .venv made from the project's files.
#   bash tests/run.sh [--all] [PYTEST ARGUMENT...]
# --all includes what takes long or needs large packages, which it installs: comparisons with PyTorch, the notebook, the
# documents, pages in a browser, the longest faults.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=dev selection=(-m "not long")
if [ "${1:-}" = --all ]; then
    extras=dev-all selection=()
    shift
fi
times=()

timed() { # NAME COMMAND...
    local name=$1 started=$SECONDS
    shift
    "$@"
    times+=("$name $((SECONDS - started)) s")
}

install() { . launch/environment.sh "$extras"; }
lint() { ruff format --check . && ruff check .; }

timed install install
timed "format and lint" lint
timed types mypy
if [ ${#selection[@]} = 0 ] && [ $# = 0 ]; then # this test trains on all cores, so it has them to itself
    studies=tests/test_reproduce.py::test_all_studies_at_smoke_scale_and_once_more
    timed "all studies" pytest "$studies"
    selection=(--deselect "$studies")
fi
timed tests pytest --numprocesses=2 --dist=worksteal "${selection[@]}" "$@"
printf -v listed ', %s' "${times[@]}"
echo "all checks passed: ${listed:2}"
