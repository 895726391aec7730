"""What vLLM is told, without vLLM: placeholders to and fro, pictures at their size, prompts compared."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from vlm.common.errors import UserError
from vlm.families.sight import Grid
from vlm.loading import load_processor
from vlm.pictures.engine import arguments, as_seen, check_prompts, one_placeholder, written_out
from vlm.sections import ImageSection

PAD = 9
GRID = Grid(28, 784, 784 * 4000)
WORDS = st.lists(st.integers(0, 8), min_size=1, max_size=3)


def test_a_run_becomes_one_placeholder():
    """By hand: two pictures of four and two tokens, and text around them."""
    assert one_placeholder([1, 9, 9, 9, 9, 2, 9, 9, 3], PAD, 2) == [1, 9, 2, 9, 3]
    assert one_placeholder([1, 2, 3], PAD, 0) == [1, 2, 3]
    pictures = [Image.new("RGB", (56, 56)), Image.new("RGB", (56, 28))]
    assert written_out([1, 9, 2, 9, 3], PAD, pictures, GRID) == [1, 9, 9, 9, 9, 2, 9, 9, 3]


@given(st.lists(st.tuples(WORDS, st.integers(1, 4), st.integers(1, 4)), max_size=4), WORDS)
def test_there_and_back(shown, end):
    """Any texts between and after any pictures of w × h tokens."""
    meant = [one for words, w, h in shown for one in (*words, *[PAD] * (w * h))] + end
    told = one_placeholder(meant, PAD, len(shown))
    assert told.count(PAD) == len(shown)
    pictures = [Image.new("RGB", (28 * w, 28 * h)) for _, w, h in shown]
    assert written_out(told, PAD, pictures, GRID) == meant


@pytest.mark.parametrize("pictures", [0, 2])
def test_as_many_runs_as_pictures(pictures):
    with pytest.raises(UserError, match=f"5 tokens has 1 runs of picture tokens and {pictures} pictures"):
        one_placeholder([1, 9, 9, 2, 3], PAD, pictures)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 300), st.integers(0, 3000))
def test_an_engine_leaves_every_picture_as_it_is(width, height, least, more):
    """Under the limits that it is given `smart_resize` changes no size that it has made, strips included."""
    assume(max(width, height) <= 200 * min(width, height))
    limits = (784 * least, 784 * (least + more))
    grid = Grid(28, *limits)
    seen, bound = grid.seen((width, height)), grid.reached()
    assert 784 <= seen[0] * seen[1] <= bound
    assume(max(seen) <= 200 * min(seen))  # beyond, any Qwen2-VL refuses the picture
    assert grid.within(784, bound).seen(seen) == seen


@pytest.mark.parametrize(("mode", "size"), [("RGB", (150, 90)), ("RGBA", (64, 64)), ("L", (301, 40))])
def test_our_processor_makes_the_same_of_what_the_engine_is_given(mode, size, tiny_model):
    processor = load_processor(tiny_model, ImageSection(min_pixels=12544, max_pixels=25088))
    picture = Image.effect_noise(size, 60).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    given = as_seen(picture, processor)
    assert given.mode == "RGB" and given.size == processor.sight.seen(size)
    turn = [{"role": "user", "content": [{"type": "image"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=False, tokenize=False)
    expected, found = (processor(images=[[one]], text=[text], return_tensors="pt") for one in (picture, given))
    assert found["pixel_values"].equal(expected["pixel_values"])
    assert arguments(processor)["mm_processor_kwargs"]["max_pixels"] >= 25088


class Letters:
    def decode(self, ids) -> str:
        return "".join(chr(97 + one) for one in ids)


def test_the_first_difference_is_named():
    check_prompts([[1, 2], [3]], [(1, 2), [3]], Letters())
    with pytest.raises(
        UserError, match=r"row 1 .* 6 tokens meant and 5 read, alike up to token 3\. .*'bcdxfg'.*'bcdfg'"
    ):
        check_prompts([[1], [1, 2, 3, 23, 5, 6]], [[1], [1, 2, 3, 5, 6]], Letters())
    with pytest.raises(UserError, match="2 tokens meant and 3 read, alike up to token 2"):
        check_prompts([[1, 2]], [[1, 2, 3]], Letters())
