#!/usr/bin/env bash
# Builds the image alexnet_jax:DEVICE for cpu, cuda12, cuda13 or tpu.
#   bash launch/docker/build.sh [--dry-run] DEVICE
#   docker run --rm --gpus all --shm-size 8g -v /data:/data alexnet_jax:cuda12 --config configs/paper.py \
#       --config.data.directory=/data/imagenet --workdir /data/runs/paper [--preflight]
# To save and stop: docker stop --time 300 CONTAINER. The same command again resumes.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/../.."
. launch/functions.sh
dry_run=
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi
case "${1:-}" in
cpu) extra='' ;;
cuda12 | cuda13 | tpu) extra=$1 ;;
*) usage "$script" ;;
esac
run docker build --file launch/docker/Dockerfile --build-arg "EXTRA=$extra" --tag "alexnet_jax:$1" .
