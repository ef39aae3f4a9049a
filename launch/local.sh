#!/usr/bin/env bash
# Trains on the devices of this machine, or on simulated ones.
#   bash launch/local.sh [--processes N] [--dry-run] CONFIG WORKDIR [DEVICES] [FLAG...]
# DEVICES is the number of devices to simulate on the CPU; without it the real ones are used (GPUs, TPUs, else the CPU).
# --processes divides the devices over N processes on this machine; real GPUs get one process each. Every FLAG is passed
# to alexnet_jax.main, for example --config.data.directory=data/imagenet. The same command again resumes from the newest
# checkpoint. On SIGTERM, SIGINT, SIGUSR1 or SIGHUP all processes save and exit with code 75. The exit code is that of
# the first process that fails; the others are killed unless they exit within GRACE seconds (60). What process 1 prints
# goes to stderr, each line after [1], and so on. --dry-run prints the commands.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/.."
. launch/functions.sh
processes=1 dry_run=
while [[ "${1:-}" == --* ]]; do
    case $1 in
    --processes) processes=${2:-}; shift ;;
    --dry-run) dry_run=1 ;;
    *) usage "$script" ;;
    esac
    if (($#)); then shift; fi
done
if [ $# -lt 2 ] || ! [[ "$processes" =~ ^[1-9][0-9]{0,3}$ ]]; then usage "$script"; fi
config=$1 workdir=$2
shift 2
devices=0
if [[ "${1:-}" =~ ^[0-9]{1,4}$ ]]; then devices=$((10#$1)); shift; fi
if ((devices % processes)); then
    echo "error: $devices devices cannot be divided evenly over $processes processes; give a multiple" >&2
    exit 2
fi
IFS=, read -ra gpus <<< "${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((processes - 1)))}"
if ((processes > 1 && !devices && ${#gpus[@]} < processes)); then
    echo "error: CUDA_VISIBLE_DEVICES names ${#gpus[@]} GPU(s) for $processes processes; name as many as --processes" >&2
    exit 2
fi
if [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}" # as in launch/environment.sh

command=(python3 -m alexnet_jax.main --config "$config" --workdir "$workdir")
if ((devices)); then command+=("--simulated_devices=$((devices / processes))"); fi
command+=("$@")
# Several processes get a session each, because the terminal's Ctrl-C would reach them twice, directly and through this
# script, and the second signal ends them at once, unsaved. They are asked to stop even if this script is killed.
own_session=(setsid setpriv --pdeathsig TERM)

pids=() stopping=
# stop SIGNAL: asks all processes to save and exit. Of main's signals, SIGHUP may come several times; the others it treats
# alike, but what bash starts in the background ignores SIGINT until it trains.
stop() {
    stopping=$1
    if ((${#pids[@]})); then kill -"$1" "${pids[@]}" 2>/dev/null || true; fi
}
trap 'stop TERM' TERM INT USR1
trap 'stop HUP' HUP
trap 'kill -KILL "${pids[@]/#/-}" 2>/dev/null || true' EXIT # however this script ends, no process is left behind

# start I FLAG...: starts process I in the background.
start() {
    local i=$1 process=("${command[@]}")
    shift
    if ((processes > 1)); then
        process=("${own_session[@]}" "${process[@]}" "--coordinator_address=127.0.0.1:$port" "--num_processes=$processes" "--process_id=$i")
        if ((!devices)); then process=(env "CUDA_VISIBLE_DEVICES=${gpus[i]}" "${process[@]}"); fi
    fi
    if [ -n "$dry_run" ]; then
        run "${process[@]}" "$@"
        return
    elif ((i)); then
        "${process[@]}" "$@" > >(sed -u "s/^/[$i] /" >&2) 2>&1 &
    else
        "${process[@]}" "$@" &
    fi
    pids[i]=$!
}

# run_all FLAG...: starts all processes, waits for them, and returns the exit code of the first that failed.
run_all() {
    local i status code=0 deadline=0 port=PORT
    if [ -z "$dry_run" ]; then
        port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
    for ((i = 0; i < processes; i++)); do
        if [ -z "$stopping" ]; then start "$i" "$@"; fi
    done
    if [ -n "$stopping" ]; then stop "$stopping"; fi # again, as a process may have been starting when the signal came
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
        sleep 0.2 || true # Ctrl-C interrupts it too
    done
    return "$code"
}

run_all --preflight
if [ -n "$stopping" ]; then exit 143; fi # the signal may have come when no process was there to receive it
if ((processes > 1)) || [ -n "$dry_run" ]; then run_all; else exec "${command[@]}"; fi
