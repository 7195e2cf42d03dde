#!/usr/bin/env bash
# Evaluate on several processes: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of test.py]
# See dist_train.sh for several machines and for machines without GPU.
set -euo pipefail
config=${1:?usage: dist_test.sh CONFIG CHECKPOINT PROCESSES [options]}
checkpoint=${2:?usage: dist_test.sh CONFIG CHECKPOINT PROCESSES [options]}
processes=${3:?usage: dist_test.sh CONFIG CHECKPOINT PROCESSES [options]}
if [ -z "${NNODES:-}${MASTER_PORT:-}" ]; then
    where=(--standalone)  # finds a free port
else
    where=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}"
        --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${MASTER_PORT:-29500}")
fi
exec torchrun "${where[@]}" --nproc-per-node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
