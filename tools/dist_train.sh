#!/usr/bin/env bash
# Train on several processes of one or more machines: tools/dist_train.sh CONFIG PROCESSES [options of train.py]
# PROCESSES counts those of this machine: one per GPU, or any number on a machine without GPU (gloo on CPU).
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT on each.
set -euo pipefail
config=${1:?usage: dist_train.sh CONFIG PROCESSES [options]}
processes=${2:?usage: dist_train.sh CONFIG PROCESSES [options]}
if [ -z "${NNODES:-}${MASTER_PORT:-}" ]; then
    where=(--standalone)  # finds a free port
else
    where=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}"
        --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${MASTER_PORT:-29500}")
fi
exec torchrun "${where[@]}" --nproc-per-node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
