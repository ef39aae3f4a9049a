#!/usr/bin/env bash
# Trains on a queued Cloud TPU: requests it, waits for it, runs on all workers; requests another one after a preemption.
#   bash launch/tpu_queued.sh [--spot] [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAG...]
# The arguments, NFS and the way to stop are those of launch/tpu_vm.sh. When the training has ended, by itself or by a
# signal of yours, the TPU is released. The same command again resumes. It tries again, up to 100 times, after a
# preemption and after exit codes that another start may cure: 69, 124, 134 (see docs/trust.md), and 255, a broken
# connection. A training that was interrupted and saved (75) goes on if the TPU turns out to be preempted, for which two
# minutes are allowed; else the signal was yours.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/.."
. launch/functions.sh
. launch/tpu.sh
read_arguments "$script" "$@"
create=("${tpu[@]}" queued-resources create "${here[@]}" "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version" ${spot[@]+"${spot[@]}"})
delete=("${tpu[@]}" queued-resources delete "${here[@]}" --quiet --force)

# until_active: waits until the TPU is there.
until_active() {
    local state
    while state=$(state_of queued-resources state.state); do
        case $state in
        ACTIVE) return ;;
        NONE) "${create[@]}" ;;
        SUSPENDED | FAILED) "${delete[@]}" ;;
        *) sleep "$pause" ;; # waiting, or being deleted
        esac
    done
    return 1
}

if [ -n "$dry_run" ]; then
    run "${create[@]}"
    train_there
    run "${delete[@]}"
    exit
fi
for ((attempt = 1; attempt <= 100; attempt++)); do
    until_active
    set +e # not `train_there || code=$?`, which would ignore failures within the function
    (set -e; train_there)
    code=$?
    set -e
    case $code in 0 | 2 | 65 | 70 | 74) break ;; esac
    for ((looks = code == 75 ? 4 : 1; looks > 0; looks--)); do
        sleep "$pause" # a preemption is not reported at once
        state=$(state_of queued-resources state.state)
        if [ "$state" != ACTIVE ]; then break; fi
    done
    case "$code $state" in
    "75 SUSPEND"* | "75 FAILED" | "69 "* | "124 "* | "134 "* | "255 "*) ;;
    "75 "* | *" ACTIVE") break ;;
    esac
    echo "exit code $code, the TPU is $state: trying again" >&2
done
"${delete[@]}"
exit "$code"
