"""Questions → completions by a model that somebody serves: any OpenAI-compatible address (`endpoint:` of a recipe).

A picture is sent as PNG, in the place that `generation.backend: hf` would give it, and at the size at which the model
would see it there: a server of the same model has nothing to resize, unless its own limits are narrower. What is not
sent, the server decides: vLLM's takes repetition_penalty and top_k from the checkpoint's generation_config.json unless
it was started with `--generation-config vllm`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.asking.answering import Answering, Row, seed_of
from evals.asking.turns import Said, Talk, Talks
from stage.endpoint.asking import FAILURES, ask_all
from stage.endpoint.client import Endpoint, Messages, Refused, Usage, encoded, shown_at
from stage.endpoint.kept import Kept, Refusal, spoken
from stage.endpoint.questions import calls, estimated, section_of
from stage.parallel.journal import Journal
from stage.recipe.asking import AskingRecipe
from vlm.common.console import say
from vlm.common.errors import UserError
from vlm.pictures.images import opaque
from vlm.pictures.resizing import fitted, resized
from vlm.shapes import family_here, sight_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A row as `stage.endpoint.asking` takes it."""

    row: Row

    @property
    def key(self) -> str:
        sample, _ = self.row
        return f"{sample.source}/{sample.id}"


class Arriving:
    """Takes the place of `asking.Answers`: hands answers on as they come, and writes down what failed and what was
    used."""

    def __init__(self, failures: Path, kept: Kept, usage: Usage):
        self.failures, self.kept, self.usage = failures, kept, usage
        self.counted = replace(usage)
        self.failed: list[tuple[Question, str]] = []
        self.found: queue.Queue[tuple[Row, str] | BaseException | None] = queue.Queue()
        failures.unlink(missing_ok=True)

    def put(self, row: Question, text: str) -> None:
        self.count()
        self.found.put((row.row, text))

    def fail(self, row: Question, error: str) -> None:
        self.count()
        self.failed.append((row, error))
        with Journal(self.failures) as journal:
            journal.add({"key": row.key, "draw": row.row[1], "error": error})

    def count(self) -> None:
        """Keep what was used since the last time."""
        if self.usage != self.counted:
            self.kept.spend(self.usage - self.counted)
            self.counted = replace(self.usage)


class Served(Answering):
    """Asks `endpoint.concurrency` questions at a time; answers come in the order in which they are finished."""

    loaded = True

    def __init__(self, recipe: AskingRecipe):
        self.usage = Usage()

    def draw(
        self, recipe: AskingRecipe, rows: Sequence[Row], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Row, str]]:
        """Says what it will cost first. A question that is refused as it was in an earlier start has a `Refusal`.

        Raises: UserError at the end, where some question got no answer, and at once where none will (EndpointError),
        or where it may cost too much; what was answered is kept by whoever takes it."""
        times = Counter(id(sample) for sample, _ in rows)
        sight = sight_of(recipe)
        asked = (
            (calls(recipe, sample, sight), times[id(sample)]) for sample in {id(one): one for one, _ in rows}.values()
        )
        say(str(estimated(recipe, asked)))
        return self._ask(recipe, rows)

    def _ask(self, recipe: AskingRecipe, rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
        kept = Kept(recipe.output, recipe)
        arriving = Arriving(Path(recipe.output) / FAILURES, kept, self.usage)
        before, refused = replace(self.usage), dict[str, str]()
        kept.usage()  # a file that is broken is found before anything is paid for
        earlier = kept.refused()
        with asking(recipe, rows, arriving, self.usage, refused):
            while (found := arriving.found.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        again = earlier & refused.keys()
        kept.refuse(refused)
        for question, _ in arriving.failed:
            if question.key in again:
                yield question.row, Refusal(refused[question.key])
        if cut := self.usage.cut - before.cut:
            logger.warning("%d of %d answers were cut at generation.max_new_tokens", cut, len(rows))
        if empty := self.usage.empty - before.empty:
            logger.warning("%d of %d answers are empty, as refusals are; they count as wrong", empty, len(rows))
        if again:
            logger.warning("%s", spoken({key: refused[key] for key in sorted(again)}))
        if left := [(question, error) for question, error in arriving.failed if question.key not in again]:
            question, error = left[0]
            once = "; one that is refused (status 4xx) again then counts as wrong" if refused.keys() - again else ""
            raise UserError(
                f"{len(left)} of {len(rows)} questions got no answer, the first {question.key}: {error}. What is "
                f"answered is kept; see {arriving.failures}, and start the same command again, which asks these only"
                f"{once}"
            )


class asking:  # noqa: N801 a context manager, read as one
    """Within, a thread asks the questions; leaving ends it, whatever is under way."""

    def __init__(
        self, recipe: AskingRecipe, rows: Sequence[Row], arriving: Arriving, usage: Usage, refused: dict[str, str]
    ):
        """refused: is told which questions the server refuses, and why; their further draws are not asked."""
        self.recipe, self.rows, self.arriving, self.usage, self.refused = recipe, rows, arriving, usage, refused
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
        endpoint, family = Endpoint(section_of(recipe), usage=self.usage), family_here(recipe.named)
        talks = Talks.of(recipe, sight_of(recipe), family)

        async def text(question: Question) -> str:
            if question.key in self.refused:
                raise Refused(self.refused[question.key])
            # pictures and tools are work for the processor, which would keep the other requests waiting
            talk = await asyncio.to_thread(talks.begun, question.row)
            while talk.open:
                messages, how = await asyncio.to_thread(messages_of, talk), dict[str, Any]()
                if recipe.generation.temperature > 0:
                    how["seed"] = seed_of(recipe.seed, *talk.row, talk.turn)
                if talk.room < talks.limit:
                    how[endpoint.section.limit_field] = talk.room
                try:
                    reply = await endpoint.reply(messages, **how)
                except Refused as error:
                    self.refused[question.key] = str(error)
                    raise
                await asyncio.to_thread(talk.said, Said(reply.text, reply.tokens, not reply.cut))
            return talk.answer

        rows = [Question(row) for row in self.rows]
        await ask_all(endpoint, rows, text, self.arriving, recipe.cost, "asked", shown=False)


def messages_of(talk: Talk) -> Messages:
    """The conversation so far, as the protocol has it. Raises: DataError for a picture that cannot be read."""
    turns = talk.messages(resized, lambda picture: fitted(opaque(picture).convert("RGB"), talk.sight))
    return [{"role": turn["role"], "content": parts(turn["content"])} for turn in turns]


def parts(content: Sequence[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A turn's content; one text alone as a text, which every server takes for a system prompt."""
    if [part["type"] for part in content] == ["text"]:
        return content[0]["text"]
    return [
        shown_at(encoded(part["image"], "PNG", compress_level=1)) if part["type"] == "image" else dict(part)
        for part in content
    ]
