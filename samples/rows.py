"""From samples to the `datasets.Dataset` that TRL reads: prompt or chat, and the sample's fields as columns.

The table that TRL sees holds row numbers alone. A row is made when it is read: its sample from the store on the disk
(`samples.store`), then its prompt, then its pictures, decoded through a small cache: GRPO reads the same row once per
completion of a group. What must hold of all rows is asked of their facts, before training.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from samples import Sample
from samples.facts import CODEC, PLACES, Truth, answer_of, asked_last, truth_of, zoomed
from samples.sample import DETECTED
from samples.store import Drawn
from vlm import answers, prompts
from vlm.boxes import corners, find, write_boxes, write_detections, write_quads
from vlm.common.console import say
from vlm.common.errors import DataError
from vlm.families import Sight
from vlm.masks import FORMS, write_mask
from vlm.pictures.budget import Crowded
from vlm.pictures.cache import decoded
from vlm.pictures.images import describe, load
from vlm.pictures.places import blocks, placed
from vlm.pictures.resizing import Resizing, header_size, seen
from vlm.pictures.unreadable import Readable
from vlm.sections import PromptSection
from vlm.tools.chains import chained, written
from vlm.tools.tool import view_of, views_of
from vlm.tools.zoom import Zoom

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

OnFault = Literal["error", "skip"]
"""The recipe's `data.on_fault`, here for pictures that can no longer be read (`vlm.pictures.unreadable`)."""


def _decoded(image: str | bytes) -> Image:
    return decoded.get(image, lambda: load(image))


class Pictures:
    """What a table does when rows of it are read: decodes pictures, resizes them where the recipe draws sizes, tells
    their sizes (column `resized`), and writes the references whose numbers depend on them. Turns with pictures inside
    become blocks; others stay texts, before the first of which TRL puts the pictures.

    sizes: None leaves the column out; the model's size is then unknown, and notations that count in it cannot be used.
    notation: of the references to write, for tables with a column `truth`. zoom: cuts out what conversations with calls
    look at (`vlm.tools.chains`), whose crops stand behind the row's own pictures.
    """

    def __init__(self, sizes: Resizing | None, notation: str = "", zoom: Zoom | None = None):
        self.sizes, self.notation, self.zoom = sizes, notation, zoom

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        numbers, truths = batch.pop("row"), batch.pop("truth", None)
        crops = self._chained(batch, numbers) if "messages" in batch else [[]] * len(numbers)
        for name in ("prompt", "messages"):
            if name in batch:
                batch[name] = [
                    blocks(turns, len(images) + len(more)) if placed(turns) else turns
                    for turns, images, more in zip(batch[name], batch["images"], crops, strict=True)
                ]
        if self.sizes is None:
            batch["images"] = [[_decoded(image) for image in images] for images in batch["images"]]
            return batch
        expected = batch["size"] if "size" in batch else batch.pop("checked")
        for images, size in zip(batch["images"], expected, strict=True):
            if images and size is not None:
                _check_unchanged(images[0], size)
        named = list(zip(numbers, batch["images"], strict=True))
        batch["images"] = [
            [self.sizes.picture(image, row, among=len(images)) for image in images] for row, images in named
        ]
        resized = [self.sizes.seen(one[0].size, among=len(one)) if one else None for one in batch["images"]]
        if truths is None:
            batch["resized"] = [list(size) if size else None for size in resized]
        else:
            batch["messages"] = [
                [*turns, reference(truth, self.notation, size)] if truth else turns
                for turns, truth, size in zip(batch["messages"], truths, resized, strict=True)
            ]
            batch["images"] = [[*own, *more] for own, more in zip(batch["images"], crops, strict=True)]
        return batch

    def _chained(self, batch: dict[str, list[Any]], numbers: list[int]) -> list[list[Image]]:
        """Write out the calls of conversations that have some; returns each row's crops."""
        found: list[list[Image]] = []
        for place, (turns, names, row) in enumerate(zip(batch["messages"], batch["images"], numbers, strict=True)):
            if not zoomed(turns):
                found.append([])
                continue
            assert self.zoom is not None and self.sizes is not None  # `taught` has refused such rows
            handed = [self.sizes.drawn(header_size(name), row, among=len(names)) for name in names]
            views = views_of(names, self.sizes.sight, self.notation, handed)
            batch["messages"][place], shown = chained(turns, views, self.zoom)
            found.append([one.picture for one in shown])
        return found


def _check_unchanged(image: str | bytes, size: Sequence[int]) -> None:
    """Raises: DataError for a picture that has another size than when its row was checked, which its boxes count in."""
    found = header_size(image)
    if found != tuple(size):
        raise DataError(
            f"image {describe(image)}: found {found[0]} x {found[1]} pixels, expected {size[0]} x {size[1]} as when "
            "its row was checked: it was replaced; delete the kept tables (data.cache) to have all rows checked again"
        )


def reference(truth: Truth, notation: str, resized: tuple[int, int] | None) -> dict[str, str]:
    """The assistant's turn of a row whose reference is boxes or a mask; of quadrilaterals, where the notation can show
    them.

    notation: the recipe's, where the row has none of its own; masks bring their form. resized: (width, height) at which
    the model sees the picture.
    """
    notation = truth["written"] or notation
    if truth["mask"] is not None:
        assert truth["form"] is not None  # a row that asks for a mask says how it is written
        text = write_mask(truth["mask"], truth["form"], resized, truth["named"])
    elif truth["labels"] is not None:
        quads = truth["quads"] if truth["quads"] is not None else [corners(box) for box in truth["boxes"]]
        text = write_detections(quads, truth["labels"], notation, truth["size"], resized, truth["classes"])
    elif truth["quads"] and find(notation).shape != "box":
        text = write_quads(truth["quads"], notation, truth["size"], resized)
    else:
        text = write_boxes(truth["boxes"], notation, truth["size"], resized)
    return {"role": "assistant", "content": text}


def learnt(sample: Sample, section: PromptSection, sight: Sight | None) -> list[dict[str, Any]]:
    """The reply that SFT learns, as `chat_rows` has it with pictures as they are; none where it would refuse the row.

    One turn of the assistant's, or more where it zooms (`vlm.prompts.replied`).
    """
    if reply := sample.messages[prompts.replied(sample.messages) :]:
        return reply
    if section.style != "direct":
        return []
    if (said := answer_of(sample)) is not None:
        return [{"role": "assistant", "content": said}]
    truth = truth_of(sample, prompts.drawn(sample, section))
    if truth is None:
        return []
    try:
        among = None if sight is None else sight.among(len(sample.images))
        return [reference(truth, section.notation, seen(sample.size, among))]
    except (DataError, ValueError):  # a notation that cannot say it, a strip: training tells
        return []


class Spelled(NamedTuple):
    """What a row is as text."""

    asked: list[dict[str, Any]]
    reply: list[dict[str, Any]]
    "What SFT learns, and the tool's turns between; none where it would refuse the row."
    shown: int
    "Pictures of what is asked: the row's, and crops of an earlier reply."
    crops: list[tuple[int, int]]
    "(width, height) of all crops, as the processor gets them: they stand behind the row's pictures."


def spelled(sample: Sample, section: PromptSection, sight: Sight | None, zoom: Zoom | None = None) -> Spelled:
    """A row's text, without the reply where the notation cannot say it; calls are written out where the tool is given.
    No picture is opened.

    Raises: DataError for a region that the tool would refuse.
    """
    asked, reply = prompts.asked(sample, section), learnt(sample, section, sight)
    turns = [*asked, *reply]
    if zoom is None or sight is None or sample.size is None or not zoomed(turns):
        return Spelled(asked, reply, len(sample.images), [])
    views = [
        view_of(image, sample.size, sight, section.notation, number)  # regions are of the first
        for number, image in enumerate(sample.images)
    ]
    turns, crops = written(turns, views, zoom)
    before = len(zoomed(asked))
    end = len(asked) + before
    return Spelled(turns[:end], turns[end:], len(views) + before, [zoom.handed(view.box) for view in crops])


def untagged(reply: str, section: PromptSection) -> bool:
    """Whether the style asks for `<think>` and `<answer>`, and a reply to learn is not of that form."""
    return section.style == "r1" and not answers.parse(reply).well_formed


def say_untagged(samples: Iterable[Sample], section: PromptSection, role: str = "train") -> None:
    """Say the share of rows that teach another form than the style asks for."""
    facts = Drawn.of(samples, CODEC).facts()
    bare, count = sum(number for found, number in facts.items() if found.reply == "bare"), facts.total()
    if section.style == "r1" and bare:
        say(
            f"data.{role}: {bare:,} of {count:,} rows ({bare / count:.0%}) have a reply without <think> "
            "and <answer>, which prompt.style r1 asks for (with style direct, replies are bare answers)"
        )


def _columns(sample: Sample) -> dict[str, Any]:
    """The fields that reward functions see, and where pictures lie (for tables of completions, and tools)."""
    first = sample.images[0] if sample.images else None
    return {
        "images": sample.images,
        "image_names": sample.images,
        "image_file": first if isinstance(first, str) else None,
        "task": sample.task,
        "kind": sample.kind,
        "answer": sample.answer,
        "boxes": sample.boxes,
        "quads": sample.quads,
        **{name: getattr(sample, name) for name in DETECTED},
        "written": sample.written,
        "mask": sample.mask,
        "dates": sample.dates,
        "size": list(sample.size) if sample.size else None,
        "choices": sample.choices,
        "references": sample.references,
        "regions": sample.regions,
        "source": sample.source,
        "id": sample.id,
    }


def prompt_rows(
    samples: Iterable[Sample], section: PromptSection, sizes: Resizing | None = None, on_fault: OnFault = "error"
) -> Dataset:
    """Rows for GRPO: `prompt` (conversation), `images` (decoded), the sample's fields, `copy`, and with ``sizes`` also
    `resized`, [w, h] of the first picture as the model sees it. The samples' columns are there under their names.

    A row that a mixture repeats is a prompt of its own each time, with completions of its own. `copy` numbers these
    times from 0: by it rewards that compare within a group tell neighbours with the same source and id apart.

    Raises: DataError for a picture that the model cannot take.
    """
    drawn = Drawn.of(samples, CODEC)
    _check_strips(drawn, sizes)
    if (doubtful := drawn.first(lambda facts: facts.zooms == "asked")) is not None:
        check_zooms(doubtful, doubtful.messages[: prompts.replied(doubtful.messages)])
    return _table(_Prompts(drawn, section), Pictures(sizes), on_fault)


def prompt_row(sample: Sample, section: PromptSection, copy: int, number: int) -> dict[str, Any]:
    """One row of `prompt_rows`, without what follows from its picture and without the sample's columns."""
    prompt = prompts.asked(sample, section)
    masked = sample.task == "segmentation"
    how = {"form": section.masks if masked else None, "named": asked_last(sample) if masked else None}
    return {"prompt": prompt, **_columns(sample), **how, "copy": copy, "row": number}


def chat_rows(
    samples: Iterable[Sample],
    section: PromptSection,
    sizes: Resizing | None = None,
    on_fault: OnFault = "error",
    zoom: Zoom | None = None,
) -> Dataset:
    """Rows for SFT: `messages` ending in the assistant's turn, `images` (decoded), `source` and `id`.

    Where the conversation has no such turn but the sample has its truth, and the style is `direct`, it is written: the
    answer, of a choice its letter; or the boxes in `prompt.notation`, following the size at which the picture is seen
    (``sizes``). The style `r1` needs a trace, which no truth holds. zoom: of the recipe's tools; conversations with
    calls have these and the tool's turns written out, and the crops behind their own pictures.

    Raises: DataError for a row without anything to learn from, for one whose text cannot follow a drawn size, and for
    a picture that the model cannot take.
    """
    drawn = Drawn.of(samples, CODEC)
    _check_strips(drawn, sizes)
    _check_replies(drawn, section, sizes, zoom)
    return _table(_Chats(drawn, section, sizes), Pictures(sizes, section.notation, zoom), on_fault)


class _Prompts:
    """Rows of `prompt_rows` by their numbers, pictures not decoded. A row has None for columns that it lacks."""

    def __init__(self, drawn: Drawn[Sample], section: PromptSection):
        self.drawn, self.section, self.copies = drawn, section, drawn.copies()
        self.columns = dict.fromkeys(name for facts in drawn.facts() for name in facts.columns)

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, number: int) -> dict[str, Any]:
        sample = self.drawn[number]
        row = prompt_row(sample, self.section, 0 if self.copies is None else int(self.copies[number]), number)
        return row | {name: (sample.columns or {}).get(name) for name in self.columns}


class _Chats:
    """Rows of `chat_rows`, likewise; `truth` where the reference is written when the picture's size is known."""

    def __init__(self, drawn: Drawn[Sample], section: PromptSection, sizes: Resizing | None):
        self.drawn, self.section, self.sizes = drawn, section, sizes

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, number: int) -> dict[str, Any]:
        sample, asked = self.drawn[number], self.section
        reply, truth = _reply(sample, asked)
        messages = [*prompts.asked(sample, asked), *reply]
        if truth is not None and (self.sizes is None or not sample.images):
            messages.append(reference(truth, asked.notation, None))
            truth = None
        names = {"source": sample.source, "id": sample.id, "row": number}
        row = {"messages": messages, "images": sample.images, **names}
        return row if self.sizes is None else row | {"truth": truth, "checked": sample.size}


class _Made:
    """The transform of a table of row numbers: the rows, then what `readable` makes of them.

    readable: set once the table exists, for `datasets` hashes a transform with all that it holds.
    """

    readable: Readable

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [self.readable.table[number] for number in batch["row"]]
        return self.readable({name: [row[name] for row in rows] for name in rows[0]})


def _table(rows: _Prompts | _Chats, pictures: Pictures, on_fault: OnFault) -> Dataset:
    import pyarrow
    from datasets import Dataset

    numbers, made = pyarrow.table({"row": np.arange(len(rows), dtype=np.int32)}), _Made()
    table = Dataset(numbers, fingerprint=uuid.uuid4().hex).with_transform(made)
    made.readable = Readable(pictures, on_fault)
    made.readable.table = rows
    return table


def taught(
    sample: Sample, section: PromptSection, sizes: Resizing | None = None, zoom: Zoom | None = None
) -> tuple[list[dict[str, Any]], Truth | None]:
    """What SFT learns of a row, as text, or else the boxes that it is written from. Raises: as `chat_rows`."""
    check_strip(sample, sizes)
    if zoomed(sample.messages):
        _check_calls(sample, section, sizes, zoom)
    reply, truth = _reply(sample, section)
    if sample.messages[-1]["role"] == "assistant":
        _check_text(sample, section, sizes)
    elif section.style != "direct" or not (reply or truth):
        raise DataError(
            f"{sample.source}: row {sample.id!r}: messages end without an assistant turn; supervised training "
            "needs one to learn from (with prompt.style direct, an answer or boxes are enough)"
        )
    if truth is not None:
        try:  # written once, to find faults early
            seen_at = None if sizes is None else sizes.seen(truth["size"], among=len(sample.images))
            reference(truth, section.notation, seen_at)
        except DataError as error:
            raise DataError(f"{sample.source}: row {sample.id!r}: {error}") from error
    return reply, truth


def _check_calls(sample: Sample, section: PromptSection, sizes: Resizing | None, zoom: Zoom | None) -> None:
    """Refuse a conversation whose calls could not be taught; pictures are not opened."""
    if zoom is None or sizes is None or sample.size is None or sample.tooled is False:
        check_zooms(sample, sample.messages)
        return
    try:
        spelled(sample, section, sizes.sight, zoom)
    except DataError as error:
        raise DataError(f"{sample.source}: row {sample.id!r}: {error}") from None


def _reply(sample: Sample, section: PromptSection) -> tuple[list[dict[str, Any]], Truth | None]:
    if reply := sample.messages[prompts.replied(sample.messages) :]:
        return reply, None
    if (said := answer_of(sample)) is not None:
        return [{"role": "assistant", "content": said}], None
    return [], truth_of(sample, prompts.drawn(sample, section))


def _check_replies(
    drawn: Drawn[Sample], section: PromptSection, sizes: Resizing | None, zoom: Zoom | None = None
) -> None:
    """`taught` of all rows: of those that it may refuse by their facts, the first; references are written once."""
    direct = section.style == "direct"
    for doubtful in (
        drawn.first(lambda facts: not facts.reply and not (direct and facts.truth)),
        drawn.first(lambda facts: bool(facts.reply) and facts.task in PLACES),
    ):
        if doubtful is not None:
            taught(doubtful, section, sizes, zoom)
    drawn.once(
        f"calls under {section.notation}, {sizes and sizes.sight.text()}, {zoom and zoom.least}",
        lambda facts: bool(facts.zooms),
        lambda sample: taught(sample, section, sizes, zoom),
    )
    limits = "" if sizes is None else sizes.sight.text()
    drawn.once(
        f"references in {section.notation}, {section.masks}, {limits}",
        lambda facts: not facts.reply and facts.truth == "boxes",
        lambda sample: taught(sample, section, sizes),
    )


def _check_text(sample: Sample, section: PromptSection, sizes: Resizing | None) -> None:
    """Refuse a reference in text whose pixels would not follow the sizes that are drawn."""
    if sizes is None or sizes.drawing is None or sample.task not in PLACES:
        return
    if sample.task == "segmentation":
        named, counts = f"mask form {section.masks}", FORMS[section.masks].resized
    else:
        notation = sample.written or section.notation
        named, counts = f"notation {notation}", find(notation).frame == "resized"
    if counts:
        raise DataError(
            f"{sample.source}: row {sample.id!r}: its reference is text, but images.random_resize draws the size that "
            f"the {named} counts pixels of; take the assistant's turn out (the reference is written again), or choose "
            "one that does not, or leave random_resize out"
        )


def check_zooms(sample: Sample, turns: Sequence[Mapping[str, Any]]) -> None:
    """Raises: DataError where one of these turns of a row zooms: without the tool its region would never be seen."""
    for number, turn in enumerate(turns, 1):
        if "zoom" in turn:
            raise DataError(
                f"{sample.source}: row {sample.id!r}: field 'messages[{number}].zoom': found a turn that zooms into "
                f"{zoomed([turn])[0]}, expected none without the tool: write `tools: [{{use: zoom}}]` in the recipe "
                "(and not `tools: false` at the source), or leave these rows out"
            )


def _check_strips(drawn: Drawn[Sample], sizes: Resizing | None) -> None:
    sample = None if sizes is None else drawn.first(lambda facts: facts.strip)
    if sample is not None:
        check_strip(sample, sizes)


def check_strip(sample: Sample, sizes: Resizing | None) -> None:
    """Raises: DataError for a picture that the model does not take, where its size is known."""
    if sizes is None or sample.size is None:
        return
    try:
        sizes.seen(sample.size, among=len(sample.images))
    except Crowded as error:
        raise DataError(f"{sample.source}: row {sample.id!r}: {error}") from error
    except ValueError as error:
        raise DataError(f"{sample.source}: row {sample.id!r}: {error}; cut the picture into tiles") from error
