"""The demo world: scenes, pixels, questions and traces, each checked against an independent reading of the scene."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from demo.world import tasks
from demo.world.render import render
from demo.world.scene import SIDE, SPLIT_SEEDS, Scene, Thing, place, scene
from demo.world.shapes import CLASSES, COLORS

SCENES = 2000
FIRST = SPLIT_SEEDS["sft"]


@pytest.fixture(scope="module")
def scenes():
    return [scene(FIRST + n) for n in range(SCENES)]


def pixels(one: Scene) -> np.ndarray:
    return np.asarray(render(one)).astype(int)


def test_scenes_are_a_function_of_their_seed(scenes):
    assert all(scene(one.seed) == one for one in scenes[:200])
    assert (pixels(scene(FIRST)) == pixels(scene(FIRST))).all()
    first = pixels(scene(FIRST))
    assert all((pixels(scene(FIRST + n)) != first).any() for n in range(1, 20))
    described = {(one.shore, *one.things) for one in scenes}
    assert len(described) == SCENES


def test_the_random_state_of_the_caller_is_neither_read_nor_moved():
    random.seed(1), np.random.seed(1)
    before = scene(FIRST + 5), pixels(scene(FIRST + 5))
    drawn = random.random(), np.random.random()
    random.seed(1), np.random.seed(1)
    assert drawn == (random.random(), np.random.random())
    after = scene(FIRST + 5), pixels(scene(FIRST + 5))
    assert before[0] == after[0] and (before[1] == after[1]).all()


def test_splits_never_share_a_scene():
    """Runs shift their seeds by 100,000 each and a scene without things falls back 50 million further."""
    starts = sorted(SPLIT_SEEDS.values())
    assert all(b - a > 50_000_000 + 100 * 100_000 for a, b in zip(starts, starts[1:], strict=False))
    sets = [{scene(start + n).seed for n in range(300)} for start in starts]
    assert len(set().union(*sets)) == sum(map(len, sets))


def test_things_lie_apart_and_inside(scenes):
    for one in scenes:
        assert 1 <= len(one.things) <= 4
        for i, a in enumerate(one.things):
            assert a.box[0] >= 0 and a.box[1] >= 0 and a.box[2] <= SIDE and a.box[3] <= SIDE
            assert a.box[0] < a.box[2] and a.box[1] < a.box[3]
            for b in one.things[:i]:
                dx = max(a.box[0] - b.box[2], b.box[0] - a.box[2])
                dy = max(a.box[1] - b.box[3], b.box[1] - a.box[3])
                assert max(dx, dy) > 0


def test_ships_swim_and_the_others_do_not(scenes):
    for thing, wet in ((t, one.is_water(*t.center)) for one in scenes for t in one.things):
        assert wet if thing.name == "ship" else (thing.name == "plane" or not wet)


def test_every_kind_of_thing_and_every_number_of_them_comes_up(scenes):
    assert {t.name for one in scenes for t in one.things} == set(CLASSES)
    assert {t.color for one in scenes for t in one.things} == set(COLORS)
    assert {len(one.things) for one in scenes} == {1, 2, 3, 4}


def test_a_box_bounds_the_pixels_that_are_drawn(scenes):
    """The thing's pixels are those that change when it is left out; ground, grain and glow stay the same."""
    seen = set()
    for one in scenes[:400]:
        whole = pixels(one)
        for thing in one.things:
            without = pixels(replace(one, things=[t for t in one.things if t is not thing]))
            rows, columns = np.nonzero((whole != without).any(axis=2))
            drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            worst = max(abs(a - b) for a, b in zip(drawn, thing.box, strict=True))
            assert worst <= 2, (one.seed, thing, drawn)
            seen.add(thing.name)
    assert seen == set(CLASSES)


def test_colours_are_what_they_are_called():
    """In the middle, where the glow is nil, a court is nearest to the colour that its name stands for elsewhere."""
    named = {"white": (255, 255, 255), "black": (0, 0, 0), "red": (255, 0, 0)}
    named |= {"yellow": (255, 255, 0), "green": (0, 255, 0), "purple": (160, 32, 240)}
    assert set(named) == set(COLORS)
    for color in COLORS:
        middle = (SIDE / 2, SIDE / 2)
        box = (SIDE / 2 - 30, SIDE / 2 - 30, SIDE / 2 + 30, SIDE / 2 + 30)
        one = Scene(1, None, [Thing("court", color, middle, 60, 60, 0.0, box)])
        patch = np.median(pixels(one)[SIDE // 2 - 14 : SIDE // 2 - 6, SIDE // 2 + 6 : SIDE // 2 + 14], axis=(0, 1))
        nearest = min(named, key=lambda name: np.abs(np.subtract(named[name], patch)).sum())
        assert nearest == color


def cell(thing: Thing) -> str:
    """Where a thing is, worked out without `place`."""
    x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
    column = ["left", "center", "right"][min(int(x // (SIDE / 3)), 2)]
    return f"{['upper', 'middle', 'lower'][min(int(y // (SIDE / 3)), 2)]} {column}"


def test_places(scenes):
    assert all(place(t) == cell(t) for one in scenes for t in one.things)
    middle = Thing("tank", "red", (112, 112), 20, 20, 0, (102, 102, 122, 122))
    assert place(middle) == "middle center"
    assert place(replace(middle, box=(0, 204, 20, 224))) == "lower left"


def phrase(text: str, one: Scene) -> list[Thing]:
    """The things that a noun phrase is true of: "red ship", "ship", "red object"."""
    *color, name = text.split()
    return [t for t in one.things if name in (t.name, "object") and (not color or t.color == color[0])]


def seen(text: str) -> list[tuple[str, str]]:
    """`red ship upper left, black plane lower center` as (thing, place) pairs; anything else fails."""
    parts = [
        re.fullmatch(r"(\w+ \w+) ((?:upper|middle|lower) (?:left|center|right))", part) for part in text.split(", ")
    ]
    assert all(parts), text
    return [(part[1], part[2]) for part in parts]


def sights(things) -> list[tuple[str, str]]:
    return sorted((f"{t.color} {t.name}", cell(t)) for t in things)


def trace_holds(item: tasks.Item, one: Scene) -> None:
    """The trace says what there is to see, each thing once and in reading order, and ends in the answer."""
    text = item.trace.removesuffix(".")
    if item.task == "choice":
        letter, text = text.split(". ", 1)
        assert letter == item.answer
    elif item.kind != "color":
        text, verdict = text.rsplit(", so ", 1)
        assert verdict == item.answer
    found = seen(text)
    order = [f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "center", "right")]
    assert [order.index(place) for _, place in found] == sorted(order.index(place) for _, place in found)
    if item.task == "choice" or item.kind == "color" or (item.kind == "presence" and item.answer == "yes"):
        ((what, where),) = found
        asked_for = item.choices["ABCD".index(item.answer)] if item.choices else what
        assert what == asked_for and where in [cell(t) for t in phrase(what, one)]
        assert item.task == "choice" or what.split()[1] in item.question
    elif item.kind == "count" and item.answer != "0":
        name = re.fullmatch(r"How many (\w+)s are there\?", item.question)[1]
        assert sorted(found) == sights(t for t in one.things if t.name == name)
    else:
        assert sorted(found) == sights(one.things)


def right_answer(item: tasks.Item, one: Scene) -> str:
    """The answer, read off the question's words and the scene alone."""
    if found := re.fullmatch(r"Is there a (\w+ \w+)\?", item.question):
        return "yes" if phrase(found[1], one) else "no"
    if found := re.fullmatch(r"How many (\w+)s are there\?", item.question):
        return str(len(phrase(found[1], one)))
    if found := re.fullmatch(r"What color is the (\w+)\?", item.question):
        (thing,) = phrase(found[1], one)
        return thing.color
    found = re.fullmatch(r"Are there more (\w+)s than (\w+)s\?", item.question)
    return "yes" if len(phrase(found[1], one)) > len(phrase(found[2], one)) else "no"


def asked(scenes, task):
    rng = random.Random(7)
    return [(one, item) for one in scenes if (item := tasks.ask(one, task, rng)) is not None]


def test_vqa_answers_and_traces_are_true(scenes):
    kinds = {}
    for one, item in asked(scenes, "vqa"):
        assert item.answer == right_answer(item, one), (one.seed, item)
        assert item.trace.endswith(".")
        trace_holds(item, one)
        kinds.setdefault(item.kind, []).append(item.answer)
    assert set(kinds) == {"presence", "count", "color", "comparison"} and all(len(k) > 300 for k in kinds.values())
    for kind in ("presence", "comparison"):  # no kind can be answered by always saying the same
        assert 0.35 < kinds[kind].count("yes") / len(kinds[kind]) < 0.65
    assert {"0", "1", "2"} <= set(kinds["count"]) and set(kinds["color"]) == set(COLORS)


def test_grounding_phrases_pick_out_one_thing(scenes):
    found = asked(scenes, "grounding")
    assert len(found) > 0.9 * SCENES
    for one, item in found:
        (thing,) = phrase(item.question.removeprefix("the "), one)
        assert [thing] == item.things and seen(item.trace[:-1]) == sights([thing])


def test_choices_have_one_right_option(scenes):
    letters = []
    for one, item in asked(scenes, "choice"):
        right = [letter for letter, text in zip("ABCD", item.choices, strict=True) if phrase(text, one)]
        assert right == [item.answer] and len(set(item.choices)) == 4
        trace_holds(item, one)
        letters.append(item.answer)
    assert all(0.2 < letters.count(letter) / len(letters) < 0.3 for letter in "ABCD")


def test_captions_name_everything_with_its_place(scenes):
    for one, item in asked(scenes, "caption"):
        parts = item.answer.removesuffix(".").split(", ")
        expected = (
            f"a {t.color} {t.name} on {'water' if one.is_water(*t.center) else 'land'} in the {cell(t)}"
            for t in one.things
        )
        assert sorted(parts) == sorted(expected)
        assert sorted(seen(item.trace[:-1])) == sights(one.things)
