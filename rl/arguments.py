"""The hand-over of `rl.GRPOTrainer` to TRL's: the checkpoint's own processor, a ban on image tokens, safetensors only,
and the reference model of the policy's own commit, its head as the file has it.

A sampled image or video token has no image features, and the next forward pass stops on it; an id beyond the tokenizer
has no text. TRL bans the image token where transformers generates; here all are banned there, and vLLM gets the ban as
a logit bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trl
from transformers import AutoConfig
from trl.trainer import grpo_trainer

from vlm import families
from vlm.loading import at_hand, commit_of, load_processor, read_json, source, stored_limits
from vlm.pictures.engine import FORBIDDEN
from vlm.prefix.rollout import replaced, unsayable
from vlm.weights import check_files


def handed_over(model, reward_funcs, args: trl.GRPOConfig | None, processing_class) -> tuple[trl.GRPOConfig, Any]:
    """Arguments and processor for TRL's trainer; TRL's defaults, or the checkpoint's own, where they are None.

    The ban is in `args.generation_kwargs`, beside what the user put there. Raises: RecipeError for a checkpoint that
    is not in safetensors.
    """
    if args is None:
        args = trl.GRPOConfig(f"{name_of(model).split('/')[-1]}-GRPO")
    if processing_class is None:
        processing_class = default_processor(model, args)
    sighted(processing_class, model, args)
    safetensors_only(model, reward_funcs, args)
    ban(args, banned_tokens(model, args, processing_class))
    return args, processing_class


def name_of(model) -> str:
    """The folder or hub id of a model: itself, or where it was loaded from."""
    return model if isinstance(model, str) else model.config._name_or_path


def where(model, args: trl.GRPOConfig) -> dict[str, Any]:
    """Revision and trust for `from_pretrained`: what `args` say of a model that TRL loads itself, or a model's own."""
    by_name = isinstance(model, str)
    init = (args.model_init_kwargs or {}) if by_name else {}
    return {
        "revision": init.get("revision") if by_name else commit_of(model),
        "trust_remote_code": bool(init.get("trust_remote_code", args.trust_remote_code)),
    }


@contextmanager
def pinned(model) -> Iterator[None]:
    """Within, a model that was loaded from the hub is named by the folder of its commit in the hub's cache: by the
    name alone TRL 1.16 loads the reference model, and vLLM its own copy, and would take the branch main."""
    commit = None if isinstance(model, str) else commit_of(model)
    held = commit and at_hand(name_of(model), "config.json", commit)
    if not held:
        yield
        return
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    folder = str(held.parent)
    with replaced(base.config, "_name_or_path", folder), replaced(base, "name_or_path", folder):
        yield


@contextmanager
def heads_as_stored() -> Iterator[None]:
    """Within, the head of what TRL loads by name, the reference model above all, is the embedding or not as
    `Family.tied` says; by transformers' key alone, under ZeRO-3, an InternVL's reference would be another model."""
    stock = grpo_trainer.create_model_from_path

    def create(name: str, **options: Any):
        held = at_hand(name, "config.json", options.get("revision"))
        config = {} if held is None else read_json(held)
        tied = families.of(config).tied(config)
        return stock(name, **({} if tied is None else {"tie_word_embeddings": tied}), **options)

    with replaced(grpo_trainer, "create_model_from_path", create):
        yield


def safetensors_only(model, reward_funcs, args: trl.GRPOConfig) -> None:
    """No pickle for what TRL loads itself: a policy by name, its reference model, reward models by name.

    Raises: RecipeError naming the file.
    """
    by_name = isinstance(model, str)
    if by_name or (args.beta and not hasattr(model, "peft_config") and name_of(model)):
        check_files(*source(name_of(model), where(model, args)["revision"]), "model")
    listed = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    if by_name or any(isinstance(reward, str) for reward in listed):  # else TRL warns that it ignores them
        args.model_init_kwargs = {**(args.model_init_kwargs or {}), "use_safetensors": True}


def default_processor(model, args: trl.GRPOConfig):
    """The checkpoint's own, with its own pixel limits; AutoProcessor, which TRL takes, needs torchvision for it."""
    name, options = name_of(model), where(model, args)
    return load_processor(name, stored_limits(name, options["revision"]), **options)


def sighted(processor, model, args: trl.GRPOConfig) -> None:
    """Give a processor that `vlm.loading.load_processor` has not made what those have: `family` and `sight`."""
    if hasattr(processor, "image_processor") and not hasattr(processor, "sight"):
        config = config_of(model, args)
        family = processor.family = families.of(config)
        limits = family.limits(processor.image_processor) if family.units else (0, 0)
        processor.sight = family.sight(config.to_dict(), *limits)


def config_of(model, args: trl.GRPOConfig):
    """The config of a model, or of the checkpoint that it names."""
    return AutoConfig.from_pretrained(model, **where(model, args)) if isinstance(model, str) else model.config


def banned_tokens(model, args: trl.GRPOConfig, processor) -> list[int]:
    """`unsayable` ids of a model, or of the checkpoint that it names. processor: with a tokenizer, or that itself."""
    return unsayable(config_of(model, args), getattr(processor, "tokenizer", processor))


def ban(args: trl.GRPOConfig, tokens: list[int]) -> None:
    """Add the ban to `args.generation_kwargs`, keeping what the user put there."""
    kwargs = dict(args.generation_kwargs or {})
    if args.use_vllm:
        bias = {int(token): value for token, value in (kwargs.get("logit_bias") or {}).items()}
        kwargs["logit_bias"] = {**bias, **dict.fromkeys(tokens, FORBIDDEN)}
    else:
        kwargs["suppress_tokens"] = sorted({*(kwargs.get("suppress_tokens") or ()), *tokens})
    args.generation_kwargs = kwargs
