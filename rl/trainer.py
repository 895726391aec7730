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

- Each prompt is computed once (`share_prefix`, on by default): its pictures are prepared and held once, it is prefilled
  once for all completions that are sampled (`rl.rollout`; vLLM has its own way), and its tokens and pictures go once
  through the model for all its completions in a micro-batch, in the update, the old and the reference
  log-probabilities, with gradients (`rl.sharing`, `vlm.prefix`). Groups stay whole when a generation batch is shuffled
  and cut. Where it can't be done a line in the log says why, and the plain path is taken. The first training batch of
  a run is computed both ways and compared (`check_sharing`).

Overridden: `__init__` (arguments only), `_calculate_rewards` (adds columns, then TRL's), `log` (text for the table);
for sharing `_tokenize_prompts` (pixels of each prompt once), `_generate_single_turn` (TRL's, around one prefill),
`_generate_and_score_completions` (TRL's, with a memo before the image processor), `_prepare_inputs` (the shuffle),
`_get_per_token_logps_and_entropies`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import trl
from transformers import AutoConfig

from rl import sharing
from rl.rollout import shared_prefill
from vlm.loading import load_processor, stored_limits
from vlm.prefix import enable, obstacle
from vlm.prefix.pictures import Contents, remembering
from vlm.rollout import choose

logger = logging.getLogger(__name__)

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
    """See the module's docstring; `model` is a Qwen2-VL or Qwen2.5-VL: loaded (PEFT too), a folder or a hub id.

    share_prefix: compute each prompt once; False is TRL's own path. check_sharing: compare the two on the first batch.
    """

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
        share_prefix: bool = True,
        check_sharing: bool = True,
        **named: Any,
    ):
        if args is None:
            args = trl.GRPOConfig(f"{name_of(model).split('/')[-1]}-GRPO")
        if processing_class is None:
            processing_class = default_processor(model, args)
        ban(args, banned_tokens(model, args))
        super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, processing_class, *positional, **named)
        self._tokenizer.padding_side = "left"
        fault = self._sharing_fault() if share_prefix else None
        if fault:
            logger.info("share_prefix: each completion computes its prompt anew, as in TRL: %s", fault)
        self.share_prefix = share_prefix and fault is None
        self._unchecked = self.share_prefix and check_sharing
        self._generation: sharing.Generation | None = None
        if self.share_prefix:
            self._set_up_sharing()

    def _sharing_fault(self) -> str | None:
        """Why prompts cannot be shared in this run, or None where they can."""
        for asked, reason in (
            (self.tools or self.environment_factories, "tools may add pictures to completions"),
            (self.aux_loss_enabled, "the load-balancing loss of a mixture of experts counts each completion's tokens"),
            (self.is_fsdp_enabled, "it was never tried under FSDP"),
            (self.args.torch_compile, "it was never tried under torch_compile"),
        ):
            if asked:
                return reason
        return obstacle(self.model)

    def _set_up_sharing(self) -> None:
        for model in (self.model, self.ref_model):
            if model is not None:
                enable(model)
        batch, group = self.args.per_device_train_batch_size, self.num_generations
        if batch % group:
            logger.info(
                "share_prefix: per_device_train_batch_size %d is no multiple of num_generations %d, so a group is cut "
                "and its prompt computed once in each part; %d would keep groups whole",
                batch, group, -(-batch // group) * group,
            )  # fmt: skip

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

    # each prompt once

    def _tokenize_prompts(self, prompts):
        ids, images, fields = super()._tokenize_prompts(prompts)
        return ids, images, self._generation.of_prompts(images, fields) if self._generation else fields

    def _generate_single_turn(self, prompt_ids, images, *rest, **named):
        if self._generation is None or self.use_vllm or self.use_transformers_continuous_batching:
            return super()._generate_single_turn(prompt_ids, images, *rest, **named)
        with shared_prefill(self.accelerator.unwrap_model(self.model_wrapped), self._generation.prompts):
            return super()._generate_single_turn(prompt_ids, images, *rest, **named)

    def _generate_and_score_completions(self, inputs):
        if not self.share_prefix:
            return super()._generate_and_score_completions(inputs)
        contents = Contents()
        with remembering(self.processing_class, contents) as memo:
            memo.unique = True
            self._generation = sharing.Generation(sharing.prompts_of(inputs, contents), memo)
            try:
                output = super()._generate_and_score_completions(inputs)
                rows, grid = self._generation.rows(output.get("num_images"), output.get("image_grid_thw"))
            finally:
                self._generation = None
        return {**output, "num_images": rows, **({} if grid is None else {"image_grid_thw": grid})}

    def _prepare_inputs(self, generation_batch):
        if not (self.share_prefix and self.model.training):
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = sharing.split(batch, parts)
        return self._buffered_inputs[self._step % parts]

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        pixel_values=None,
        image_grid_thw=None,
        num_images=None,
        **others,
    ):
        batch = (model, input_ids, attention_mask, logits_to_keep)
        rows = num_images
        if self._generation is not None:
            rows, image_grid_thw = self._generation.rows(num_images, image_grid_thw)
        if not isinstance(rows, sharing.Rows):  # without the map of rows to prompts, as whoever calls this by hand
            media = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw, "num_images": num_images, **others}
            return super()._get_per_token_logps_and_entropies(
                *batch, batch_size, compute_entropy, compute_aux_loss, **media
            )
        given = (*batch, rows, pixel_values, image_grid_thw)
        if any(value is not None for name, value in others.items() if name != "mm_token_type_ids"):
            return self._plain_logps(*given, batch_size, compute_entropy, **others)  # fields of another family
        if self._unchecked and torch.is_grad_enabled():
            self._check_sharing(given, others)
        return self._shared_logps(*given, batch_size, compute_entropy)

    def _shared_logps(self, model, ids, mask, keep, rows, pixels, grid, batch_size=None, compute_entropy=False):
        """TRL's result of the method above, from packed rows; pictures are those that `rows` numbers."""
        found = []
        for start in range(0, len(rows), batch_size or len(rows)):
            chunk = slice(start, start + (batch_size or len(rows)))
            part, stored = rows.select(range(*chunk.indices(len(rows))))
            media = choose(pixels, grid, stored)
            with self.accelerator.autocast():
                found.append(sharing.log_probabilities(model, part, ids[chunk], mask[chunk], keep, **media))
        if compute_entropy:  # asked for in the update and in evaluation only
            self._count(found, rows, ids)
        entropies = torch.cat([part.entropies for part in found]) if compute_entropy else None
        return torch.cat([part.logps for part in found]), entropies, None

    def _plain_logps(
        self, model, ids, mask, keep, rows, pixels, grid, batch_size=None, compute_entropy=False, **others
    ):
        """The same from TRL: pictures of every row, each row by itself."""
        media = choose(pixels, grid, [number for shown in rows.pictures for number in shown])
        return super()._get_per_token_logps_and_entropies(
            model, ids, mask, keep, batch_size, compute_entropy, num_images=list(rows), **media, **others
        )

    def _count(self, found: list[sharing.Found], rows: sharing.Rows, ids: torch.Tensor) -> None:
        counts = {
            "vision_images": sum(rows),
            "vision_images_unique": sum(part.pictures for part in found),
            "tokens": sum(part.tokens for part in found),
            "tokens_plain": ids.numel(),
        }
        for name, count in counts.items():
            self._metrics["train" if self.model.training else "eval"][f"sharing/{name}"].append(float(count))

    def _check_sharing(self, given, others) -> None:
        """Shared against plain on one micro-batch, no dropout, no gradients. Raises: UserError where they differ."""
        self._unchecked = False
        mask, keep = given[2:4]
        with torch.no_grad(), sharing.evaluating(given[0]):
            shared, plain = self._shared_logps(*given)[0], self._plain_logps(*given, **others)[0]
        dtype = sharing.precision(self.args, self.model)
        figure = sharing.deviation(shared, plain, mask[:, -keep:], dtype)
        sharing.judge(self.accelerator.gather(figure).max().item(), dtype)  # all processes stop, or none
