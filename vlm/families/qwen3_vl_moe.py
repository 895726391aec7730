"""Qwen3-VL's mixtures of experts, such as Qwen3-VL-30B-A3B: the same but for the decoder's MLPs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from vlm.families.qwen3_vl import LARGE, Qwen3VL, text, tower
from vlm.families.sizes import Architecture, Layer, Text, decoder, gated, linear, section, sizes_of


class Qwen3VLMoe(Qwen3VL):
    kind, name = "qwen3_vl_moe", "Qwen3-VL-MoE"
    model, backbone = "Qwen3VLMoeForConditionalGeneration", None
    linears = ("q_proj", "k_proj", "v_proj", "o_proj")
    "The experts are one tensor, which LoRA on linear layers does not reach."
    vllm = False
    """vLLM 0.31 reads a published one, to 3e-6; not what transformers 5 saves, with experts' matrices transposed, and
    not what GRPO sends of them."""
    decoder = Text(
        hidden=2048, intermediate=5632, layers=24, heads=16, groups=16, vocabulary=151936, sized=True, stated=True,
        normed=True,
    )  # fmt: skip
    pattern = r"qwen[-_]?3[-_]?vl.*?(?<![\d.])(?P<size>\d+b-a\d+b)(?![a-z0-9])"
    known = {
        "Qwen3-VL-30B-A3B": {
            "model_type": kind, "tie_word_embeddings": False,
            "text_config": {
                **text(2048, 6144, 48, 32), "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts": 128,
                "num_experts_per_tok": 8,
            },
            "vision_config": {**LARGE, "out_hidden_size": 2048},
        },
    }  # fmt: skip

    def sizes(self, config, where):
        found = super().sizes(config, where)
        own = section(config, "text_config", where)
        size = sizes_of(own, f"{where}: text_config.")
        mixture = {
            "experts": size("num_experts", 60),
            "chosen": size("num_experts_per_tok", 4),
            "expert": size("moe_intermediate_size", 1408),
            "step": size("decoder_sparse_step", 1),
            "dense": tuple(own.get("mlp_only_layers") or ()),
        }
        return dataclasses.replace(found, more={**found.more, **mixture})

    def mlp_bytes(self, sizes, b):
        """As transformers computes experts where it can (`grouped_mm`): of each chosen expert the token's input, its
        output, gate, silu(gate), up and product, and 40 bytes of places and weights; the router's float32 softmax."""
        more, mixtures = sizes.more, sum(sparse(sizes, number) for number in range(sizes.layers))
        one = more["chosen"] * (b * (2 * sizes.hidden + 4 * more["expert"]) + 40) + 4 * more["experts"]
        return (mixtures * one + (sizes.layers - mixtures) * super().mlp_bytes(sizes, b)) // sizes.layers

    def mlp_alive(self, sizes):
        """Of the chosen experts, their inputs and outputs too; or of a layer without, whichever is more."""
        more = sizes.more
        dense = any(not sparse(sizes, number) for number in range(sizes.layers))
        mixture = more["chosen"] * (3 * more["expert"] + 2 * sizes.hidden)
        return max(mixture, super().mlp_alive(sizes)) if dense else mixture

    def layers(self, sizes):
        yield from tower(sizes)
        yield from decoder(sizes, mlp)


def sparse(sizes: Architecture, number: int) -> bool:
    """Whether a layer of the decoder has experts."""
    return number not in sizes.more["dense"] and (number + 1) % sizes.more["step"] == 0


def mlp(sizes: Architecture, name: str, number: int) -> Iterator[Layer]:
    if not sparse(sizes, number):
        yield from gated(sizes, name, number)
        return
    more = sizes.more
    yield Layer(f"{name}.experts.gate_up_proj", (more["experts"], 2 * more["expert"], sizes.hidden), suffix=False)
    yield Layer(f"{name}.experts.down_proj", (more["experts"], sizes.hidden, more["expert"]), suffix=False)
    yield linear(f"{name}.gate", more["experts"], sizes.hidden, bias=False)._replace(linear=False)
