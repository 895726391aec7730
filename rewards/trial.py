"""`--dry-run`: each reward is called once, on made-up completions of rows of the data, and what came back is told.

For each row: the row's own answer in the form that the prompt asks for, another answer, and an empty text, as a group
of three. A reward that raises, or gives values of a wrong length or form, ends the dry run as it would end the run. One
that could not reach what it asks (a judge that is not up yet) is only told. A learned reward is asked whether it is
ready, and loads nothing. What is made up, because nothing is loaded: token ids, and pictures that are not here (grey).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from rewards.columns import itself
from rewards.gated import Gated, bounded
from rewards.guarded import Guarded, Limits, asynchronous, described, is_module
from rewards.registry import Reward, _name, collective
from rewards.score.reward.score import Score
from rewards.values import plain, unusable
from samples import Sample
from samples.facts import PLACES
from samples.rows import answer_of, prompt_row, reference, truth_of
from vlm.common.console import say
from vlm.common.errors import DataError, RecipeError, UserError
from vlm.common.plugins import places
from vlm.common.plugins.timed import Overdue, timed
from vlm.families import Sight
from vlm.pictures import images
from vlm.pictures.resizing import seen
from vlm.pictures.unreadable import row_name
from vlm.prompts import drawn
from vlm.sections import PromptSection

logger = logging.getLogger(__name__)

MADE = ("its own answer", "another", "nothing")
MOST = 12
"""Rows that are tried."""
UNREACHED = (ConnectionError, TimeoutError, socket.gaierror, Overdue)


def try_out(rewards: Sequence[Reward], samples: Sequence[Sample], prompt: PromptSection, sight: Sight) -> None:
    """Call each of the rewards, and say what came back.

    samples: rows of the data, one of each task and kind; none where the data is not here. Raises: UserError.
    """
    if not samples:
        say("rewards: not tried, for the data is not here")
    rows = [Row(sample, prompt, sight) for sample in samples]
    for reward in rewards:
        for name, one, those in _each(reward, rows):
            if isinstance(one, Score):
                say(one.ready())
            elif is_module(one) or collective(itself(one)):
                say(f"reward {name!r}: not tried: it is a module, or works together with other processes")
            elif those:
                _try(one, name, those, isinstance(reward, Gated))


class Row:
    """A row of the data with completions."""

    def __init__(self, sample: Sample, prompt: PromptSection, sight: Sight) -> None:
        self.sample, self.name = sample, row_name({"source": sample.source, "id": sample.id})
        pictures = [_picture(image, sample) for image in sample.images]
        resized = seen(sample.size or pictures[0].size, sight.among(len(pictures))) if pictures else None
        turns = prompt_row(sample, prompt, 0, 0)
        self.columns = {"prompts": turns.pop("prompt"), **turns, **(sample.columns or {}), "images": pictures}
        self.columns["resized"] = list(resized) if resized else None
        texts = [_answer(sample, prompt, resized), "none of these", ""]
        if prompt.style == "r1":
            texts[:2] = [f"<think>A made-up trace.</think>\n<answer>{text}</answer>" for text in texts[:2]]
        self.completions = [[{"role": "assistant", "content": text}] for text in texts]
        self.made = _looks(sample, texts) if prompt.tools else {}


def _answer(sample: Sample, prompt: PromptSection, resized: tuple[int, int] | None) -> str:
    """The truth as a model would write it; of several boxes the first one, except in detection, which asks for all."""
    truth = truth_of(sample, drawn(sample, prompt))
    if truth is not None and sample.task in PLACES:
        if sample.task == "grounding":
            truth |= {"boxes": truth["boxes"][:1], "quads": truth["quads"] and truth["quads"][:1]}
        return reference(truth, prompt.notation, resized)["content"]
    return answer_of(sample) or (sample.references or ["A made-up answer."])[0]


def _looks(sample: Sample, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of completions in several turns: the first has looked at the true region, the others at nothing."""
    spoken = [{"role": "assistant", "content": text} for text in texts]
    turns = [[one] for one in spoken]
    crops: list[list[dict[str, Any]]] = [[], [], []]
    if sample.regions:
        called = [{"role": "assistant", "content": "A made-up call."}, {"role": "tool", "content": "<image>Go on."}]
        turns[0] = [*called, spoken[0]]
        crops[0] = [{"turn": 1, "image": 0, "box": sample.regions[0], "size": [56, 56]}]
    return {"turns": turns, "crops": crops}


def _picture(image: Any, sample: Sample) -> Any:
    try:
        return images.preview(image)
    except DataError:
        from PIL import Image

        return Image.new("RGB", tuple(sample.size or (280, 280)), "grey")


def _each(reward: Reward, rows: Sequence[Row]) -> Iterator[tuple[str, Reward, list[Row]]]:
    """(name for messages, reward, its rows), of `gated` those of its entries."""
    if not isinstance(reward, Gated):
        yield _name(itself(reward)), reward, list(rows)
        return
    entries = [reward.entry(row.sample.task, row.sample.kind) for row in rows]
    for name, one in reward.task_rewards.items():
        yield name, one, [row for row, entry in zip(rows, entries, strict=True) if entry == name]


def _try(reward: Reward, name: str, rows: Sequence[Row], gated: bool) -> None:
    inner, limits = itself(reward), reward.limits if isinstance(reward, Guarded) else Limits()
    who, columns = described(inner, name), _columns(rows)
    count = len(columns["completions"])

    def call() -> list[float | None]:
        found = inner(**columns)
        return plain(asyncio.run(found) if asynchronous(inner) else found, count, who)  # type: ignore[arg-type]

    try:
        values = timed(call, limits.timeout, limits.slow, lambda where: logger.warning("%s is slow (%s)", who, where))
    except UserError:
        raise
    except Exception as cause:  # whatever a user's reward raises
        place = places.raised(cause, inner)
        if places.ours(place):
            raise  # a bug of ours
        told = f"{type(cause).__name__}: {cause}, at {place}"
        if any(isinstance(one, UNREACHED) for one in _chain(cause)):
            logger.warning("%s could not reach what it asks: %s. A run needs it", who, told)
            return
        raise RecipeError(
            f"{who} raised {told}, on made-up completions of {rows[0].name}{' …' * (len(rows) > 1)}; in a run each "
            "row on which it raises is masked, and a whole batch ends it"
        ) from cause
    for place, row in enumerate(rows):
        group = values[place * len(MADE) : (place + 1) * len(MADE)]
        told = ", ".join(f"{text}: {_said(value, name, gated)}" for text, value in zip(MADE, group, strict=True))
        say(f"{who} on {row.name}: {told}")


def _said(value: float | None, name: str, gated: bool) -> str:
    if why := unusable(value):
        return f"a failure ({why})"
    return "None" if (bounded(name, value) if gated else value) is None else f"{value:g}"


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """What TRL hands to a reward."""
    names = list(dict.fromkeys(name for row in rows for name in row.columns))
    columns: dict[str, Any] = {name: [row.columns.get(name) for row in rows for _ in MADE] for name in names}
    columns |= {name: [value for row in rows for value in row.made[name]] for name in rows[0].made}
    columns["completions"] = [completion for row in rows for completion in row.completions]
    columns["completion_ids"] = [[0] * len(turns[0]["content"].split()) for turns in columns["completions"]]
    columns["trainer_state"] = SimpleNamespace(global_step=0, max_steps=1, epoch=0.0, is_world_process_zero=True)
    return columns | {"log_metric": lambda name, value: None, "log_extra": lambda column, values: None}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class Specimens:
    """Shown rows one by one, it keeps one of each task and kind: of boxes one with a single box, where there is one;
    of detection one with any."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str | None], Sample] = {}

    def see(self, sample: Sample) -> None:
        key = (sample.task, sample.kind)
        known = self.kept.get(key)
        if known is None or _tells_more(sample, known):
            self.kept[key] = sample

    @property
    def few(self) -> list[Sample]:
        return list(self.kept.values())[:MOST]


def _tells_more(sample: Sample, known: Sample) -> bool:
    if sample.task == "detection":
        return not known.boxes and bool(sample.boxes)
    return len(known.boxes or ()) > 1 and len(sample.boxes or ()) == 1
