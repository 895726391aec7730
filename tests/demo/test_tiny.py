"""The tiny Qwen2-VL: tokenizer, chat template, size; all as in the real one but small."""

import re

import pytest
from PIL import Image

from demo import tiny
from demo.world.render import render
from demo.world.scene import scene
from vlm.boxes import read_boxes, write_boxes
from vlm.loading import load_model, load_processor
from vlm.sections import ImageSection, ModelSection

pytestmark = pytest.mark.versions

LIMITS = ImageSection(min_pixels=112 * 112, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def processor(tiny_model):
    return load_processor(tiny_model, LIMITS)


@pytest.fixture(scope="module")
def words(processor):
    return processor.tokenizer


def pieces(words, text):
    return words.convert_ids_to_tokens(words(text, add_special_tokens=False).input_ids)


def test_digits_stand_alone(words):
    for text in ("(123,45),(678,9)", "so 2.", "[[007,120,999,1000]]", "a1b22", "3 4\n55"):
        assert re.findall(r"\d", text) == [piece for piece in pieces(words, text) if re.search(r"\d", piece)]


def test_every_text_survives_the_tokenizer(words):
    """Byte level: also what the demo world never says."""
    for text in (
        "Where is the red ship?",
        "größer 艦 🚢",
        " two  spaces\n\n\ttab",
        "<think>a</think><answer>b</answer>",
    ):
        assert words.decode(words(text).input_ids) == text


@pytest.mark.parametrize("notation", ["qwen2_vl", "vhm"])
@pytest.mark.parametrize("skip", [True, False])
def test_boxes_survive_tokenizer_and_notation(words, notation, skip):
    """On an image of 1000 × 1000 a coordinate is its own per mille."""
    boxes = [[0.0, 10.0, 123.0, 999.0], [500.0, 5.0, 700.0, 60.0]]
    ids = words(write_boxes(boxes, notation, (1000, 1000))).input_ids
    text = words.decode(ids, skip_special_tokens=skip)
    assert read_boxes(text, notation, (1000, 1000)) == boxes
    assert ("<|box_start|>" in text) == (notation == "qwen2_vl" and not skip)


def test_special_tokens_are_one_id_each_and_skippable(words):
    ids = [words(special).input_ids for special in tiny.SPECIALS]
    assert all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == 14
    assert words.decode([one[0] for one in ids], skip_special_tokens=True) == ""
    assert (words.eos_token, words.pad_token) == ("<|im_end|>", "<|endoftext|>")
    # a user cannot be in two minds about where a turn ends: specials keep to themselves inside text
    assert pieces(words, "a<|im_end|>\n<|im_start|>")[1] == "<|im_end|>"


def test_the_tokenizer_is_always_the_same_and_has_no_gaps(words):
    """What the demo world says has fewer frequent pairs than the vocabulary would take."""
    vocabulary = words.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(words))) and 256 + 14 < len(words) <= tiny.VOCABULARY
    assert vocabulary == tiny.tokenizer().get_vocab()


def test_the_chat_template_is_qwens(processor):
    """Byte for byte the one that TRL knows, and so can replace by its training variant."""
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    assert qwen2_5_vl_chat_template == tiny.CHAT_TEMPLATE
    assert processor.chat_template == qwen2_5_vl_chat_template


def test_a_conversation_by_hand(processor):
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many ships?"}]},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Sure?"},
    ]
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many ships?<|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_scene_is_sixteen_visual_tokens(processor):
    """112 × 112 pixels in patches of 14, merged two by two: (112 / 28)² = 16."""
    inputs = processor(images=[render(scene(3))], text=["<|image_pad|>"], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert inputs["pixel_values"].shape == (64, 3 * 2 * 14 * 14)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == inputs["input_ids"].numel() == 16
    wide = processor(images=[Image.new("RGB", (400, 100))], text=["<|image_pad|>"], return_tensors="pt")
    assert wide["image_grid_thw"].tolist() == [[1, 4, 16]]  # 56 × 224: the same 16 tokens, the shape kept


def test_the_number_of_parameters_by_hand(tiny_model, words):
    """Vision tower 128 wide, 3 blocks; language model 192 wide, 4 layers, 4 query and 2 key-value heads of 48."""
    block = 2 * 2 * 128 + (128 * 384 + 384) + (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128)
    merger = 2 * 128 + (512 * 512 + 512) + (512 * 192 + 192)
    vision = 3 * 2 * 14 * 14 * 128 + 3 * block + merger
    layer = (192 * 192 + 192) + 2 * (192 * 96 + 96) + 192 * 192 + 3 * 192 * 512 + 2 * 192
    language = 2 * len(words) * 192 + 4 * layer + 192  # embeddings and head are apart
    model = load_model(ModelSection(path=tiny_model, dtype="float32", attention="sdpa"))
    assert model.num_parameters() == vision + language
    assert sum(p.numel() for p in model.model.visual.parameters()) == vision == 1_106_752
    assert 2_900_000 < model.num_parameters() < 2_940_000
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"


def test_the_model_stops_at_the_end_of_a_turn(tiny_model, words):
    model = load_model(ModelSection(path=tiny_model, dtype="float32", attention="sdpa"))
    ends = [words.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert model.generation_config.eos_token_id == ends
    assert model.config.image_token_id == words.convert_tokens_to_ids("<|image_pad|>")
    assert model.config.video_token_id == words.convert_tokens_to_ids("<|video_pad|>")


def test_weights_are_a_function_of_the_seed(tiny_model, words):
    import torch

    stored = load_model(ModelSection(path=tiny_model, dtype="float32", attention="sdpa")).state_dict()
    again, other = tiny.random_model(words, 0).state_dict(), tiny.random_model(words, 1).state_dict()
    assert all(torch.equal(stored[name], value) for name, value in again.items())
    assert not torch.equal(stored["lm_head.weight"], other["lm_head.weight"])
