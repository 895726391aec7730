"""Conversations with tools in an evaluation: against a loop by hand, in any batch, cut, over, and with broken tools."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from evals.asking.answering import row_seed, seed_of
from evals.asking.conversation import conversation
from evals.asking.turns import Chain, Talks, fields
from evals.generate import complete
from samples import Sample
from stage.recipe.asking import GenerationSection
from tests.support.families import checkpoint, listed
from tests.support.runs.saying import FREE, scripted
from tests.support.tiny_checkpoints import section
from vlm.families import FAMILIES
from vlm.loading import load_model, load_processor
from vlm.prefix.rollout import neutral, unsayable
from vlm.sections import ImageSection, PromptSection, ToolSection, TurnSection
from vlm.tools.calls import write
from vlm.tools.toolbox import Toolbox, instruction
from vlm.tools.zoom import GO_ON, NAME

pytestmark = pytest.mark.versions

LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)
ZOOM = [ToolSection(use="zoom", options={"least": 28})]
TOKENS = 300


def call(*bbox, **more):
    return write(NAME, {"bbox": [*bbox], **more})


SAYS = {
    "none": [None],
    "once": [call(100, 200, 400, 600), None],
    "thought": ["<think>Where?</think> " + call(0, 0, 500, 500), None],
    "nested": [call(500, 0, 1000, 500), call(0, 500, 500, 1000), None],
    "second": [call(0, 0, 300, 300, image=2), None],
    "blind": [call(0, 0, 300, 300), None],
    "bad": [call(300, 0, 100, 300), None],
    "over": [call(0, 0, 500, 500), call(0, 0, 500, 500), call(0, 0, 500, 500)],
}
"""A question's name → what the model says in its turns; None is its own."""
PICTURES = {"second": 2, "blind": 0}


def script(text, turn):
    name = text.rpartition("about ")[2].partition("?")[0]
    return SAYS[name][turn]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("questions"), []
    for number, name in enumerate(SAYS):
        paths = [folder / f"{name}{k}.png" for k in range(PICTURES.get(name, 1))]
        for place, path in enumerate(paths):
            Image.effect_noise((300 + 20 * number, 200 + 10 * place), 50 + 10 * number).convert("RGB").save(path)
        asked = [{"role": "user", "content": f"What is it about {name}?"}]
        made.append(Sample([str(path) for path in paths], asked, "vqa", answer="2", source="q", id=name))
    return made


def prompt_of(notation="qwen2_vl"):
    plain = PromptSection(system="Look.", wording={"vqa": "{question}"}, notation=notation)
    return plain.told(instruction(ZOOM, TurnSection(limit=2, system="Zoom in.")), "")


def talks_of(processor, limit=TOKENS, turns=2, notation="qwen2_vl", tools=ZOOM):
    said = TurnSection(limit=turns)
    toolbox = Toolbox.of(tools, said, processor.sight)
    return Talks(prompt_of(notation), limit, processor.sight, toolbox)


def answers(model, processor, questions, batch, notation="qwen2_vl", **how):
    section = GenerationSection(**({"batch_size": batch, "max_new_tokens": TOKENS} | how))
    talks = talks_of(processor, section.max_new_tokens, notation=notation)
    found = complete(model, processor, questions, talks.prompt, section, talks=talks)
    return {sample.id: text for sample, text in found}


def greedy(model, processor, turns, most) -> str:
    """transformers alone, each turn from its first token."""
    inputs = processor.apply_chat_template(
        [turns], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    banned = unsayable(model.config, processor.tokenizer)
    with torch.no_grad(), neutral(model):
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=min(most, FREE), suppress_tokens=banned)
    return processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def cut(processor, path, box):
    """A region by Pillow alone, at the size at which the model sees it."""
    part = Image.open(path).convert("RGB").crop(box)
    wanted = processor.sight.seen(part.size)
    return part if wanted in (None, part.size) else part.resize(wanted, Image.Resampling.BICUBIC)


def looked(picture):
    return {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": GO_ON}]}


def told(text):
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def said(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


BOXES = {
    # 320 x 200: per mille of it; 360 x 200: the right upper quarter, of that the left lower one; 380 x 210 for the
    # second picture
    "once": [(32, 40, 128, 120)],
    "thought": [(0, 0, 170, 100)],
    "nested": [(180, 0, 360, 100), (180, 50, 270, 100)],
    "second": [(0, 0, 114, 63)],
    "over": [(0, 0, 220, 100), (0, 0, 110, 50)],
}
REFUSED = {
    "blind": "The call failed: the question has no picture.",
    "bad": 'The call failed: found "bbox": [300, 0, 100, 300], which is empty; expected x1 < x2 and y1 < y2.',
}


def by_hand(model, processor, sample, room=TOKENS):
    """(the last turn, boxes) of a conversation written out by hand."""
    turns = conversation(sample, prompt_of(), processor.sight)
    boxes, texts = list(BOXES.get(sample.id, ())), [text for text in SAYS[sample.id] if text is not None]
    for number, text in enumerate(texts):
        room -= len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        if sample.id == "over" and number == 2:
            return text
        image = sample.images[1 if sample.id == "second" else 0] if sample.images else None
        turns.append(said(text))
        turns.append(looked(cut(processor, image, boxes[number])) if boxes else told(REFUSED[sample.id]))
    return greedy(model, processor, turns, room)


@pytest.fixture(scope="module")
def processor(tiny_model):
    return load_processor(tiny_model, LIMITS)


@pytest.fixture(scope="module")
def free(tiny_model):
    return load_model(section(tiny_model)).eval()


@pytest.fixture(scope="module")
def model(tiny_model, processor):
    return scripted(load_model(section(tiny_model)).eval(), processor, script)


@pytest.fixture(scope="module")
def expected(free, processor, questions):
    return {sample.id: by_hand(free, processor, sample) for sample in questions}


@pytest.mark.parametrize("batch", [1, 8])
def test_turns_are_those_of_a_loop_by_hand(model, processor, questions, expected, batch):
    found = answers(model, processor, questions, batch)
    assert found == expected and list(found) == list(SAYS)
    assert len(set(expected.values())) > 5
    for name, text in found.items():
        assert isinstance(text, Chain)
        boxes = [crop["box"] for crop in text.crops]
        assert boxes == [[*map(float, box)] for box in BOXES.get(name, ())]
        assert text.over == (name == "over") and text.faults == (["refused"] if name in REFUSED else [])
        assert text.turns[-1] == {"role": "assistant", "content": text}
        spoken = [turn["content"] for turn in text.turns if turn["role"] == "assistant"]
        assert spoken[:-1] == [line for line in SAYS[name] if line is not None][: len(spoken) - 1]
        for crop in text.crops:
            assert text.turns[crop["turn"]] == {"role": "tool", "content": f"<image>{GO_ON}"}
            assert crop["image"] == (1 if name == "second" else 0)
            own = [crop["box"][2] - crop["box"][0], crop["box"][3] - crop["box"][1]]
            assert tuple(crop["size"]) == processor.sight.seen([int(side) for side in own])


def test_draws_depend_on_the_turn_and_not_on_the_batch(model, processor, questions):
    rows = [*questions, questions[1], questions[1]]
    how = {"temperature": 1.2, "top_p": 0.95, "max_new_tokens": 150}

    def drawn(batch):
        section = GenerationSection(batch_size=batch, **how)
        talks = talks_of(processor, 150)
        return [text for _, text in complete(model, processor, rows, talks.prompt, section, 5, talks=talks)]

    one = drawn(3)
    assert drawn(10) == one
    assert len({one[1], one[-1], one[-2]}) == 3  # three draws of one question, with the same call


def test_numbers_of_turns_differ():
    sample = Sample([], [], "vqa", source="q", id="1")
    seeds = [tuple(row_seed(0, sample, number, turn)) for number in (0, 1, 2) for turn in (0, 1, 2)]
    assert len(set(seeds)) == len({seed_of(0, sample, number, turn) for number in (0, 1, 2) for turn in (0, 1, 2)}) == 9
    assert row_seed(0, sample, 1) == row_seed(0, sample, 1, 0)


def test_all_turns_share_the_longest_length(model, free, processor, questions):
    """The call takes some tokens, its end one; with one more left the last turn is one token, with none there is no
    last turn, and nothing is called."""
    sample = questions[1]
    length = len(processor.tokenizer(SAYS["once"][0], add_special_tokens=False)["input_ids"]) + 1
    (text,) = answers(model, processor, [sample], 1, max_new_tokens=length + 1).values()
    assert text == by_hand(free, processor, sample, length + 1) and len(text.turns) == 3
    for short in (length, length - 1):
        (text,) = answers(model, processor, [sample], 1, max_new_tokens=short).values()
        assert len(text.turns) == 1 and text.crops == [] and text.over == (short == length)


def test_what_a_benchmark_asks_without_tools_is_asked_as_without(model, free, processor, questions):
    """The prompt too; in a batch with others."""
    how = GenerationSection(batch_size=8, max_new_tokens=TOKENS)
    talks = talks_of(processor)
    talks.tooled = lambda sample: sample.id != "none"
    found = {one.id: text for one, text in complete(model, processor, questions[:3], talks.prompt, how, talks=talks)}
    bare = PromptSection(system="Look.", wording={"vqa": "{question}"})
    ((_, plain),) = complete(free, processor, questions[:1], bare, how.model_copy(update={"max_new_tokens": FREE}))
    assert found["none"] == plain and type(found["none"]) is str and fields(found["none"]) == {}
    assert isinstance(found["once"], Chain)


def broken(bbox: list[int], context) -> str:
    """Fail.

    Args:
        bbox: corners.
    """
    raise OSError("no such thing")


def test_a_broken_tool_costs_its_rows_their_turn_and_is_said_once(tiny_model, processor, questions, caplog):
    asked = write("broken", {"bbox": [1, 2, 3, 4]})
    model = scripted(load_model(section(tiny_model)).eval(), processor, lambda text, turn: asked if turn == 0 else None)
    talks = talks_of(processor, tools=[ToolSection(use=f"{__name__}:broken")])
    how = GenerationSection(batch_size=8, max_new_tokens=150)
    found = [text for _, text in complete(model, processor, questions, talks.prompt, how, talks=talks)]
    assert all(text.faults == ["broken: OSError"] and len(text.turns) == 3 for text in found)
    assert {text.turns[1]["content"] for text in found} == {"The tool failed."}
    assert caplog.text.count("tool broken failed on q/none: OSError: no such thing") == 1
    assert caplog.text.count("tool broken failed") == 1


KINDS = [kind for kind in FAMILIES if kind != "qwen2_vl"]


@pytest.mark.parametrize("kind", listed(KINDS))
def test_every_family_goes_on_as_by_hand(kind, tmp_path, questions):
    """Of what the tokenizer and the template of each make of a call and its answer; the second question calls."""
    path = checkpoint(kind, tmp_path)
    processor = load_processor(path, LIMITS)
    free = load_model(section(path)).eval()
    model = scripted(load_model(section(path)).eval(), processor, script)
    how = GenerationSection(batch_size=4, max_new_tokens=400)
    talks = talks_of(processor, 400)
    chosen = [sample for sample in questions if sample.id in ("none", "once", "nested")]
    for sample, text in complete(model, processor, chosen, talks.prompt, how, talks=talks):
        turns = conversation(sample, prompt_of(), processor.sight)
        length = 400
        for number, line in enumerate(SAYS[sample.id][:-1]):
            length -= len(processor.tokenizer(line, add_special_tokens=False)["input_ids"]) + 1
            turns += [said(line), looked(cut(processor, sample.images[0], BOXES[sample.id][number]))]
        assert text == greedy(free, processor, turns, length), sample.id
        assert len(text.turns) == 2 * len(SAYS[sample.id]) - 1


def test_what_predictions_say(model, processor, questions):
    found = {name: fields(text) for name, text in answers(model, processor, questions, 8).items()}
    assert set(found["once"]) == {"turns", "crops"} and set(found["bad"]) == {"turns", "crops", "faults"}
    assert found["over"]["over"] is True and json.dumps(found)
