"""`rl.GRPOTrainer`: TRL's GRPOTrainer for image prompts, a drop-in with the same arguments.

What differs from trl 1.16.0
- Image and video tokens can never be sampled, on any backend: a sampled image token has no image features, and the next
  forward pass stops on it. TRL bans the image token where transformers generates; vLLM gets the ban as a logit bias.
  `args.generation_kwargs` is where the ban stands, beside what the user put there.
- The processor pads on the left, whatever it was loaded with. TRL tokenises prompts twice, once padding them itself and
  once through the processor; padding on the right there shifts the image positions of every shorter prompt.
- The table of completions names each row's picture, task and true answer, so that a parquet file of completions can be
  read without the data set. Its prompts and completions are text: wandb refuses a column of conversations in which one
  turn is a string and another a list with an image, and training would end at the first log.

Overridden: `__init__` (arguments only), `_calculate_rewards` (adds columns, then TRL's), `log` (text for the table).
"""

from __future__ import annotations

from typing import Any

import trl
from transformers import AutoConfig

from vlm.loading import load_processor, stored_limits

LOGGED_COLUMNS = ("image_file", "task", "answer")
FORBIDDEN = -100.0
"""Logit bias that no sampled token survives: exp(-100) is below float32's resolution beside any other token."""


def name_of(model) -> str:
    """The folder or hub id of a model: itself, or where it was loaded from."""
    return model if isinstance(model, str) else model.config._name_or_path


def where(model, args: trl.GRPOConfig) -> dict[str, Any]:
    """Revision and trust for `from_pretrained`, as TRL takes them from `args` for a model that it loads itself."""
    init = (args.model_init_kwargs or {}) if isinstance(model, str) else {}
    return {
        "revision": init.get("revision"),
        "trust_remote_code": init.get("trust_remote_code", args.trust_remote_code),
    }


def default_processor(model, args: trl.GRPOConfig):
    """The checkpoint's own, with its own pixel limits; AutoProcessor, which TRL takes, needs torchvision for it."""
    name, options = name_of(model), where(model, args)
    return load_processor(name, stored_limits(name, options["revision"]), **options)


def banned_tokens(model, args: trl.GRPOConfig) -> list[int]:
    """Ids of the placeholder tokens that only a processor may write."""
    config = AutoConfig.from_pretrained(model, **where(model, args)) if isinstance(model, str) else model.config
    return sorted({config.image_token_id, config.video_token_id})


def ban(args: trl.GRPOConfig, tokens: list[int]) -> None:
    """Add the ban to `args.generation_kwargs`, keeping what the user put there."""
    kwargs = dict(args.generation_kwargs or {})
    if args.use_vllm:
        bias = {int(token): value for token, value in (kwargs.get("logit_bias") or {}).items()}
        kwargs["logit_bias"] = {**bias, **dict.fromkeys(tokens, FORBIDDEN)}
    else:
        kwargs["suppress_tokens"] = sorted({*(kwargs.get("suppress_tokens") or ()), *tokens})
    args.generation_kwargs = kwargs


def as_text(messages: str | list[dict[str, Any]]) -> str:
    """A conversation to be read: `role: text` by turn, `<image>` where one stands; a lone turn without its role."""
    if isinstance(messages, str):
        return messages
    turns = []
    for turn in messages:
        content = turn["content"]
        if not isinstance(content, str):
            content = "".join(block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in content)
        turns.append(content if len(messages) == 1 else f"{turn['role']}: {content}")
    return "\n".join(turns)


class GRPOTrainer(trl.GRPOTrainer):
    """See the module's docstring; `model` is a Qwen2-VL or Qwen2.5-VL: loaded (PEFT too), a folder or a hub id."""

    _tag_names = ["trl", "grpo", "nadir"]

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: trl.GRPOConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *positional: Any,
        **named: Any,
    ):
        if args is None:
            args = trl.GRPOConfig(f"{name_of(model).split('/')[-1]}-GRPO")
        if processing_class is None:
            processing_class = default_processor(model, args)
        ban(args, banned_tokens(model, args))
        super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, processing_class, *positional, **named)
        self._tokenizer.padding_side = "left"

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        for column in LOGGED_COLUMNS:
            if column in inputs[0]:
                self._log_completion_extra(column, [row[column] for row in inputs])
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def log(self, logs, start_time=None):
        for column in ("prompt", "completion"):
            rows = self._logs[column]
            for number, messages in enumerate(rows):
                rows[number] = as_text(messages)
        super().log(logs, start_time)
