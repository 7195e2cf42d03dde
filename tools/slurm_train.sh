#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (8) and SRUN_ARGS may be set in the environment.
set -euo pipefail
partition=${1:?usage: slurm_train.sh PARTITION JOB_NAME CONFIG [options]}
job=${2:?usage: slurm_train.sh PARTITION JOB_NAME CONFIG [options]}
config=${3:?usage: slurm_train.sh PARTITION JOB_NAME CONFIG [options]}
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
# shellcheck disable=SC2086  # SRUN_ARGS is a list of options
exec srun --partition="$partition" --job-name="$job" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --gres="gpu:$per_node" --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "${@:4}"
