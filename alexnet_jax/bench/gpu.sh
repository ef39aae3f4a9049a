#!/usr/bin/env bash
# Everything that is measured on one GPU, in one go: the step beside PyTorch, and whole training from raw records.
#   bash alexnet_jax/bench/gpu.sh OUT          writes its tables, as text and JSON, into the folder OUT
# Needs jax for the GPU (pip install -e ".[cuda12]" or [cuda13]), and torch to be compared with. If these are
# installed already, also: flax optax orbax-checkpoint grain array_record ml-collections clu simplejpeg pydantic pillow
# opencv-python-headless tensorboardX xxhash tqdm scipy scikit-learn jinja2 matplotlib tabulate shtab, as pinned in
# launch/constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# -ne 1 ]; then
    sed -n '3,7s/^# //p' "$0" >&2
    exit 2
fi
out=$(realpath -m "$1")
mkdir -p "$out"
export XLA_PYTHON_CLIENT_PREALLOCATE=false # PyTorch needs memory too
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
run() {
    echo; echo "\$ alexnet bench $*"
    python3 -m alexnet_jax bench "$@"
}
{
    run step --mesh 1x1 --dtype bfloat16 --batch 128 512 1024 2048 --peak_size 8192 --seconds 2 --json "$out/step.json"
    run step --mesh 1x1 --dtype bfloat16 --batch 128 1024 --forward --peak_size 8192 --seconds 1 --json "$out/forward.json"
    data=$(mktemp -d)
    trap 'rm -rf "$data"' EXIT
    python3 -m alexnet_jax prepare --source synthetic --output "$data/raw"
    run train --data "$data/raw" --mesh 1x1 --dtype bfloat16 --batch 1024 --steps 300 --json "$out/train.json"
    run train --data "$data/raw" --mesh 1x1 --dtype bfloat16 --batch 128 --steps 1000 --json "$out/train-128.json"
} 2>&1 | tee "$out/gpu-bench.txt"
