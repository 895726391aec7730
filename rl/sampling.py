"""What a GRPO recipe may ask of sampling beside TRL's own keys, and what of it is probably not meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlm.common.console import say
from vlm.common.errors import RecipeError
from vlm.shapes import sight_of

ELSEWHERE = {
    **{key: key for key in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    **dict.fromkeys(("max_tokens", "max_new_tokens", "max_length"), "max_completion_length"),
    **dict.fromkeys(("n", "num_return_sequences"), "num_generations"),
}
"""Key of `generation_kwargs`, which goes over TRL's value unseen by the loss → the key of `training:` that both see."""
NEVER = {
    "seed": "each request would begin with it, so that the completions of a group are all alike; `seed` of the recipe "
    "says it",
    "do_sample": "a group needs completions that differ",
    **dict.fromkeys(
        ("logprobs", "flat_logprobs", "logprob_token_ids"),
        "TRL takes the first log-probability of each token for that of the sampled one",
    ),
}
"""Key of `generation_kwargs` → why it may not be there."""
ENDING = ("stop", "stop_token_ids", "stop_strings", "eos_token_id")
"""Keys of `generation_kwargs` that end a completion elsewhere than at the tokens that TRL counts as its end."""
OFF = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "vllm_structured_outputs_regex": None}
"""What changes the distribution that is sampled from → the value at which it does not. (None is off, too.)"""
CHANGING = ("logit_bias", "allowed_token_ids", "bad_words", "presence_penalty", "frequency_penalty", "min_tokens",
            "structured_outputs")  # fmt: skip
"""The same among vLLM's `generation_kwargs`."""


def check(recipe: Any) -> None:
    """Raises: RecipeError for what would be wrong without a word."""
    asked = recipe.argument
    told = asked("generation_kwargs") or {}
    for key, value in told.items():
        if key in ELSEWHERE:
            raise RecipeError(
                f"training.generation_kwargs: {key} = {value}; write training.{ELSEWHERE[key]}, which the loss knows, "
                "and leave it out here"
            )
        if key in NEVER:
            raise RecipeError(f"training.generation_kwargs: {key} = {value}: {NEVER[key]}; leave it out")
    for token in told.get("logit_bias") or {}:
        if not str(token).isdecimal():
            raise RecipeError(f"training.generation_kwargs: logit_bias: found {token!r}, expected the id of a token")
    if asked("mask_truncated_completions") and (ends := [key for key in ENDING if key in told]):
        raise RecipeError(
            f"training.mask_truncated_completions with generation_kwargs: {ends[0]}: what ends there has no "
            "end-of-text token, counts as cut, and would be masked; leave one of them out"
        )
    length, longest = asked("vllm_max_model_length"), asked("max_completion_length")
    if asked("use_vllm") and asked("vllm_mode") == "colocate" and length is not None and length <= longest:
        raise RecipeError(
            f"training.vllm_max_model_length = {length}: nothing of it is left for a prompt beside the {longest} "
            "tokens of training.max_completion_length; write their sum and the longest prompt's, or leave it out"
        )


def check_room(recipe: Any, prompt_tokens: int, pictures: int) -> None:
    """Says so where the engine's context may be too short, for a run would end at the first such prompt.

    prompt_tokens: of the longest prompt's text. pictures: the most that a row has.

    Raises: RecipeError where it is too short for the text alone.
    """
    length = recipe.argument("vllm_max_model_length")
    if not recipe.argument("use_vllm") or recipe.argument("vllm_mode") != "colocate" or length is None:
        return
    least = prompt_tokens + recipe.argument("max_completion_length")
    most = least + pictures * sight_of(recipe).among(pictures).bounds()[1]
    told = f"training.vllm_max_model_length = {length}: the longest prompt's text and a completion have {least} tokens"
    if least > length:
        raise RecipeError(f"{told}; write {most}, which its pictures may need, or leave it out")
    if most > length:
        say(f"note: {told}, with pictures at most {most}; a prompt that leaves no room for a completion ends the run")


def check_split(recipe: Any, processes: int) -> None:
    """Raises: RecipeError where engines of several GPUs do not come out even on this many processes."""
    split = recipe.argument("vllm_tensor_parallel_size")
    if recipe.argument("use_vllm") and recipe.argument("vllm_mode") == "colocate" and processes % split:
        raise RecipeError(
            f"training.vllm_tensor_parallel_size = {split} on {processes} processes; expected a divisor of them: an "
            "engine is shared by as many processes as it has GPUs"
        )


def doubts(recipe: Any) -> Iterator[str]:
    """What can run and is probably not meant, a line each."""
    asked = recipe.argument
    told = asked("generation_kwargs") or {}
    if ends := [key for key in ENDING if key in told]:
        yield (
            f"training.generation_kwargs: {ends[0]}: a completion that ends there counts as cut in "
            "completions/clipped_ratio, for it has no end-of-text token"
        )
    if not asked("use_vllm"):
        if idle := sorted(key for key in recipe.training if key.startswith("vllm_")):
            yield f"training.{', '.join(idle)} without use_vllm: true has no effect; transformers generates"
        return
    changing = [f"{key} = {asked(key)}" for key, off in OFF.items() if asked(key) not in (None, off)]
    changing += [f"generation_kwargs: {key}" for key in CHANGING if key in told]
    if changing and asked("vllm_importance_sampling_correction"):
        yield (
            f"training.{', '.join(changing)}: vLLM's log-probabilities are of what is left to sample from, the "
            "trainer's of the whole vocabulary, so TRL's importance correction takes the choice for a difference of "
            "engines and weighs long completions by almost nothing (sampling/importance_sampling_ratio/mean); leave "
            "it out, or write vllm_importance_sampling_correction: false"
        )
