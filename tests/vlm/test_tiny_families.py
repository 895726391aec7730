"""The tiny checkpoints of tests/support/families: read by transformers whole, alive, spelled as published."""

import functools
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tests.support import families
from tests.support.families import base
from tests.support.tiny_checkpoints import picture


@dataclass
class Case:
    """What is expected of a kind: pictures of 100 × 100 pixels, counted by hand."""

    images: str
    """Class of the Pillow image processor, in transformers.models."""
    mark: str
    """A picture in rendered text."""
    spelled: str
    """The same, as the model reads it."""
    cuts: bool = False
    """Whether the stock processor asks the image processor for tiles, which its file does not."""


def images(module: str) -> str:
    package, name = module.split(":")
    return f"transformers.models.{package}.image_processing_pil_{package}:{name}"


QWEN = "<|image_pad|>"
QWEN2_IMAGES = images("qwen2_vl:Qwen2VLImageProcessorPil")
CASES = {
    # 100 pixels are nearest to 4 × 28; 4 × 4 tokens
    "qwen2_vl": Case(QWEN2_IMAGES, QWEN, 16 * QWEN),
    "qwen2_5_vl": Case(QWEN2_IMAGES, QWEN, 16 * QWEN),
    "glm4v": Case(images("glm4v:Glm4vImageProcessorPil"), "<|image|>", 16 * "<|image|>"),
    # nearest to 3 × 32; 3 × 3 tokens
    "qwen3_vl": Case(QWEN2_IMAGES, QWEN, 9 * QWEN),
    "qwen3_vl_moe": Case(QWEN2_IMAGES, QWEN, 9 * QWEN),
    "qwen3_5": Case(QWEN2_IMAGES, QWEN, 9 * QWEN),
    # cropped to 56 × 56, patches of 14
    "llava": Case(images("clip:CLIPImageProcessorPil"), "<image>", 16 * "<image>"),
    # 2 × 2 tiles of 56 × 56 and the whole as a fifth, (56 / 14 / 2)² tokens each
    "internvl": Case(
        images("got_ocr2:GotOcr2ImageProcessorPil"),
        "<IMG_CONTEXT>",
        "<img>" + 5 * 4 * "<IMG_CONTEXT>" + "</img>",
        cuts=True,
    ),
    # 2 × 2 tiles of 128 × 128 and the whole as a fifth, (128 / 16 / 4)² tokens each
    "idefics3": Case(
        images("idefics3:Idefics3ImageProcessorPil"),
        "<image>",
        "".join(
            "".join(f"<fake_token_around_image><row_{row}_col_{column}>" + 4 * "<image>" for column in (1, 2)) + "\n"
            for row in (1, 2)
        )
        + "\n<fake_token_around_image><global-img>"
        + 4 * "<image>"
        + "<fake_token_around_image>",
    ),
}

DEFAULT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
MARKED = "<|vision_start|><|image_pad|><|vision_end|>"
GLM = "<|begin_of_image|><|image|><|end_of_image|>"


def qwen(pictures: str, default: str = "") -> str:
    return (
        f"{default}<|im_start|>user\nA{pictures}B<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        f"<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
    )


RENDERED = {
    "qwen2_vl": lambda count: qwen(MARKED * count, DEFAULT),
    "qwen2_5_vl": lambda count: qwen(MARKED * count, DEFAULT),
    "qwen3_vl": lambda count: qwen(MARKED * count),
    "qwen3_vl_moe": lambda count: qwen(MARKED * count),
    "qwen3_5": lambda count: qwen(MARKED * count) + "<think>\n",
    "glm4v": lambda count: f"[gMASK]<sop><|user|>\nA{GLM * count}B<|assistant|>\nYes.<|user|>\nC<|assistant|>\n",
    "llava": lambda count: "USER: " + "<image>\n" * count + "A B ASSISTANT: Yes. USER: C ASSISTANT:",
    "internvl": lambda count: qwen("<IMG_CONTEXT>\n" * count),
    "idefics3": lambda count: (
        f"<|im_start|>User: A{'<image>' * count}B<end_of_utterance>\nAssistant: Yes.<end_of_utterance>\n"
        "User: C<end_of_utterance>\nAssistant:"
    ),
}
"""A conversation with pictures between A and B: LLaVA's template moves them to the front."""


@pytest.fixture(scope="module", params=families.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, family_checkpoints):
    return Path(family_checkpoints(kind))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def render(folder, tokenizer):
    """Turns → text, by the folder's template, ready for an assistant's turn."""
    file = folder / "chat_template.json"
    text = json.loads(file.read_text())["chat_template"] if file.exists() else file.with_suffix(".jinja").read_text()
    return functools.partial(
        tokenizer.apply_chat_template, chat_template=text, add_generation_prompt=True, tokenize=False
    )


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)


def texts(*parts: str) -> list[dict]:
    return [{"type": "text", "text": part} for part in parts]


def pixels(case: Case, folder: Path, image) -> dict:
    module, name = case.images.split(":")
    processor = getattr(importlib.import_module(module), name).from_pretrained(folder)
    out = processor([image], return_tensors="pt", **({"crop_to_patches": True} if case.cuts else {}))
    return {key: value for key, value in out.items() if key not in ("num_patches", "rows", "cols")}


def test_model_is_read_whole(kind, loaded):
    model, info = loaded
    assert model.config.model_type == kind
    assert not any(info.values()), info
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_head_is_the_embedding_where_the_published_one_is(kind, loaded):
    model, _ = loaded
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"))


def test_vocabulary_and_tokens(folder, tokenizer, loaded):
    text = "Where is the (12,345) red é 漢?\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len(tokenizer) == loaded[0].config.get_text_config().vocab_size
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])


def test_pictures_matter(kind, folder, tokenizer, render, loaded):
    case, model = CASES[base(kind)], loaded[0]
    turn = [{"role": "user", "content": [{"type": "image"}, *texts("Where?")]}]
    ids = tokenizer(render(turn).replace(case.mark, case.spelled), return_tensors="pt").input_ids
    types = (ids == model.config.image_token_id).long()
    named = {"mm_token_type_ids": types} if hasattr(model.model, "get_rope_index") else {}
    with torch.no_grad():
        logits = [
            model(input_ids=ids, **named, **pixels(case, folder, picture(100, 100, seed=seed))).logits[0, -1]
            for seed in (0, 1)
        ]
    assert (logits[0] - logits[1]).abs().max() > 1e-2
    assert logits[0].std() > 0.3  # a distribution far from uniform


@pytest.mark.parametrize("count", [0, 1, 2])
def test_template_renders_pictures(kind, render, count):
    content = [*texts("A"), *[{"type": "image"}] * count, *texts("B")]
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "Yes." if kind == "glm4v" else texts("Yes.")},
        {"role": "user", "content": texts("C")},
    ]
    assert render(turns) == RENDERED[base(kind)](count)


def test_templates_that_take_one_form_of_content_only(kind, render):
    """Others render the same from a string as from one part of text."""
    string, parts = (
        render([{"role": "user", "content": texts("A")}, {"role": "assistant", "content": content}])
        for content in ("Yes.", texts("Yes."))
    )
    if kind == "glm4v":
        assert "Yes." in string and "[{'type': 'text', 'text': 'Yes.'}]" in parts
    elif kind in ("llava", "idefics3"):
        assert "Yes." not in string and "Yes." in parts
    else:
        assert string == parts
