"""Questions → completions: a model through transformers, through vLLM, or behind an address (`evals.served`). Loaded
once for all benchmarks of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evals.conversation import conversation
from evals.recipe import EvalRecipe, GenerationSection
from evals.served import Served
from samples import Sample
from stage.guards.halving import in_batches
from stage.parallel.journal import fingerprint
from stage.parallel.team import device
from vlm import inventory
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.loading import load_model, load_processor, raw_config
from vlm.pictures.resizing import limits_of
from vlm.sections import ModelSection, PromptSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin
    from vllm import LLM

Pairs = Iterator[tuple[Sample, str]]


def complete(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    prompt: PromptSection,
    how: GenerationSection,
    seed: int = 0,
    halved: Callable[[int], None] | None = None,
) -> Pairs:
    """(sample, completion) in order, by any Qwen2-VL or Qwen2.5-VL.

    Image and video tokens and padded ids are never generated; the text has no special tokens.
    Prompts of a batch are padded on the left, so a completion does not depend on its neighbours beyond rounding. A
    sample that stands several times in a batch, as in best-of-N, is prepared and prefilled once. How tokens are chosen
    is what `how` says; the checkpoint's generation config gives the tokens that end a text, no more.

    seed: of sampling. What is drawn depends on it, on the sample's name and on how often the sample came before among
    `samples`, not on the batch (`evals.draws`). how: with a number as batch_size. halved: as `in_batches` takes it.
    """
    import torch

    from evals.draws import drawing
    from vlm.rollout import first_places, generate, neutral, row_numbers, unsayable

    banned = unsayable(model.config, processor.tokenizer)

    def answers(rows: Sequence[tuple[Sample, list[int]]]) -> list[str]:
        batch = [sample for sample, _ in rows]
        index = row_numbers([id(sample) for sample in batch])
        asked = [batch[row] for row in first_places(index)]
        inputs = processor.apply_chat_template(
            [conversation(sample, prompt, limits_of(processor)) for sample in asked],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device)
        own = drawing(model, [seeds for _, seeds in rows], how.max_new_tokens) if how.temperature > 0 else nullcontext()
        with torch.inference_mode(), neutral(model), own:
            tokens = generate(model, inputs, torch.tensor(index), suppress_tokens=banned, **how.of_transformers())
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return processor.tokenizer.batch_decode(new, skip_special_tokens=True)

    assert how.batch_size != "auto"
    rows = list(zip(samples, row_seeds(samples, seed), strict=True))
    for (sample, _), text in in_batches(rows, how.batch_size, answers, "the answers (generation.batch_size)", halved):
        yield sample, text


def row_seeds(samples: Sequence[Sample], seed: int) -> Iterator[list[int]]:
    """Of each row: by seed, name of the sample, and how many rows of that name came before."""
    before: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        name = (sample.source, sample.id)
        yield [int(fingerprint(seed, *name), 16), before[name]]
        before[name] += 1


class Transformers:
    """`complete` with the model of the recipe it was made for."""

    def __init__(self, recipe: EvalRecipe):
        """Reads the processor; the weights follow with the first question."""
        section = recipe.model
        self.section = section
        self.processor = load_processor(section.path, recipe.images, section.revision, section.trust_remote_code)

    def answer(
        self, recipe: EvalRecipe, samples: Sequence[Sample], halved: Callable[[int], None] | None = None
    ) -> Pairs:
        return complete(
            self.model, self.processor, samples, recipe.prompt, recipe.generation, recipe.seed, halved=halved
        )

    @property
    def loaded(self) -> bool:
        """Whether the weights are on the device."""
        return "model" in vars(self)

    @cached_property
    def model(self) -> PreTrainedModel:
        return load_model(self.section, device()).eval()


class VLLM:
    """vLLM, which splits a model and its questions over GPUs itself; one process. It does not run out of memory by the
    number of questions, so no batch is halved."""

    loaded = False

    def __init__(self, recipe: EvalRecipe):
        """Raises: RecipeError as `check`, and where vLLM cannot be imported."""
        check(recipe)
        try:
            import vllm
        except ImportError as error:
            raise RecipeError(
                f"generation.backend vllm: vLLM cannot be imported ({error}); pip install -e '.[vllm]', or write "
                "generation.backend=hf"
            ) from error
        self.vllm = vllm
        section = recipe.model
        self.section = section
        self.processor = load_processor(section.path, recipe.images, section.revision, section.trust_remote_code)
        self._engine: LLM | None = None

    def answer(
        self, recipe: EvalRecipe, samples: Sequence[Sample], halved: Callable[[int], None] | None = None
    ) -> Pairs:
        """In batches of `generation.batch_size`, each of which vLLM schedules as it likes: make them large."""
        from vlm.rollout import padded

        how, llm = recipe.generation, self._loaded(recipe, samples)
        # -100 is the lowest bias that vLLM takes; the image and video tokens would break the next turn's pictures, and
        # ids beyond the tokenizer have no text
        banned = {self.processor.image_token_id: -100.0, self.processor.video_token_id: -100.0}
        size = inventory.read(raw_config(self.section.path, self.section.revision), self.section.path).vocabulary
        banned |= dict.fromkeys(padded(size, self.processor.tokenizer), -100.0)
        sampling = self.vllm.SamplingParams(
            **how.of_vllm(),
            seed=recipe.seed,
            logit_bias=banned,
            skip_special_tokens=True,
        )
        assert how.batch_size != "auto"
        for start in range(0, len(samples), how.batch_size):
            batch = samples[start : start + how.batch_size]
            said = llm.generate([self.request(sample, recipe) for sample in batch], sampling, use_tqdm=False)
            yield from ((sample, one.outputs[0].text) for sample, one in zip(batch, said, strict=True))

    def request(self, sample: Sample, recipe: EvalRecipe) -> dict[str, Any]:
        """One prompt as vLLM takes it: the chat template's text with one placeholder a picture, and the pictures."""
        turns = conversation(sample, recipe.prompt, limits_of(self.processor))
        pictures = [part["image"] for turn in turns for part in turn["content"] if part["type"] == "image"]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return {"prompt": text, "multi_modal_data": {"image": pictures}} if pictures else {"prompt": text}

    def _loaded(self, recipe: EvalRecipe, samples: Sequence[Sample]) -> LLM:
        if self._engine is None:
            self._engine = self.vllm.LLM(**engine_arguments(self.section, recipe, samples))
        return self._engine


def engine_arguments(section: ModelSection, recipe: EvalRecipe, samples: Sequence[Sample]) -> dict[str, Any]:
    """What `vllm.LLM` is made with, by the recipe's keys."""
    return {
        "model": section.path,
        "revision": section.revision,
        "dtype": section.dtype,
        "trust_remote_code": section.trust_remote_code,
        "seed": recipe.seed,
        "tensor_parallel_size": recipe.generation.tensor_parallel,
        "generation_config": "vllm",  # not the checkpoint's: sampling is the recipe's; its eos ids still end a text
        "limit_mm_per_prompt": {"image": max(1, *(len(sample.images) for sample in samples)), "video": 0},
        "mm_processor_kwargs": {"min_pixels": recipe.images.min_pixels, "max_pixels": recipe.images.max_pixels},
    }


def check(recipe: EvalRecipe) -> None:
    """Raises: RecipeError where the backend cannot run as it was launched; before processes wait for each other."""
    more = {"vllm": "generation.tensor_parallel to the number of GPUs", "endpoint": "endpoint.concurrency"}
    if recipe.generation.backend in more and processes() > 1:
        raise RecipeError(
            f"generation.backend {recipe.generation.backend} is one process, and {processes()} were launched; start it "
            f"with `python` and set {more[recipe.generation.backend]}"
        )


Answerer = Transformers | VLLM | Served
BACKENDS: dict[str, Callable[[EvalRecipe], Answerer]] = {"hf": Transformers, "vllm": VLLM, "endpoint": Served}


def answerer(recipe: EvalRecipe) -> Answerer:
    """Who answers this recipe's questions. Raises: RecipeError for a model or backend that is not available."""
    return BACKENDS[recipe.generation.backend](recipe)
