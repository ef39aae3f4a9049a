# shellcheck shell=bash disable=SC2034 # what is set here is used by those that source it
# Sourced by tpu_vm.sh and tpu_queued.sh: what both do with a TPU VM that is there.

# read_arguments SCRIPT ARGUMENT...: into dry_run, name, zone, type, config, workdir and flags.
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
    here=("$name" "--zone=$zone")
}

# on_all_workers WORD...: runs a command line there, in the project's folder. `;` and `&&` are words of their own.
on_all_workers() {
    run "${tpu[@]}" tpu-vm ssh "${here[@]}" --worker=all --command="cd alexnet_jax && $*"
}

# train_there: copies the project, installs it, checks, trains. Ends with the exit code of the training.
train_there() {
    local command mount
    command="$(quoted python -m alexnet_jax.main --distributed --config "$config" --workdir "$workdir" ${flags[@]+"${flags[@]}"})"
    run tar --create --gzip --file alexnet_jax.tar.gz --exclude=./.venv --exclude=./.git --exclude=./runs --exclude=./data --exclude=./alexnet_jax.tar.gz .
    run "${tpu[@]}" tpu-vm scp alexnet_jax.tar.gz "$name:" "--zone=$zone" --worker=all
    run "${tpu[@]}" tpu-vm ssh "${here[@]}" --worker=all --command="mkdir -p alexnet_jax && tar -xzf alexnet_jax.tar.gz -C alexnet_jax"
    if [ -n "${NFS:-}" ]; then # SERVER:/SHARE, where workdir and data are, seen by all workers as /mnt/nfs
        mount="sudo apt-get install -y -q nfs-common && sudo mkdir -p /mnt/nfs && (mountpoint -q /mnt/nfs || sudo mount $(quoted "$NFS") /mnt/nfs)"
        on_all_workers "$mount"
    fi
    on_all_workers ". launch/environment.sh tpu && $command --preflight"
    on_all_workers ". launch/environment.sh tpu && $command"
}
