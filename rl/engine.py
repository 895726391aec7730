"""GRPO's rollouts by vLLM: the prompt that the trainer means, and by how much the two sides' log-probabilities differ.

TRL 1.16 hands vLLM ids in which the processor has written out a picture's placeholders, which the engine does once
more; it leaves pixel limits and precision to the checkpoint, and drops the prompt ids that the engine reports.
"""

from __future__ import annotations

import inspect
import json
import operator
from contextlib import AbstractContextManager
from typing import Any

import torch
import trl
from accelerate.utils import broadcast_object_list, is_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from pydantic import ValidationError
from trl.generation import vllm_generation

from vlm import families
from vlm.common.console import say
from vlm.common.errors import RecipeError, UserError
from vlm.pictures.engine import arguments, as_seen, check_family, check_prompts, check_room, frame_of, one_placeholder
from vlm.prefix.rollout import replaced

LOGPROBS = "processed_logprobs"
"""vLLM's log-probabilities as it samples: at the temperature, without banned tokens."""
MIXED = {"bf16": "bfloat16", "fp16": "float16"}


class Engine(vllm_generation.VLLMGeneration):
    """Overridden: `_init_vllm` (arguments of the engine, or of a server's command; tokens that end a text; keywords
    that it does not know), `sync_weights` (pictures are encoded anew), `_iter_named_params` (the base's weights stay
    as they are), `generate` (what it is told, and what it read), `_place_features` (a server's pictures have the tokens
    that the trainer's have). Sleep mode, the weights' way to the engine and server mode are TRL's.
    """

    def _init_vllm(self):
        check_family(self.processing_class.family, "use_vllm: false", server=self.mode == "server")
        ends = {*self._ends(), *(self.generation_kwargs.get("stop_token_ids") or ())}
        self.generation_kwargs = {**self.generation_kwargs, "stop_token_ids": sorted(ends)}
        if not hasattr(vllm_generation, "LLM"):  # TRL says that vLLM is missing
            return super()._init_vllm()
        self._check_sampling()
        dtype = MIXED.get(self.accelerator.mixed_precision) or str(self.model.dtype).removeprefix("torch.")
        if self.mode == "server":
            super()._init_vllm()
            # the others have no client
            known = broadcast_object_list([self._check_server(dtype) if self.accelerator.is_main_process else None])
            self._room = known[0]
            return None
        # The engine seeds this whole process anew, and TRL gives it no more than its number among the engines. A moment
        # ago TRL has seeded with the run's seed and the process's number.
        seed, llm = torch.initial_seed() - self.accelerator.process_index, vllm_generation.LLM

        def made(**given):
            told = {"dtype": dtype, "seed": seed + given.pop("seed"), **arguments(self.processing_class)}
            try:
                return llm(**given, **told)
            except ValidationError as error:
                reasons = "; ".join(one["msg"] for one in error.errors())
                raise RecipeError(f"training: vLLM refuses its settings (vllm_…): {reasons}") from error

        with replaced(vllm_generation, "LLM", made):
            return super()._init_vllm()

    def _check_sampling(self) -> None:
        """Raises: RecipeError for what vLLM would refuse with the first prompt."""
        from vllm.exceptions import VLLMClientError

        stated = {key: getattr(self, key) for key in ("temperature", "top_p", "top_k", "repetition_penalty")}
        stated |= {"min_p": self.min_p or 0.0, "max_tokens": self.max_completion_length}
        try:
            vllm_generation.SamplingParams(**stated | self.generation_kwargs)
        except (TypeError, ValueError, VLLMClientError) as error:
            raise RecipeError(
                f"training, generation_kwargs: {error}; with use_vllm they are those of vllm.SamplingParams"
            ) from error
        size, bias = self.model.config.get_text_config().vocab_size, self.generation_kwargs.get("logit_bias") or {}
        if beyond := [token for token in bias if not 0 <= token < size]:
            raise RecipeError(
                f"training.generation_kwargs: logit_bias of token {beyond[0]}; the model has the tokens 0 to {size - 1}"
            )

    def _check_server(self, dtype: str) -> int:
        """What a colocated engine is told at its start, and a server by its command. Returns the tokens that it has
        room for. Raises: UserError."""
        client, limits = self.vllm_client, arguments(self.processing_class)["mm_processor_kwargs"]
        config = client.get_server_info()["model_config"]
        if wrong := unlike(config, dtype, limits, self.max_model_length):
            raise UserError(
                f"vLLM's server at {client.base_url} would roll out otherwise than the recipe says: it has "
                f"{', '.join(wrong.values())}. Start it with {' '.join(wrong)}"
            )
        picture = as_seen(Image.new("RGB", (56, 56)), self.processing_class)
        client.image_features([[picture]])  # TRL names the flag of a server that takes none
        if config["model"] != self.model.name_or_path:
            say(
                f"note: vLLM's server at {client.base_url} was started with {config['model']}, and the policy is "
                f"{self.model.name_or_path}, whose weights it gets; its config.json has to be the same"
            )
        return config["max_model_len"]

    def _ends(self) -> list[int]:
        """Ids at which a completion ends, as TRL counts them: the tokenizer's, and those of the generation config."""
        stated = self.model.generation_config.eos_token_id
        stated = [stated] if isinstance(stated, int) else stated or []
        return sorted({self._tokenizer.eos_token_id, *stated})

    @property
    def _tokenizer(self):
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    def sync_weights(self):
        """TRL's; and vLLM forgets the pictures that it encoded with the weights before, as it does its prefixes. It
        keeps them across requests, so a picture of an earlier epoch would be seen as the first weights saw it."""
        super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            self.vllm_client.session.post(f"{self.vllm_client.base_url}/reset_encoder_cache").raise_for_status()

    def _iter_named_params(self):
        """TRL's pairs of name and weight as vLLM's model takes them, with adapters merged into copies."""
        family = families.of(self.model.config)
        for name, weight in self._merged_params():
            yield family.sent(name, weight)

    def _merged_params(self):
        """TRL adds adapters to the base's weights and
        takes them off again, which in bfloat16 leaves what was rounded: with every step the frozen weights drift away
        from those that the adapter is saved for. Under FSDP they are whole only where TRL gathers them, after it
        merged them; each process then puts back its part.
        """
        if not is_peft_model(self.model):
            yield from super()._iter_named_params()
            return
        layers = {
            f"{self._fix_param_name_to_vllm(name.removeprefix('base_model.model.'))}.weight": layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, LoraLayer)
        }
        if self._dist.is_fsdp:
            weights = [layer.get_base_layer().weight.data for layer in layers.values()]
            before = [weight.clone() for weight in weights]
            yield from super()._iter_named_params()
            for weight, was in zip(weights, before, strict=True):
                weight.copy_(was)
            return
        with replaced(self.model, "merge_adapter", lambda: None), replaced(self.model, "unmerge_adapter", lambda: None):
            for name, weight in super()._iter_named_params():
                yield name, merged(layers[name]) if name in layers else weight

    def generate(self, prompts, images, num_generations, profiler=None):
        if images is not None:
            each = {id(image): image for row in images for image in row or ()}  # one for all completions of a group
            seen = {key: as_seen(image, self.processing_class) for key, image in each.items()}
            images = [row and [seen[id(image)] for image in row] for row in images]
        token, frame = self.processing_class.image_token_id, frame_of(self.processing_class)
        rows = images or [None] * len(prompts)
        told = [one_placeholder(ids, token, len(row or ()), frame) for ids, row in zip(prompts, rows, strict=True)]
        if self.mode == "server":  # it is told the ids as they are, and where its pictures' features belong
            length, told, key = self._room, prompts, "--max-model-len of the server"
        else:
            length, key = self.llm.llm_engine.model_config.max_model_len, "training.vllm_max_model_length"
        named = ((f"row {row} of a batch", ids) for row, ids in enumerate(prompts))
        check_room(named, length, self.max_completion_length, f"Raise {key}")
        read, *found = super().generate(told, images, num_generations, profiler)
        check_prompts(prompts, read, self._tokenizer)
        return prompts, *found

    def _place_features(self, features, prompt_ids):
        placed = super()._place_features(features, prompt_ids)
        if placed is None:
            return None
        lengths = [[place["length"] for place in each["mm_placeholders"]["image"]] for each in (placed, features)]
        if lengths[0] != lengths[1]:
            raise UserError(
                f"vLLM's server makes {lengths[1]} tokens of a prompt's pictures, and the trainer {lengths[0]}: it has "
                f"other pixel limits. Start it with {pixels(arguments(self.processing_class)['mm_processor_kwargs'])}"
            )
        return placed


def merged(layer: LoraLayer) -> torch.Tensor:
    """The weight of a layer with its adapter, as PEFT merges it into a copy; the layer keeps its own."""
    weight = layer.get_base_layer().weight
    before = weight.data
    weight.data = before.clone()  # PEFT's `safe_merge` copies, too, and rounds twice
    try:
        layer.merge()
        return weight.data
    finally:
        weight.data = before
        layer.merged_adapters.clear()


def unlike(config: dict[str, Any], dtype: str, limits: dict[str, Any], length: int | None) -> dict[str, str]:
    """{argument of `vllm serve`: what the server has instead}, of a server's `model_config`.

    limits: `Family.as_it_is`; length: tokens that it must have room for.
    """
    found = (config["multimodal_config"] or {}).get("mm_processor_kwargs") or {}
    sampling = config["override_generation_config"] or config["generation_config"]
    has, kind, room = config["dtype"].removeprefix("torch."), config["logprobs_mode"], config["max_model_len"]
    asked = (
        (f"--dtype {dtype}", "dtype", has, has == dtype),
        (f"--logprobs-mode {LOGPROBS}", "logprobs_mode", kind, kind == LOGPROBS),
        ("--generation-config vllm", "generation_config", sampling, sampling == "vllm"),
        (f"--max-model-len {length}", "max_model_len", room, room >= (length or 0)),
        (pixels(limits), "mm_processor_kwargs", found, all(suits(found, *limit) for limit in limits.items())),
    )
    return {flag: f"{name} {value}" for flag, name, value, right in asked if not right}


def suits(found: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a server's keywords leave pictures as they are, as far as this one goes; pixel limits may be wider."""
    if name not in found:
        return False
    return {"min_pixels": operator.le, "max_pixels": operator.ge}.get(name, operator.eq)(found[name], value)


def pixels(limits: dict[str, Any]) -> str:
    """Pixel limits as an argument of `vllm serve`."""
    return f"--mm-processor-kwargs '{json.dumps(limits)}'"


def engine() -> AbstractContextManager[None]:
    """Within, TRL's trainer makes an `Engine` where `use_vllm` asks for one."""
    return replaced(inspect.getmodule(trl.GRPOTrainer), "VLLMGeneration", Engine)


class Sampler:
    """Logs `vllm/logp_gap/…`: the mean distance of a completion token's log-probability in vLLM from the trainer's, in
    nats, over rows with and without pictures, of all processes. TRL has both where it corrects for the difference
    (`vllm_importance_sampling_correction`).

    Overridden: `_generate_and_score_completions`.
    """

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.use_vllm and self.vllm_importance_sampling_correction:
            mask = output["completion_mask"] * output.get("tool_mask", 1)
            gaps = gap(output["old_per_token_logps"], output["sampling_per_token_logps"], mask)
            shown = torch.tensor(
                [count > 0 for count in output.get("num_images") or [0] * len(gaps)], device=gaps.device
            )
            self._note_gaps(gaps, shown)
        return output

    def _note_gaps(self, gaps: torch.Tensor, shown: torch.Tensor) -> None:
        sums = torch.stack([gaps[shown].sum(0), gaps[~shown].sum(0)])  # (2 kinds, distance and tokens)
        sums = self.accelerator.gather(sums[None]).sum(0)
        mode = "train" if self.model.training else "eval"
        for kind, (distance, tokens) in zip(("images", "text"), sums.tolist(), strict=True):
            if tokens:
                self._metrics[mode][f"vllm/logp_gap/{kind}"].append(distance / tokens)


def gap(trainer: torch.Tensor, engine: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, 2): sum of |difference| over a row's tokens, and how many these are. All are (B, T); a token of which vLLM
    has none (NaN) does not count."""
    counted = mask.bool() & ~torch.isnan(engine)
    distance = torch.where(counted, (trainer - engine).abs(), 0.0)
    return torch.stack([distance.sum(1), counted.sum(1).to(distance.dtype)], 1)
