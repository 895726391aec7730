"""Qwen3.5: Gated DeltaNet in most layers of the decoder (arXiv 2412.06464), so that prompts are not shared."""

from __future__ import annotations

from vlm.families.family import Family
from vlm.families.grids import GridFamily
from vlm.families.other import Other


class Qwen35(GridFamily):
    kind, name = "qwen3_5", "Qwen3.5"
    model = "Qwen3_5ForConditionalGeneration"
    processor = "models.qwen3_vl.processing_qwen3_vl:Qwen3VLProcessor"
    video_processor = "Qwen3VLVideoProcessor"
    positions = "interleaved M-RoPE"
    linears = (
        *Family.linears, "in_proj_qkv", "in_proj_z", "out_proj",
    )  # fmt: skip
    notation = "qwen3_vl"
    patch = 16
    pattern = r"qwen[-_]?3[._]5.*?(?<![\d.a])(?P<size>\d+b)(?![a-z0-9])(?!-a\d)"
    unshared = (
        "most of its layers are linear attention (Gated DeltaNet), which carries a state from token to token, "
        "and has no keys of a prompt that several completions could attend to"
    )

    sizes = Other.sizes

    def marked(self, template):
        """Whether it opens a trace or an empty one, as checkpoints of different sizes do."""
        from trl import chat_template_utils as known

        for kind in ("think", "nothink"):
            if template.strip() == getattr(known, f"qwen3_5_{kind}_chat_template").strip():
                return getattr(known, f"qwen3_5_{kind}_training_chat_template")
        return None
