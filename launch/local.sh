#!/usr/bin/env bash
# Trains on the devices of this machine, or on simulated ones.
#   bash launch/local.sh CONFIG WORKDIR [DEVICES] [FLAG...]
# DEVICES, a number, simulates so many devices on the CPU; without it the real ones are used (GPUs, TPUs, else the
# CPU). Every FLAG goes to alexnet_jax.main, for example --config.data.directory=data/imagenet. Started again with
# the same arguments, training goes on from the newest checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
    sed -n '3,6s/^# //p' "$0" >&2
    exit 2
fi
config=$1 workdir=$2
shift 2
devices=()
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
    devices=("--simulated_devices=$1")
    shift
fi
if [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}" # as in launch/environment.sh
exec python3 -m alexnet_jax.main --config "$config" --workdir "$workdir" ${devices[@]+"${devices[@]}"} "$@"
