#!/usr/bin/env bash
# The set on one NVIDIA GPU of 80 GB: Qwen2-VL-2B and 7B shapes, random weights, bf16, P 1400, R 200, G 8.
#   OUT=figures benchmarks/gpu.sh
#   GPU_REHEARSAL=1 benchmarks/gpu.sh        # on a CPU, in minutes: every part with tiny shapes, its figures mean nothing
# Each part is stopped at its limit, so the whole ends in under 9 minutes. Nothing is fetched from the network.
# FlashAttention-2 is used where it is installed; ATTENTION=sdpa counts attention's FLOPs too (torch's counter does not
# know flash-attn's own kernels). PYTHON chooses the interpreter. In a rehearsal flash-attn is the tests' stand-in.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
ATTENTION="${ATTENTION:-auto}"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
RUN=("$PYTHON" -m)
COMMON=(--device cuda --dtype bfloat16 --attention "$ATTENTION" --prompt 1400 --answer 200 --group 8)
LAST=(--out "${OUT:=runs/benchmarks/gpu}")
if [ -n "${GPU_REHEARSAL:-}" ]; then
    RUN=("$PYTHON" -m tests.support.flash.standing_in)
    LAST=(--out "$OUT/rehearsal" --device cpu --shape tiny --prompt 40 --visual 4 --answer 3 --group 2 --repeats 1 --no-memory)
fi
failed=0

measure() { # SECONDS NAME BENCHMARK OPTIONS…
    echo "== $2 (at most $1 s)"
    timeout "$1" "${RUN[@]}" "benchmarks.$3" --name "$2" "${COMMON[@]}" "${@:4}" "${LAST[@]}" || {
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
