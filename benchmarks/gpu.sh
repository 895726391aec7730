#!/usr/bin/env bash
# The set on one NVIDIA GPU of 80 GB: Qwen2-VL-2B and 7B shapes, random weights, bf16, P 1400, R 200, G 8.
#   OUT=figures benchmarks/gpu.sh
# Each part is stopped at its limit, so the whole ends in under 9 minutes. Nothing is fetched from the network.
# FlashAttention-2 is used where it is installed; ATTENTION=sdpa counts attention's FLOPs too (torch's counter does not
# know flash-attn's own kernels). PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-runs/benchmarks/gpu}"
PYTHON="${PYTHON:-python3}"
ATTENTION="${ATTENTION:-auto}"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
COMMON=(--device cuda --dtype bfloat16 --attention "$ATTENTION" --prompt 1400 --answer 200 --group 8 --out "$OUT")
failed=0

measure() { # SECONDS NAME BENCHMARK OPTIONS…
    echo "== $2 (at most $1 s)"
    timeout "$1" "$PYTHON" -m "benchmarks.$3" --name "$2" "${COMMON[@]}" "${@:4}" || {
        echo "$2: no figures (exit status $?; 124: its time was up)"
        failed=1
    }
}

# both ways with one set of weights, which is its own reference: 7B twice with gradients does not fit
measure 150 gpu_update_7b grpo_step --shape 7b --prompts 1 --repeats 3 --rollout none --rewards rule \
    --optimizer none --checkpointing --one-model
measure 170 gpu_step_2b grpo_step --shape 2b --prompts 2 --repeats 2 --optimizer none --checkpointing --one-model
measure 130 gpu_rollout_7b rollout --shape 7b --prompts 1 --repeats 2
measure 70 gpu_score_7b score --shape 7b --prompts 1 --repeats 3
exit "$failed"
