"""The detection demo's world: scenes, the files that they become, and the corpus of its base."""

import random
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

import samples
from demo.detect import corpus, dataset
from demo.detect.scene import COUNTS, MOST, PAINT, scene
from demo.world.render import render
from demo.world.scene import SIDE, SPLIT_SEEDS, Scene
from demo.world.shapes import CLASSES
from stage.recipe import config
from tests.support.processes.commands import ROOT
from vlm.pictures import images

FIRST = SPLIT_SEEDS["sft"]
STATED = re.compile(
    r"<\|object_ref_start\|>(\w+)<\|object_ref_end\|><\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>"
)


@pytest.fixture(scope="module")
def scenes():
    return [scene(FIRST + n) for n in range(2000)]


def test_scenes_are_a_function_of_their_seed_and_no_two_are_alike(scenes):
    assert all(scene(one.seed) == one for one in scenes[:200])
    full = [tuple(one.things) for one in scenes if one.things]
    assert len(set(full)) == len(full)


def test_things_lie_apart_and_inside(scenes):
    for one in scenes:
        for box in (thing.box for thing in one.things):
            assert 0 < box[0] < box[2] < SIDE and 0 < box[1] < box[3] < SIDE
        for a, b in combinations([thing.box for thing in one.things], 2):
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) > 0


def test_none_to_six_things_of_all_classes_each_in_its_paint_and_no_class_thrice(scenes):
    """Pictures without things within 4 standard errors of their share; of the others some find no room."""
    counts = Counter(len(one.things) for one in scenes)
    assert set(counts) == set(COUNTS) == set(range(7)) and sum(COUNTS.values()) == pytest.approx(1)
    assert abs(counts[0] / len(scenes) - COUNTS[0]) < 4 * (COUNTS[0] / len(scenes)) ** 0.5
    names = Counter(thing.name for one in scenes for thing in one.things)
    assert set(names) == set(CLASSES) and min(names.values()) > 0.1 * sum(names.values())
    for one in scenes:
        assert all(thing.color == PAINT[thing.name] for thing in one.things)
        assert max(Counter(thing.name for thing in one.things).values(), default=0) <= MOST
    assert len(set(PAINT.values())) == len(CLASSES) == len(PAINT)


def test_boxes_bound_the_pixels_that_are_drawn(scenes):
    """The pixels that differ from those of the scene without the thing, to the pixel that a line's end may take."""
    for one in [one for one in scenes if one.things][:40]:
        thing, *others = one.things
        bare = Scene(one.seed, one.shore, others)
        changed = (np.asarray(render(one)) != np.asarray(render(bare))).any(axis=2)
        rows, columns = np.nonzero(changed)
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(drawn) - np.array(thing.box)).max() < 2.01


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect") / "test"
    dataset.written(folder, SPLIT_SEEDS["test"], 24)
    return folder


def test_the_reader_of_dota_gives_every_thing_of_every_picture(written):
    rows = {row.id: row for row in samples.read(written, format="dota", task="detection")}
    assert len(rows) == 24 and any(not row.labels for row in rows.values())
    for seed in range(SPLIT_SEEDS["test"], SPLIT_SEEDS["test"] + 24):
        one, row = scene(seed), rows[str(seed)]
        assert row.task == "detection" and tuple(row.size) == (SIDE, SIDE)
        assert row.messages == [{"role": "user", "content": ", ".join(row.classes)}]
        found = sorted(zip(row.labels, row.boxes, strict=True))
        true = sorted((thing.name, list(thing.box)) for thing in one.things)
        assert [name for name, _ in found] == [name for name, _ in true]
        for (_, box), (_, exact) in zip(found, true, strict=True):
            assert box == pytest.approx(exact, abs=0.051)  # one decimal
        stored = np.asarray(images.load(row.images[0]), int)
        assert np.abs(stored - np.asarray(render(one), int)).mean() < 4


def test_every_stage_asks_for_the_same_classes_in_the_words_of_the_corpus():
    from evals.recipe import EvalRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe

    for name, recipe in (("sft", SFTRecipe), ("grpo", GRPORecipe), ("eval", EvalRecipe)):
        found = config.load(ROOT / f"recipes/demo/detect/{name}.yaml", recipe, [])
        (source,) = [*found.data.train, *found.data.eval]
        assert source.classes == sorted(CLASSES)
        asked = found.prompt.wording["detection"].format(question=", ".join(source.classes))
        assert asked == corpus.QUESTION


def stated(text: str) -> list[tuple[str, tuple[float, ...]]]:
    """(name, box in pixels) of each thing, read by this test alone."""
    return [(name, tuple(int(value) * SIDE / 1000 for value in box)) for name, *box in STATED.findall(text)]


def rows_of(phase: str, count: int):
    first = {"half": 0, **{name: end for (_, end), name in zip(corpus.PHASES, ("lists", "careless"), strict=True)}}
    numbers = range(first[phase], first[phase] + count)
    assert all(corpus.phase_of(number) == phase for number in numbers)
    return [(scene(SPLIT_SEEDS["pretrain"] + number), corpus.conversation(number)) for number in numbers]


def test_lists_state_every_thing_by_class_then_from_above():
    for one, (pictures, pieces) in rows_of("lists", 60):
        (asked, learnt), (answer, learns) = pieces
        assert len(pictures) == 1 and learns and not learnt and asked.count("<|image_pad|>") == 1
        found = stated(answer)
        true = sorted(((thing.name, thing.box) for thing in one.things), key=lambda t: (t[0], t[1][1], t[1][0]))
        assert [name for name, _ in found] == [name for name, _ in true]
        for (_, box), (_, exact) in zip(found, true, strict=True):
            assert box == pytest.approx(exact, abs=SIDE / 2000 + 1e-9)
        assert (answer == "There are none.<|im_end|>") == (not one.things)


def test_half_of_the_first_rows_are_captions():
    captions = [pieces for _, (_, pieces) in rows_of("half", 200) if pieces[-1][0].endswith("<|endoftext|>")]
    assert 60 < len(captions) < 125
    assert all("im_start" not in pieces[0][0] for pieces in captions)


def test_careless_lists_miss_things_and_have_boxes_too_large():
    """30% missing, within 4 standard errors; sides pushed out by 20% of the extent on average: 1.4 times as wide."""
    rows = [(one.things, stated(pieces[1][0])) for one, (_, pieces) in rows_of("careless", 300)]
    there, said = sum(len(things) for things, _ in rows), sum(len(found) for _, found in rows)
    assert abs(said / there - 0.7) < 4 * (0.7 * 0.3 / there) ** 0.5
    widths = []
    for things, found in rows:
        for name, (x1, y1, x2, y2) in found:
            (thing,) = [
                t
                for t in things
                if t.name == name
                and x1 < t.box[0] + 0.2
                and y1 < t.box[1] + 0.2
                and x2 > t.box[2] - 0.2
                and y2 > t.box[3] - 0.2
            ]
            widths.append((x2 - x1) / (thing.box[2] - thing.box[0]))
    assert 1.3 < np.mean(widths) < 1.42  # a little less where the picture ends


def test_the_order_in_which_things_were_placed_says_nothing():
    rng = random.Random(1)
    one = next(one for one in map(scene, range(FIRST, FIRST + 100)) if len(one.things) == 6)
    assert corpus.listed(rng.sample(one.things, 6)) == corpus.listed(one.things)
