"""The change demo's world: pairs and masks, the files that they become, the gold of captions, its base's corpus."""

import json
import re
from collections import Counter

import numpy as np
import pytest

import samples
from demo.change import captions, corpus, dataset
from demo.change.captions import LEFT_OUT, SAID, gold, read, references, reward, said
from demo.change.scene import KINDS, SHARES, mask, pair, scene
from demo.world.render import render
from demo.world.scene import PLACES, SIDE, SPLIT_SEEDS, Scene, place
from demo.world.shapes import CLASSES, COLORS
from stage.recipe import config
from tests.support.processes.commands import ROOT
from vlm.masks import pixels_of

FIRST = SPLIT_SEEDS["sft"]


@pytest.fixture(scope="module")
def pairs():
    return [pair(FIRST + n) for n in range(1000)]


def test_pairs_are_a_function_of_their_seed(pairs):
    assert all(pair(FIRST + n) == pairs[n] for n in range(100))


def test_kinds_come_as_often_as_stated(pairs):
    """Within 4 standard errors."""
    found = Counter(one.kind for one in pairs)
    for kind, share in zip(KINDS, SHARES, strict=True):
        assert abs(found[kind] / len(pairs) - share) < 4 * (share * (1 - share) / len(pairs)) ** 0.5


def test_one_thing_comes_or_goes_and_all_others_stay(pairs):
    for one in pairs:
        before, after = ({thing.box: thing for thing in shown.things} for shown in (one.before, one.after))
        only = [thing for box, thing in (before | after).items() if (box in before) != (box in after)]
        assert before or after
        if one.kind == "same":
            assert not only and one.thing is None
        else:
            assert only == [one.thing] and (one.thing.box in after) == (one.kind == "new")
        names = [(thing.color, thing.name) for thing in (before | after).values()]
        assert len(set(names)) == len(names)


def test_the_pictures_of_a_pair_differ_where_the_thing_is_and_nowhere_else(pairs):
    """To the pixel: the polygons of a mask are those that are drawn."""
    for one in pairs[:60]:
        differs = (np.asarray(render(one.before)) != np.asarray(render(one.after))).any(axis=2)
        if one.thing is None:
            assert not differs.any()
            continue
        covered = mask(one.thing)
        assert not (differs & ~covered).any()
        assert (differs & covered).sum() > 0.97 * covered.sum()  # a pixel may have had the colour by chance


def test_a_mask_holds_the_pixels_that_its_thing_changes():
    for seed in range(FIRST, FIRST + 30):
        one = scene(seed)
        bare = Scene(seed, one.shore, one.things[1:])
        differs = (np.asarray(render(one)) != np.asarray(render(bare))).any(axis=2)
        assert (differs & ~mask(one.things[0])).sum() == 0 and differs.sum() > 0.97 * mask(one.things[0]).sum()


def test_five_annotators_say_what_is_true_and_leave_facts_out(pairs):
    left = Counter()
    for one in pairs[:400]:
        five = references(one)
        assert len(set(five)) == 5
        for text in five:
            found = read(text)
            if one.thing is None:
                assert found == {"kind": "same"} and gold(text, one) == 1
                continue
            truth = {"kind": one.kind, "name": one.thing.name, "color": one.thing.color, "place": place(one.thing)}
            assert {"kind", "name"} <= found.keys() and found.items() <= truth.items()
            left.update(truth.keys() - found.keys(), all=1)
    for fact in ("color", "place"):
        share = left[fact] / left["all"]
        assert abs(share - LEFT_OUT) < 4 * (LEFT_OUT * (1 - LEFT_OUT) / left["all"]) ** 0.5


def test_gold_by_hand(pairs):
    one = next(p for p in pairs if p.kind == "new")
    thing = one.thing
    full = said("new", thing, 0)
    assert full == f"a {thing.color} {thing.name} in the {place(thing)} is new." and gold(full, one) == 1
    # three true of three stated, of four: 2 · 3 / (3 + 4)
    assert gold(f"a {thing.name} in the {place(thing)} is new.", one) == pytest.approx(6 / 7)
    # as if the pictures were swapped: three true of four stated
    assert gold(said("gone", thing, 0), one) == pytest.approx(6 / 8)
    other = next(name for name in CLASSES if name != thing.name)
    assert gold(f"a {other} is new.", one) == pytest.approx(2 * 1 / (2 + 4))
    assert gold("no change.", one) == 0 and gold("", one) == 0
    assert gold(f"a {thing.name} is new and is gone.", one) == pytest.approx(2 * 1 / (2 + 4))
    same = next(p for p in pairs if p.kind == "same")
    assert [gold(text, same) for text in SAID["same"]] == [1] * 5
    assert gold(full, same) == 0 and gold("", same) == 0


def test_every_wording_is_read_as_what_it_says(pairs):
    one = next(p for p in pairs if p.thing)
    for kind in ("new", "gone"):
        for template in range(5):
            facts = {"kind": kind, "name": one.thing.name, "color": one.thing.color, "place": place(one.thing)}
            assert read(said(kind, one.thing, template)) == facts


def test_the_judge_takes_captions_of_pairs_alone(pairs):
    one = next(p for p in pairs if p.thing)
    text, row = said(one.kind, one.thing, 0), f"test/{one.before.seed}.jpg"
    assert reward([text], [row], ["caption"]) == [1.0]
    assert reward([[{"role": "assistant", "content": text}]], [row], ["caption"]) == [1.0]
    assert reward([text], [row], ["segmentation"]) == [None]


def test_as_many_unchanged_pairs_as_asked_for_in_the_order_of_their_seeds():
    found = list(dataset.drawn(FIRST, 100, 0.45))
    assert Counter(one.thing is None for one in found) == {True: 45, False: 55}
    seeds = [one.before.seed % 50_000_000 for one in found]
    assert len(set(seeds)) == 100
    assert [one for one in map(pair, range(FIRST, FIRST + 40)) if one.thing][:20] == [o for o in found if o.thing][:20]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("change")
    rows = list(dataset.pairs(folder, "test", dataset.drawn(FIRST, 12)))
    (folder / "LevirCCcaptions.json").write_text(json.dumps({"images": rows}))
    dataset.segments(folder / "segment", "test", range(FIRST, FIRST + 12))
    return folder


def test_the_reader_of_levir_cc_gives_both_pictures_and_five_captions(written, pairs):
    rows = list(samples.read(written / "LevirCCcaptions.json", format="captions", split="test"))
    assert len(rows) == 12
    for one, row in zip(pairs, rows, strict=False):
        assert row.task == "caption" and row.references == references(one) and row.answer == row.references[0]
        assert row.kind == ("no change" if one.thing is None else "change")
        assert row.messages[0]["content"] == corpus.CHANGED
        assert [re.findall(r"/test/([AB])/", path) for path in row.images] == [["A"], ["B"]]
        assert reward([said(one.kind, one.thing, 0)], [row.id], [row.task]) == [1.0]


def test_our_reader_gives_the_mask_of_the_thing_that_is_asked_for(written):
    rows = list(samples.read(written / "segment/test.jsonl"))
    assert len(rows) == 12
    for row in rows:
        color, name = row.messages[0]["content"].split()
        (thing,) = [t for t in scene(int(row.id)).things if (t.color, t.name) == (color, name)]
        assert row.task == "segmentation" and (pixels_of(row.mask) == mask(thing)).all()


def asked_by_the_recipe() -> dict[str, str]:
    """Task → the user's text in each stage, which must be one."""
    from evals.recipe import EvalRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe

    found = set()
    for name, recipe in (("sft", SFTRecipe), ("grpo", GRPORecipe), ("eval", EvalRecipe)):
        prompt = config.load(ROOT / f"recipes/demo/change/{name}.yaml", recipe, []).prompt
        assert prompt.masks == corpus.FORM and prompt.style == "direct" and prompt.pictures != "several"
        assert "caption" not in prompt.wording
        found.add(prompt.wording["segmentation"])
    (wording,) = found
    return {"segmentation": wording.format(question="red ship")}


def test_every_stage_asks_in_the_words_of_the_corpus():
    assert asked_by_the_recipe()["segmentation"] == corpus.SEGMENT.format("red ship")


def rows_of(phase: str, count: int):
    first = {"bare": 0, **{name: end for (_, end), name in zip(corpus.PHASES, ("half", "chats"), strict=True)}}
    numbers = range(first[phase], first[phase] + count)
    assert all(corpus.phase_of(number) == phase for number in numbers)
    return [(SPLIT_SEEDS["pretrain"] + number, corpus.conversation(number)) for number in numbers]


MASK = re.compile(r"<seg>((?:(?:[01]\*\d,?)+;)+)</seg>")


def cells(text: str) -> np.ndarray:
    """The cells of a mask, read by this test alone."""
    rows = MASK.fullmatch(text)[1].split(";")[:-1]
    return np.array([[int(run[0]) for run in row.split(",") for _ in range(int(run[2]))] for row in rows])


def touched(thing) -> np.ndarray:
    """The cells of a 4 × 4 grid that hold a pixel of the thing."""
    side = SIDE // 4
    return mask(thing).reshape(4, side, 4, side).any(axis=(1, 3)).astype(int)


def bare(pieces) -> bool:
    return pieces[-1][0].endswith("<|endoftext|>")


def test_chats_state_the_truth():
    chats = [(seed, row) for seed, row in rows_of("half", 400) if not bare(row[1])]
    assert 150 < len(chats) < 250
    for seed, (pictures, pieces) in chats:
        asked = "".join(text for text, learn in pieces if not learn)
        assert asked.count("<|image_pad|>") == len(pictures)
        answers = [text.removesuffix("<|im_end|>") for text, learn in pieces if learn]
        if len(pictures) == 2:
            one, (text,) = pair(seed), answers
            assert gold(text, one) >= 2 * 2 / (2 + 4)  # what is left out at most: colour and place
            continue
        names = re.findall(r"Segment the (\w+) (\w+)\.", asked)
        assert len(names) == len(answers)
        for (color, name), text in zip(names, answers, strict=True):
            (thing,) = [t for t in scene(seed).things if (t.color, t.name) == (color, name)]
            assert (cells(text) == touched(thing)).all()


def test_the_last_chats_draw_masks_too_large_and_say_what_is_true():
    """Of grown masks, some grow out of the picture and add nothing."""
    larger, masks, chats = 0, 0, 0
    for seed, (pictures, pieces) in rows_of("chats", 900):
        if bare(pieces):
            continue
        chats += 1
        answers = [text.removesuffix("<|im_end|>") for text, learn in pieces if learn]
        if len(pictures) == 2:
            assert gold(answers[0], pair(seed)) >= 2 * 2 / (2 + 4)
            continue
        names = re.findall(r"Segment the (\w+) (\w+)\.", "".join(text for text, learn in pieces if not learn))
        for (color, name), text in zip(names, answers, strict=True):
            (thing,) = [t for t in scene(seed).things if (t.color, t.name) == (color, name)]
            assert (cells(text) >= touched(thing)).all()
            masks, larger = masks + 1, larger + bool((cells(text) > touched(thing)).any())
    assert 0.75 < chats / 900 < 0.85 and masks > 100
    assert 0.13 < larger / masks < corpus.GROWN + 0.1


def test_the_first_rows_name_each_thing_right_before_or_behind_its_mask():
    where = rf"(?:{'|'.join(COLORS)}) (?:{'|'.join(CLASSES)}) (?:{'|'.join(PLACES)})"
    orders = Counter()
    for seed, (pictures, pieces) in rows_of("bare", 300):
        assert bare(pieces) and "im_start" not in pieces[0][0] and len(pieces) == 2
        text = pieces[1][0].removesuffix("<|endoftext|>")
        if len(pictures) == 1:
            assert all(re.fullmatch(where, line) or MASK.search(line) for line in text.split("\n"))
            continue
        found, one = MASK.search(text), pair(seed)
        said = text.replace(found[0], "")
        orders[found.start() == 0] += 1
        if one.thing is None:
            assert said == "no change" and not cells(found[0]).any()
        else:
            assert said == f"{one.thing.color} {one.thing.name} {place(one.thing)} {one.kind}"
            assert (cells(found[0]) == touched(one.thing)).all()
    assert 0.25 < orders[True] / orders.total() < 0.55 and orders.total() > 240


def test_the_module_says_what_is_left_out():
    assert "three things in ten" in captions.__doc__ and LEFT_OUT == 0.3
