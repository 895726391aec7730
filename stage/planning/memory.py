"""Memory of one training process, in bytes, from a `Shape`: what is kept, where it peaks, by which formula.

Legend: P parameters, T trainable parameters, N processes, b bytes of a weight (bf16: 2), h hidden size, f MLP
width, q width of queries (heads × head size), k width of keys (= of values), V vocabulary, L layers, t tokens.

States
    DeepSpeed (ZeRO ≥ 1), 16-bit: 2P weights, 2T gradients, 12T optimiser (fp32 master, m, v): 16 bytes a
    parameter, as in Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, §3.1, K = 12). Stage 1 divides the
    optimiser by N, stage 2 the gradients too, stage 3 the weights too. With fp32 weights stages 1 and 2 still
    copy them for the optimiser (4 + 4 + 12), stage 3 does not (4 + 4 + 8); read in DeepSpeed 0.19.8.

    Plain torch (ZeRO 0): AdamW keeps m and v in the parameter's own dtype and no master copy, so a model
    loaded in bf16 costs 2 + 2 + 4 bytes a parameter and rounds small updates away; loaded in fp32 4 + 4 + 8
    (autocast's 16-bit copies are not counted). `TrainingArguments(bf16=True)` changes neither: it switches
    autocast on and upcasts nothing. DistributedDataParallel keeps its buckets beside the gradients
    (`gradient_as_bucket_view=False`): b·T more.

    Other optimisers than AdamW keep less or more for a weight (`stage.planning.optimisers`).

    LoRA's adapters are float32 in plain torch (PEFT `autocast_adapter_dtype`), in the model's dtype with a
    float32 master under DeepSpeed: 16 bytes an adapter parameter either way.

    A base in NF4 with double quantization (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, §3): half a byte for each
    weight of the layers that are in it, a byte for each 64 and a float32 for each 256 × 64: 4.127 bits. Beside it lies
    one layer at a time in 16 bits, in both passes and in rollouts: `unpacked`.

    Offload (ZeRO-Offload, Ren et al. 2021, arXiv 2101.06840) moves the optimiser to the host; gradients too
    from stage 2; weights too in stage 3.

Activations
    Derived like Korthikanti et al. 2022 (arXiv 2205.05198, eq. 1–2), for these blocks as transformers writes
    them and without the score matrix (FlashAttention, Dao et al. 2022); see `layer_bytes` and
    `vision_block_bytes`. Checked against torch's saved tensors in tests/stage/test_memory.py. What a backward pass
    needs beside them at its widest moment is the `working_set`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from stage.parallel.sharding import buckets
from stage.planning.optimisers import state_bytes
from vlm import families
from vlm.shapes import Shape

GIB = 1024**3
OVERHEAD = 2 * GIB
"""CUDA context, cuBLAS and NCCL workspaces, allocator fragmentation. A round allowance, not a measurement."""

NODE = 8
"""GPUs, and so processes, that one machine is taken to have at most."""
MULTIPROCESSORS = 148
"""Of the card with the most in `stage.planning.gpus` (B200; A100 has 108, H100 132)."""
HEAD_TILE = (4096, 32768)
"""Tokens × vocabulary of a tile of TRL's fused LM head (trl/kernels/chunked_logprob.py, trainer/utils.py)."""

Attention = Literal["flash_attention_2", "sdpa", "eager"]


@dataclass(frozen=True)
class Setup:
    """How the shape is trained."""

    zero: int = 0
    processes: int = 1
    offload: bool = False
    weight_bytes: int = 2
    lora: bool = False
    checkpointing: bool = True
    attention: Attention = "flash_attention_2"
    lora_dropout: bool = False
    optimiser: str = "adamw_torch_fused"
    quantized: bool = False
    """`model.quantization`."""
    deterministic: bool = False
    """`training.full_determinism`: FlashAttention-2 adds in a fixed order."""


@dataclass
class States:
    """Bytes on one GPU, and on the host for one process (offload)."""

    weights: int
    gradients: int
    optimiser: int
    buffers: int
    host: dict[str, int] = field(default_factory=dict)


def held_bytes(shape: Shape, setup: Setup) -> int:
    """Of the model's weights, adapters aside, in one process that splits none of them."""
    packed = shape.quantized if setup.quantized else 0
    return setup.weight_bytes * (shape.total - packed) + packed // 2 + packed // 64 + 4 * (packed // (64 * 256))


def unpacked(shape: Shape, setup: Setup) -> int:
    """Of the widest layer that is held in 4 bits, in the type that it is multiplied in."""
    if not setup.quantized:
        return 0
    layers = (layer for layer in families.layers(shape) if layer.linear and "language_model" in layer.name)
    return setup.weight_bytes * max(math.prod(layer.weight) for layer in layers)


def states(shape: Shape, setup: Setup) -> States:
    """Weights, gradients, optimiser and communication buffers of one process."""
    trainable, b, n = shape.total_trainable, setup.weight_bytes, setup.processes
    adapters = trainable if setup.lora else 0
    if setup.zero == 0:
        train_bytes = 4 if setup.lora else b
        buckets = train_bytes * trainable if n > 1 else 0
        weights = held_bytes(shape, setup) + 4 * adapters
        kept = round(state_bytes(setup.optimiser, train_bytes, flat=False) * trainable)
        return States(weights, train_bytes * trainable, kept, buckets)
    master = 0 if b == 4 and setup.zero == 3 else 4
    out = States(
        weights=(held_bytes(shape, setup) + b * adapters) // (n if setup.zero == 3 else 1),
        gradients=b * trainable // (n if setup.zero >= 2 else 1),
        optimiser=round((master + state_bytes(setup.optimiser, 4, flat=True)) * trainable) // n,
        buffers=_buffers(shape, setup),
    )
    if setup.offload:
        moved = ["optimiser"] + ["gradients"] * (setup.zero >= 2) + ["weights"] * (setup.zero == 3)
        for name in moved:
            out.host[name] = vars(out)[name]
            setattr(out, name, 0)
    return out


def _buffers(shape: Shape, setup: Setup) -> int:
    """DeepSpeed's communication buffers, read in DeepSpeed 0.19.8 (stage_1_and_2.py, stage3.py).

    Gradients to reduce: one bucket, two in stages 1 and 2 (`overlap_comm`), whole however little is trained, and a copy
    of a full one in which its gradients lie in another order. A matrix larger than the bucket is reduced where it lies.
    Stages 1 and 2 gather weights in place, stage 3 some before they are needed.
    """
    b, sizes = setup.weight_bytes, buckets(setup.zero, shape.hidden)
    bucket = sizes["reduce_bucket_size"]
    reduce = (1 if setup.zero == 3 else 2) * bucket + min(bucket, shape.total_trainable)
    gathered = min(sizes["stage3_max_live_parameters"], shape.total) if setup.zero == 3 else 0
    return b * (reduce + gathered)


@dataclass(frozen=True)
class Host:
    """Bytes of the host's memory."""

    loading: int
    """Of one process, until its weights are on the GPU; under ZeRO-3 of the first process alone."""
    node: int
    """Of all processes of a node then, and the checkpoint's own files in the page cache, once."""
    training: int
    """Of one process: what offload keeps there."""


def host(shape: Shape, setup: Setup, reference: bool = False, begun: bool = False) -> Host:
    """What processes hold in the host's memory.

    Weights go from their file straight to the GPU (`vlm.loading.placed`); what is first read into host memory in the
    file's type, as DeepSpeed's stages 1 and 2 do, lies in the page cache, once for all processes. ZeRO-3 shares weights
    out as its first process reads them (transformers 5.23, `_load_state_dict_into_zero3_model`). Whole float32 copies
    of their own are left to processes without DeepSpeed:

    reference: of GRPO's reference model, which TRL reads there where processes are several.
    begun: of a score model that begins with a vision-language model, whose head is drawn there.
    """
    whole, training = held_bytes(shape, setup), sum(states(shape, setup).host.values())
    if setup.zero == 3:
        return Host(whole, whole, training)
    copied = setup.zero == 0 and ((reference and not setup.lora and setup.processes > 1) or begun)
    loading = whole if copied else 0
    return Host(loading, min(2, setup.weight_bytes) * shape.total + min(setup.processes, NODE) * loading, training)


def reference(shape: Shape, setup: Setup) -> int:
    """Weights of the frozen reference model of GRPO with β > 0: a full copy, sharded by ZeRO-3; none under
    LoRA, where TRL switches the adapters off instead (its extra `ref` adapter copy is counted)."""
    if setup.lora:
        return (4 if setup.zero == 0 else setup.weight_bytes) * shape.total_trainable
    if setup.zero == 3 and setup.offload:
        return 0
    return setup.weight_bytes * shape.total // (setup.processes if setup.zero == 3 else 1)


def score_bytes(b: int) -> int:
    """Bytes `eager` attention keeps for a pair of tokens in one head: float32 softmax and its 16-bit cast."""
    return 4 + (b if b < 4 else 0)


def layer_bytes(shape: Shape, b: int, attention: Attention, length: int) -> int:
    """Bytes that one token leaves for the backward pass in one decoder layer.

    Norms and MLP as the family says, in most 2·(4 + 2b)·h and 4·b·f. Attention: rotated queries and the output, b·q
    each; keys and values, b·k each. Rows are taken to be padded, for which sdpa and eager repeat the heads of keys, so
    that k is q; sdpa keeps a mask over `length` keys in b bytes, eager the scores, see `score_bytes`.
    """
    family = families.FAMILIES[shape.kind]
    mixed = 2 * b * (shape.query + keys_width(shape, attention))
    mixed += b * shape.query if family.reordered and attention != "eager" else 0
    pairs = {"eager": shape.heads * score_bytes(b), "sdpa": b}.get(attention, 0) * length
    return family.norm_bytes(shape, b) + mixed + family.mlp_bytes(shape, b) + pairs


def keys_width(shape: Shape, attention: Attention) -> int:
    return shape.key_value if attention == "flash_attention_2" else shape.query


def tower_places(shape: Shape, visual_tokens: int) -> int:
    """Patches in the vision tower behind visual tokens, and the first token of each picture or tile that has one."""
    patches = visual_tokens * shape.merge**2
    return patches + math.ceil(patches / (shape.unit - 1)) if shape.unit else patches


def vision_block_bytes(shape: Shape, b: int, attention: Attention, patches: int) -> int:
    """Bytes that one patch leaves in one block of the vision tower, as the family says (`vlm.families`). patches: of a
    sequence; it sees no more of them than its own picture has."""
    family = families.FAMILIES[shape.kind]
    scores = shape.vision_heads * min(patches, shape.unit or patches) * family.score_bytes(b)
    return family.block_bytes(shape, b, attention) + (scores if attention == "eager" else 0)


def activations(shape: Shape, setup: Setup, rows: int, text_tokens: int, visual_tokens: int, gathered: int = 0) -> int:
    """Bytes kept for the backward pass of one micro-batch of `rows` sequences, logits aside.

    `text_tokens` and `visual_tokens` are per sequence. With gradient checkpointing each layer and block keeps
    its input only (b·h), and one of them at a time keeps everything, while it is recomputed. A vision tower
    that nothing trains leaves nothing, unless checkpointing under LoRA makes its inputs require gradients.

    gathered: tokens whose keys and values each layer copies, where a prompt and each of its completions lie in one
    packed row (vlm.prefix): the prompt's for every completion, and the completion's own.
    """
    b, attention = setup.weight_bytes, setup.attention
    length = text_tokens + visual_tokens
    tokens, patches = rows * length, rows * tower_places(shape, visual_tokens)
    # sequences that lie in one packed row are told apart without a mask
    layer = tokens * layer_bytes(shape, b, attention, 0 if gathered else length)
    layer += 2 * b * gathered * keys_width(shape, attention)
    if shape.lora_inputs:
        layer += tokens * lora_bytes(shape, setup) // shape.layers
    block = patches * vision_block_bytes(shape, b, attention, tower_places(shape, visual_tokens))
    edges = tokens * (4 + 2 * b) * shape.hidden  # the last norm and what the head reads
    if shape.trainable["vision_tower"] or (setup.lora and setup.checkpointing):
        blocks = shape.depth if shape.used is None else shape.used
    else:
        blocks = block = 0
    if blocks or shape.trainable["merger"]:
        edges += rows * visual_tokens * families.FAMILIES[shape.kind].merger_bytes(shape, b)
    if not setup.checkpointing:
        return shape.layers * layer + blocks * block + edges
    kept = shape.layers * tokens * b * shape.hidden + blocks * patches * b * shape.width
    return kept + max(layer, block) + edges


def working_set(shape: Shape, setup: Setup, **widths: int) -> int:
    """Bytes at the widest moment of the backward pass, beside the saved activations; arguments as of `moments`."""
    return max(moments(shape, setup, **widths).values())


def moments(
    shape: Shape,
    setup: Setup,
    rows: int,
    text_tokens: int,
    visual_tokens: int,
    gathered: int = 0,
    sequences: int | None = None,
) -> dict[str, int]:
    """Bytes of the gradients that are alive in a layer of the decoder, or a block of the vision tower where anything
    goes back through it.

    In an MLP those of the product, and of gate and up, or silu (`Family.mlp_alive`). In attention those of output,
    queries, keys and values, and what FlashAttention-2 adds. Where many completions share a prompt, attention can be
    the wider one: each of them has keys of its own for the prompt.

    gathered: keys of a layer, where they are more than tokens (`activations`). sequences: that attention sees, where
    they are not rows.
    """
    b, pieces = setup.weight_bytes, sequences or rows
    tokens, patches = rows * (text_tokens + visual_tokens), rows * tower_places(shape, visual_tokens)
    patches = patches if shape.trainable["vision_tower"] or (setup.lora and setup.checkpointing) else 0
    keys = gathered or tokens
    flash = tower = 0
    if setup.attention == "flash_attention_2":
        grouped = shape.key_value < shape.query
        flash = flash_backward(shape.heads, shape.query, tokens, keys, pieces, b, grouped, setup.deterministic)
        seen = math.ceil(patches / shape.unit) if shape.unit else pieces
        tower = flash_backward(shape.vision_heads, shape.width, patches, patches, seen, b, False, setup.deterministic)
    return {
        "an MLP": b * tokens * families.FAMILIES[shape.kind].mlp_alive(shape) + unpacked(shape, setup),
        "attention": 2 * b * (tokens * shape.query + keys * shape.key_value) + flash,
        "an MLP of the vision tower": 3 * b * patches * shape.vision_intermediate,
        "attention of the vision tower": 4 * b * patches * shape.width + (tower if patches else 0),
    }


def flash_backward(
    heads: int, width: int, queries: int, keys: int, sequences: int, b: int, grouped: bool, deterministic: bool = False
) -> int:
    """Bytes that FlashAttention-2's backward pass allocates beside the gradients that it returns.

    Read in flash-attn 2.8 (csrc/flash_attn/flash_api.cpp, `mha_varlen_bwd`): a float32 accumulator of dq, (queries +
    128 a sequence, heads, head size rounded up to 32s, above 128 to 64s), and softmax_d, (heads, queries + 128 a
    sequence). `mha_bwd`, for rows that are not unpadded, rounds each sequence up to 128 instead: no more.

    deterministic: one accumulator for each of the splits that fill all multiprocessors. grouped: fewer heads of keys
    than of queries, so that dk and dv are written for every head of queries first, in b bytes. width: of all heads.
    """
    size = width // heads
    step = 32 if size <= 128 else 64
    splits = math.ceil(MULTIPROCESSORS / (sequences * heads)) if deterministic else 1
    places = (queries + 128 * sequences) * heads
    return 4 * places * (splits * math.ceil(size / step) * step + 1) + (2 * b * keys * width if grouped else 0)


def lora_bytes(shape: Shape, setup: Setup) -> int:
    """Bytes that one token leaves in all adapters: their input in float32 (in the model's dtype under
    DeepSpeed, where the layer already keeps it), or with dropout the dropped input and a byte of mask."""
    own = 4 if setup.zero == 0 else setup.weight_bytes
    if setup.lora_dropout:
        return (own + 1) * shape.lora_inputs
    return own * shape.lora_inputs if own != setup.weight_bytes else 0


def head(shape: Shape, setup: Setup, scored_tokens: int, fused: bool = True) -> int:
    """Bytes of the LM head's loss over `scored_tokens` of one micro-batch.

    Fused (TRL 1.16, no full logits): a tile, float32 gradients of the hidden states, and of the whole head
    when it trains. Otherwise: logits in b bytes, their float32 copy, the log-softmax and its gradient.
    """
    if not fused:
        return scored_tokens * shape.vocabulary * (setup.weight_bytes + 12)
    tile = min(scored_tokens, HEAD_TILE[0]) * min(shape.vocabulary, HEAD_TILE[1]) * setup.weight_bytes
    weight = 4 * shape.vocabulary * shape.hidden if shape.head_trainable else 0
    return tile + 4 * scored_tokens * shape.hidden + weight


def kv_cache(shape: Shape, b: int, rows: int, tokens: int) -> int:
    """Keys and values of `rows` sequences of `tokens` tokens: 2·L·k·b bytes a token."""
    return 2 * shape.layers * shape.key_value * b * rows * tokens


def rollout(
    shape: Shape, setup: Setup, rows: int, prompt_tokens: int, new_tokens: int, prefilled: int | None = None
) -> dict[str, int]:
    """What generating with transformers adds on one GPU: the gathered weights under ZeRO-3
    (`ds3_gather_for_generation`), the cache, the widest moment of the prefill (an MLP beside hidden states), and
    sampling (float32 logits, their sorted copy and softmax, for top-p).

    prefilled: prompts, where they are fewer than rows.
    """
    b = setup.weight_bytes
    gathered = b * shape.total if setup.zero == 3 else 0
    alive = families.FAMILIES[shape.kind].mlp_alive(shape) + 4 * shape.hidden
    prefill = (prefilled or rows) * prompt_tokens * b * alive
    prefill += unpacked(shape, setup)
    return {
        "gathered weights": gathered,
        "KV cache": kv_cache(shape, b, rows, prompt_tokens + new_tokens),
        "prefill": prefill,
        "sampling": 3 * 4 * rows * shape.vocabulary,
    }
