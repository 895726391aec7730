"""Rows of the layouts that samples reads, and the images they name."""

import json

from PIL import Image


def put_images(folder):
    """Images of 200 x 100 pixels under several of the layouts' image folders."""
    for name in ("a.png", "images/a.png", "test/a.png", "other/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (200, 100)).save(folder / name)
    return folder


def turns(question="<image>\nthe dam", answer="[10,20,90,80]"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def dump(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


def row(**changes):
    good = {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": "the dam"}],
        "task": "grounding",
        "boxes": [[10, 20, 90, 80]],
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}


def shown_and_told(demo_data):
    """A question of the demo about a picture, and one without, each with a reply, which GRPO does not read."""
    rows = [json.loads(line) for line in (demo_data / "grpo/prompts.jsonl").read_text().splitlines()]
    shown = next(found for found in rows if found["task"] == "vqa")
    shown["images"] = [str((demo_data / "grpo" / image).resolve()) for image in shown["images"]]
    told = {"images": [], "messages": [{"role": "user", "content": "2 + 2?"}], "task": "vqa", "answer": "4"}
    for found in (shown, told):
        found["messages"] = [found["messages"][-1], {"role": "assistant", "content": found["answer"]}]
    return shown, told


def pairs(folder):
    """Four rows, three with two pictures and one with one, and their pictures of three sizes; each with a reply.

    Two dates of a place (of one size), two pictures of different sizes, one picture, and these two the other way round.
    """
    sizes = {"before": (120, 90), "after": (120, 90), "north": (150, 60), "south": (60, 130)}
    for number, (name, size) in enumerate(sizes.items()):
        Image.effect_noise(size, 40 + 20 * number).convert("RGB").save(folder / f"{name}.png")
    asked = [
        (["before", "after"], "First: <image>\nThen: <image>\nWhat has changed?", "two ships are new"),
        (["north", "south"], "Which is the harbour?", "the second one"),
        (["after"], "How many ships?", "four"),
        (["south", "north"], "Which is the harbour, if any, of these?", "the first"),
    ]
    return [
        {
            "images": [str(folder / f"{name}.png") for name in names],
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "task": "vqa", "answer": answer, "source": "pairs", "id": str(number),
        }
        for number, (names, question, answer) in enumerate(asked)
    ]  # fmt: skip
