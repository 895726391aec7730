"""Qwen3.5's mixtures of experts: the same but for the decoder's MLPs."""

from vlm.families.qwen3_5 import Qwen35


class Qwen35Moe(Qwen35):
    kind, name = "qwen3_5_moe", "Qwen3.5-MoE"
    model = "Qwen3_5MoeForConditionalGeneration"
