"""Questions → completions: a model through transformers, through vLLM, or behind an address (`evals.asking.served`).
Loaded once for all benchmarks of a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.asking.answering import Answering, Row, row_seed, seed_of
from evals.asking.served import Served
from evals.asking.turns import Said, Talk, Talks, converse
from samples import Sample
from stage.guards.halving import in_batches
from stage.parallel.team import device
from stage.recipe.asking import AskingRecipe, GenerationSection
from vlm import families
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.loading import load_model, load_processor, source
from vlm.pictures import engine
from vlm.pictures.resizing import shown
from vlm.sections import ModelSection, PromptSection
from vlm.shapes import read_config

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel, ProcessorMixin
    from vllm import LLM, SamplingParams

    from vlm.prefix.continued import Added, Session
    from vlm.tools.rendered import Renderer


def complete(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    prompt: PromptSection,
    how: GenerationSection,
    seed: int = 0,
    halved: Callable[[int], None] | None = None,
    numbers: Sequence[int] | None = None,
    talks: Talks | None = None,
) -> Iterator[tuple[Sample, str]]:
    """(sample, completion) in order, by any vision-language model.

    Image and video tokens and padded ids are never generated; the text has no special tokens.
    Prompts of a batch are padded on the left, so a completion does not depend on its neighbours beyond rounding. A
    sample that stands several times in a batch, as in best-of-N, is prepared and prefilled once. How tokens are chosen
    is what `how` says; the checkpoint's generation config gives the tokens that end a text, no more.

    seed: of sampling. What is drawn depends on it, on the sample's name, on the number of the draw and on the turn, not
    on the batch (`evals.asking.draws`). numbers: of the draws; None: how often the sample came before among `samples`.
    how: with a number as batch_size. halved: as `in_batches` takes it. talks: conversations with tools; None: `prompt`,
    and an answer.
    """
    from vlm.tools.rendered import Renderer

    talks = talks or Talks(prompt, how.max_new_tokens, processor.sight)
    renderer = Renderer(processor) if talks.toolbox is not None else None

    def answers(rows: Sequence[Row]) -> list[str]:
        batch = [talks.begun(row) for row in rows]
        converse(batch, Speaking(model, processor, renderer, batch, how, seed))
        return [talk.answer for talk in batch]

    assert how.batch_size != "auto"
    rows = list(zip(samples, times_before(samples) if numbers is None else numbers, strict=True))
    for (sample, _), text in in_batches(rows, how.batch_size, answers, "the answers (generation.batch_size)", halved):
        yield sample, text


class Speaking:
    """What a model says in a batch of conversations, by transformers. Each further turn goes on behind the tokens that
    the row has (`vlm.prefix.continued`)."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        renderer: Renderer | None,
        talks: Sequence[Talk],
        how: GenerationSection,
        seed: int,
    ):
        self.model, self.processor, self.renderer = model, processor, renderer
        self.talks, self.how, self.seed = talks, how, seed
        self.session: Session | None = None
        self.tokens: dict[int, list[int]] = {}
        "Of each row's last turn."

    def __call__(self, places: Sequence[int]) -> list[Said]:
        import torch

        from vlm.prefix.rollout import neutral

        with torch.inference_mode(), neutral(self.model), self._drawing(places):
            if self.session is None:
                self.session = self._session()
                self.tokens = dict(enumerate(self.session.begin()))
            else:
                self.tokens = self.session.go_on({place: self._added(place) for place in places})
        new = [self.tokens[place] for place in places]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        said = zip(texts, new, strict=True)
        return [Said(text, len(tokens), self.session.ended(tokens)) for text, tokens in said]

    def _session(self) -> Session:
        import torch

        from vlm.prefix.continued import Session
        from vlm.prefix.rollout import first_places, row_numbers, unsayable

        model, processor = self.model, self.processor
        samples = [sample for sample, _ in (talk.row for talk in self.talks)]
        shared = families.of(model.config).unshared is None
        index = row_numbers([id(sample) for sample in samples] if shared else range(len(samples)))
        inputs = processor.apply_chat_template(
            [self.talks[place].messages() for place in first_places(index)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device)
        stated = model.generation_config.eos_token_id
        ends = torch.tensor([] if stated is None else stated).reshape(-1).tolist()
        told = self.how.of_transformers()
        limit = told.pop("max_new_tokens")
        banned = unsayable(model.config, processor.tokenizer)
        return Session(model, inputs, index, ends, limit, suppress_tokens=banned, **told)

    def _added(self, place: int) -> Added:
        from vlm.prefix.continued import Added

        turn = self.talks[place].told
        assert turn is not None and self.renderer is not None
        written = self.renderer(turn, self.tokens[place][-1])
        return Added(written.ids, written.media)

    def _drawing(self, places: Sequence[int]) -> AbstractContextManager[None]:
        """Each row's own numbers, others in each turn."""
        from evals.asking.draws import drawing

        if self.how.temperature == 0:
            return nullcontext()
        talks = [self.talks[place] for place in places]
        seeds = [row_seed(self.seed, *talk.row, talk.turn) for talk in talks]
        return drawing(self.model, seeds, max(talk.room for talk in talks))


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
        self.family = families.of(read_config(section.path, section.revision)[0])

    def draw(
        self, recipe: AskingRecipe, rows: Sequence[Row], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Row, str]]:
        samples, numbers = [sample for sample, _ in rows], [number for _, number in rows]
        how, talks = recipe.generation, Talks.of(recipe, self.processor.sight, self.family)
        texts = complete(self.model, self.processor, samples, recipe.prompt, how, recipe.seed, halved, numbers, talks)
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
        how, llm = recipe.generation, self._loaded(recipe)
        talks = Talks.of(recipe, self.processor.sight, self.processor.family)
        renderer = None
        if talks.toolbox is not None:
            from vlm.tools.rendered import Renderer

            renderer = Renderer(self.processor)
        assert how.batch_size != "auto"
        for start in range(0, len(rows), how.batch_size):
            batch = [talks.begun(row) for row in rows[start : start + how.batch_size]]
            speaking = Requests(self, llm, recipe, renderer, batch, self._banned)
            converse(batch, speaking)
            speaking.say()
            yield from ((talk.row, talk.answer) for talk in batch)

    def request(self, talk: Talk) -> Request:
        """A conversation's prompt, so far."""
        processor = self.processor
        turns = talk.messages(
            lambda image, sight: engine.as_seen(shown(image, sight), processor),
            lambda picture: engine.as_seen(picture, processor),
        )
        pictures = [part["image"] for turn in turns for part in turn["content"] if part["type"] == "image"]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return Request([], [], []).longer(engine.ids_of(text, processor.tokenizer), pictures, processor)

    @cached_property
    def _banned(self) -> dict[int, float]:
        """Image and video tokens, which would break the next turn's pictures, and ids that have no text."""
        from transformers import AutoConfig

        from vlm.prefix.rollout import unsayable

        name, where = source(self.section.path, self.section.revision)
        config = AutoConfig.from_pretrained(name, **where)
        return dict.fromkeys(unsayable(config, self.processor.tokenizer), engine.FORBIDDEN)

    def _loaded(self, recipe: AskingRecipe) -> LLM:
        if self._engine is None:
            self._engine = self.vllm.LLM(**engine_arguments(self.section, recipe, self.processor))
        return self._engine


class Request(NamedTuple):
    """A prompt as vLLM takes it."""

    ids: list[int]
    "With one placeholder a picture."
    meant: list[int]
    "What it is to make of them."
    pictures: list[Image]

    def longer(self, ids: Sequence[int], pictures: Sequence[Image], processor: Any) -> Request:
        """With more behind it. pictures: from `engine.as_seen`. Raises: UserError as `engine.one_placeholder`."""
        token = processor.image_token_id
        ids = engine.one_placeholder(ids, token, len(pictures))  # as it is, or there is a fault
        meant = engine.written_out(ids, token, pictures, processor.sight, engine.frame_of(processor))
        return Request([*self.ids, *ids], [*self.meant, *meant], [*self.pictures, *pictures])

    @property
    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = {"prompt_token_ids": self.ids}
        return found | ({"multi_modal_data": {"image": self.pictures}} if self.pictures else {})


class Requests:
    """What vLLM says in a batch of conversations."""

    def __init__(
        self,
        by: VLLM,
        llm: LLM,
        recipe: AskingRecipe,
        renderer: Renderer | None,
        talks: Sequence[Talk],
        banned: Mapping[int, float],
    ):
        self.by, self.llm, self.recipe, self.renderer = by, llm, recipe, renderer
        self.talks, self.banned = talks, dict(banned)
        of_samples = {id(talk.row[0]): by.request(talk) for talk in {id(one.row[0]): one for one in talks}.values()}
        self.requests = [of_samples[id(talk.row[0])] for talk in talks]
        self.short = self.full = 0
        self.context = llm.model_config.max_model_len
        named = (f"question {sample.source}/{sample.id}" for sample, _ in (talk.row for talk in talks))
        meant = (request.meant for request in self.requests)
        engine.check_room(zip(named, meant, strict=True), self.context, 1, "Leave it out")

    def __call__(self, places: Sequence[int]) -> list[Said]:
        asked, processor = [], self.by.processor
        for place in places:
            if (turn := self.talks[place].told) is not None:
                pictures = [engine.as_seen(one.picture, processor) for one in turn.pictures]
                assert self.renderer is not None
                ids = self.renderer.unexpanded(turn, self.requests[place].ids[-1])
                self.requests[place] = self.requests[place].longer(ids, pictures, processor)
            if len(self.requests[place].meant) < self.context:
                asked.append(place)
        self.full += len(places) - len(asked)
        found = dict(zip(asked, self._generated(asked), strict=True)) if asked else {}
        return [found.get(place, Said("", 0, False)) for place in places]

    def _generated(self, places: Sequence[int]) -> list[Said]:
        requests, talks = [self.requests[place] for place in places], [self.talks[place] for place in places]
        how = [self._sampling(talk) for talk in talks]
        said = self.llm.generate([one.asked for one in requests], how, use_tqdm=False)
        read = [one.prompt_token_ids for one in said]
        engine.check_prompts([one.meant for one in requests], read, self.by.processor.tokenizer)
        found = []
        for place, one in zip(places, (one.outputs[0] for one in said), strict=True):
            cut, tokens = one.finish_reason == "length", list(one.token_ids)
            self.short += cut and len(tokens) < self.talks[place].room
            ids, meant, pictures = self.requests[place]
            self.requests[place] = Request([*ids, *tokens], [*meant, *tokens], pictures)
            found.append(Said(one.text, len(tokens), not cut))
        return found

    def _sampling(self, talk: Talk) -> SamplingParams:
        how = self.recipe.generation
        seed = None if how.temperature == 0 else seed_of(self.recipe.seed, *talk.row, talk.turn)
        told = how.of_vllm() | {"max_tokens": talk.room}
        return self.by.vllm.SamplingParams(**told, seed=seed, logit_bias=self.banned, skip_special_tokens=True)

    def say(self) -> None:
        """What became of the batch that nobody asked for."""
        if self.short:
            logger.warning(
                "%d of %d answers were cut at the end of the model's context, before max_new_tokens",
                self.short,
                len(self.talks),
            )
        if self.full:
            logger.warning(
                "%d of %d conversations filled the model's context (%d tokens) before their last turn, which is empty; "
                "lower turns.limit or the tools' pictures",
                self.full,
                len(self.talks),
                self.context,
            )


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
