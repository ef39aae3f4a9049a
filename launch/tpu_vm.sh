#!/usr/bin/env bash
# Trains on a Cloud TPU VM: creates it if it does not exist or was preempted, and runs on all its workers.
#   bash launch/tpu_vm.sh [--spot] [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAG...]
#   NFS=10.0.0.2:/share bash launch/tpu_vm.sh --spot alexnet us-central1-a v5litepod-8 configs/paper.py /mnt/nfs/paper \
#       --config.mesh.data=4 --config.data.directory=/mnt/nfs/imagenet
# WORKDIR must outlive the VM and be shared by all workers: NFS=SERVER:/SHARE is mounted as /mnt/nfs. The same command
# again resumes from the newest checkpoint. To save and stop: gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all
# --command='pkill -TERM -f "^python -m alexnet_jax.main"'. The VM costs money until it is deleted: gcloud compute tpus
# tpu-vm delete NAME --zone=ZONE.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/.."
. launch/functions.sh
. launch/tpu.sh
read_arguments "$script" "$@"

state=NONE
if [ -z "$dry_run" ]; then state=$(state_of tpu-vm state); fi
case $state in
PREEMPTED | TERMINATED | STOPPED) run "${tpu[@]}" tpu-vm delete "${here[@]}" --quiet; state=NONE ;;
esac
if [ "$state" = NONE ]; then
    run "${tpu[@]}" tpu-vm create "${here[@]}" "--accelerator-type=$type" "--version=$version" ${spot[@]+"${spot[@]}"}
fi
train_there
