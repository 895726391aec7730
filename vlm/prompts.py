"""From a `Sample` to the conversation the model reads: system prompt by style, wording by task.

Every stage (SFT, GRPO, evaluation) builds its prompts here from the recipe's `prompt:` section, so a model is asked at
test time what it was asked in training.

Styles
    r1      the system prompt asks for `<think> … </think><answer> … </answer>` (the kind DeepSeek-R1 introduced and the
            ScoreRS paper uses); the tags are plain text
    direct  no system message of ours (Qwen2-VL's chat template then writes its own); the whole completion is the answer
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from vlm import masks
from vlm.boxes import asking, check_labels
from vlm.boxes.asking import Drawn
from vlm.common.errors import RecipeError
from vlm.pictures.places import TAG, named, placed

R1_SYSTEM = (
    "You answer questions about remote sensing images. First reason about what the image shows, step by step. "
    "Then give the final answer. Write the reasoning between <think> and </think>, and after it only the answer "
    "between <answer> and </answer>: <think> reasoning </think><answer> answer </answer>"
)

WORDING: dict[str, str] = {
    "grounding": "Give the bounding box of the object that this sentence describes: {question}",
    "vqa": "{question}\nAnswer with a single word or number.",
    "choice": "{question}\n{options}\nAnswer with the letter of the right option.",
    "open_ended": "{question}",
    "caption": "{question}",
    "classification": "{question}\nAnswer with one of the class names.",
    "detection": "{question}",
    "segmentation": "{question}",
}
"""Default wording by task; that of detection is the notation's (`vlm.boxes.asking`), of segmentation the mask form's
(`vlm.masks.asking`). `{question}` is the user's text in
the data, `{options}` the choices as `A. … B. …`, `{lines}` the same as `(A) …`, one a line."""

_INSTRUCTION = re.compile(
    r"(?:^|(?<=\s))(?:Please )?(?:Answer|Respond|Reply|answer|respond|reply)\b(?= (?:the|this|with|using|in|only|by)\b)"
    r"[^?!\n]*\b(?:words?|phrases?|numbers?|letters?|options?|names?|class|classes|sentences?|yes)\b[^?!\n]*$"
)
"""At the end of a text: how to answer, as in "Answer the question using a single word or phrase."."""


TASKS = tuple(WORDING)


class Asked(Protocol):
    """What a prompt needs of a `samples.Sample`."""

    messages: list[dict[str, Any]]
    task: str
    choices: list[str] | None
    source: str
    id: str
    written: str | None
    tooled: bool | None
    images: list[str | bytes]
    dates: list[str] | None


def system_prompt(style: Literal["r1", "direct"], override: str | None = None) -> str | None:
    """The system message of a style, or None where the chat template's own shall stand."""
    if override is not None:
        return override
    return R1_SYSTEM if style == "r1" else None


def check_wording(wording: Mapping[str, str]) -> None:
    """Refuse wordings for tasks that do not exist and templates that would lose the question.

    Raises: RecipeError naming the key, what was found and what may stand there.
    """
    for task, template in wording.items():
        if task not in TASKS:
            raise RecipeError(f"wording.{task}: no such task; tasks are {', '.join(TASKS)}")
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        except ValueError as error:
            raise RecipeError(f"wording.{task}: {template!r} has unbalanced braces; write {{{{ for a brace") from error
        if TAG in template:
            raise RecipeError(f"wording.{task}: found {TAG} in {template!r}; the data say where pictures stand")
        if task in ("detection", "segmentation") and fields != {"question"}:
            raise RecipeError(f"wording.{task}: found the fields {sorted(fields)}; it holds {{question}} alone")
        if "question" not in fields or fields - {"question", "options", "lines"}:
            raise RecipeError(
                f"wording.{task}: found the fields {sorted(fields)}; a wording holds {{question}} and may hold "
                "{options} or {lines}, nothing else in braces"
            )


def options_text(choices: list[str]) -> str:
    """`["harbor", "airport"]` → `A. harbor B. airport`."""
    return " ".join(f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))


def options_lines(choices: list[str]) -> str:
    """`["harbor", "airport"]` → `(A) harbor` and `(B) airport`, one a line."""
    return "\n".join(f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))


def user_text(sample: Asked, question: str, wording: Mapping[str, str] | None = None) -> str:
    """The user's text of one turn in the wording of the sample's task.

    No question is told twice how to be answered: a wording's last sentence is left out where the question ends with
    that very sentence, as all of LRS-VQA's do; and the last sentence of a default wording, where the question ends with
    any such instruction of its own.
    """
    own = wording or {}
    template = {**WORDING, **own}[sample.task]
    head, tail = _told(template)
    if tail and (_ends(question, tail) or (sample.task not in own and instruction(question))):
        template = head
    choices = sample.choices or []
    return template.format(question=question, options=options_text(choices), lines=options_lines(choices))


def instruction(question: str) -> str | None:
    """The instruction that a question ends with, about the form of its answer; None where there is none."""
    found = _INSTRUCTION.search(question.rstrip())
    return found[0] if found else None


def _told(template: str) -> tuple[str, str]:
    """A template before its last instruction, and that instruction; ("…", "") where nothing ends it behind the
    question."""
    told = instruction(template)
    head = template.rstrip().removesuffix(told).rstrip() if told else template
    return (head, told) if told and "{question}" in head and "{" not in told else (template, "")


def _ends(question: str, told: str) -> bool:
    """Whether a question ends with an instruction, whatever its case, blanks and full stop."""
    said, wanted = (" ".join(text.casefold().split()).rstrip(".") for text in (question, told))
    return said.endswith(wanted)


class Varied(Protocol):
    """`vlm.sections.DetectionSection`."""

    paraphrased: float
    open: float


class How(Protocol):
    """What a prompt needs of `vlm.sections.PromptSection`."""

    style: Literal["r1", "direct"]
    system: str | None
    wording: dict[str, str]
    notation: str
    masks: str
    pictures: Literal["dated", "several", "never"]

    @property
    def detection(self) -> Varied: ...
    @property
    def tools(self) -> str: ...
    @property
    def ask(self) -> str: ...


def asked(sample: Asked, how: How) -> list[dict[str, Any]]:
    """`prompt` as a recipe's `prompt:` section says it."""
    tools, ask = (how.tools, how.ask) if sample.tooled is not False else ("", "")
    names = picture_names(sample, how.pictures)
    found = prompt(sample, how.style, how.system, how.wording, tools, ask, drawn(sample, how), names)
    if names is None or sample.images:
        return found
    return [{**turn, "content": turn["content"].replace(TAG, "")} for turn in found]  # asked blind: dates stay


def picture_names(sample: Asked, when: Literal["dated", "several", "never"]) -> list[str] | None:
    """What the text calls the pictures: "Picture 1, 2019-04", in order; None where it does not.

    when: in rows with dates; in those, and all with several pictures whose text does not place them itself; never. A
    question that is asked without its pictures (`evals.controls`) keeps their dates.
    """
    if when == "never":
        return None
    if sample.dates is not None:
        return [f"Picture {number}, {date}" for number, date in enumerate(sample.dates, 1)]
    if when == "dated" or len(sample.images) < 2 or placed(sample.messages):
        return None
    return [f"Picture {number}" for number in range(1, len(sample.images) + 1)]


def drawn(sample: Asked, how: How) -> Drawn | None:
    """How objects are asked for in this row (`vlm.boxes.asking`): of detection, of segmentation (`vlm.masks`), and of
    grounding whose source has a notation of its own; None of others.

    Raises: RecipeError for a notation that cannot say what objects are.
    """
    notation, own = sample.written or how.notation, how.wording.get(sample.task)
    if sample.task == "grounding" and sample.written is not None:
        return asking.grounding(notation, own or WORDING["grounding"])
    if sample.task == "segmentation":
        how_masks = masks.asking(how.masks)
        return Drawn(own or how_masks.wording, False, 0, how_masks.system, how_masks.told, how.masks)
    if sample.task != "detection":
        return None
    check_labels(notation)
    return asking.drawn(sample.source, sample.id, notation, how.detection.paraphrased, how.detection.open, own)


def prompt(
    sample: Asked,
    style: Literal["r1", "direct"] = "r1",
    system: str | None = None,
    wording: Mapping[str, str] | None = None,
    tools: str = "",
    ask: str = "",
    detection: Drawn | None = None,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The conversation up to the assistant's reply (`replied`): what the model is asked.

    The first user turn is worded by task; later turns stand as they are, with the `zoom` that some have. Contents are
    plain strings, in which `<image>` may say where pictures stand (`vlm.pictures.places`). tools: what the system turn
    says of tools, behind the rest. ask: a line behind the first question. detection: how a row is asked that has a way
    of its own (`drawn`); a notation that its project tells of in the system prompt is told of behind the question where
    another prompt stands there. names: of the pictures, each before its own.
    """
    turns = sample.messages[: replied(sample.messages)]
    out: list[dict[str, Any]] = []
    head, told, own = system_prompt(style, system), "", bool(turns) and turns[0]["role"] == "system"
    if detection is not None:
        told = detection.told if own or head is not None else ""
        head = detection.system if head is None else head
    if head is not None and not own:
        out.append({"role": "system", "content": head})
    worded = False
    for turn in turns:
        content = turn["content"]
        if turn["role"] == "user" and not worded:
            content = detection.question(content) if detection else user_text(sample, content, wording)
            content, worded = "\n".join(filter(None, (content, told, ask))), True
        out.append({**turn, "content": content})
    if names is not None:
        out = named(out, names)
    if tools:
        said = f"{out.pop(0)['content']}\n\n" if out[0]["role"] == "system" else ""
        out.insert(0, {"role": "system", "content": said + tools})
    return out


def replied(messages: Sequence[Mapping[str, Any]]) -> int:
    """Number of the turn that the assistant's reply begins with, at the end of a conversation; the number of all turns
    where there is none.

    A reply is a turn of the assistant, and those before it that zoom: nobody speaks between them (`Sample.messages`).
    """
    first = len(messages)
    while first and messages[first - 1]["role"] == "assistant":
        first -= 1
    return first
