#!/usr/bin/env bash
# All that is measured on one GPU within a given time, the most valuable first; what is finished stays when time is up.
#   bash alexnet_jax/bench/gpu.sh OUT [--minutes 8] [--cifar10 DIR] [--imagewoof DIR] [--rehearse]
# writes tables, as text and JSON, into the folder OUT: (1) the step beside PyTorch; (2) without our kernels, and its
# profile; (3) training from raw records; (4) with --cifar10, the paper's claims that fit in the time; (5) with
# --imagewoof, training at full width. DIR is what `alexnet prepare` wrote, with --size 32 and 256. OUT/runs holds the
# runs of 4 and 5, which another call resumes. --rehearse takes tiny sizes and runs anywhere. To publish, copy OUT
# without runs/ to alexnet_jax/bench/results/CARD; `alexnet bench results` prints its rows for docs/speed.md.
# Needs jax for the GPU (pip install -e ".[cuda12]" or [cuda13]), and torch to be compared with. If these are
# installed already, also: flax optax orbax-checkpoint grain array_record ml-collections clu simplejpeg pydantic pillow
# opencv-python-headless tensorboardX xxhash tqdm scipy scikit-learn jinja2 matplotlib tabulate shtab, as pinned in
# launch/constraints.txt.
set -euo pipefail
usage() {
    sed -n '3,12s/^# //p' "$0" >&2
    exit 2
}
[[ $# -ge 1 && $1 != -* ]] || usage
out=$(realpath -m "$1") minutes=8 cifar10='' imagewoof='' rehearse=false
shift
while [ $# -gt 0 ]; do
    case $1 in
        --rehearse) rehearse=true && shift && continue ;;
        --minutes) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage; minutes=$2 ;;
        --cifar10 | --imagewoof)
            [ $# -gt 1 ] || usage
            [ -f "$2/manifest.json" ] || { echo "$1 $2: no folder that \`alexnet prepare\` wrote" >&2; exit 2; }
            declare "${1#--}=$(realpath "$2")" ;;
        *) usage ;;
    esac
    shift 2
done
if ! $rehearse && ! command -v nvidia-smi > /dev/null; then
    echo 'no nvidia-smi, so no NVIDIA GPU; --rehearse tries all of this anywhere, in small' >&2
    exit 1
fi
cd "$(dirname "$0")/../.."
mkdir -p "$out/runs"
exec > >(tee -a "$out/gpu.txt") 2>&1
date
$rehearse || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# by PERCENT COMMAND...: run `alexnet COMMAND...` until this share of the whole time is over, and go on however it ends.
by() {
    local left=$((60 * minutes * $1 / 100 - SECONDS)) code=0
    shift
    echo; echo "\$ alexnet $* # $left s left"
    if [ $left -le 0 ]; then return; fi
    timeout --kill-after=20 $left python3 -m alexnet_jax "$@" || code=$?
    [ $code -eq 0 ] || echo "ended with exit code $code after $SECONDS s in all"
}
program=(--mesh 1x1 --dtype bfloat16) step=(--peak_size 8192 --seconds 2 --rounds 3) batches=(128 1024) steps=300
prepare=(--source synthetic) claims=(--scale full --data "$cifar10") plain=--xla_gpu_enable_command_buffer=
variants=()
for layout in ' channels_last' ''; do
    variants+=("torch compile$layout" "torch compile max-autotune$layout" "torch eager$layout")
done
if $rehearse; then
    program=(--mesh 1x1 --config digits) step=(--peak_size 64 --seconds 0.05 --rounds 1) batches=(8) steps=10
    variants=() prepare=(--source digits --size 32) claims=(--scale smoke --seeds 2) cifar10=embedded
fi
share=22
for batch in "${batches[@]}"; do # (1)
    by $share bench step "${program[@]}" "${step[@]}" --batch "$batch" --torch "${variants[@]}" --json "$out/step-$batch.json"
    share=$((2 * share))
done
# (2) Without and with our kernels; then with what has a name in a profile: not kernels started together, as a CUDA graph.
by 52 bench step "${program[@]}" "${step[@]}" --batch "${batches[@]}" --torch --also train.fused_kernels=False \
    --json "$out/kernels.json"
XLA_FLAGS="${XLA_FLAGS:-} $plain" by 62 bench step "${program[@]}" "${step[@]}" --batch "${batches[@]}" --torch \
    --json "$out/profile.json"
data=$(mktemp -d) # (3)
trap 'rm -rf "$data"' EXIT
by 66 prepare "${prepare[@]}" --output "$data/raw"
for batch in "${batches[@]}"; do
    by 72 bench train --data "$data/raw" "${program[@]}" --batch "$batch" --steps $steps --json "$out/train-$batch.json"
done
if [ -n "$cifar10" ]; then # (4) claim by claim, as the table is written when all runs of a call are finished
    for claim in 82:relu 90:lrn_cifar; do
        by ${claim%:*} reproduce "${claims[@]}" --claims ${claim#*:} --output "$out/runs"
        cp "$out/runs/${claims[1]}"-*/*.{md,json,svg} "$out" 2>/dev/null || true
    done
fi
if $rehearse; then
    by 100 train --config digits --config.train.max_steps=2 --workdir "$out/runs/digits"
elif [ -n "$imagewoof" ]; then # (5)
    by 100 train --config paper --config.data.directory="$imagewoof" --config.model.num_classes=10 \
        --config.train.compute_dtype=bfloat16 --config.train.eval_every_epochs=10 --workdir "$out/runs/imagewoof"
fi
echo "finished after $SECONDS s; the results are in $out"
