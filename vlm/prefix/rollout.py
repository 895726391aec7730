"""Many continuations from one prefill of each prompt, by transformers' own `generate`.

`model.generate` on a group of G rows encodes and prefills the same picture and prompt G times. Here the unique prompts
are prefilled, their cache, last logits and positions are copied to the rows, and transformers goes on as it would have:
logits processors, sampling, stopping and the kind of cache are its own, and so are the random draws. Tokens are those
of `model.generate` as long as logits agree to rounding. (Dropout that is active, as LoRA's is in training mode, draws
other numbers over the prompt: once for each prompt instead of once for each row.)

The rows' cache is written in place (`vlm.prefix.cache`). On a CPU under SDPA it holds a prompt's keys once for all its
rows.

Overridden while `generate` runs, on the instance: `GenerationMixin._prefill`. Private and called: the model's
`_prepare_position_ids_for_generation`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TopPLogitsWarper,
)
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlm import families
from vlm.prefix import attention, cache, media

logger = logging.getLogger(__name__)

PER_ROW = ("input_ids", "attention_mask", "mm_token_type_ids")
MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)

ROWS = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
"""Modes in which a row stays a row."""


class Unshareable(Exception):
    """Raised inside transformers' `generate`, before anything is drawn, to take the plain path instead."""


def row_numbers(keys: Sequence[Any]) -> list[int]:
    """Keys numbered by first appearance: a, b, a → 0, 1, 0."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def first_places(numbers: Sequence[int]) -> list[int]:
    """Where 0, 1, 2, … stand first."""
    return [numbers.index(number) for number in range(max(numbers) + 1)]


def select(inputs: Mapping[str, Tensor], rows: Sequence[int], config) -> dict[str, Tensor]:
    """The inputs of these rows, which may repeat, each with its pictures; no picture keys where none is left."""
    if list(rows) == list(range(len(inputs["input_ids"]))):
        return dict(inputs)  # without a copy of the pixels
    out = {key: inputs[key][list(rows)] for key in PER_ROW if key in inputs}
    shown = media.of(inputs)
    if not shown:
        return out
    ends = torch.tensor(media.counts(inputs["input_ids"], shown, config)).cumsum(0).tolist()
    chosen = [unit for row in rows for unit in range(ends[row - 1] if row else 0, ends[row])]
    return out | media.choose(shown, chosen)


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Within, no dropout; each module then gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def replaced(owner, name: str, value) -> Iterator[None]:
    """`owner.name` is `value` for a while: an attribute of the instance, which is put back or removed."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def unsayable(config, tokenizer) -> list[int]:
    """Ids that are never to be sampled: placeholders of pictures, which only a processor may write, and what an
    embedding padded beyond its tokenizer has no text for. config: the model's."""
    family, known = families.of(config), tokenizer.get_vocab()
    placeholders = {*family.placeholders(config), *(known[token] for token in family.unsayable if token in known)}
    return sorted(placeholders | padded(config.get_text_config().vocab_size, tokenizer))


def padded(size: int, tokenizer) -> set[int]:
    """Rows of an embedding of this size that its tokenizer has no text for."""
    return set(range(size)) - set(tokenizer.get_vocab().values())


IDS = ("eos_token_id", "pad_token_id", "bos_token_id")
"""What of a checkpoint's generation_config.json is kept: the tokens that end, pad and begin a text."""


@contextmanager
def neutral(model) -> Iterator[None]:
    """Within, `model.generate` does what it is told and nothing else: of the checkpoint's generation config only the
    `IDS` stand.

    transformers fills whatever a call leaves open from that config, of a `generation_config` that is passed, too: a
    repetition penalty, n-grams that must not repeat, suppressed tokens. The model keeps its config, to be saved with.
    """
    base = unwrapped(model)
    stored = base.generation_config
    if said := steering(stored):
        _say_ignored(", ".join(f"{key} {value!r}" for key, value in said.items()))
    with replaced(base, "generation_config", GenerationConfig(**{name: getattr(stored, name) for name in IDS})):
        yield


def steering(config: GenerationConfig) -> dict[str, Any]:
    """What a generation config says beyond the `IDS`."""
    told = config.to_diff_dict()
    return {key: value for key, value in told.items() if key not in (*IDS, "transformers_version")}


class FixedTopP(TopPLogitsWarper):
    """Nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751) with probabilities as whole numbers of 2⁻⁵², whose sums
    have no order: under `torch.use_deterministic_algorithms` CUDA's sum of floats (`cumsum`) raises.

    What is kept is what transformers 5.23 keeps, but for its rounding. Overridden: `__call__`.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V), of which those outside of the nucleus become `filter_value`."""
        ordered, places = scores.sort(dim=-1)
        whole = (ordered.softmax(-1).double() * 2**52).round().long()
        removed = whole.cumsum(-1) <= round((1 - self.top_p) * 2**52)
        removed[..., -self.min_tokens_to_keep :] = False
        return scores.masked_fill(removed.gather(-1, places.argsort(-1)), self.filter_value)


def fix_top_p(model) -> None:
    """From now on `model.generate` samples by `FixedTopP`. Overridden on the instance: `_get_logits_processor`."""
    base = unwrapped(model)
    base._get_logits_processor = processing(
        base,
        lambda found: (
            FixedTopP(one.top_p, one.filter_value, one.min_tokens_to_keep) if type(one) is TopPLogitsWarper else one
            for one in found
        ),
    )


def processing(base, change: Callable[[LogitsProcessorList], Iterable[LogitsProcessor]]) -> Callable:
    """`base._get_logits_processor` of a transformers model, with what it returns changed."""
    plain = base._get_logits_processor
    return lambda *given, **named: LogitsProcessorList(change(plain(*given, **named)))


def generate(
    model,
    inputs: Mapping[str, Tensor],
    prompt_index: Tensor,
    generation_config: GenerationConfig | None = None,
    prefill_batch: int | None = None,
    found: dict[str, Cache] | None = None,
    **kwargs: Any,
) -> Tensor:
    """What `model.generate` returns for the rows `inputs[prompt_index]`: (B, P + new tokens).

    model: of a family with a file (`vlm.families`), PEFT-wrapped or not; its mode is the caller's and its
        `rope_deltas` are kept. Prompts of any other are computed for each row.
    inputs: of the U unique prompts, padded on the left: input_ids, attention_mask and mm_token_type_ids (U, P), and
        the keywords of their pictures in order (`vlm.prefix.media`), where there are any.
    prompt_index: (B,), the unique prompt that each row continues, in any order and number.
    prefill_batch: unique prompts prefilled at a time, for memory; None: all. Under ZeRO-3 with weights that are not
        gathered it must be None, as processes would differ in their number of forward passes.
    found: gets the rows' cache as `cache`, for who goes on from it; nothing where each row is computed by itself.
    kwargs: anything else `model.generate` takes. What cannot share (no cache, assisted decoding, …) says so once and
        is computed on repeated rows.
    Raises: ValueError for other inputs than these, or an index out of range.
    """
    index = prompt_index.to(inputs["input_ids"].device)
    count = len(inputs["input_ids"])
    kwargs["generation_config"] = generation_config
    base = _base(model)
    fault = families.of(base.config).unshared
    if fault and index.tolist() == list(range(count)):
        return model.generate(**inputs, **kwargs)
    _check(inputs, prompt_index)
    deltas = getattr(base.model, "rope_deltas", None)  # of positions on three axes
    try:
        alone = index.tolist() == list(range(count)) and (prefill_batch is None or count <= prefill_batch)
        if alone and (found is None or fault):
            return model.generate(**inputs, **kwargs)  # nothing to share
        if fault:
            raise Unshareable(fault)
        ours = kwargs.get("past_key_values") is None
        prefill = _Prefill(base, dict(inputs), index, prefill_batch, ours)
        with replaced(base, "_prefill", prefill), attention.switched(base):
            tokens = model.generate(**{key: inputs[key][index] for key in PER_ROW[:2]}, **kwargs)
        if not prefill.calls:  # these rows would have been read without their pictures
            raise RuntimeError(f"{type(model).__name__}.generate did not come to the model's own prefill")
        if found is not None and prefill.cache is not None:
            found["cache"] = prefill.cache
        return tokens
    except Unshareable as reason:
        _say_once(str(reason))
        return model.generate(**select(inputs, index.tolist(), base.config), **kwargs)
    finally:
        if hasattr(base.model, "rope_deltas"):
            base.model.rope_deltas = deltas


def _check(inputs: Mapping[str, Tensor], prompt_index: Tensor) -> None:
    if unknown := set(inputs) - {*PER_ROW, *media.NAMES}:
        raise ValueError(f"inputs: found {sorted(unknown)}, expected some of {(*PER_ROW, *media.NAMES)}")
    if missing := set(PER_ROW[:2]) - set(inputs):
        raise ValueError(f"inputs: {sorted(missing)} missing")
    count = len(inputs["input_ids"])
    if prompt_index.ndim != 1 or not len(prompt_index) or not 0 <= prompt_index.min() <= prompt_index.max() < count:
        raise ValueError(f"prompt_index: found {prompt_index.tolist()}, expected one of 0 to {count - 1} for each row")


def _base(model):
    """The transformers model inside a PEFT one. Raises: ValueError for prompt learning, which lengthens the prompt."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise ValueError(f"{model.active_peft_config.peft_type} is not supported; expected adapters such as LoRA")
    return model.get_base_model()


def unwrapped(model):
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


@lru_cache(maxsize=64)
def _say_ignored(said: str) -> None:
    logger.info("the checkpoint's generation_config.json says %s: not used; sampling is what the recipe says", said)


@lru_cache(maxsize=64)
def _say_once(reason: str) -> None:
    logger.warning("rollout: prompts are prefilled once for each row, not once for each prompt: %s", reason)


class _Prefill:
    """Stands for `base._prefill`: prefills unique prompts, and answers for the rows."""

    def __init__(self, base, inputs: dict[str, Tensor], index: Tensor, batch: int | None, ours: bool = True):
        """ours: nobody but `generate` sees the cache."""
        self.base, self.inputs, self.index, self.batch, self.ours = base, inputs, index, batch, ours
        self.plain = base._prefill
        self.calls = 0
        self.cache: Cache | None = None
        """Of the rows; for who goes on from it."""

    def __call__(self, input_ids: Tensor, generation_config, model_kwargs: dict, is_first_iteration: bool = True):
        target = model_kwargs.get("past_key_values")
        self.refuse(generation_config, target)
        self.calls += 1
        index = self.index.repeat_interleave(len(input_ids) // len(self.index))  # beams, or several sequences a row
        # All at once, as `generate` does: positions of a text-only prompt do not depend on what it is batched with
        positions = self.base._prepare_position_ids_for_generation(self.inputs["input_ids"], self.inputs)
        masked = model_kwargs.get("attention_mask") is not None
        logits, caches = [], []
        for rows in torch.arange(len(self.inputs["input_ids"])).split(self.batch or len(self.inputs["input_ids"])):
            chunk = select(self.inputs, rows.tolist(), self.base.config)
            chunk |= {"position_ids": positions[..., rows, :], "past_key_values": DynamicCache(), "use_cache": True}
            chunk["logits_to_keep"] = model_kwargs["logits_to_keep"]
            ids, mask = chunk.pop("input_ids"), chunk.pop("attention_mask")
            output = self.plain(ids, generation_config, {**chunk, "attention_mask": mask if masked else None})
            if output.past_key_values is None or output.past_key_values.get_seq_length() != ids.shape[1]:
                raise Unshareable("the model keeps no cache (gradient checkpointing turns it off)")
            logits.append(output.logits)
            caches.append(output.past_key_values)
        self.cache, returned = target, generation_config.return_dict_in_generate
        if self.ours and not returned and generation_config.get_generation_mode() in ROWS:
            model_kwargs |= fill(self.base, caches, target, index, self.inputs["attention_mask"])
        else:
            spread(caches, target, index)
        model_kwargs["position_ids"] = positions[..., index, :]
        return CausalLMOutputWithPast(logits=torch.cat(logits)[index], past_key_values=target)

    def refuse(self, generation_config: GenerationConfig, target: Cache | None) -> None:
        """Raises: Unshareable."""
        mode = generation_config.get_generation_mode()
        if target is None or target.get_seq_length():
            raise Unshareable("generation without a cache, or from one that is not empty")
        if mode not in MODES:
            raise Unshareable(f"generation mode {mode.value}")
        if generation_config.guidance_scale not in (None, 1):
            raise Unshareable("guidance_scale")
        if generation_config.prefill_chunk_size is not None:
            raise Unshareable("prefill_chunk_size")
        if generation_config.output_attentions or generation_config.output_hidden_states:
            raise Unshareable("attentions or hidden states of the prompt are asked for")


def fill(base, sources: Sequence[DynamicCache], target: Cache, index: Tensor, seen: Tensor) -> dict[str, Any]:
    """`spread` into a cache that nobody else sees: it is written in place, and a prompt is held once where that pays.

    seen: (U, P), 0 where a prompt is padded. Returns what the model's forward pass is then to be told.
    """
    keys, values = sources[0].layers[0].keys, sources[0].layers[0].values
    saved = (len(index) - len(seen)) * keys[0].numel()
    fits = cache.plain(target) and keys.shape == values.shape and saved >= cache.LEAST
    if fits and attention.obstacle_in_decoding(base) is None:
        cache.share(sources, target, index, seen)
    else:
        cache.grow(target)
        spread(sources, target, index)
    return cache.told(target)


def spread(sources: Sequence[DynamicCache], target: Cache, index: Tensor) -> None:
    """Fill the empty `target` with rows `index` of the sources' concatenation; the sources are emptied layer by layer.

    Through `update`, so that each kind of cache (static, sliding, offloaded, quantised) keeps what it would have kept.
    """
    for number in range(len(sources[0].layers)):
        layers = [source.layers[number] for source in sources]
        keys, values = torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers])
        for layer in layers:
            layer.reset()  # what is copied is freed, or every prompt would be held twice until the end
        target.update(keys[index], values[index], number)
