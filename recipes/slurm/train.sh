#!/bin/bash
# A training stage on several nodes, requeued until it has finished.
#   sbatch recipes/slurm/train.sh grpo recipes/r1.yaml runs/r1 [key.sub=value …]
# The third word is the run folder, on a file system that all nodes see. Submit from the repository's root, in the
# environment that Nadir is installed in; options after `sbatch` go before those below: sbatch --nodes=4 …
#SBATCH --job-name=nadir
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

stage=$1 recipe=$2 output=$3
shift 3

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))
gpus=${SLURM_GPUS_ON_NODE:-8}
processes=$((SLURM_JOB_NUM_NODES * gpus))

# 15 minutes before the limit (--signal above), and before a pre-emption: training ends its step, writes a checkpoint.
# The launcher passes on these signals, and then waits this many seconds; by itself it would die of USR1, and wait for 30.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGUSR1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=800

# sharding.zero in the recipe sets DeepSpeed up, so nothing about it is here.
status=0
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --machine_rank "$SLURM_PROCID" "$@"' launch \
    --multi_gpu --num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$processes" \
    --main_process_ip "${nodes[0]}" --main_process_port "$port" --mixed_precision no --dynamo_backend no \
    "launch/$stage.py" "$recipe" "output=$output" resume=auto "$@" || status=$?

# Launchers do not pass on the exit code 75 of a training that a signal has stopped; this file says so.
if [ -f "$output/interrupted.json" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
