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

- One process may have pictures while another has none: TRL gathers pictures for that table from the former alone, and
  waits without end.
- After `show_samples` (`stage.tracking.attach`) trackers get a table of a few rows with small pictures
  (`stage.tracking`) instead of TRL's, which has every row and picture of a batch; TRL's parquet file stays.

- Each prompt is computed once (`share_prefix`, on by default): its pictures are prepared and held once, it is prefilled
  once for all completions that are sampled (`rl.sharing.prefill`; vLLM has its own way), and its tokens and pictures
  go once through the model for all its completions in a micro-batch, in the update, the old and the reference
  log-probabilities, with gradients (`rl.sharing.rows`, `vlm.prefix`). Groups stay whole when a generation batch is
  shuffled and cut. Where it can't be done a line in the log says why, and the plain path is taken. The first training
  batch of a run is computed both ways and compared (`check_sharing`).

- A run that was stopped anywhere goes on as if it had not been (`rl.resuming`, `stage.checkpoints`).
- What a step was computed from can be kept, to compute it again (`stage.replay.dumps`).
- Under FSDP2 it trains as under DDP (`stage.parallel.fsdp`); weights are whole while completions are sampled.
- A step whose loss or gradient is not finite does not happen (`stage.guards.finite`); batches tell their rows.

Overridden: `__init__` (arguments only), `_calculate_rewards` (adds columns, then TRL's), `log` (text for the table);
`_generate_and_score_completions` (TRL's; pictures of the table from all processes); for sharing `_tokenize_prompts`
(pixels of each prompt once), `_generate_single_turn` (TRL's, around one prefill), `_generate_and_score_completions`
again (a memo before the image processor), `_prepare_inputs` (the shuffle), `_get_per_token_logps_and_entropies`.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
import trl
from accelerate.utils import gather_object

from rl.arguments import ban, banned_tokens, default_processor, name_of, safetensors_only
from rl.counters import Counters
from rl.resuming import ResumableRollouts
from rl.sharing import packed, parity
from rl.sharing.prefill import shared_prefill
from rl.sharing.rows import Generation, Rows, prompts_of, split
from rl.table import LOGGED_COLUMNS, TRACKERS, as_text, batch_of, logged, pictures_of
from stage.guards.finite import FiniteSteps
from stage.parallel.fsdp import FullySharded
from stage.replay.dumps import ROWS
from stage.tracking.samples import Samples
from vlm.pictures.unreadable import row_name
from vlm.prefix import enable, obstacle
from vlm.prefix.pictures import Contents, remembering
from vlm.rollout import choose, first_places

logger = logging.getLogger(__name__)


class GRPOTrainer(FiniteSteps, ResumableRollouts, FullySharded, trl.GRPOTrainer):
    """See the module's docstring; `model` is a Qwen2-VL or Qwen2.5-VL: loaded (PEFT too), a folder or a hub id.

    share_prefix: compute each prompt once; False is TRL's own path. check_sharing: compare the two on the first batch.
    """

    _tag_names = ["trl", "grpo", "nadir"]
    samples: Samples | None = None

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
        safetensors_only(model, reward_funcs, args)
        ban(args, banned_tokens(model, args))
        super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, processing_class, *positional, **named)
        self._tokenizer.padding_side = "left"
        fault = self._sharing_fault() if share_prefix else None
        if fault:
            logger.info("share_prefix: each completion computes its prompt anew, as in TRL: %s", fault)
        self.share_prefix = share_prefix and fault is None
        self._unchecked = self.share_prefix and check_sharing
        self._generation: Generation | None = None
        self._counters, self._seen = Counters(self.model), 0
        self._noted: set[str] = set()  # columns that rewards have added to the table of the latest batch
        if self.share_prefix:
            self._set_up_sharing()

    def _sharing_fault(self) -> str | None:
        """Why prompts cannot be shared in this run, or None where they can."""
        for asked, reason in (
            (self.tools or self.environment_factories, "tools may add pictures to completions"),
            (self.aux_loss_enabled, "the load-balancing loss of a mixture of experts counts each completion's tokens"),
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
        with self._timed("rewards"):
            found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._noted = set(self._pending_extra_logs)
        return found

    def show_samples(self, samples: Samples) -> None:
        """This table from now on. TRL asks the arguments where its own goes (and a log of each call that it times), and
        finds none of these trackers there; their callbacks, which log the numbers, are made already."""
        self.samples = samples
        self.args.report_to = [name for name in self.args.report_to or () if name not in TRACKERS]

    def _timed(self, phase: str):
        return self._counters.timed(phase) if self.model.training else nullcontext()

    def log(self, logs, start_time=None):
        metrics = self._metrics["train"]
        if self.model.training and metrics.get("step_time"):
            seen = self.state.num_input_tokens_seen - self._seen
            self._seen = self.state.num_input_tokens_seen
            found = self._counters.take(metrics["step_time"], seen)
            metrics.update({name: [value] for name, value in found.items()})
        for column in ("prompt", "completion"):
            rows = self._logs[column]
            for number, messages in enumerate(rows):
                rows[number] = as_text(messages)
        super().log(logs, start_time)

    def _generate_and_score_completions(self, inputs):
        ours = self.log_multimodal and not (self.tools or self.environment_factories)
        self.log_multimodal = self.log_multimodal and not ours
        made = self._generate_once if self.share_prefix else super()._generate_and_score_completions
        try:
            with self._timed("generation"):
                output = made(inputs)
        finally:
            self.log_multimodal = self.log_multimodal or ours
        if self.samples is not None:
            if self.model.training:
                self.samples.take(batch_of(self), inputs, lambda: logged(self, len(inputs)), gather_object)
        elif ours and {"image", "images"} & inputs[0].keys():
            self._logs["images"].extend(gather_object([pictures_of(row) for row in inputs]))
        return {**output, ROWS: [row_name(row) for row in inputs]}

    # each prompt once

    def _tokenize_prompts(self, prompts):
        ids, images, fields = super()._tokenize_prompts(prompts)
        return ids, images, self._generation.of_prompts(images, fields) if self._generation else fields

    def _generate_single_turn(self, prompt_ids, images, fields, *rest, **named):
        elsewhere = self.use_vllm or self.use_transformers_continuous_batching
        shared = self._generation if not elsewhere else None
        model = self.accelerator.unwrap_model(self.model_wrapped)
        whole = self.whole() if self.is_fsdp_enabled and not elsewhere else nullcontext()
        with self._timed("rollout"), whole, shared_prefill(model, shared.prompts) if shared else nullcontext():
            output = super()._generate_single_turn(prompt_ids, images, fields, *rest, **named)
        if self.model.training and not elsewhere:
            unique = (first_places(shared.prompts), len(set(shared.memo.order))) if shared else ()
            self._counters.generated(prompt_ids, output[0], fields.get("image_grid_thw"), *unique)
        return output

    def _generate_once(self, inputs):
        """TRL's `_generate_and_score_completions`, each picture prepared and held once."""
        contents = Contents()
        with remembering(self.processing_class, contents) as memo:
            memo.unique = True
            self._generation = Generation(prompts_of(inputs, contents), memo)
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
            self._buffered_inputs = split(batch, parts)
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
        **media,
    ):
        given = (model, input_ids, attention_mask, logits_to_keep)
        with nullcontext() if torch.is_grad_enabled() else self._timed("reference"):
            rows, grid = media.get("num_images"), media.get("image_grid_thw")
            if self._generation is not None:
                rows, grid = self._generation.rows(rows, grid)
            if isinstance(rows, Rows):
                given = (*given, rows, media.pop("pixel_values", None), grid)
                return self._packed_logps(given, batch_size, compute_entropy, media)
            if self.model.training:  # share_prefix is off, or somebody calls this by hand
                self._counters.passed(self._phase(), input_ids.numel(), attention_mask.sum().item(), grid)
            return super()._get_per_token_logps_and_entropies(
                *given, batch_size, compute_entropy, compute_aux_loss, **media
            )

    def _packed_logps(self, given, batch_size, compute_entropy, media):
        others = {name: value for name, value in media.items() if name not in ("num_images", "image_grid_thw")}
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
                found.append(packed.log_probabilities(model, part, ids[chunk], mask[chunk], keep, **media))
            if self.model.training:  # which the check is not
                self._count(found[-1], part, mask[chunk], keep)
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

    @staticmethod
    def _phase() -> str:
        return "update" if torch.is_grad_enabled() else "reference"

    def _count(self, found: packed.Found, rows: Rows, mask: torch.Tensor, keep: int) -> None:
        phase = self._phase()
        self._counters.passed(phase, found.tokens, found.tokens, found.grids)
        lengths = torch.stack([mask[:, :-keep].sum(1), mask[:, -keep:].sum(1)], 1).tolist()
        # of a prompt all tokens but the last, which stands before each completion instead of that one's own last
        tokens = sum(
            share * (prompt - 1) + completion
            for (share, _), (prompt, completion) in zip(rows.shares, lengths, strict=True)
        )
        self._counters.ideal(phase, tokens, sum(share for _, share in rows.shares))

    def _check_sharing(self, given, others) -> None:
        """Shared against plain on one micro-batch, no dropout, no gradients. Raises: UserError where they differ."""
        mask, keep, rows = given[2:5]
        shown = self.accelerator.gather(torch.tensor([float(sum(rows) > 0)], device=mask.device))
        if shown.min() != shown.max():
            return  # the plain path would wait in the vision tower of some processes: the next batch may do
        self._unchecked = False
        with torch.no_grad(), parity.evaluating(given[0]):
            shared, plain = self._shared_logps(*given)[0], self._plain_logps(*given, **others)[0]
        dtype = parity.precision(self.args, self.model)
        figure = parity.deviation(shared, plain, mask[:, -keep:], dtype)
        parity.judge(self.accelerator.gather(figure).max().item(), dtype)  # all processes stop, or none
