"""Qwen3-VL's mixtures of experts, such as Qwen3-VL-30B-A3B: the same but for the decoder's MLPs."""

from __future__ import annotations

from collections.abc import Iterator

from vlm.families.qwen3_vl import LARGE, Qwen3VL, text, tower
from vlm.families.sizes import Architecture, Layer, decoder, linear, section, sizes_of


class Qwen3VLMoe(Qwen3VL):
    kind, name = "qwen3_vl_moe", "Qwen3-VL-MoE"
    model, backbone = "Qwen3VLMoeForConditionalGeneration", None
    linears = ("q_proj", "k_proj", "v_proj", "o_proj")
    "The experts are one tensor, which LoRA on linear layers does not reach."
    vllm = False
    """vLLM 0.31 reads a published one, to 3e-6; not what transformers 5 saves, with experts' matrices transposed, and
    not what GRPO sends of them."""
    pattern = None
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
        import dataclasses

        found = super().sizes(config, where)
        own = section(config, "text_config", where)
        size = sizes_of(own, f"{where}: text_config.")
        sparse = {
            "experts": size("num_experts", 60),
            "chosen": size("num_experts_per_tok", 4),
            "expert": size("moe_intermediate_size", 1408),
            "step": size("decoder_sparse_step", 1),
            "dense": tuple(own.get("mlp_only_layers") or ()),
        }
        return dataclasses.replace(found, more={**found.more, **sparse})

    def layers(self, sizes):
        yield from tower(sizes)
        yield from decoder(sizes, lambda name: experts(sizes, name))


def experts(sizes: Architecture, name: str) -> Iterator[Layer]:
    more = sizes.more
    yield Layer(f"{name}.experts.gate_up_proj", (more["experts"], 2 * more["expert"], sizes.hidden), suffix=False)
    yield Layer(f"{name}.experts.down_proj", (more["experts"], sizes.hidden, more["expert"]), suffix=False)
    yield linear(f"{name}.gate", more["experts"], sizes.hidden, bias=False)._replace(linear=False)
