"""Where pictures stand: tags, blocks, and TRL's own placement where there are no tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.data_utils import prepare_multimodal_messages

from vlm.pictures.places import Misplaced, blocks, numbered, placed, settled, spelled, texts


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("written", "images", "expected"),
    [
        ("<image>\nWhat?", 1, "What?"),
        ("<image><image>\nWhat?", 2, "What?"),
        ("<image>\n<image>\nWhat?", 2, "What?"),
        ("\n<image> What?", 1, " What?"),
        ("<image>", 1, ""),
        ("What?", 3, "What?"),
        ("What?", 0, "What?"),
        ("Before: <image>\nAfter: <image>", 2, "Before: <image>\nAfter: <image>"),
        ("<image>\nand <image>\nWhat?", 2, "<image>\nand <image>\nWhat?"),
        ("What? <image>", 1, "What? <image>"),
    ],
)
def test_tags_before_the_first_question_are_taken_out_and_others_stay(written, images, expected):
    turns = [{"role": "system", "content": "Think."}, user(written), said("x <image> y"), user("And?")]
    assert settled(turns, images)[1] == user(expected)
    assert settled(turns, images)[2:] == turns[2:] and turns[1] == user(written)  # an answer claims no picture


def test_later_turns_have_theirs():
    turns = [user("<image>\nWhat?"), said("A dam."), user("And <image>?")]
    assert settled(turns, 2) == turns and placed(turns)
    assert [[block["type"] for block in turn["content"]] for turn in blocks(turns, 2)] == [
        ["image", "text"], ["text"], ["text", "image", "text"],
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "images"), [("<image>", 0), ("<image>", 2), ("a <image> b <image>", 1)])
def test_another_number_of_tags_is_refused(text, images):
    with pytest.raises(
        Misplaced, match=rf"found {text.count('<image>')} <image> tags, expected as many .*\({images}\)"
    ):
        settled([user(text)], images)


def test_blocks_hold_the_pictures_in_order():
    turns = blocks([user("Before: <image>\nAfter: <image>")], ["a", "b"])
    assert turns == [
        user([
            {"type": "text", "text": "Before: "}, {"type": "image", "image": "a"},
            {"type": "text", "text": "\nAfter: "}, {"type": "image", "image": "b"},
        ])
    ]  # fmt: skip
    assert spelled(turns[0]["content"]) == "Before: <image>\nAfter: <image>" == texts(turns)[0]["content"]
    assert numbered(spelled(turns[0]["content"])) == "Before: [image 1]\nAfter: [image 2]"


PARTS = st.lists(st.text("ab \n<>", max_size=4), min_size=1, max_size=4)


@given(st.lists(PARTS, min_size=1, max_size=3), st.integers(0, 3))
def test_round_trip(turns, front):
    """Conversations of any number of pictures in any place; and without tags, TRL's placement."""
    written = [user("<image>".join(parts)) for parts in turns]
    tags = sum(turn["content"].count("<image>") for turn in written)
    once = settled(written, tags or front)
    number = tags or front
    made = blocks(once, number)
    assert sum(block["type"] == "image" for turn in made for block in turn["content"]) == number
    assert texts(made) == once == settled(once, number)
    if not placed(once):
        with_pictures = blocks(once, list(range(number)))
        assert with_pictures == prepare_multimodal_messages(once, images=list(range(number)))
    else:
        assert prepare_multimodal_messages(made, images=list(range(number))) == blocks(once, list(range(number)))


def test_content_of_another_kind_is_left_for_the_reader_to_refuse():
    for content in (None, 3, [{"type": "video"}], [{"type": "text", "text": 3}], ["text"], "text"):
        assert spelled(content) == content
