"""Questions → completions by a model that somebody serves: any OpenAI-compatible address (`endpoint:` of a recipe).

A picture is sent as PNG, with the pixels and in the place that `generation.backend: hf` would give it; the server's
own processor may reduce it further. What is not sent, the server decides: vLLM's takes repetition_penalty and top_k
from the checkpoint's generation_config.json unless it was started with `--generation-config vllm`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.conversation import conversation
from evals.recipe import EvalRecipe, ServedSection
from samples import Sample
from stage.endpoint import cost
from stage.endpoint.asking import FAILURES, ask_all
from stage.endpoint.client import Endpoint, Messages, Usage, encoded, shown_at
from stage.parallel.journal import Journal, fingerprint
from vlm import prompts
from vlm.common.errors import UserError

logger = logging.getLogger(__name__)
REPLY = 400
"""Characters of a reply that an estimate reckons with: a short trace and an answer."""


@dataclass(frozen=True)
class Question:
    """A row as `stage.endpoint.asking` takes it."""

    sample: Sample

    @property
    def key(self) -> str:
        return f"{self.sample.source}/{self.sample.id}"


class Arriving:
    """Takes the place of `asking.Answers`: hands answers on as they come, and writes down what failed."""

    def __init__(self, failures: Path):
        self.failures, self.failed, self.first = failures, 0, ""
        self.found: queue.Queue[tuple[Sample, str] | BaseException | None] = queue.Queue()
        failures.unlink(missing_ok=True)

    def put(self, row: Question, text: str) -> None:
        self.found.put((row.sample, text))

    def fail(self, row: Question, error: str) -> None:
        self.failed += 1
        self.first = self.first or f"{row.key}: {error}"
        with Journal(self.failures) as journal:
            journal.add({"key": row.key, "error": error})


class Served:
    """Asks `endpoint.concurrency` questions at a time; answers come in the order in which they are finished."""

    loaded = True

    def __init__(self, recipe: EvalRecipe):
        self.usage = Usage()

    def answer(
        self, recipe: EvalRecipe, samples: Sequence[Sample], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Sample, str]]:
        """Raises: UserError at the end, where some question got no answer, and at once where none will (EndpointError);
        what was answered is kept by whoever takes it."""
        arriving = Arriving(Path(recipe.output) / FAILURES)
        before, silent = self.usage.cut, self.usage.empty
        with asking(recipe, samples, arriving, self.usage):
            while (found := arriving.found.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        if cut := self.usage.cut - before:
            logger.warning("%d of %d answers were cut at generation.max_new_tokens", cut, len(samples))
        if empty := self.usage.empty - silent:
            logger.warning("%d of %d answers are empty, as refusals are; they count as wrong", empty, len(samples))
        if arriving.failed:
            raise UserError(
                f"{arriving.failed} of {len(samples)} questions got no answer, the first {arriving.first}. What is "
                f"answered is kept; see {arriving.failures}, and start the same command again, which asks these only"
            )


class asking:  # noqa: N801 a context manager, read as one
    """Within, a thread asks the questions; leaving ends it, whatever is under way."""

    def __init__(self, recipe: EvalRecipe, samples: Sequence[Sample], arriving: Arriving, usage: Usage):
        self.recipe, self.samples, self.arriving, self.usage = recipe, samples, arriving, usage
        self.loop = asyncio.new_event_loop()
        self.task: asyncio.Task | None = None
        self.thread = threading.Thread(target=self._work, name="endpoint", daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        # the loop is open until here, so that telling one that has come to its end does no harm
        self.loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())
        self.thread.join()
        self.loop.close()

    def _work(self) -> None:
        try:
            self.task = self.loop.create_task(self._ask())
            self.loop.run_until_complete(self.task)
            self.arriving.found.put(None)
        except BaseException as error:  # handed to the thread that waits for answers
            self.arriving.found.put(error)

    async def _ask(self) -> None:
        recipe = self.recipe
        endpoint = Endpoint(section_of(recipe), usage=self.usage)

        async def text(row: Question) -> str:
            # encoding is work for the processor, which would keep the other requests waiting
            messages = await asyncio.to_thread(messages_of, row.sample, recipe)
            return await endpoint.ask(messages, **drawn(recipe, row.sample))

        rows = [Question(sample) for sample in self.samples]
        await ask_all(endpoint, rows, text, self.arriving, recipe.cost, "asked", shown=False)


def section_of(recipe: EvalRecipe) -> ServedSection:
    """The endpoint as it is asked: what the recipe says elsewhere, in the protocol's fields."""
    assert recipe.endpoint is not None
    how = recipe.generation
    asked = {"temperature": how.temperature, "top_p": how.top_p}
    changes = {"max_tokens": how.max_new_tokens, "max_pixels": recipe.images.max_pixels}
    return recipe.endpoint.model_copy(update={**changes, "request": {**asked, **recipe.endpoint.request}})


def drawn(recipe: EvalRecipe, sample: Sample) -> dict[str, Any]:
    """The seed of a sampled answer, of the question's own; a greedy one needs none."""
    if recipe.generation.temperature == 0:
        return {}
    return {"seed": int(fingerprint(recipe.seed, sample.source, sample.id), 16) % 2**31}


def messages_of(sample: Sample, recipe: EvalRecipe) -> Messages:
    """The conversation as the protocol has it. Raises: DataError for a picture that cannot be read."""
    turns = conversation(sample, recipe.prompt, (recipe.images.min_pixels, recipe.images.max_pixels))
    return [{"role": turn["role"], "content": parts(turn["content"])} for turn in turns]


def parts(content: Sequence[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A turn's content; one text alone as a text, which every server takes for a system prompt."""
    if [part["type"] for part in content] == ["text"]:
        return content[0]["text"]
    return [
        shown_at(encoded(part["image"], "PNG", compress_level=1)) if part["type"] == "image" else dict(part)
        for part in content
    ]


def call(recipe: EvalRecipe, sample: Sample) -> cost.Call:
    """The request of a question, for an estimate; pictures of unknown size are taken as large as they are sent."""
    asked = prompts.prompt(sample, recipe.prompt.style, recipe.prompt.system, recipe.prompt.wording)
    side = round(recipe.images.max_pixels**0.5)
    sizes = [sample.size or (side, side)] * len(sample.images)
    return cost.Call(sum(len(str(turn["content"])) for turn in asked), sizes, REPLY)


def estimated(recipe: EvalRecipe, calls: Iterable[cost.Call]) -> cost.Estimate:
    """What these requests cost. Raises: UserError where it may be more than `cost.max_cost`."""
    section = section_of(recipe)
    found = cost.estimate(([one] for one in calls), section, recipe.cost, "questions")
    cost.refuse_above(found, recipe.cost)
    return found
