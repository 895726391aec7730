"""The zoom demo's world: yards, pixels, questions, and the files that they become."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

import samples
from demo.world.shapes import COLORS
from demo.zoom import corpus, dataset, tasks, tiny
from demo.zoom.render import render, window
from demo.zoom.scene import MARKS, SIDE, SPLIT_SEEDS, Pad, Scene, scene
from vlm.pictures import images
from vlm.tools import zoom
from vlm.tools.tool import View

FIRST = SPLIT_SEEDS["sft"]


@pytest.fixture(scope="module")
def yards():
    return [scene(FIRST + n) for n in range(500)]


def holds(outer, inner) -> bool:
    return all(a <= b for a, b in zip(outer[:2], inner[:2], strict=True)) and all(
        a >= b for a, b in zip(outer[2:], inner[2:], strict=True)
    )


def changed(one: Scene, other: Scene) -> tuple[int, int, int, int]:
    """The box of the pixels that differ between two yards."""
    rows, columns = np.nonzero((np.asarray(render(one)) != np.asarray(render(other))).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_yards_are_a_function_of_their_seed_and_splits_share_none(yards):
    assert all(scene(one.seed) == one for one in yards[:50])
    assert len({tuple(one.pads) for one in yards}) == len(yards)
    starts = sorted(SPLIT_SEEDS.values())
    assert all(b - a > 100 * 100_000 for a, b in zip(starts, starts[1:], strict=False))


def are_apart(boxes) -> bool:
    return all(max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) > 0 for a, b in combinations(boxes, 2))


def test_pads_lie_inside_and_apart_and_hold_their_trucks(yards):
    for one in yards:
        assert 3 <= len(one.pads) <= 6 and len({pad.color for pad in one.pads}) == len(one.pads)
        assert are_apart([pad.box for pad in one.pads])
        for pad in one.pads:
            x1, y1, x2, y2 = pad.truck
            assert holds((0, 0, SIDE, SIDE), pad.box) and holds(pad.box, pad.truck)
            assert 42 <= x2 - x1 == y2 - y1 <= 50  # about three of 112 pixels


def test_boxes_bound_the_pixels_that_are_drawn(yards):
    for one in yards[:4]:
        pad, others = one.pads[0], one.pads[1:]
        assert changed(one, Scene(one.seed, others, one.bushes)) == pad.box
        marked = replace(pad, mark="ring" if pad.mark != "ring" else "cross")
        assert holds(pad.truck, changed(one, Scene(one.seed, [marked, *others], one.bushes)))


def test_a_window_is_a_part_of_the_whole(yards):
    whole = render(yards[0])
    assert whole.size == (SIDE, SIDE) == (1792, 1792)
    for box in ((0, 0, 300, 200), (1000, 700, 1437, 1200), (1500, 1600, SIDE, SIDE)):
        assert (np.asarray(window(yards[0], box)) == np.asarray(whole.crop(box))).all()


def test_every_mark_has_the_same_area_of_white():
    """So that how bright a truck looks from afar does not tell its mark: a quarter, but for whole pixels."""
    for side in (42, 50):
        truck = (500, 500, 500 + side, 500 + side)
        for mark in MARKS:
            pixels = np.asarray(window(Scene(1, [Pad("red", (400, 400, 660, 660), truck, mark)]), truck))
            assert 0.22 < (pixels > 200).all(axis=2).mean() < 0.32


def test_a_mark_is_told_in_a_crop_and_hardly_in_the_reduced_picture():
    """By the nearest of all marks' own pictures, drawn a few pixels off, which know all else: in a crop always right.

    At 112² a truck is three pixels wide; even this reader, who needs no learning, fails at half of them or so.
    """
    rng = random.Random(0)

    def pictures(side: int) -> dict[str, np.ndarray]:
        x, y = 800 + rng.randrange(-8, 9), 800 + rng.randrange(-8, 9)
        box = (818 - side // 2, 818 - side // 2, 818 + side // 2, 818 + side // 2)
        pads = {mark: Pad("red", (700, 700, 960, 960), (x, y, x + 46, y + 46), mark) for mark in MARKS}
        drawn = {mark: window(Scene(1, [pad]), box) for mark, pad in pads.items()}
        shown = {mark: one.resize((112, 112), Image.Resampling.BICUBIC) for mark, one in drawn.items()}
        return {mark: np.asarray(one, float) for mark, one in shown.items()}

    right = {1600: 0, 220: 0}
    for side in right:
        for _ in range(3):
            known, seen = pictures(side), pictures(side)
            right[side] += sum(
                min(known, key=lambda name, p=picture: apart(known[name], p)) == mark for mark, picture in seen.items()
            )
    assert right[220] == 24 and right[1600] <= 16


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Least squared difference over whole shifts of the inner part."""
    inner = b[40:72, 40:72]
    shifts = range(-8, 9)
    return min(float(((a[40 + y : 72 + y, 40 + x : 72 + x] - inner) ** 2).sum()) for x in shifts for y in shifts)


def right_answer(item: tasks.Item, one: Scene) -> str:
    """The answer, read off the question's words and the yard alone."""
    pads = {pad.color: pad for pad in one.pads}
    if found := re.fullmatch(r"Which mark is on the (\w+) pad\?", item.question):
        return pads[found[1]].mark
    if found := re.fullmatch(r"Is there a (\w+) pad\?", item.question):
        return "yes" if found[1] in pads else "no"
    if item.question == "How many pads are there?":
        return str(len(pads))
    found = re.fullmatch(r"Is the (\w+) pad (left of|above) the (\w+) pad\?", item.question)
    axis = 0 if found[2] == "left of" else 1
    a, b = pads[found[1]].box, pads[found[3]].box
    return "yes" if a[axis] + a[axis + 2] < b[axis] + b[axis + 2] else "no"


def test_answers_are_true_and_no_kind_is_answered_by_always_saying_the_same(yards):
    rng = random.Random(5)
    for kind in (tasks.SMALL, *tasks.EASY):
        said = Counter()
        for one in yards:
            item = tasks.ask(one, kind, rng)
            assert item.answer == right_answer(item, one) and (item.pad is not None) == (kind == tasks.SMALL)
            said[item.answer] += 1
        assert max(said.values()) / len(yards) < (0.62 if kind in ("presence", "relation") else 0.35)
        assert set(said) == {tasks.SMALL: set(MARKS), "count": {"3", "4", "5", "6"}}.get(kind, {"yes", "no"})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("zoom")
    dataset.questioned(out / "test/small_test.jsonl", SPLIT_SEEDS["test"], 16, 0.0)
    for name, reply in (("chains", dataset.chained), ("plain", dataset.answered)):
        dataset.questioned(out / f"sft/{name}.jsonl", FIRST, 12, 0.25, reply)
    return out


def pad_of(row) -> Pad | None:
    """The pad that a question about a mark is about."""
    pads = scene(int(row.id.split("-")[0])).pads
    return next((pad for pad in pads if row.messages[0]["content"] == f"Which mark is on the {pad.color} pad?"), None)


def test_test_questions_are_balanced_and_their_regions_hold_the_evidence(written):
    rows = list(samples.read(written / "test/small_test.jsonl"))
    assert Counter(row.answer for row in rows) == dict.fromkeys(MARKS, 2)
    for row in rows:
        one, pad = scene(int(row.id.split("-")[0])), pad_of(row)
        (region,) = row.regions
        assert pad.mark == row.answer and tuple(region) == pad.truck
        assert len(row.messages) == 1
        stored = np.asarray(images.load(row.images[0]), int)
        assert stored.shape == (SIDE, SIDE, 3) and np.abs(stored - np.asarray(render(one), int)).mean() < 4


def test_chains_look_at_the_pad_that_is_asked_for(written):
    rows, plain = ([*samples.read(written / f"sft/{name}.jsonl")] for name in ("chains", "plain"))
    assert len({row.id for row in rows}) == len(rows) == 12
    for row, same in zip(rows, plain, strict=True):
        question, *looks, answer = row.messages
        assert same.messages == [question, answer] and answer["content"] == row.answer and not row.regions
        assert (pad := pad_of(row)) is None or row.answer == pad.mark
        assert len(looks) == (pad is not None)
        for look in looks:
            column, line = (int(value // 448) for value in pad.center)
            assert look["content"] == f"{pad.color}{column}{line}"
            assert holds(look["zoom"], pad.box) and holds((0, 0, SIDE, SIDE), look["zoom"])
    assert {pad_of(row) is None for row in rows} == {True, False}


def test_crops_of_the_corpus_hold_the_truck(yards):
    rng = random.Random(2)
    crops = [(corpus.cut(one.pads[0], rng), one.pads[0]) for one in yards]
    assert all(holds((0, 0, SIDE, SIDE), box) and holds(box, pad.truck) for box, pad in crops)
    sides = [max(box[2] - box[0], box[3] - box[1]) for box, _ in crops]
    assert min(sides) < 170 and max(sides) > 330


def test_regions_are_listed_as_a_call_states_them(yards):
    rng = random.Random(4)
    whole = View("yard.jpg", (0, 0, SIDE, SIDE), (112, 112), "per_mille")
    for one in yards[:200]:
        region = corpus.careless(one.pads[0], rng)
        assert json.loads(corpus.listed(region)) == whole.stated(region)
        assert holds(region, one.pads[0].box) and holds((0, 0, SIDE, SIDE), region)


def test_the_corpus_never_shows_a_call():
    for row in (*range(40), *range(corpus.PHASES[-1][1], corpus.PHASES[-1][1] + 60)):
        pictures, pieces = corpus.conversation(row)
        text = "".join(text for text, _ in pieces)
        assert text.count("<|image_pad|>") == len(pictures) and "tool_call" not in text and tiny.CALL not in text


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


def test_a_call_takes_few_tokens(words):
    text = '<tool_call>\n{"name": "image_zoom_in", "arguments": {"bbox": [123, 456, 789, 987]}}\n</tool_call>'
    found = words(text).input_ids
    assert words.decode(found) == text and len(found) == 23
    assert zoom.GO_ON == tiny.GO_ON
    for word in (*MARKS, *COLORS):
        assert len(words(f" {word}").input_ids) <= 2
