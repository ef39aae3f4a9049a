#!/usr/bin/env bash
# All checks from nothing: format, lint, types, tests, in .venv made from the project's files.
#   bash tests/run.sh [--peers] [PYTEST ARGUMENT...]
# --peers installs PyTorch too and runs the tests that compare with it.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=(dev)
if [ "${1:-}" = --peers ]; then
    extras+=(peers)
    shift
fi
. launch/environment.sh "${extras[@]}"
ruff format --check .
ruff check .
mypy
if [ $# -eq 0 ]; then set -- -m "not long"; fi # those are run by hand: `pytest -m long`
pytest --numprocesses=2 --dist=loadfile "$@"
