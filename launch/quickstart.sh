#!/usr/bin/env bash
# From nothing to a trained network: two towers on two simulated devices, handwritten digits, a report.
#   bash launch/quickstart.sh            writes only to runs/quickstart and .venv
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
workdir=runs/quickstart

echo; echo "== Training on two simulated devices"
python -m alexnet_jax.main --config configs/digits.py --workdir "$workdir" --simulated_devices=2

echo; echo "== Evaluating"
alexnet evaluate --workdir "$workdir"

echo; echo "== Predicting three digits that the network was not trained on"
python - "$workdir" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

from alexnet_jax.data.sources.embedded import digits

source = digits()
test = source.splits["test"]
for i in (0, 100, 200):
    pixels, label = test.read(i)
    Image.fromarray(pixels).save(Path(sys.argv[1]) / f"test_{i}_is_{source.classes[label]}.png")
PYTHON
alexnet predict --workdir "$workdir" "$workdir"/test_*.png

echo; echo "== Report"
alexnet report --workdir "$workdir"
