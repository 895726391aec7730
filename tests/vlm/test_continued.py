"""`vlm.prefix.continued`: turns that go on from caches say, token for token, what turns computed from their first token
say."""

import random

import pytest
import torch

from tests.support import tiny_checkpoints as tiny
from tests.support.families import listed
from vlm import loading
from vlm.families import FAMILIES
from vlm.prefix import cache, continued
from vlm.prefix.continued import Added, Session
from vlm.prefix.rollout import unsayable
from vlm.tools.dialogue import Turn
from vlm.tools.rendered import Renderer
from vlm.tools.tool import Shown

pytestmark = pytest.mark.versions

SHARING = [kind for kind, family in FAMILIES.items() if family.unshared is None]
ENDS = list(range(40, 120))
"""Tokens that end a turn here: so many, that rows end at different places."""
INDEX = [0, 0, 1, 0, 1]


def asked(number, pictures):
    shown = [{"type": "image", "image": tiny.picture(90 + 20 * n, 100, seed=10 * number + n)} for n in range(pictures)]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": "Where is it?" + " Is it red?" * number}]}]


def inputs_of(processor):
    return dict(
        processor.apply_chat_template(
            [asked(0, 1), asked(3, 2)],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    )  # fmt: skip


def conversed(model, processor, whole, sample=False, limit=60):
    """Up to three tool turns of 0 to 2 pictures behind rows of two prompts; returns the session and each turn's ids."""
    draw, renderer = random.Random(5), Renderer(processor)
    torch.manual_seed(3)
    how = {"do_sample": sample, "suppress_tokens": unsayable(model.config, processor.tokenizer), "eos_token_id": ENDS}
    session = Session(model, inputs_of(processor), INDEX, ENDS, limit, whole=whole, **how)
    said = dict(enumerate(session.begin()))
    turns = [said]
    for number in range(3):
        added = {}
        for row, ids in said.items():
            if not session.ended(ids) or not session.room(row):
                continue
            pictures = [
                Shown(tiny.picture(60 + 10 * draw.randrange(5), 70, seed=draw.randrange(99)))
                for _ in range(draw.randrange(3))
            ]
            rendered = renderer(Turn("tool", "Go on." + " More." * draw.randrange(4), pictures), ids[-1])
            added[row] = Added(rendered.ids, rendered.media)
        if number == 1:
            added.pop(next(iter(added)))  # a row leaves in the middle
        said = session.go_on(added)
        turns.append(said)
    return session, turns


@pytest.fixture(params=listed(SHARING))
def tiny_family(request, family_checkpoints):
    return loaded(family_checkpoints(request.param))


def loaded(path):
    return loading.load_model(tiny.section(path)).eval(), loading.load_processor(path, tiny.pixels())


def refuse(*_):
    raise AssertionError("computed from the first token")


@pytest.mark.parametrize("least", [1, 1 << 40], ids=["prompt once", "prompt in each row"])
def test_turns_are_those_of_rows_computed_anew(tiny_family, monkeypatch, least):
    model, processor = tiny_family
    expected, plain = conversed(model, processor, whole=True)
    monkeypatch.setattr(cache, "LEAST", least)
    monkeypatch.setattr(Session, "_anew", refuse)
    session, turns = conversed(model, processor, whole=False)
    assert turns == plain and [ids.tolist() for ids in session.rows] == [ids.tolist() for ids in expected.rows]
    assert len(turns[1]) > len(turns[2]) >= 3 and len({len(ids) for ids in session.rows}) > 3  # ragged


def test_random_draws_are_the_same(tiny_model, monkeypatch):
    model, processor = loaded(tiny_model)
    assert conversed(model, processor, True, sample=True)[1] == conversed(model, processor, False, sample=True)[1]


def test_vision_tower_sees_each_picture_once(tiny_model):
    model, processor = loaded(tiny_model)
    patches = []
    with model.model.visual.register_forward_pre_hook(lambda module, args: patches.append(len(args[0]))):
        session, _ = conversed(model, processor, whole=False)
    prompts = sum(len(one["pixel_values"]) for row in (0, 2) for one in session.shown[row][:1])
    crops = sum(len(one["pixel_values"]) for shown in session.shown for one in shown[1:])
    assert sum(patches) == prompts + crops and crops > 0


def test_a_row_says_no_more_than_its_limit(tiny_model):
    model, processor = loaded(tiny_model)
    session, turns = conversed(model, processor, whole=False, limit=9)
    assert all(session.used[row] == sum(len(turn.get(row, ())) for turn in turns) <= 9 for row in range(5))
    assert max(session.used) == 9


def test_placeholders_without_pictures_are_refused(tiny_model):
    model, processor = loaded(tiny_model)
    session = Session(model, inputs_of(processor), INDEX, ENDS, 60, do_sample=False, eos_token_id=ENDS)
    session.begin()
    with pytest.raises(ValueError, match="row 3: 2 image tokens are put behind it, and pictures of 0 tokens"):
        session.go_on({3: Added([7, model.config.image_token_id, model.config.image_token_id, 8])})


def test_without_sharing_each_turn_is_computed_anew(family_checkpoints, monkeypatch):
    model, processor = loaded(family_checkpoints("qwen3_5"))
    monkeypatch.setattr(continued.cache, "compact", refuse)
    assert conversed(model, processor, False)[1] == conversed(model, processor, True)[1]
