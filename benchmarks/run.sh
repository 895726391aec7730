#!/usr/bin/env bash
# The whole set on a CPU: benchmarks/run.sh [FOLDER]. About half an hour on one idle core.
# REPEATS=2 PROMPTS=1 benchmarks/run.sh is the short form; PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${1:-runs/benchmarks}"
PYTHON="${PYTHON:-.venv/bin/python}"
REPEATS="${REPEATS:-3}"
PROMPTS="${PROMPTS:-8}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

measure() { # NAME BENCHMARK OPTIONS…
    echo "== $1"
    "$PYTHON" -m "benchmarks.$2" --name "$1" --out "$OUT" --repeats "$REPEATS" "${@:3}"
}

measure grpo_step grpo_step --prompts "$PROMPTS"                         # P 280, R 64, G 8
measure score score --prompts "$PROMPTS"
measure rollout rollout --prompts "$PROMPTS"
measure grpo_step_groups grpo_step --prompts 1 --group 4 16              # the ratio grows with G
measure grpo_step_prompts grpo_step --prompts 1 --prompt 92 620          # and with P
measure grpo_step_answers grpo_step --prompts 1 --answer 16 256          # and falls with R
measure grpo_step_little grpo_step --prompts 1 --prompt 40 --visual 4 --answer 512 --group 2   # little to share
measure grouper grouper --prompts 1 --group 8 16                         # with prefix_grouper, where it is installed
