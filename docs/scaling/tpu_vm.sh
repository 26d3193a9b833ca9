#!/usr/bin/env bash
# Pre-training on a slice of Cloud TPU VMs, one process a host. The corpus and the workdir are in a bucket that
# every host has mounted, for example with gcsfuse.
#   TPU=my-slice ZONE=us-east5-a docs/scaling/tpu_vm.sh
set -euo pipefail
TPU=${TPU:?name of the TPU}
ZONE=${ZONE:?its zone}
SHARED=${SHARED:-/mnt/clower}
REPOSITORY=${REPOSITORY:?where git clones this project from}

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

on_every_host "test -d clower-jax || git clone --depth 1 $REPOSITORY clower-jax
  cd clower-jax && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
on_every_host "cd clower-jax && .venv/bin/python run.py --config=configs/pretrain.py:paper --cluster \
  --config.data.corpus=$SHARED/corpus --config.init_from=$SHARED/bert-base-chinese \
  --workdir=$SHARED/runs/clower"
