#!/usr/bin/env bash
# Trains on the devices of this machine, or on simulated ones.
#   bash launch/local.sh [--processes N] [--dry-run] CONFIG WORKDIR [DEVICES] [FLAG...]
# DEVICES, a number, simulates so many devices on the CPU; without it the real ones are used (GPUs, TPUs, else the
# CPU). With --processes they are divided over N processes on this machine, one GPU each if they are real ones. Every
# FLAG goes to alexnet_jax.main, for example --config.data.directory=data/imagenet. Started again with the same
# arguments, training goes on from the newest checkpoint. SIGTERM, SIGINT and SIGUSR1 go to all processes, which save
# and end with exit code 75. The exit code is that of the first process that fails; the others then have GRACE
# seconds (60) to notice, and are killed. --dry-run prints the commands.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/.."
. launch/functions.sh
processes=1 dry_run=
while [[ "${1:-}" == --* ]]; do
    case $1 in
    --processes) processes=${2:-}; shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    *) usage "$script" ;;
    esac
done
if [ $# -lt 2 ] || ! [[ "$processes" =~ ^[1-9][0-9]*$ ]]; then usage "$script"; fi
config=$1 workdir=$2
shift 2
devices=0
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then devices=$1; shift; fi
if ((devices % processes)); then
    echo "error: $devices devices do not divide over $processes processes; give a multiple" >&2
    exit 2
fi
if [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}" # as in launch/environment.sh

command=(python3 -m alexnet_jax.main --config "$config" --workdir "$workdir")
if ((devices)); then command+=("--simulated_devices=$((devices / processes))"); fi
command+=("$@")
if ((processes == 1)); then
    run "${command[@]}" --preflight
    if [ -z "$dry_run" ]; then exec "${command[@]}"; fi
    run "${command[@]}"
    exit
fi

pids=()
for signal in TERM INT USR1; do
    # shellcheck disable=SC2064 # the signal's name is meant to be filled in now
    trap "kill -$signal \"\${pids[@]}\" 2>/dev/null || true" "$signal"
done

# together [FLAG]: starts all processes, waits for all, and returns the exit code of the first that failed.
together() {
    local i status process code=0 deadline=0 port=PORT
    if [ -z "$dry_run" ]; then
        port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
    for ((i = 0; i < processes; i++)); do
        process=("${command[@]}" "--coordinator_address=127.0.0.1:$port" "--num_processes=$processes" "--process_id=$i")
        if ((!devices)); then process=(env "CUDA_VISIBLE_DEVICES=$i" "${process[@]}"); fi
        if [ -n "$dry_run" ]; then
            run "${process[@]}" "$@"
        else
            "${process[@]}" "$@" &
            pids[i]=$!
        fi
    done
    while ((${#pids[@]})); do
        for i in "${!pids[@]}"; do
            if ! kill -0 "${pids[i]}" 2>/dev/null; then
                status=0
                wait "${pids[i]}" || status=$?
                unset "pids[i]"
                if ((status && !code)); then code=$status deadline=$((SECONDS + ${GRACE:-60})); fi
            fi
        done
        if ((${#pids[@]} && code && SECONDS >= deadline)); then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
        sleep 0.2
    done
    return "$code"
}

together --preflight
together
