"""Questions → completions: a model through transformers, through vLLM, or behind an address (`evals.served`). Loaded
once for all benchmarks of a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evals.answering import Answering, Row, row_seed, seed_of
from evals.conversation import conversation
from evals.served import Served
from samples import Sample
from stage.guards.halving import in_batches
from stage.parallel.team import device
from stage.recipe.asking import AskingRecipe, GenerationSection
from vlm import engine, families
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.loading import load_model, load_processor, source
from vlm.pictures.resizing import shown
from vlm.sections import ModelSection, PromptSection

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin
    from vllm import LLM, SamplingParams


def complete(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    prompt: PromptSection,
    how: GenerationSection,
    seed: int = 0,
    halved: Callable[[int], None] | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[Sample, str]]:
    """(sample, completion) in order, by any vision-language model.

    Image and video tokens and padded ids are never generated; the text has no special tokens.
    Prompts of a batch are padded on the left, so a completion does not depend on its neighbours beyond rounding. A
    sample that stands several times in a batch, as in best-of-N, is prepared and prefilled once. How tokens are chosen
    is what `how` says; the checkpoint's generation config gives the tokens that end a text, no more.

    seed: of sampling. What is drawn depends on it, on the sample's name and on the number of the draw, not on the batch
    (`evals.draws`). numbers: of the draws; None: how often the sample came before among `samples`. how: with a number
    as batch_size. halved: as `in_batches` takes it.
    """
    import torch

    from evals.draws import drawing
    from vlm.rollout import first_places, generate, neutral, row_numbers, unsayable

    banned, family = unsayable(model.config, processor.tokenizer), families.of(model.config)

    def answers(rows: Sequence[tuple[Sample, list[int]]]) -> list[str]:
        batch = [sample for sample, _ in rows]
        index = row_numbers([id(sample) for sample in batch] if family.unshared is None else range(len(batch)))
        asked = [batch[row] for row in first_places(index)]
        inputs = processor.apply_chat_template(
            [conversation(sample, prompt, processor.sight) for sample in asked],
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
    numbered = zip(samples, times_before(samples) if numbers is None else numbers, strict=True)
    rows = [(sample, row_seed(seed, sample, number)) for sample, number in numbered]
    for (sample, _), text in in_batches(rows, how.batch_size, answers, "the answers (generation.batch_size)", halved):
        yield sample, text


def times_before(samples: Sequence[Sample]) -> Iterator[int]:
    """Of each row: how many rows of the sample's name came before."""
    before: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        yield before[sample.source, sample.id]
        before[sample.source, sample.id] += 1


class Transformers(Answering):
    """`complete` with the model of the recipe it was made for."""

    def __init__(self, recipe: AskingRecipe):
        """Reads the processor; the weights follow with the first question."""
        section = recipe.model
        self.section = section
        self.processor = load_processor(section.path, recipe.images, section.revision, section.trust_remote_code)

    def draw(
        self, recipe: AskingRecipe, rows: Sequence[Row], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Row, str]]:
        samples, numbers = [sample for sample, _ in rows], [number for _, number in rows]
        how = recipe.generation
        texts = complete(self.model, self.processor, samples, recipe.prompt, how, recipe.seed, halved, numbers)
        return ((row, text) for row, (_, text) in zip(rows, texts, strict=True))

    @property
    def loaded(self) -> bool:
        return "model" in vars(self)

    @cached_property
    def model(self) -> PreTrainedModel:
        return load_model(self.section, device()).eval()


class VLLM(Answering):
    """vLLM, which splits a model and its questions over GPUs itself; one process. It does not run out of memory by the
    number of questions, so no batch is halved. Each row is sampled by a seed of its own."""

    def __init__(self, recipe: AskingRecipe):
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
        engine.check_family(self.processor.family, "generation.backend=hf")
        self._engine: LLM | None = None

    def draw(
        self, recipe: AskingRecipe, rows: Sequence[Row], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Row, str]]:
        """In batches of `generation.batch_size`, each of which vLLM schedules as it likes: make them large."""
        from transformers import AutoConfig

        from vlm.rollout import unsayable

        how, llm = recipe.generation, self._loaded(recipe)
        # the image and video tokens would break the next turn's pictures, and ids beyond the tokenizer have no text
        name, where = source(self.section.path, self.section.revision)
        config = AutoConfig.from_pretrained(name, **where)
        banned = dict.fromkeys(unsayable(config, self.processor.tokenizer), engine.FORBIDDEN)

        def sampling(sample: Sample, number: int) -> SamplingParams:
            seed = None if how.temperature == 0 else seed_of(recipe.seed, sample, number)
            return self.vllm.SamplingParams(**how.of_vllm(), seed=seed, logit_bias=banned, skip_special_tokens=True)

        assert how.batch_size != "auto"
        for start in range(0, len(rows), how.batch_size):
            batch = rows[start : start + how.batch_size]
            asked = {id(sample): self.request(sample, recipe) for sample in {id(one): one for one, _ in batch}.values()}
            requests, meant = zip(*(asked[id(sample)] for sample, _ in batch), strict=True)
            named = zip((f"question {sample.source}/{sample.id}" for sample, _ in batch), meant, strict=True)
            engine.check_room(named, llm.model_config.max_model_len, 1, "Leave it out")
            said = llm.generate(list(requests), [sampling(*row) for row in batch], use_tqdm=False)
            engine.check_prompts(meant, [one.prompt_token_ids for one in said], self.processor.tokenizer)
            cut = [one.outputs[0] for one in said if one.outputs[0].finish_reason == "length"]
            if short := sum(len(one.token_ids) < how.max_new_tokens for one in cut):
                logger.warning(
                    "%d of %d answers were cut at the end of the model's context, before max_new_tokens",
                    short,
                    len(batch),
                )
            yield from ((row, one.outputs[0].text) for row, one in zip(batch, said, strict=True))

    def request(self, sample: Sample, recipe: AskingRecipe) -> tuple[dict[str, Any], list[int]]:
        """One prompt as vLLM takes it, with one placeholder a picture, and the ids that it is to make of it."""
        processor = self.processor
        turns = conversation(
            sample, recipe.prompt, processor.sight, lambda image, sight: engine.as_seen(shown(image, sight), processor)
        )
        pictures = [part["image"] for turn in turns for part in turn["content"] if part["type"] == "image"]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids, token = engine.ids_of(text, processor.tokenizer), processor.image_token_id
        ids = engine.one_placeholder(ids, token, len(pictures))  # as it is, or there is a fault
        asked: dict[str, Any] = {"prompt_token_ids": ids}
        if pictures:
            asked["multi_modal_data"] = {"image": pictures}
        return asked, engine.written_out(ids, token, pictures, processor.sight, engine.frame_of(processor))

    def _loaded(self, recipe: AskingRecipe) -> LLM:
        if self._engine is None:
            self._engine = self.vllm.LLM(**engine_arguments(self.section, recipe, self.processor))
        return self._engine


def engine_arguments(section: ModelSection, recipe: AskingRecipe, processor: ProcessorMixin) -> dict[str, Any]:
    """What `vllm.LLM` is made with, by the recipe's keys."""
    return engine.arguments(processor) | {
        "model": section.path,
        "revision": section.revision,
        "dtype": section.dtype,
        "trust_remote_code": section.trust_remote_code,
        "seed": recipe.seed,
        "tensor_parallel_size": recipe.generation.tensor_parallel,
    }


def check(recipe: AskingRecipe) -> None:
    """Raises: RecipeError where the backend cannot run as it was launched; before processes wait for each other."""
    more = {"vllm": "generation.tensor_parallel to the number of GPUs", "endpoint": "endpoint.concurrency"}
    if recipe.generation.backend in more and processes() > 1:
        raise RecipeError(
            f"generation.backend {recipe.generation.backend} is one process, and {processes()} were launched; start it "
            f"with `python` and set {more[recipe.generation.backend]}"
        )


BACKENDS: dict[str, Callable[[AskingRecipe], Answering]] = {"hf": Transformers, "vllm": VLLM, "endpoint": Served}


def answerer(recipe: AskingRecipe) -> Answering:
    """Who answers this recipe's questions. Raises: RecipeError for a model or backend that is not available."""
    return BACKENDS[recipe.generation.backend](recipe)
