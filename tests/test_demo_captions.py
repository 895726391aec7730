"""What captions state, how true they are, and what each quality dimension spoils."""

import random
import re

import pytest

from demo import preferences
from demo.captions import Facts, caption, gold, read, reward, truth
from demo.tasks import ask
from demo.world import Scene, Thing, scene


def thing(name: str, color: str, x: float, y: float) -> Thing:
    return Thing(name, color, (x, y), 40, 20, 0.0, (x - 10, y - 10, x + 10, y + 10))


# a red ship on water in the upper left, a white house on land in the lower right: 8 facts
TWO = Scene(0, (-1.0, 0.0, -112.0), [thing("ship", "red", 30, 30), thing("house", "white", 200, 200)])
SHIP, HOUSE = "a red ship on water in the upper left", "a white house on land in the lower right"


@pytest.mark.parametrize(
    ("text", "eighths"),
    [
        (f"{SHIP}, {HOUSE}.", 8),
        (f"{HOUSE}, {SHIP}.", 8),
        (f"{SHIP}.", 4),
        ("", 0),
        ("who knows", 0),
        ("a ship, a house.", 2),
        ("a red object on water.", 2),
        ("a red ship on land in the upper left, a house.", 3 - 1 + 1),
        (f"{SHIP}, {SHIP}.", 4 - 4),  # told twice: nothing of the house is true of it
        (f"{SHIP}, {HOUSE}, a green tank on land in the middle center.", 8 - 4),
        ("a black tank on land in the upper center.", 1 - 3),  # its surface fits the house
        ("a black tank in the middle left.", -3),
    ],
)
def test_gold_by_hand(text, eighths):
    assert gold(text, TWO) == eighths / 8


def test_the_bases_own_captions_are_perfect_and_survive_reading():
    for seed in range(300):
        full = scene(seed)
        text = ask(full, "caption", random.Random(0)).answer
        assert text == caption(truth(full)) and read(text) == truth(full)
        assert gold(text, full) == 1.0


def test_clauses_in_part():
    assert read("an object on land, a yellow plane.") == [Facts(None, None, "land"), Facts("plane", "yellow")]
    assert caption([Facts(None, None, "land"), Facts(None, "red")]) == "an object on land, a red object."


def test_as_a_reward_it_reads_the_answer_and_knows_its_rows():
    true = caption(truth(scene(7)))
    said = [f"<think>{true}</think><answer>a b</answer>", f"<think></think><answer>{true}</answer>", true, true]
    rows = [[{"role": "assistant", "content": text}] for text in said]
    tasks = ["open_ended", "open_ended", "caption", "vqa"]
    assert reward(rows, id=["7"] * 4, task=tasks, size=[None] * 4) == [0.0, 1.0, 1.0, None]


@pytest.mark.parametrize("dimension", preferences.MIX)
def test_the_worse_caption_is_worse_in_its_dimension(dimension):
    rng, made = random.Random(3), 0
    for seed in range(400):
        full = scene(seed)
        ranked = preferences.pair(full, dimension, rng)
        if ranked is None:
            continue
        made += 1
        better, worse = ranked
        a, b = read(better), read(worse)
        if dimension == "clarity":
            assert set(re.findall(r"\w+", better)) == set(re.findall(r"\w+", worse)) and better != worse
        elif dimension == "relevance":
            assert len(b) in (len(a), len(a) + 1) and a != b
        elif dimension == "completeness":
            assert len(b) < len(a) and all(clause in a for clause in b)
        else:  # the same things, less said of them
            assert len(a) == len(b) and sum(c.stated for c in b) < sum(c.stated for c in a)
            kept = {"specificity": ("surface", "place"), "richness": ("name", "color")}[dimension]
            assert all(getattr(x, name) == getattr(y, name) for x, y in zip(a, b, strict=True) for name in kept)
    assert made > 100


def test_false_captions_are_less_true():
    """Over many scenes: a caption spoilt in relevance has less gold than its better one, nearly always."""
    rng, pairs = random.Random(5), []
    for seed in range(300):
        full = scene(seed)
        if ranked := preferences.pair(full, "relevance", rng):
            pairs.append([gold(text, full) for text in ranked])
    # a caption that was flawed before can be mended by chance
    assert sum(better > worse for better, worse in pairs) / len(pairs) > 0.95


def test_files_hold_what_the_score_model_reads(tmp_path):
    preferences.write(tmp_path, "test", preferences.FIRST["test"], 10, dict.fromkeys(preferences.MIX, 1.0))
    import json

    found = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert len(found) == 10 and len({row["id"] for row in found}) == 10
    for row in found:
        assert (tmp_path / row["images"][0]).exists() and len(row["ranked"]) == 2
        assert row["question"] == "Describe the image." and row["dimensions"][0] in preferences.MIX
