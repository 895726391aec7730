"""What is seen of rows while they stream by: counts, boxes, answers, lengths; nothing of their texts is kept."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from samples import Sample, kinds_of
from samples.doctor.gallery import Gallery
from samples.doctor.subject import Ruler
from samples.facts import asked_last, zoomed
from samples.rows import learnt, untagged
from vlm import masks
from vlm.common.errors import DataError
from vlm.families import Sight
from vlm.pictures.resizing import seen
from vlm.prompts import replied
from vlm.tools.zoom import WHOLE as REFUSED

TINY = 4.0
"""Pixels, as the model sees the image: a box with a shorter side is a few percent of one visual token."""
HUGE, WHOLE = 0.8, 0.99
"""Share of the image that a box covers."""
POOR = 0.25
"""IoU of a mask with its own text, below which that text hardly says where it is."""
EXAMPLES = 20
"""Rows that are named for each finding; all are counted."""
BATCH = 256
"""Rows whose texts are tokenised together."""

UNSHOWN = "with a zoom that is not shown: the recipe has no `tools: [{use: zoom}]`, or the tool refuses the region"
MUTE, UNTAGGED = "without a reply to learn from", "with a reply without <think> and <answer>"
AGAIN, OTHERWISE = "asked again with the same answer", "asked again with another answer"

Shapes = list[list[float]]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(slots=True)
class Findings:
    """Counts by kind, and the first rows of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(what)

    def to_dict(self) -> dict[str, dict]:
        return {kind: {"count": n, "first": self.examples[kind]} for kind, n in self.counts.most_common()}


@dataclass(slots=True)
class Unsized:
    """Rows with boxes in a picture whose size they do not state. If EXIF turns it, nobody can tell from which side of
    the turn the boxes are, as long as they fit both."""

    rows: int = 0
    first: str = ""
    fitting: int = 0
    "Of these, rows whose boxes also fit a picture with width and height swapped."
    first_fitting: str = ""

    def add(self, boxes: Shapes, size: tuple[int, int], name: str) -> None:
        self.rows += 1
        self.first = self.first or name
        if all(x2 <= size[1] and y2 <= size[0] for _, _, x2, y2 in boxes):
            self.fitting += 1
            self.first_fitting = self.first_fitting or name

    def doubtful(self, orientation: int) -> tuple[int, str]:
        """Rows whose boxes fit the picture both as stored and upright, and the first of them; 5 to 8 swap the sides."""
        if orientation == 1:
            return 0, ""
        return (self.fitting, self.first_fitting) if orientation >= 5 else (self.rows, self.first)


class Rows:
    """The rows that were examined, as columns, and what is odd about them.

    sight: what the recipe's model sees.
    """

    def __init__(self, gallery: Gallery, ruler: Ruler, sight: Sight):
        self.gallery, self.ruler, self.sight = gallery, ruler, sight
        self.names: list[str] = []
        "source/id of each row."
        self.places = array("H")
        "Number of the source of each row."
        self.pictures = array("L")
        "Pictures of all rows, one row after another …"
        self.ends = array("L")
        "… and where each row's end."
        self.text_tokens = array("L")
        "Of prompt (and answer, where that is learned), template included; empty without a tokenizer."
        self.kinds: Counter[tuple[int, str, str]] = Counter()
        "Rows by number of the source, task and question type; a row of several types counts in each."
        self.answer_words = array("L")
        self.box_sides = array("f")
        "Square root of the share of the image that each box covers."
        self.boxes = Findings()
        self.masks = Findings()
        self.mask_sides = array("f")
        "Square root of the share of the image that each mask covers; empty ones not."
        self.mask_ious = array("f")
        "IoU of each of these with its own text in the recipe's form: the most that an answer is likely to reach."
        self.zoom_sides = array("f")
        "Square root of the share of the image that each turn zooms into."
        self.unsized: dict[int, Unsized] = {}
        "By number of the picture: its rows with boxes that state no size."
        self.learns = True
        "Whether the rows that come next are the stage's own: what they teach is looked at where it teaches answers."
        self.replies = Findings()
        "What is wrong with what SFT would learn."
        self.mute = array("B")
        "1 for each row that has nothing to learn, where that is learned."
        self.repeated = Findings()
        "Rows that ask what another row of their role has asked about the same pictures."
        self.namesakes = 0
        "Held-out rows that are called as another one."
        self._called: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._answered: set[bytes] = set()
        self._waiting: list[Sample] = []

    def add(self, sample: Sample, role: str, place: int, sized: bool = True) -> None:
        """Look at one row; `place`: number of its source; `sized`: whether it states the size of its picture."""
        name = f"{sample.source}/{sample.id}"
        self.names.append(name)
        if role == "eval":
            called = _digest(repr((sample.source, sample.id)))
            self.namesakes += called in self._called
            self._called.add(called)
        self.places.append(place)
        for kind in kinds_of(sample.kind) or [""]:
            self.kinds[place, sample.task, kind] += 1
        first = len(self.pictures)
        for picture in sample.images:
            self.pictures.append(self.gallery.add(picture, role, name))
        self.ends.append(len(self.pictures))
        self._look_for_repeats(sample, role, self.pictures[first:], name)
        self.mute.append(self.ruler.answers and self.learns and not self._look_at_reply(sample, name))
        answer = sample.answer
        if answer is None and sample.messages[-1]["role"] == "assistant":
            answer = sample.messages[-1]["content"]
        if answer is not None:
            self.answer_words.append(len(answer.split()))
        if sample.boxes and sample.size:
            self._look_at_boxes(sample.boxes, sample.quads, sample.size, len(sample.images), name)
            if not sized and sample.images:
                first = self.pictures[len(self.pictures) - len(sample.images)]
                self.unsized.setdefault(first, Unsized()).add(sample.boxes, sample.size, name)
        if sample.mask is not None and sample.size and sample.task == "segmentation":
            self._look_at_mask(sample, name)
        if sample.size:
            self._look_at_zooms(zoomed(sample.messages), sample.size, name)
        if self.ruler.tokenizer is not None:
            self._waiting.append(sample)
            if len(self._waiting) == BATCH:
                self.measure()

    def _look_at_reply(self, sample: Sample, name: str) -> bool:
        """Whether SFT finds something to learn."""
        if zoomed(sample.messages) and self.ruler.spelled(sample) is None:
            self.replies.add(UNSHOWN, name)
            return False
        reply = learnt(sample, self.ruler.prompt, self.ruler.sight)
        if not reply:
            self.replies.add(MUTE, name)
        elif untagged(reply[-1]["content"], self.ruler.prompt):
            self.replies.add(UNTAGGED, name)
        return bool(reply)

    def _look_for_repeats(self, sample: Sample, role: str, pictures: array, name: str) -> None:
        first = replied(sample.messages)
        texts = [(turn["role"], " ".join(turn["content"].split()), *zoomed([turn])) for turn in sample.messages[:first]]
        asked_for = (sample.choices, sample.classes, sample.written, sample.dates)
        question = repr((role, sample.task, pictures.tolist(), texts, *asked_for))
        truth = (
            sample.answer,
            sample.boxes,
            sample.quads,
            sample.labels,
            sample.mask,
            (sample.columns or {}).get("ranked"),
        )
        said = [(turn["content"], *zoomed([turn])) for turn in sample.messages[first:]]
        asked, answered = (_digest(text) for text in (question, repr((question, truth, said))))
        if asked in self._asked:
            self.repeated.add(AGAIN if answered in self._answered else OTHERWISE, name)
        self._asked.add(asked)
        self._answered.add(answered)

    def measure(self) -> None:
        """Tokenise the texts that wait for it; call it once more after the last row."""
        if self._waiting:
            self.text_tokens.extend(self.ruler.text_tokens(self._waiting))
            self._waiting = []

    def _look_at_boxes(
        self, boxes: Shapes, quads: Shapes | None, size: tuple[int, int], pictures: int, name: str
    ) -> None:
        try:
            seen = self.sight.among(pictures).seen(size) or size
        except ValueError:  # too long and thin for the model: reported of the picture
            seen = size
        across, down = seen[0] / size[0], seen[1] / size[1]
        for x1, y1, x2, y2 in boxes:
            share = (x2 - x1) * (y2 - y1) / (size[0] * size[1])
            self.box_sides.append(share**0.5)
            if share >= HUGE:
                self.boxes.add("whole image" if share >= WHOLE else "huge", name)
            if min((x2 - x1) * across, (y2 - y1) * down) < TINY:
                self.boxes.add("tiny", name)
        shapes = [tuple(map(round, shape)) for shape in quads or boxes]
        for _ in range(len(shapes) - len(set(shapes))):  # the same to the pixel
            self.boxes.add("given twice", name)

    def _look_at_mask(self, sample: Sample, name: str) -> None:
        mask, size, form, asked = sample.mask, sample.size, self.ruler.prompt.masks, asked_last(sample)
        assert mask is not None and size is not None
        if not masks.area(mask):
            self.masks.add("nothing in them", name)
            return
        self.mask_sides.append((masks.area(mask) / (size[0] * size[1])) ** 0.5)
        try:
            at = seen(size, self.sight.among(len(sample.images)))
            inner, outer = masks.written_overlap(mask, form, size, at, asked)
        except (DataError, ValueError):  # a form that cannot say it, a strip: the stage refuses such rows
            return
        self.mask_ious.append(inner / outer)
        if inner < POOR * outer:
            self.masks.add(f"of which the form {form} says less than {POOR:.0%} (IoU of the written mask)", name)

    def _look_at_zooms(self, regions: Shapes, size: tuple[int, int], name: str) -> None:
        """A region of nearly the whole image is not shown by the tool; one that was there before shows nothing new."""
        for number, (x1, y1, x2, y2) in enumerate(regions):
            share = (x2 - x1) * (y2 - y1) / (size[0] * size[1])
            self.zoom_sides.append(share**0.5)
            if share > REFUSED:
                self.boxes.add("zoom into nearly the whole image", name)
            if regions[number] in regions[:number]:
                self.boxes.add("zoomed into twice", name)

    def least_together(self, pictures: int) -> list[int]:
        """(pictures,) how many pictures the row has that shows this one beside fewest others: where they share a budget
        (`images.row_pixels`), it is seen largest there."""
        found, start = [0] * pictures, 0
        for end in self.ends:
            for picture in self.pictures[start:end]:
                found[picture] = min(found[picture] or end - start, end - start)
            start = end
        return found

    def of_pictures(self, values: np.ndarray) -> np.ndarray:
        """(rows,) the sum, over each row's pictures, of the pictures' values."""
        shown = values.astype(float)[np.asarray(self.pictures, np.int64)]
        return np.diff(np.concatenate([[0.0], np.cumsum(shown)])[np.asarray([0, *self.ends], np.int64)])

    def lengths(self, visual: np.ndarray) -> np.ndarray:
        """(rows,) tokens of each row, from the visual tokens of each picture; empty without a tokenizer."""
        if not len(self.text_tokens):
            return np.zeros(0, np.int64)
        # two tokens of the template stand around each picture
        return np.asarray(self.text_tokens, np.int64) + self.of_pictures(visual + 2).astype(np.int64)
