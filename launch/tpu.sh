# shellcheck shell=bash disable=SC2034 # the scripts that source this file use the variables
# Sourced by tpu_vm.sh and tpu_queued.sh: what both do with an existing TPU VM.

# read_arguments SCRIPT ARGUMENT...: sets dry_run, spot, name, zone, type, config, workdir and flags.
read_arguments() {
    local script=$1
    shift
    dry_run='' spot=()
    while [[ "${1:-}" == --* ]]; do
        case $1 in
        --dry-run) dry_run=1 ;;
        --spot) spot=(--spot) ;;
        *) usage "$script" ;;
        esac
        shift
    done
    if [ $# -lt 5 ]; then usage "$script"; fi
    name=$1 zone=$2 type=$3 config=$4 workdir=$5 flags=("${@:6}")
    require_name NAME "$name"
    require_name ZONE "$zone"
    require_name TYPE "$type"
    case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version='tpu-ubuntu2204-base' ;;
    esac
    tpu=(gcloud compute tpus)
    pause=${PAUSE:-30} # seconds
    here=("$name" "--zone=$zone")
}

# state_of KIND FIELD: prints the state of this TPU as gcloud reports it for the kind of resource, or NONE.
state_of() {
    local output tries
    for tries in 1 2 3 4 5; do # gcloud may be unreachable for a moment
        if output=$("${tpu[@]}" "$1" describe "${here[@]}" "--format=value($2)" 2>&1); then
            echo "${output##*$'\n'}"
            return
        elif [[ "$output" == *NOT_FOUND* ]]; then
            echo NONE
            return
        fi
        sleep "$pause"
    done
    echo "error: gcloud failed $tries times to report the state of $name: $output" >&2
    return 1
}

# on_all_workers COMMAND: runs a command line in the workers' shells.
on_all_workers() {
    run "${tpu[@]}" tpu-vm ssh "${here[@]}" --worker=all "--command=$1"
}

# train_there: copies the project to the workers, installs it, checks and trains. Returns the training's exit code.
train_there() {
    local command there='cd alexnet_jax && . launch/python.sh && . launch/environment.sh tpu'
    command="$(quoted python -m alexnet_jax.main --distributed --config "$config" --workdir "$workdir" ${flags[@]+"${flags[@]}"})"
    run mkdir -p runs # the archive must not be in a folder that tar reads: a change of it is an error
    run tar --create --gzip --file runs/alexnet_jax.tar.gz --exclude=__pycache__ pyproject.toml README.md LICENSE launch alexnet_jax configs
    run "${tpu[@]}" tpu-vm scp runs/alexnet_jax.tar.gz "$name:" "--zone=$zone" --worker=all
    on_all_workers "mkdir -p alexnet_jax && tar -xzf alexnet_jax.tar.gz -C alexnet_jax"
    if [ -n "${NFS:-}" ]; then # SERVER:/SHARE with workdir and data, mounted as /mnt/nfs on all workers
        on_all_workers "sudo apt-get install -y -q nfs-common && sudo mkdir -p /mnt/nfs && (mountpoint -q /mnt/nfs || sudo mount $(quoted "$NFS") /mnt/nfs)"
    fi
    on_all_workers "$there && $command --preflight"
    on_all_workers "$there && $command"
}
