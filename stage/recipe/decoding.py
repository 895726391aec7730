"""How completions are drawn: the keys that evaluation and best-of-N share, and what each backend is told by them.

Nothing else steers. A checkpoint's own `generation_config.json` (repetition_penalty 1.05 in Qwen2.5-VL; temperature,
top_k and top_p in Qwen2-VL) would change answers, greedy ones too, and those of one backend but not of another: where
transformers generates, `vlm.prefix.rollout.neutral` takes it away but for the ids that end and pad a text; vLLM is
told to leave it alone.
"""

from __future__ import annotations

from typing import Any

from vlm.common.errors import RecipeError
from vlm.common.section import Section


class DecodingSection(Section):
    """How a token is chosen; all of it. What the checkpoint's generation_config.json says is not used."""

    temperature: float = 0.0
    "0 is greedy; above it completions are sampled."
    top_p: float = 1.0
    "Nucleus of sampling; 1 for all tokens."
    top_k: int = 0
    "Sample among the likeliest K tokens only; 0 for all."
    min_p: float = 0.0
    "Sample only tokens at least this share as likely as the likeliest; 0 for all."
    repetition_penalty: float = 1.0
    "Above 1, tokens of prompt and answer become less likely to come again, greedily too; 1 for none."
    max_new_tokens: int = 1024
    "Longest completion."

    def check(self) -> None:
        if self.max_new_tokens < 1:
            raise RecipeError(f"max_new_tokens = {self.max_new_tokens}; expected at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                f"temperature = {self.temperature} and top_p = {self.top_p}; expected temperature ≥ 0, 0 < top_p ≤ 1"
            )
        if self.top_k < 0 or not 0 <= self.min_p < 1 or not self.repetition_penalty > 0:
            raise RecipeError(
                f"top_k = {self.top_k}, min_p = {self.min_p}, repetition_penalty = {self.repetition_penalty}; expected "
                "top_k ≥ 0 (0 for all tokens), 0 ≤ min_p < 1 and repetition_penalty > 0 (1 for none)"
            )
        given = {"top_p": self.top_p != 1, "top_k": self.top_k > 0, "min_p": self.min_p > 0}
        if self.temperature == 0 and any(given.values()):
            named = ", ".join(f"{key} = {getattr(self, key)}" for key, asked in given.items() if asked)
            raise RecipeError(
                f"{named} with temperature = 0, which takes the likeliest token whatever they say; write a temperature "
                "above 0, or leave them out"
            )

    def of_transformers(self) -> dict[str, Any]:
        """Keywords of `model.generate`: every key that decides, `vlm.prefix.rollout.neutral` leaves no others."""
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "repetition_penalty": self.repetition_penalty}
        if self.temperature == 0:
            return how | {"do_sample": False}
        how |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return how | {"min_p": self.min_p or None}

    def of_vllm(self) -> dict[str, Any]:
        """Keywords of `vllm.SamplingParams`; its top_k is -1 for all tokens."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k or -1,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "max_tokens": self.max_new_tokens,
        }

    def spoken(self) -> str:
        """As it stands beside numbers: "greedy; at most 1024 new tokens"."""
        how = "greedy"
        if self.temperature > 0:
            how = f"sampled at temperature {self.temperature:g}"
            off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
            how += "".join(f", {key} {getattr(self, key):g}" for key, none in off.items() if getattr(self, key) != none)
        if self.repetition_penalty != 1:
            how += f", repetition_penalty {self.repetition_penalty:g}"
        return f"{how}; at most {self.max_new_tokens} new tokens"
