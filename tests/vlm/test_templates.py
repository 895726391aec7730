"""Chat templates of every family: they say what was published, and teach what the assistant says."""

from __future__ import annotations

import pytest

from tests.support.families import base, published
from tests.support.tiny_checkpoints import picture
from vlm.families import FAMILIES
from vlm.loading import load_processor
from vlm.sections import ImageSection

LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=128 * 128)
ENDS = {"llava": "</s>", "glm4v": "<|user|>"}
"""What ends a turn; `<|im_end|>` and a line's end in the others."""
IMAGE = {"type": "image"}


def text(said):
    return {"type": "text", "text": said}


def turn(role, *content):
    return {"role": role, "content": content[0] if len(content) == 1 and isinstance(content[0], str) else [*content]}


CHATS = {
    "plain": [turn("user", "2 + 2?"), turn("assistant", "4")],
    "parts": [turn("system", text("Count.")), turn("user", IMAGE, text("ships?")), turn("assistant", text("two"))],
    "system": [turn("system", "Count."), turn("user", IMAGE, text("ships?")), turn("assistant", text("two"))],
    "middle": [
        turn("user", text("Before "), IMAGE, text(" after "), IMAGE, text("?")),
        turn("assistant", text("more")),
    ],
    "turns": [
        turn("user", IMAGE, text("ships?")),
        turn("assistant", text("two")),
        turn("user", "and tanks?"),
        turn("assistant", "none"),
    ],
}
EMPTY = "<think>\n\n</think>\n\n"
"""Qwen3.5 opens an answer without a trace."""


@pytest.fixture(params=FAMILIES)
def kind(request):
    return request.param


@pytest.fixture
def processor(kind, family_checkpoints):
    return load_processor(family_checkpoints(kind), LIMITS)


def in_parts(chat):
    return [turn(one["role"], text(one["content"])) if isinstance(one["content"], str) else one for one in chat]


def end(kind):
    return ENDS.get(kind, "<|im_end|>\n")


@pytest.mark.parametrize("chat", CHATS)
def test_prompts_are_the_published_ones(kind, processor, chat):
    """Asked with the template that we work with, and with the published one: the same text."""
    asked = CHATS[chat][:-1]
    ours = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    stock = published(kind).chat_template
    if kind == "llava":
        if chat == "middle":
            assert ours == "<s>USER: Before  <image>\n after  <image>\n?  ASSISTANT:".replace("?  A", "? A")
            return
        expected = processor.apply_chat_template(in_parts(asked), chat_template=stock, tokenize=False)
        # of an earlier answer the published one writes a space where it ends
        expected = "<s>" + expected.replace("two USER", "two</s>USER") + "ASSISTANT:"
    elif kind == "glm4v":
        plain = [
            turn(one["role"], one["content"][0]["text"])
            if one["role"] != "user" and not isinstance(one["content"], str)
            else one
            for one in asked
        ]
        expected = processor.apply_chat_template(plain, chat_template=stock, tokenize=False, add_generation_prompt=True)
    else:
        expected = processor.apply_chat_template(asked, chat_template=stock, tokenize=False, add_generation_prompt=True)
    assert ours == expected
    pictures = sum(part == IMAGE for one in asked for part in one["content"])
    assert ours.count(processor.image_token) == ours.count(processor.family.shown) == pictures


@pytest.mark.parametrize("chat", CHATS)
def test_marks_change_no_letter_and_hold_what_the_assistant_says(kind, processor, chat):
    marked = processor.family.marked(processor.chat_template)
    assert marked is not None
    chat = CHATS[chat]
    plain = processor.apply_chat_template(chat, tokenize=False)
    if base(kind) == "qwen3_5":  # earlier answers keep their empty trace, so that a beginning stays as it was
        plain = plain.replace(EMPTY, "").replace("assistant\n", "assistant\n" + EMPTY)
    assert processor.apply_chat_template(chat, tokenize=False, chat_template=marked) == plain
    shown = [picture(60, 60) for one in chat for part in one["content"] if part == IMAGE]
    with_pictures, left = [], iter(shown)
    for one in chat:
        content = (
            one["content"]
            if isinstance(one["content"], str)
            else [{**part, "image": next(left)} if part == IMAGE else part for part in one["content"]]
        )
        with_pictures.append({**one, "content": content})
    found = processor.apply_chat_template(
        [with_pictures],
        chat_template=marked,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "add_special_tokens": False},
    )
    ids, mask = found["input_ids"][0], found["assistant_masks"][0].bool()
    runs, said = [], []
    for number, learned in zip(ids.tolist(), mask.tolist(), strict=True):
        if learned:
            said.append(number)
        elif said:
            runs.append(said)
            said = []
    runs += [said] if said else []
    words = [
        part if isinstance(part, str) else part[0]["text"]
        for part in (one["content"] for one in chat if one["role"] == "assistant")
    ]
    decoded = [processor.tokenizer.decode(run, skip_special_tokens=False).lstrip() for run in runs]
    opened = EMPTY if base(kind) == "qwen3_5" else ""
    assert [one.rstrip("\n") for one in decoded] == [opened + word + end(kind).rstrip("\n") for word in words]


def test_a_conversation_begins_once(kind, processor):
    """With the tokenizer's first token, if it has one, whether or not it is asked for special tokens."""
    asked = [CHATS["plain"][:1]]
    for special in (False, True):
        ids = processor.apply_chat_template(
            asked,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            processor_kwargs={"add_special_tokens": special},
        )["input_ids"][0]
        first = processor.tokenizer.bos_token_id
        assert first is None or (list(ids).count(first) == 1 and ids[0] == first)


def test_llava_tokens_are_those_of_the_published_template(family_checkpoints):
    processor = load_processor(family_checkpoints("llava"), LIMITS)
    shown = [turn("user", {"type": "image", "image": picture(60, 60)}, text("ships?"))]
    ours, stock = (
        processor.apply_chat_template(
            [shown], tokenize=True, return_dict=True, add_generation_prompt=True, chat_template=template
        )["input_ids"]
        for template in (None, published("llava").chat_template)
    )
    assert ours == stock
