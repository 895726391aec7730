"""The zoom demo's tiny Qwen2-VL: `demo.tiny`'s architecture and processor, with a tokenizer of this world's words.

As Qwen2.5's tokenizer it has `<tool_call>` and `</tool_call>` as tokens. One more holds all of a call that is the same
every time, `{"name": "image_zoom_in", "arguments": {"bbox": [`: every token is computed on a laptop.
"""

from __future__ import annotations

import random

from demo import tiny
from demo.world.shapes import COLORS
from demo.zoom.scene import MARKS, scene
from demo.zoom.tasks import EASY, SMALL, ask

SYSTEM = "Zoom in where you must."
"""What the recipes say of the tool (`turns.system`): short, for the same reason."""
POINT = "Point to it first."
GO_ON = "This is that region. Go on."
"""What stands behind a crop (`vlm.tools.zoom.GO_ON`)."""
CALL = '{"name": "image_zoom_in", "arguments": {"bbox": ['
ADDED = ("<tool_call>", "</tool_call>", CALL)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Text of this world for the tokenizer: questions, answers, boxes, and the end of a call."""
    rng = random.Random(seed)
    out = [SYSTEM, "You are a helpful assistant.", "system user assistant", " ".join(COLORS), " ".join(MARKS)]
    for i in range(count):
        item = ask(scene(seed + i), rng.choice((SMALL, *EASY)), rng)
        color = rng.choice(COLORS)
        a, b, c, d = (rng.randrange(1000) for _ in range(4))
        out += [
            f"{item.question} {POINT}", item.answer, f"user\n{item.question}", f"assistant\n{item.answer}",
            f"Where is the {color} pad?", f"{rng.choice(MARKS)} on {color}", f"user\n{GO_ON}", f"system\n{SYSTEM}",
            f"({a},{b}),({c},{d})", f"{a}, {b}, {c}, {d}]}}}}\n", "system\nYou are a helpful assistant.",
        ]  # fmt: skip
    return out


def tokenizer(seed: int = 0):
    """Train the tokenizer; returns a `transformers.Qwen2Tokenizer`."""
    from tokenizers import AddedToken

    words = tiny.tokenizer(seed, sentences(4000, seed))
    words.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED])
    return words


processor, random_model = tiny.processor, tiny.random_model
