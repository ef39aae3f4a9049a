#!/usr/bin/env bash
# Trains on a Cloud TPU from the queue: asks for it, waits, runs on all workers; asks again when it was preempted.
#   bash launch/tpu_queued.sh [--spot] [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAG...]
# Arguments, NFS and how to stop are those of launch/tpu_vm.sh. It goes on until the training has ended, by itself or
# by a signal of yours; then it gives the TPU back. Started again with the same arguments, it goes on where it was.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/.."
. launch/functions.sh
. launch/tpu.sh
read_arguments "$script" "$@"

state() {
    "${tpu[@]}" queued-resources describe "${here[@]}" '--format=value(state.state)' 2>/dev/null || echo NONE
}

for ((attempt = 1; attempt <= 100; attempt++)); do
    found=NONE
    if [ -z "$dry_run" ]; then found=$(state); fi
    if [[ "$found" =~ ^(SUSPENDED|SUSPENDING|FAILED)$ ]]; then
        run "${tpu[@]}" queued-resources delete "${here[@]}" --quiet --force
        found=NONE
    fi
    if [ "$found" = NONE ]; then
        run "${tpu[@]}" queued-resources create "${here[@]}" "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version" ${spot[@]+"${spot[@]}"}
    fi
    while [ -z "$dry_run" ] && ! [[ "$(state)" =~ ^(ACTIVE|SUSPENDED|FAILED)$ ]]; do sleep 30; done
    code=0
    train_there || code=$?
    if [ -n "$dry_run" ] || [ "$(state)" = ACTIVE ]; then break; fi # else it was preempted
done
run "${tpu[@]}" queued-resources delete "${here[@]}" --quiet --force
exit "$code"
