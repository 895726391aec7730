"""What captions state, how true they are, and what each quality dimension spoils."""

import json
import random
import re

import pytest

from demo import judged, preferences
from demo.world.captions import Facts, caption, gold, read, reward, truth
from demo.world.render import render
from demo.world.scene import Scene, Thing, scene
from demo.world.tasks import ask


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
            assert len(a) <= len(b) <= len(a) + 3 and a != b
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
    found = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert len(found) == 10 and len({row["id"] for row in found}) == 10
    for row in found:
        assert (tmp_path / row["images"][0]).exists() and len(row["ranked"]) == 2
        assert row["question"] == "Describe the image." and row["dimensions"][0] in preferences.MIX


def test_a_policys_captions_are_ranked_by_their_gold(tmp_path):
    full = scene(7)
    true = caption(truth(full))
    wrong = caption(preferences.falsify(truth(full), random.Random(0)))
    worse = caption(preferences.invent(preferences.falsify(truth(full), random.Random(0)), random.Random(0)))
    said = [f"<think>a</think><answer>{text}</answer>" for text in (worse, true, wrong, true, " ")] + ["no tags"]
    assert judged.ranked(said, 7) == [true, wrong, worse]
    assert judged.ranked(said[:1] * 3, 7) == [worse]
    sample = {"images": ["images/7.jpg"], "task": "open_ended", "id": "7", "answer": true, "source": "captions"}
    (tmp_path / "images").mkdir()
    render(full).save(tmp_path / "images/7.jpg")
    question = [{"role": "user", "content": "Describe the image."}]
    (tmp_path / "captions.jsonl").write_text(json.dumps({**sample, "messages": question}) + "\n")
    (tmp_path / "drawn.jsonl").write_text(json.dumps({"source": "captions", "id": "7", "completions": said}) + "\n")
    (row,) = judged.rows(tmp_path / "captions.jsonl", tmp_path / "drawn.jsonl", tmp_path)
    assert (row["images"], row["ranked"], row["id"]) == (["images/7.jpg"], [true, wrong, worse], "7")
