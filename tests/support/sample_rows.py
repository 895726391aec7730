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
