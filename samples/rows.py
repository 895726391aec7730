"""From samples to the `datasets.Dataset` that TRL reads: prompt or chat, and the sample's fields as columns.

Images stay paths (or bytes) in the table and are decoded when a row is read, through a small cache: GRPO reads the same
row once per completion of a group.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from samples import Sample
from vlm import answers, prompts
from vlm.boxes import NOTATIONS, write_boxes, write_quads
from vlm.common.console import say
from vlm.common.errors import DataError
from vlm.pictures.cache import decoded
from vlm.pictures.images import load
from vlm.pictures.places import blocks, placed
from vlm.pictures.resizing import Resizing, seen
from vlm.pictures.unreadable import Readable
from vlm.sections import ImageSection, PromptSection

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

OnFault = Literal["error", "skip"]
"""The recipe's `data.on_fault`, here for pictures that can no longer be read (`vlm.pictures.unreadable`)."""


def _decoded(image: str | bytes) -> Image:
    return decoded.get(image, lambda: load(image))


class Truth(TypedDict):
    """The boxes of a Sample that a reference is written from."""

    boxes: list[list[float]]
    quads: list[list[float]] | None
    size: tuple[int, int]


def truth_of(sample: Sample) -> Truth | None:
    """None of a sample without boxes, or whose size is not known."""
    if not sample.boxes or sample.size is None:
        return None
    return {"boxes": sample.boxes, "quads": sample.quads, "size": sample.size}


def _stored(image: str | bytes) -> dict[str, Any]:
    """An image as a column holds it, as `datasets` does: a column of texts and bytes would turn texts into bytes."""
    return {"path": image, "bytes": None} if isinstance(image, str) else {"path": None, "bytes": image}


def _source(image: dict[str, Any]) -> str | bytes:
    """The inverse of `_stored`."""
    return image["path"] if image["bytes"] is None else image["bytes"]


class Pictures:
    """What a table does when rows of it are read: decodes pictures, resizes them where the recipe draws sizes, tells
    their sizes (column `resized`), and writes the references whose numbers depend on them. Turns with pictures inside
    become blocks; others stay texts, before the first of which TRL puts the pictures.

    sizes: None leaves the column out; the model's size is then unknown, and notations that count in it cannot be used.
    notation: of the references to write, for tables with a column `truth`. columns: what else each row holds, by the
    row's number; they are of any types, which Arrow's columns cannot be. A row has None for those that it lacks.
    """

    def __init__(
        self, sizes: Resizing | None, notation: str = "", columns: Sequence[dict[str, Any] | None] | None = None
    ):
        self.sizes, self.notation, self.columns = sizes, notation, columns or []
        self.names = list(dict.fromkeys(name for one in self.columns for name in one or ()))

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        numbers, truths = batch.pop("row", []), batch.pop("truth", None)
        for name in self.names if numbers else ():
            batch[name] = [(self.columns[number] or {}).get(name) for number in numbers]
        if "images" not in batch:
            return batch
        for name in ("prompt", "messages"):
            if name in batch:
                batch[name] = [
                    blocks(turns, len(images)) if placed(turns) else turns
                    for turns, images in zip(batch[name], batch["images"], strict=True)
                ]
        batch["images"] = [[_source(image) for image in images] for images in batch["images"]]
        if self.sizes is None:
            batch["images"] = [[_decoded(image) for image in images] for images in batch["images"]]
            return batch
        named = list(zip(numbers, batch["images"], strict=True))
        batch["images"] = [
            [self.sizes.picture(image, row, n) for n, image in enumerate(images)] for row, images in named
        ]
        resized = [self.sizes.seen(images[0].size) if images else None for images in batch["images"]]
        if truths is None:
            batch["resized"] = [list(size) if size else None for size in resized]
        else:
            batch["messages"] = [
                [*turns, reference(truth, self.notation, size)] if truth else turns
                for turns, truth, size in zip(batch["messages"], truths, resized, strict=True)
            ]
        return batch


def reference(truth: Truth, notation: str, resized: tuple[int, int] | None) -> dict[str, str]:
    """The assistant's turn of a row whose reference is boxes; of quadrilaterals, where the notation can show them.

    resized: (width, height) at which the model sees the picture.
    """
    if truth["quads"] and NOTATIONS[notation].shape != "box":
        text = write_quads(truth["quads"], notation, truth["size"], resized)
    else:
        text = write_boxes(truth["boxes"], notation, truth["size"], resized)
    return {"role": "assistant", "content": text}


def learnt(sample: Sample, section: PromptSection, images: ImageSection) -> list[dict[str, str]]:
    """The assistant's turn that SFT learns, as `chat_rows` has it with pictures as they are; none where it would refuse
    the row."""
    if sample.messages[-1]["role"] == "assistant":
        return [sample.messages[-1]]
    if section.style != "direct":
        return []
    if (said := answer_of(sample)) is not None:
        return [{"role": "assistant", "content": said}]
    truth = truth_of(sample)
    if truth is None:
        return []
    try:
        return [reference(truth, section.notation, seen(sample.size, images))]
    except (DataError, ValueError):  # a notation that cannot say it, a strip: training tells
        return []


def answer_of(sample: Sample) -> str | None:
    """The reply of the style `direct` that stands in the truth as text: the answer, of a choice its letter.

    None where there is no such text, and for grounding, whose reply is its boxes.
    """
    if sample.answer is None or answers.blank(sample.answer) or sample.task == "grounding":
        return None
    if sample.choices and sample.task == "choice":
        place = answers.option(sample.answer, sample.choices)
        return None if place is None else string.ascii_uppercase[place]
    return sample.answer


def untagged(reply: str, section: PromptSection) -> bool:
    """Whether the style asks for `<think>` and `<answer>`, and a reply to learn is not of that form."""
    return section.style == "r1" and not answers.parse(reply).well_formed


def say_untagged(samples: Sequence[Sample], section: PromptSection, role: str = "train") -> None:
    """Say the share of rows that teach another form than the style asks for."""
    replies = [sample.messages[-1]["content"] for sample in samples if sample.messages[-1]["role"] == "assistant"]
    bare = sum(untagged(reply, section) for reply in replies)
    if bare:
        say(
            f"data.{role}: {bare:,} of {len(samples):,} rows ({bare / len(samples):.0%}) have a reply without <think> "
            "and <answer>, which prompt.style r1 asks for (with style direct, replies are bare answers)"
        )


def _columns(sample: Sample) -> dict[str, Any]:
    """The fields that reward functions see, and where the picture lies (for tables of completions)."""
    first = sample.images[0] if sample.images else None
    return {
        "images": sample.images,
        "image_file": first if isinstance(first, str) else None,
        "task": sample.task,
        "kind": sample.kind,
        "answer": sample.answer,
        "boxes": sample.boxes,
        "quads": sample.quads,
        "size": list(sample.size) if sample.size else None,
        "choices": sample.choices,
        "references": sample.references,
        "source": sample.source,
        "id": sample.id,
    }


def prompt_row(sample: Sample, section: PromptSection, copy: int, number: int) -> dict[str, Any]:
    """One row of `prompt_rows`, without what follows from its picture and without the sample's columns."""
    prompt = prompts.prompt(sample, section.style, section.system, section.wording)
    return {"prompt": prompt, **_columns(sample), "copy": copy, "row": number}


def prompt_rows(
    samples: Iterable[Sample], section: PromptSection, sizes: Resizing | None = None, on_fault: OnFault = "error"
) -> Dataset:
    """Rows for GRPO: `prompt` (conversation), `images` (decoded), the sample's fields, `copy`, and with ``sizes`` also
    `resized`, [w, h] of the first picture as the model sees it. The samples' columns are there under their names.

    A row that a mixture repeats is a prompt of its own each time, with completions of its own. `copy` numbers these
    times from 0: by it rewards that compare within a group tell neighbours with the same source and id apart.

    Raises: DataError for a picture that the model cannot take.
    """
    rows: list[dict[str, Any]] = []
    columns: list[dict[str, Any] | None] = []
    copies: Counter[tuple[str, str]] = Counter()
    for number, sample in enumerate(samples):
        check_strip(sample, sizes)
        name = (sample.source, sample.id)
        rows.append(prompt_row(sample, section, copies[name], number))
        columns.append(sample.columns)
        copies[name] += 1
    return _table(rows, Pictures(sizes, columns=columns if any(columns) else None), on_fault)


def chat_rows(
    samples: Iterable[Sample], section: PromptSection, sizes: Resizing | None = None, on_fault: OnFault = "error"
) -> Dataset:
    """Rows for SFT: `messages` ending in the assistant's turn, `images` (decoded), `source` and `id`.

    Where the conversation has no such turn but the sample has its truth, and the style is `direct`, it is written: the
    answer, of a choice its letter; or the boxes in `prompt.notation`, following the size at which the picture is seen
    (``sizes``). The style `r1` needs a trace, which no truth holds.

    Raises: DataError for a row without anything to learn from, for one whose text cannot follow a drawn size, and for
    a picture that the model cannot take.
    """
    rows = []
    for number, sample in enumerate(samples):
        reply, truth = taught(sample, section, sizes)
        messages = [*prompts.prompt(sample, section.style, section.system, section.wording), *reply]
        if truth is not None and (sizes is None or not sample.images):
            messages.append(reference(truth, section.notation, None))
            truth = None
        names = {"source": sample.source, "id": sample.id, "row": number}
        rows.append({"messages": messages, "images": sample.images, **names})
        if sizes is not None:
            rows[-1]["truth"] = truth
    return _table(rows, Pictures(sizes, section.notation), on_fault)


def taught(
    sample: Sample, section: PromptSection, sizes: Resizing | None = None
) -> tuple[list[dict[str, str]], Truth | None]:
    """What SFT learns of a row, as text, or else the boxes that it is written from. Raises: as `chat_rows`."""
    check_strip(sample, sizes)
    if sample.messages and sample.messages[-1]["role"] == "assistant":
        _check_text(sample, section, sizes)
        return [sample.messages[-1]], None
    if section.style == "direct" and (said := answer_of(sample)) is not None:
        return [{"role": "assistant", "content": said}], None
    return [], _truth(sample, section, sizes)


def _table(rows: list[dict[str, Any]], pictures: Pictures, on_fault: OnFault) -> Dataset:
    from datasets import Dataset

    named = [{**row, "images": [_stored(image) for image in row["images"]]} for row in rows]
    table, readable = Dataset.from_list(named), Readable(pictures, on_fault)
    shown = table.with_transform(readable)
    readable.table = table  # not before: datasets hashes a transform with all that it holds
    return shown


def _truth(sample: Sample, section: PromptSection, sizes: Resizing | None) -> Truth:
    """What the reference of a row without an assistant's turn is written from; written once, to find faults early."""
    truth = truth_of(sample)
    if section.style != "direct" or truth is None:
        raise DataError(
            f"{sample.source}: row {sample.id!r}: messages end without an assistant turn; supervised training "
            "needs one to learn from (with prompt.style direct, an answer or boxes are enough)"
        )
    try:
        reference(truth, section.notation, None if sizes is None else sizes.seen(truth["size"]))
    except DataError as error:
        raise DataError(f"{sample.source}: row {sample.id!r}: {error}") from error
    return truth


def _check_text(sample: Sample, section: PromptSection, sizes: Resizing | None) -> None:
    """Refuse a reference in text whose pixels would not follow the sizes that are drawn."""
    follows = sizes is None or sizes.drawing is None or NOTATIONS[section.notation].frame != "resized"
    if sample.task == "grounding" and not follows:
        raise DataError(
            f"{sample.source}: row {sample.id!r}: its reference is text, but images.random_resize draws the size that "
            f"the notation {section.notation} counts pixels of; take the assistant's turn out (its boxes are written "
            "again), or choose a notation of another frame, or leave random_resize out"
        )


def check_strip(sample: Sample, sizes: Resizing | None) -> None:
    """Raises: DataError for a picture that no Qwen2-VL takes, where its size is known."""
    if sizes is None or sample.size is None:
        return
    try:
        sizes.seen(sample.size)
    except ValueError as error:
        raise DataError(f"{sample.source}: row {sample.id!r}: {error}; cut the picture into tiles") from error
