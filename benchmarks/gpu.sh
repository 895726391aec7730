#!/usr/bin/env bash
# Checks on one NVIDIA GPU of 80 GB, 9 minutes at most: Qwen2-VL's shapes, random weights, bf16, P 1400, R 200, G 8.
#   OUT=figures benchmarks/gpu.sh            # all of them
#   OUT=figures benchmarks/gpu.sh parity_7b  # those that are named
#   GPU_REHEARSAL=1 benchmarks/gpu.sh        # on a CPU: every check with tiny shapes, its figures mean nothing
# A check is stopped at its limit. One whose package is missing says so and costs nothing. The exit status is 1 where one
# failed. OUT/summary.md is the table of all, for README.md. Nothing is fetched from the network. PYTHON chooses the
# interpreter. FlashAttention-2 is used where it is installed, SDPA elsewhere (ATTENTION=sdpa: there, too; torch's counter
# of FLOPs does not know flash-attn's own kernels).

checks() {
    #     at most, s  name       needs  benchmark  options
    check 90          parity_7b  -      parity     --shape 7b --layers 4 --prompts 1 --checkpointing
    check 180         step_7b    -      grpo_step  --shape 7b --prompts 1 --repeats 2 --rewards rule "${ONE_SET[@]}"
    check 60          score_7b   -      score      --shape 7b --prompts 1 --repeats 3
    check 200         engine_2b  vllm   engine     --shape 2b --prompts 2 --steps 3 --checkpointing
}
# stock and ours take turns with one set of weights, which is its own reference: 7B twice with gradients does not fit
ONE_SET=(--optimizer none --checkpointing --one-model)

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
PYTHON="${PYTHON:-python3}" OUT="${OUT:-runs/benchmarks/gpu}"
SIZES=(--device cuda --dtype bfloat16 --attention "${ATTENTION:-auto}" --prompt 1400 --answer 200 --group 8)
SMALL=()
if [ -n "${GPU_REHEARSAL:-}" ]; then
    OUT="$OUT/rehearsal"
    SMALL=(--device cpu --shape tiny --prompt 40 --visual 4 --answer 3 --group 2 --repeats 1 --no-memory)
fi
installed=$("$PYTHON" -c 'from importlib.util import find_spec; print(*filter(find_spec, ["vllm"]))')
only=" $* " failed=0
mkdir -p "$OUT"
: > "$OUT/checks.tsv"

check() { # SECONDS NAME PACKAGE BENCHMARK OPTIONS…
    [[ "$only" = "  " || "$only" = *" $2 "* ]] || return 0
    rm -f "$OUT/$2".{json,md,png}
    if [[ "$3" != - && " $installed " != *" $3 "* ]]; then
        ended "$1" "$2" 0 "skipped, $3 is not installed"
        return
    fi
    local run=("$PYTHON" -m) start=$SECONDS status=0
    local small=("${SMALL[@]}")
    if [ -n "${GPU_REHEARSAL:-}" ]; then # with the tests' stand-in for flash-attn, which vLLM would take for the real one
        if [ "$3" = vllm ]; then small+=(--dtype float32); else run+=(tests.support.flash.standing_in); fi
    fi
    echo "== $2 (at most $1 s)"
    timeout -k 5 "$1" "${run[@]}" "benchmarks.$4" --name "$2" "${SIZES[@]}" "${@:5}" --out "$OUT" "${small[@]}" || status=$?
    case $status in
        0) ended "$1" "$2" $((SECONDS - start)) "ok" ;;
        124 | 137) failed=1; ended "$1" "$2" $((SECONDS - start)) "FAILED: its time was up" ;;
        *) failed=1; ended "$1" "$2" $((SECONDS - start)) "FAILED with status $status" ;;
    esac
}

ended() { # SECONDS NAME TOOK HOW
    echo "$2: $4"
    printf '%s\t%s\t%s\t%s\n' "$2" "$1" "$3" "$4" >> "$OUT/checks.tsv"
}

checks
"$PYTHON" -m benchmarks.support.summary "$OUT"
exit "$failed"
