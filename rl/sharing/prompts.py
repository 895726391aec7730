"""The mixin that has `rl.GRPOTrainer` compute each prompt once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from rl.sharing import packed, parity
from rl.sharing.prefill import shared_prefill
from rl.sharing.rows import TILES, Generation, Rows, prompts_of, split
from vlm import families
from vlm.common.console import say
from vlm.prefix import enable, media, model_config, obstacle
from vlm.prefix.pictures import Contents, remembering, without_absent
from vlm.prefix.rollout import evaluating, neutral
from vlm.tools.toolbox import Toolbox

KNOWN = {*media.NAMES, "num_images", "mm_token_type_ids"}
"""What TRL knows of a batch's pictures in families that are known here; of tiled ones `TILES`, too."""


class SharedPrompts:
    """A prompt's pictures are prepared and held once; it is prefilled once for all completions that transformers
    samples (vLLM has its own way), and goes once through the model for all its completions in a micro-batch: in the
    update, the old and the reference log-probabilities. Where it can't be done a line of the run's first ones
    and its record say why, and the plain path is taken.

    share_prefix: False is TRL's own path. check_sharing: the first training batch of a run is computed both ways and
    compared; raises UserError where the two differ by more than rounding.

    Overridden: `__init__` (the two arguments), `_tokenize_prompts` (pixels of each prompt once),
    `_generate_single_turn` (TRL's, around one prefill, with whole weights, and without what the
    checkpoint's generation_config.json says beyond the recipe), `_generate_and_score_completions` (TRL's,
    with a memo before the image processor), `_prepare_inputs` (groups stay whole when a generation batch is shuffled
    and cut), `_get_per_token_logps_and_entropies` (packed rows).
    From its neighbours: `counters` (`rl.counters`), told in training what goes through the model, shared or plain;
    `whole` (`stage.parallel.fsdp`).
    """

    share_prefix = False
    "Whether this run does."
    toolbox: Toolbox | None = None
    "What completions may call (`rl.turns`)."
    not_shared: str | None = None
    "Why not."
    _unchecked = False
    _generation: Generation | None = None
    "While a generation batch is made."

    def __init__(self, *positional: Any, share_prefix: bool = True, check_sharing: bool = True, **named: Any):
        super().__init__(*positional, **named)
        self.not_shared = self._sharing_fault() if share_prefix else "share_prefix is false"
        if self.not_shared:
            say(f"note: share_prefix: each completion computes its prompt itself, as in TRL: {self.not_shared}")
            return
        self.share_prefix, self._unchecked = True, check_sharing
        for model in (self.model, self.ref_model):
            if model is not None:
                enable(model)
        batch, group = self.args.per_device_train_batch_size, self.num_generations
        if batch % group:
            say(
                f"note: share_prefix: per_device_train_batch_size {batch} is no multiple of num_generations {group}, "
                f"so a group is cut and its prompt computed once in each part; {-(-batch // group) * group} would keep "
                "groups whole"
            )

    def _sharing_fault(self) -> str | None:
        """Why prompts cannot be shared in this run, or None where they can."""
        for asked, reason in (
            (self.tools or self.environment_factories, "TRL's tools may add pictures to completions"),
            (self.aux_loss_enabled, "the load-balancing loss of a mixture of experts counts each completion's tokens"),
            (self.args.torch_compile, "it was never tried under torch_compile"),
        ):
            if asked:
                return reason
        return obstacle(self.model)

    # a generation batch

    @property
    def _tracked(self) -> bool:
        """Whether it is known of each batch which rows share what: for sharing, or where tools add pictures."""
        return self.share_prefix or self.toolbox is not None

    def _prepare_inputs(self, generation_batch):
        if not (self._tracked and self.model.training):
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split(self._generate_and_score_completions(generation_batch), parts)
        return self._buffered_inputs[self._step % parts]

    def _generate_and_score_completions(self, inputs):
        if not self._tracked:
            with without_absent(self.processing_class):
                return super()._generate_and_score_completions(inputs)
        contents = Contents()
        with remembering(self.processing_class, contents) as memo:
            self._generation = Generation(prompts_of(inputs, contents), memo)
            try:
                output = super()._generate_and_score_completions(inputs)
                rows, stored = self._generation.rows(output.get("num_images"), output)
            finally:
                self._generation = None
        return {**output, "num_images": rows, **stored}

    def _tokenize_prompts(self, prompts):
        ids, images, fields = super()._tokenize_prompts(prompts)
        if self._generation is None:
            return ids, images, fields
        return ids, images, self._generation.of_prompts(images, fields, every=not self.share_prefix)

    def _rolling(self, model) -> AbstractContextManager[None]:
        """Within, how `model.generate` is to roll out."""
        return shared_prefill(model, self._generation.prompts) if self._generation else nullcontext()

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *rest, **named):
        given = (prompt_ids, images, multimodal_fields, *rest)
        if self.use_vllm or self.use_transformers_continuous_batching:
            return super()._generate_single_turn(*given, **named)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        shared = self._generation if self.share_prefix else None
        whole = self.whole() if self.is_fsdp_enabled else nullcontext()
        with whole, neutral(model), self._rolling(model):
            output = super()._generate_single_turn(*given, **named)
        if self.model.training:
            unique = shared.unique() if shared else ()
            self.counters.generated(prompt_ids, output[0], media.of(multimodal_fields), *unique)
        return output

    # log-probabilities

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **fields,
    ):
        given = (model, input_ids, attention_mask, logits_to_keep)
        rows, stored = fields.get("num_images"), media.of(fields)
        if self._generation is not None:
            rows, stored = self._generation.rows(rows, fields)
        if not isinstance(rows, Rows):  # share_prefix is off, or somebody calls this by hand
            if self.model.training:
                self.counters.passed(_phase(), input_ids.numel(), attention_mask.sum().item(), stored)
            return self._seen_logps(*given, batch_size, compute_entropy, compute_aux_loss, fields)
        given = (*given, rows, stored)
        others = {name: value for name, value in fields.items() if name not in (*media.NAMES, "num_images", TILES)}
        if others.get("mm_token_type_ids") is not None or any(rows.crops):  # TRL knows those of the prompts alone
            others["mm_token_type_ids"] = self._types(input_ids)
        if not self.share_prefix:
            shown = media.choose(stored, [number for units in rows.shown for number in units])
            told = {"num_images": list(rows), **shown, **others}
            return self._seen_logps(*given[:4], batch_size, compute_entropy, compute_aux_loss, told)
        if any(value is not None for name, value in others.items() if name != "mm_token_type_ids"):
            return self._plain_logps(*given, batch_size, compute_entropy, **others)  # fields of another family
        if self._unchecked and torch.is_grad_enabled():
            self._check_sharing(given, others)
        return self._shared_logps(*given, batch_size, compute_entropy)

    def _shared_logps(self, model, ids, mask, keep, rows, stored, batch_size=None, compute_entropy=False):
        """TRL's result of the method above, from packed rows; stored: the pictures that `rows` numbers."""
        found = []
        for start in range(0, len(rows), batch_size or len(rows)):
            chunk = slice(start, start + (batch_size or len(rows)))
            part, numbers = rows.select(range(*chunk.indices(len(rows))))
            pictures = media.choose(stored, numbers)
            with self.accelerator.autocast():
                found.append(packed.log_probabilities(model, part, ids[chunk], mask[chunk], keep, pictures))
            if self.model.training:  # which the check is not
                self.counters.passed(_phase(), found[-1].tokens, found[-1].tokens, found[-1].shown)
                self.counters.ideal(_phase(), *packed.least(part, mask[chunk], keep))
        entropies = torch.cat([part.entropies for part in found]) if compute_entropy else None
        return torch.cat([part.logps for part in found]), entropies, None

    def _plain_logps(self, model, ids, mask, keep, rows, stored, batch_size=None, compute_entropy=False, **others):
        """The same from TRL: pictures of every row, each row by itself."""
        pictures = media.choose(stored, [number for shown in rows.shown for number in shown])
        return super()._get_per_token_logps_and_entropies(
            model, ids, mask, keep, batch_size, compute_entropy, num_images=list(rows), **pictures, **others
        )

    def _types(self, input_ids):
        """`mm_token_type_ids` (B, L), where the family takes them."""
        config = model_config(self.model)
        return (input_ids == config.image_token_id).int() if families.of(config).positions != "1-D" else None

    def _seen_logps(self, model, ids, mask, keep, batch_size, compute_entropy, compute_aux_loss, fields):
        """TRL's own; where rows have no picture chunk by chunk, for TRL hands a chunk of text an empty tensor of
        pictures, which breaks the vision tower. Among several processes such a chunk shows a blank one."""
        plain, asked = super()._get_per_token_logps_and_entropies, (compute_entropy, compute_aux_loss)
        counts, types = fields.get("num_images") or [0] * len(ids), fields.get("mm_token_type_ids")
        told, config = {name for name, value in fields.items() if value is not None}, model_config(model)
        family = families.of(config)
        if all(counts) or not family.units or not told <= {*KNOWN, TILES}:
            return plain(model, ids, mask, keep, batch_size, *asked, **fields)
        counts = fields.get(TILES) or counts
        typed = family.positions != "1-D"
        types = torch.zeros_like(ids) if types is None else types
        found = []
        for rows in torch.arange(len(ids)).split(batch_size or len(ids)):
            chunk, first = slice(int(rows[0]), int(rows[-1]) + 1), sum(counts[: rows[0]])
            given = {"input_ids": ids[chunk], "attention_mask": mask[chunk]}
            given |= {"mm_token_type_ids": types[chunk]} if typed else {}
            numbers = range(first, first + sum(counts[chunk]))
            given |= media.choose(media.of(fields), numbers)
            given = media.shown_in_all(given, config, before=True)
            if media.PIXELS in given:
                given["num_images"] = counts[chunk] if numbers else [1] + [0] * (len(rows) - 1)
            both = (given.pop("input_ids"), given.pop("attention_mask"))
            found.append(plain(model, *both, keep, None, *asked, **given))
        logps, entropies, losses = zip(*found, strict=True)
        return (
            torch.cat(logps),
            torch.cat(entropies) if compute_entropy else None,
            torch.stack(losses).mean() if compute_aux_loss else None,
        )

    def _check_sharing(self, given, others) -> None:
        """Shared against plain on one micro-batch, no dropout, no gradients. Raises: UserError where they differ."""
        mask, keep, rows = given[2:5]
        there = mask[:, -keep:] * rows.learned(keep).to(mask.device)
        here = torch.tensor([[float(sum(rows) > 0), float(there.any())]], device=mask.device)
        shown, tokens = self.accelerator.gather(here).T
        # The plain path would wait in the vision tower of some processes; or all completions were cut and are masked,
        # so nothing is left to compare. All processes know it, and the next batch may do.
        if shown.min() != shown.max() or not tokens.any():
            return
        self._unchecked = False
        with torch.no_grad(), evaluating(given[0]):
            shared, plain = self._shared_logps(*given)[0], self._plain_logps(*given, **others)[0]
        dtype = parity.precision(self.args, self.model)
        figure = parity.deviation(shared, plain, there, dtype)
        parity.judge(self.accelerator.gather(figure).max().item(), dtype)  # all processes stop, or none


def _phase() -> str:
    return "update" if torch.is_grad_enabled() else "reference"
