"""A GRPO trainer whose completions are given."""

from __future__ import annotations

import rl


class Scripted(rl.GRPOTrainer):
    """Completions come from `script`, a text for each, instead of the model."""

    script: list[str]

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        ids = self._tokenizer([f"{text}<|im_end|>" for text in self.script]).input_ids
        assert len(ids) == len(prompt_ids)
        return ids, None
