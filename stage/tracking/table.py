"""The table of completions: when there is one, which rows of a generation batch it shows, and what a row holds.

A row, as a line of `samples.jsonl` has it (boxes: x1, y1, x2, y2 in pixels of the original image, whose size is
`truth.size`; the files lie in the run folder):

    {"step": 11, "row": 8, "group": 1, "task": "grounding", "source": "prompts", "id": "g-00007",
     "prompt": "system: Think, then answer.\\nuser: <image>Where is the red ship?",
     "completion": "<think>…</think><answer>(10,20),(90,80)</answer>", "trace": "…", "answer": "(10,20),(90,80)",
     "read": [[1.1, 2.2, 10.1, 9.0]], "read_quads": null,
     "truth": {"answer": null, "boxes": [[1.0, 2.0, 10.0, 9.0]], "quads": null, "size": [112, 112]},
     "rewards": {"gated": 0.93, "reward_raw/format": 1.0}, "advantage": 0.71,
     "image": "samples/0f3a….jpg", "image_size": [112, 112], "further": []}

Of the task `segmentation` there is also

     "masks": {"truth": {"size": [112, 112], "counts": "…"}, "answer": null}

run lengths (`vlm.masks`) of the pixels of `image`, which may be smaller than the original; null where there is none, or
none can be read. Rows whose pictures have dates hold them as `dates`, in the order of `image` and `further`.

Where the model has tools, `completion` is the text of all turns, `trace` and `answer` are of the last, and there are

     "turns": [{"role": "assistant", "content": "<tool_call>…"}, {"role": "tool", "content": "<image>…"}, …],
     "crops": [{"turn": 1, "image": 0, "box": [40, 12, 96, 68], "size": [112, 112], "of": [1792, 1792],
                "file": "samples/91bc….jpg"}], "regions": [[60.0, 30.0, 71.0, 41.0]]

crops: regions that were shown, in pixels of the original, whose size is `of`; `size`: as the model saw them; `turn`:
place in `turns` of the tool's; `image`: which of the question's pictures, from 0; `file`: null where it could no longer
be read. regions: the true ones.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stage.tracking.pictures import Small, small
from vlm.answers import parse
from vlm.boxes import FALLBACK, read_detections, read_said
from vlm.common.errors import DataError
from vlm.masks import DEFAULT_FORM, Runs, SaidMask, read_mask, runs_of
from vlm.pictures import images
from vlm.pictures.overlaid import scaled

logger = logging.getLogger(__name__)

FOLDER = "samples"
PAIR = 2
"""Completions of a prompt that are shown, where there are enough prompts: two can be compared."""
COLUMNS = ("task", "source", "id")
TRUTH = ("answer", "boxes", "quads", "size")
CLASSES = ("labels", "classes")
"""Of rows of detection; their `truth` has "labels", and "read_labels" is what each of the read shapes is called."""
HOW = ("resized", "written", "form", "named")
"""By which answers are read."""
NAMES = "image_names"
"""Column of the data set with the names of a row's pictures (`samples.rows`)."""


@dataclass(frozen=True)
class Batch:
    """A generation batch, seen from one process."""

    step: int
    "The first step that it is trained on, from 1."
    covers: int
    "Steps that it is trained on."
    last: int
    "The run's last step."
    group: int
    "Completions of a prompt."
    rank: int = 0
    processes: int = 1


def due(batch: Batch, every: int) -> bool:
    """Whether there is a table of this batch: the first, the last, and the one by which `every` more steps are done."""
    ends = batch.step <= batch.last < batch.step + batch.covers
    return (batch.step - 1) % every < batch.covers or ends


def chosen(total: int, group: int, rows: int) -> list[int]:
    """Places in a batch of `total` completions, `group` of each prompt in a row: two of each of prompts that are
    spread evenly, more where prompts are few. Ascending, at most `rows`; chance alone decides which completions."""
    prompts = total // group
    shown = min(prompts, max(1, rows // min(PAIR, group)))
    each = min(group, rows // shown)
    return [number * prompts // shown * group + n for number in range(shown) for n in range(each)]


@dataclass(frozen=True)
class Crop:
    """A region that a tool has shown."""

    where: dict[str, Any]
    "As in the column `crops`, with the original's size under `of`."
    picture: Small | None
    "None where it could not be read again."


@dataclass(frozen=True)
class Chain:
    """A completion of a model that has tools."""

    turns: list[dict[str, str]]
    crops: list[Crop] = field(default_factory=list)
    regions: list[list[float]] | None = None


@dataclass(frozen=True)
class Asked:
    """What a process knows of one of its rows, small enough to be told to the main process."""

    place: int
    columns: dict[str, Any]
    pictures: list[Small]
    chain: Chain | None = None

    @property
    def files(self) -> list[Small]:
        """All pictures that the row shows."""
        return [*self.pictures, *(crop.picture for crop in (self.chain.crops if self.chain else ()) if crop.picture)]


def asked(
    inputs: Sequence[Mapping[str, Any]], batch: Batch, rows: int, pixels: int, tools: bool = False
) -> list[Asked]:
    """The rows of this process that are shown. inputs: its rows of the data set, as many in every process. tools:
    the model has some, so that rows have the columns `turns` and `crops`."""
    first = batch.rank * len(inputs)
    everywhere = chosen(len(inputs) * batch.processes, batch.group, rows)
    here = {place: inputs[place - first] for place in everywhere if first <= place < first + len(inputs)}
    found = []
    for (place, row), pictures in zip(here.items(), reduced(list(here.values()), pixels), strict=True):
        columns = {name: row.get(name) for name in (*COLUMNS, *TRUTH, *HOW, *CLASSES, "dates")}
        if row.get("task") == "segmentation" and row.get("mask") is not None and pictures:
            columns["mask"] = reduced_mask(row["mask"], pictures[0].size)
        chain = Chain(row["turns"], cut(row, pixels), row.get("regions")) if tools else None
        found.append(Asked(place, columns, pictures, chain))
    return found


def cut(row: Mapping[str, Any], pixels: int) -> list[Crop]:
    """The regions that a row's tools have shown, cut from the originals again, each at most `pixels` large."""
    found = []
    for crop in row["crops"]:
        name, (x1, y1, x2, y2) = row[NAMES][crop["image"]], crop["box"]
        of, picture = None, None
        try:
            of = list(images.size(name))
            part = images.window(name, crop["box"], images.limited((int(x2 - x1), int(y2 - y1)), pixels))
            picture = small(part, pixels)
        except DataError as error:  # gone since the tool has read it: no reason to end a run
            logger.warning("the table of completions lacks a region: %s", error)
        found.append(Crop({**crop, "of": of}, picture))
    return found


def reduced(inputs: Sequence[Mapping[str, Any]], pixels: int) -> list[list[Small]]:
    """The pictures of each row, at most `pixels` large; those of a group are one object, and are pickled once."""
    made: dict[int, Small] = {}  # a group's completions have the same picture, as an object
    found = []
    for row in inputs:
        pictures = pictures_of(row)
        for picture in pictures:
            if id(picture) not in made:
                made[id(picture)] = small(picture, pixels)
        found.append([made[id(picture)] for picture in pictures])
    return found


def reduced_mask(mask: Runs, size: tuple[int, int]) -> Runs:
    """A mask of the original image's pixels as one of those of the small picture, of size (width, height)."""
    return runs_of(scaled(mask, size))


def pictures_of(row: Mapping[str, Any]) -> list[Any]:
    """Pictures of a row of the data set, under either of TRL's two names."""
    return row.get("images") or ([row["image"]] if row.get("image") is not None else [])


@dataclass(frozen=True)
class Reading:
    """How answers are read."""

    notation: str = FALLBACK
    tagged: bool = True
    "The answer is in `<answer>` tags; else it is the whole completion."
    form: str = DEFAULT_FORM
    "Of masks (`vlm.masks.FORMS`), in rows that do not tell theirs."

    def answer(self, completion: str) -> tuple[str | None, str | None]:
        """(trace, answer) of a completion."""
        parsed = parse(completion)
        return parsed.trace, parsed.answer if self.tagged else completion

    def shapes(
        self, answer: str | None, columns: Mapping[str, Any]
    ) -> tuple[list | None, list | None, list[str | None] | None]:
        """Boxes that the answer states; quadrilaterals, in a notation that has them; and what each is called. In
        pixels of the original image; None where none can be read, or the image's size is not known."""
        if answer is None or not columns["size"]:
            return None, None, None
        given = (answer, columns.get("written") or self.notation, columns["size"], columns["resized"])
        try:
            detects = columns["task"] == "detection"
            said = read_detections(*given, columns.get("classes")) if detects else read_said(*given)
        except DataError:  # the notation counts pixels of a resized image whose size the row does not tell
            return None, None, None
        if said is None or not said.objects:
            return None, None, None
        return said.boxes, None if said.upright else said.quads, [one.label for one in said.objects]

    def mask(self, answer: str | None, columns: Mapping[str, Any]) -> SaidMask | None:
        """The mask that the answer states; None where none can be read, or the image's size is not known."""
        if answer is None or not columns["size"]:
            return None
        form = columns.get("form") or self.form
        try:
            said = read_mask(answer, form, columns["size"], columns["resized"], columns.get("named"))
        except DataError:  # the form counts pixels of a resized image whose size the row does not tell
            return None
        return said if said.readable else None


def row(
    asked: Asked, batch: Batch, reading: Reading, texts: tuple[str, str], rewards: Mapping[str, Any], advantage: float
) -> dict[str, Any]:
    """A row of the table. texts: prompt and completion. rewards: by name; None and NaN where one does not apply."""
    columns, pictures, chain = asked.columns, asked.pictures, asked.chain
    trace, answer = reading.answer(chain.turns[-1]["content"] if chain else texts[1])
    read, read_quads, names = reading.shapes(answer, columns)
    truth = {name: columns[name] for name in TRUTH}
    detected, masked = columns.get("labels") is not None, columns["task"] == "segmentation"
    files = [f"{FOLDER}/{picture.name}" for picture in pictures]
    return {
        "step": batch.step,
        "row": asked.place,
        "group": asked.place // batch.group,
        **{name: columns[name] for name in COLUMNS},
        "prompt": texts[0],
        "completion": texts[1],
        "trace": trace,
        "answer": answer,
        "read": read,
        "read_quads": read_quads,
        "truth": truth | ({"labels": columns["labels"]} if detected else {}),
        **({"read_labels": names} if detected else {}),
        "rewards": {name: finite(value) for name, value in rewards.items()},
        "advantage": finite(advantage),
        "image": files[0] if files else None,
        "image_size": list(pictures[0].size) if pictures else None,
        "further": files[1:],
        **({"dates": columns["dates"]} if columns.get("dates") else {}),
        **({"masks": masks(asked, reading.mask(answer, columns))} if masked else {}),
        **(chained(chain) if chain else {}),
    }


def masks(asked: Asked, said: SaidMask | None) -> dict[str, Runs | None]:
    """Both masks in pixels of the small picture."""
    size = asked.pictures[0].size if asked.pictures else None
    answer = None if said is None or size is None else reduced_mask(said.runs(), size)
    return {"truth": asked.columns.get("mask"), "answer": answer}


def chained(chain: Chain) -> dict[str, Any]:
    named = [(crop.where, crop.picture and f"{FOLDER}/{crop.picture.name}") for crop in chain.crops]
    crops = [{**where, "file": name} for where, name in named]
    return {"turns": chain.turns, "crops": crops, "regions": chain.regions}


def pictured(row: Mapping[str, Any]) -> list[str]:
    """Files in the run folder that a row shows."""
    named = [row["image"], *row["further"], *(crop["file"] for crop in row.get("crops", ()))]
    return [name for name in named if name]


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
