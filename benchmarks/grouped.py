"""PrefixGrouper (PyPI `prefix_grouper` 0.0.1.post1, arXiv:2506.05433) for Qwen2-VL: an adapter, for comparison only.

The package lays a prompt and its completions into one row, [prefix | suffix 1 | suffix 2 …], and computes attention in
two calls: the prefix in itself, and each suffix over prefix and suffix. What its README leaves to the user is here:

- attention. The function that the package registers in transformers (`prefix_grouper.utils.register_transformers`)
  hands masks of (rows, keys) on, as FlashAttention reads them. SDPA broadcasts such a mask over queries and knows no
  causality beside it: wrong results, or an error of shapes. Here they become causal masks of four dimensions, once a
  pass, and none where a causal kernel will do.
- positions. M-RoPE's of the prompt from the model; each suffix continues at the largest of them plus 1.
- the head. `split_output` is applied to hidden states (the README has logits), so that the head sees completions only.
- pictures. Placeholders stand in the row once, so each picture goes through the vision tower once.

A model that was enabled takes nothing but such rows: no generation, no ordinary forward pass.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import torch
import trl
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.support.trainers import Scripted
from vlm.prefix import rope_positions
from vlm.prefix.attention import language_model
from vlm.prefix.media import choose

if TYPE_CHECKING:
    from prefix_grouper import PrefixGrouper

NAME = "prefix_grouper_sdpa"
"""In transformers' attention interface. No mask function of that name: transformers then builds no (T, T) mask."""


def version() -> str | None:
    """Of the package, or None where it is not installed."""
    try:
        return metadata.version("prefix_grouper")
    except metadata.PackageNotFoundError:
        return None


def causal(keys: torch.Tensor, queries: int) -> torch.Tensor | None:
    """(rows, K) keys that are no padding → (rows or 1, 1, Q, K) bool of who sees whom, the last Q keys the queries'.

    None where SDPA's own causal mask is the same: nothing padded, as many queries as keys. A padded query may see
    nothing; SDPA then gives 0, and nobody reads it.
    """
    count = keys.shape[1]
    seen = torch.ones(queries, count, dtype=torch.bool, device=keys.device).tril(count - queries)[None, None]
    if keys.all():
        return None if queries == count else seen
    return seen & keys[:, None, None]


class Grouped:
    """A `PrefixGrouper` and, for all layers, the masks that SDPA needs for its two calls."""

    def __init__(self, grouper: PrefixGrouper):
        self.grouper = grouper
        prefix, suffix = grouper.prefix_attn_mask, grouper.suffix_attn_mask
        self.prefix = causal(prefix, prefix.shape[1])
        self.suffix = causal(suffix, grouper.suffix_x_shape[1])

    def attend(self, query, key, value, keys, module, **options) -> torch.Tensor:
        """The function that `PrefixGrouper.forward` calls: (rows, H, Q, D), (rows, H_kv, K, D) → (rows, Q, H, D)."""
        alone = query.shape[2] == key.shape[2]
        mask = self.prefix if alone else self.suffix
        return sdpa_attention_forward(module, query, key, value, mask, **{**options, "is_causal": alone})[0]


def attention(module, query, key, value, attention_mask, grouped: Grouped, **options):
    return grouped.grouper.forward(grouped.attend, query, key, value, module, **options), None


def completions_only(module, args, kwargs, outputs):
    """Forward hook: (B, T, D) → (ΣG, R, D), the hidden state before each completion token."""
    found = kwargs["grouped"].grouper.split_output(outputs.last_hidden_state, include_prefix_last=1)
    outputs.last_hidden_state = found[2][:, :-1]
    return outputs


def enable(model) -> None:
    """Let the language model of `model` take grouped rows, and nothing else. Once."""
    AttentionInterface.register(NAME, attention)
    text = language_model(model)
    text.config._attn_implementation_internal = NAME
    text.register_forward_hook(completions_only, with_kwargs=True)


def log_probabilities(
    model, prompts, prompt_mask, completions, completion_mask, sizes: list[int], pixel_values=None, image_grid_thw=None,
    num_images: list[int] | None = None,
):  # fmt: skip
    """Log-probabilities, and entropies where the head gives them, (ΣG, R) each, 0 where there is no token.

    prompts: (B, P), padded anywhere; completions: (ΣG, R), padded on the right, `sizes` of them for each prompt in
    turn. Pictures are those of the prompts, `num_images` each. The model has TRL's fused head, and `enable` was called
    on it.
    """
    from prefix_grouper import PrefixGrouper

    device = prompts.device
    here, there = prompt_mask.bool(), completion_mask.bool()
    grouper = PrefixGrouper.from_ungrouped_masks(here, there, sizes, device=device, padding_mode="right")
    grids = [torch.zeros(0, 3, dtype=torch.long)] * len(prompts)
    if image_grid_thw is not None:
        grids = image_grid_thw.cpu().split(num_images)
    asked = [row[seen] for row, seen in zip(prompts.cpu(), here.cpu(), strict=True)]
    places = [place.T.to(device) for place in rope_positions(model, asked, grids)]
    begin = torch.stack([place.max() + 1 for place in places]).repeat_interleave(torch.tensor(sizes, device=device))
    behind = (begin[:, None] + torch.arange(completions.shape[1], device=device))[..., None].expand(-1, -1, 3)
    before = torch.zeros(*prompts.shape, 3, dtype=torch.long, device=device)
    before[here] = torch.cat(places)
    outputs = model(
        input_ids=grouper.concat_input(prompts, here, completions, there),
        attention_mask=grouper.padding_mask,
        position_ids=grouper.concat_input(before, here, behind, there).permute(2, 0, 1),
        pixel_values=pixel_values,
        image_grid_thw=image_grid_thw,
        grouped=Grouped(grouper),
        shift_labels=completions.masked_fill(~there, -100)[:, : grouper.suffix_x_shape[1]],
        fused_lm_head=True,
    )
    missing = (0, completions.shape[1] - outputs.log_probs.shape[1])  # the package cuts to the longest completion
    return tuple(None if found is None else pad(found, missing) for found in (outputs.log_probs, outputs.entropy))


class Grouping(Scripted, trl.GRPOTrainer):
    """TRL's trainer with log-probabilities from grouped rows; all else is TRL's, its G copies of each picture too.

    A micro-batch holds whole groups, one behind another; TRL's shuffle leaves them so where a step has one prompt. Of
    the model's fields only Qwen2-VL's are read; its `mm_token_type_ids` serve TRL's positions alone.
    """

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        for model in (self.model, self.ref_model):
            enable(model)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False,
        compute_aux_loss=False, pixel_values=None, image_grid_thw=None, num_images=None, **others,
    ):  # fmt: skip
        group, cut = self.num_generations, input_ids.shape[1] - logits_to_keep
        prompts, mask = input_ids[::group, :cut], attention_mask[::group, :cut]
        if (input_ids[:, :cut] != prompts.repeat_interleave(group, 0)).any():
            raise ValueError("the rows of a micro-batch are not whole groups, one behind another")
        media = {}
        if pixel_values is not None:
            stored = torch.arange(sum(num_images)).split(num_images)[::group]
            held = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}
            media = choose(held, torch.cat(stored).tolist())
            media["num_images"] = num_images[::group]
        with self.accelerator.autocast():
            logps, entropies = log_probabilities(
                model, prompts, mask, input_ids[:, cut:], attention_mask[:, cut:], [group] * len(prompts), **media
            )
        return logps, entropies if compute_entropy else None, None
