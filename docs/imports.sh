#!/usr/bin/env bash
# Draw docs/imports.svg: which part of the package imports which. Numbers count modules; an arrow points to what is
# imported. Needs Graphviz (apt install graphviz); import-linter, which reads the imports, comes with the extra `dev`.
set -euo pipefail
cd "$(dirname "$0")/.."
import-linter drawgraph alexnet_jax --show-module-counts | grep -v '\.configs' |
    dot -Tsvg -Gdpi=60 -o docs/imports.svg
