"""Pictures stand where the data's texts put them, in every stage that shows them to a model."""

import json

import pandas
import pytest
import trl
from PIL import Image
from pydantic import ValidationError

import rl
import samples
from evals.asking.conversation import conversation
from rewards.score.model.exchange import Exchange, render
from rewards.score.reward.candidates import Reader
from rl.recipe import GRPORecipe
from samples.rows import prompt_rows
from stage.planning.lengths import ChatText
from stage.trainer.arguments import arguments
from tests.support.tiny_checkpoints import section
from vlm.common.errors import DataError
from vlm.families.sight import Grid
from vlm.loading import load_model, load_processor
from vlm.prompts import prompt
from vlm.sections import ImageSection, ModelSection, PromptSection

LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)
LIMITED = Grid(28, 56 * 56, 112 * 112)
ASKED = PromptSection(style="direct", system="Look.", wording={"vqa": "{question}"})
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
FIRST = "Before: <image>\nAfter: <image>\nWhat was built?"
TURNS = [
    {"role": "user", "content": FIRST},
    {"role": "assistant", "content": "A dam."},
    {"role": "user", "content": "And <image> here?"},
]
CHAT = (
    "<|im_start|>user\nBefore: {p}\nAfter: {p}\nWhat was built?<|im_end|>\n<|im_start|>assistant\nA dam.<|im_end|>\n"
    "<|im_start|>user\nAnd {p} here?<|im_end|>\n<|im_start|>assistant\n"
).replace("{p}", PICTURE)


@pytest.fixture(scope="module")
def processor(tiny_model):
    return load_processor(tiny_model, LIMITS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("dates")
    for number, name in enumerate("abc"):
        Image.effect_noise((112, 56 * (1 + number)), 40).convert("RGB").save(made / f"{name}.png")
    return made


def read(folder, row, **options):
    (folder / "rows.json").write_text(json.dumps([row]))
    return next(samples.read(folder / "rows.json", images=folder, **options))


NAMES = ["a.png", "b.png", "c.png"]
OURS = {"images": NAMES, "messages": TURNS, "task": "vqa", "answer": "a road"}
BLOCKS = [
    {"role": "user", "content": [
        {"type": "text", "text": "Before: "}, {"type": "image"}, {"type": "text", "text": "\nAfter: "},
        {"type": "image"}, {"type": "text", "text": "\nWhat was built?"},
    ]},
    {"role": "assistant", "content": [{"type": "text", "text": "A dam."}]},
    {"role": "user", "content": [
        {"type": "text", "text": "And "}, {"type": "image"}, {"type": "text", "text": " here?"}
    ]},
]  # fmt: skip
SPOKEN = {"user": "human", "assistant": "gpt"}
LAYOUTS = {
    "nadir": OURS,
    "conversations": {
        "image": NAMES, "answer": "a road",
        "conversations": [{"from": SPOKEN[turn["role"]], "value": turn["content"]} for turn in TURNS],
    },
    "sharegpt": {"images": NAMES, "messages": BLOCKS, "answer": "a road"},
    "trl": {"images": NAMES, "prompt": BLOCKS, "answer": "a road"},
}  # fmt: skip


@pytest.mark.parametrize("format", LAYOUTS)
def test_every_layout_keeps_them(folder, format, tmp_path):
    sample = read(folder, LAYOUTS[format], format=format, task="vqa")
    assert sample.messages == TURNS and len(sample.images) == 3
    samples.write(tmp_path / "again.jsonl", [sample])
    assert next(samples.read(tmp_path / "again.jsonl")).messages == TURNS


def test_a_single_question_keeps_its_own_too(folder):
    row = {"problem": "What is left of <image> in <image>?", "answer": "sea", "type": "em", "image": ["a.png", "b.png"]}
    assert read(folder, row, format="scorers_rl").messages[0]["content"] == row["problem"]
    row = {"problem": "<image>\nWhat is it?", "answer": "sea", "type": "em", "image": "a.png"}
    assert read(folder, row, format="scorers_rl").messages[0]["content"] == "What is it?"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": NAMES[:2]}, r"row 1, field 'messages': found 3 <image> tags, expected as many as images \(2\)"),
        ({"messages": [*TURNS[:1], {"role": "assistant", "content": "<image>"}]}, r"'messages\[2\]'.*a user's text"),
        ({"messages": [{"role": "system", "content": "<image>"}, *TURNS]}, r"'messages\[1\]'.*in a user's text only"),
        (
            {"task": "choice", "answer": "A", "choices": ["one <image>", "two"]},
            r"'choices'.*expected texts without <image>: options are texts, not pictures",
        ),
    ],
)
def test_places_that_cannot_be_are_refused(folder, change, words):
    with pytest.raises(DataError, match=words):
        read(folder, OURS | change, format="nadir")


def test_wordings_and_system_prompts_place_none():
    with pytest.raises(ValidationError, match="wording.vqa: found <image>"):
        PromptSection(wording={"vqa": "<image> {question}"})
    with pytest.raises(ValidationError, match="system: found <image>"):
        PromptSection(system="See <image>.")


def test_evaluation_and_plan_ask_so(folder, processor, tiny_model):
    sample = read(folder, OURS, format="nadir")
    turns = conversation(sample, ASKED, LIMITED)
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>system\nLook.<|im_end|>\n" + CHAT
    shown = [block["image"].size for turn in turns for block in turn["content"] if block["type"] == "image"]
    assert shown == [(112, 56), (112, 112), (112, 168)]
    planned = ChatText(ModelSection(path=tiny_model)).render(prompt(sample, "direct", "Look.", ASKED.wording), 3)
    assert planned == text


def test_the_score_model_reads_them_so_by_every_way(folder, processor):
    sample = read(folder, OURS, format="nadir")
    expected = CHAT + "a road<|im_end|>\n"
    (candidate,) = Reader(("vqa",), "text", True, False).read(
        [conversation(sample, ASKED, LIMITED)], ["a road"], {"images": [sample.images], "task": ["vqa"]}
    )
    ways = {
        "sample": Exchange.from_sample(sample),
        "request": Exchange.from_messages([*BLOCKS, {"role": "assistant", "content": "a road"}], sample.images),
        "tags": Exchange.from_messages([*TURNS, {"role": "assistant", "content": "a road"}], sample.images),
        "reward": candidate.exchange,
    }
    for way, exchange in ways.items():
        said = render(exchange, processor)
        assert said[said.index("<|im_start|>user") :] == expected, way
        assert list(exchange.images) == sample.images
    # an answer claims no picture, whatever it says
    said = render(Exchange.from_sample(sample, "a <image> road"), processor)
    assert said.count("<|image_pad|>") == 3 and "a <image> road" in said


def test_grpo_asks_so_and_shares_such_prompts(folder, tiny_model, tmp_path):
    """Both ways of computing are compared by the trainer itself in its first step (`check_sharing`)."""
    front = OURS | {"images": NAMES[:1], "messages": [{"role": "user", "content": "<image>\nWhat?"}], "id": "front"}
    rows = [read(folder, row, format="nadir") for row in (OURS, front)]
    made = GRPORecipe(model=ModelSection(path=tiny_model, dtype="float32", attention="sdpa"), output=str(tmp_path))
    made.training = {
        "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 1,
        "gradient_checkpointing": False, "logging_steps": 1, "beta": 0.1,
    }  # fmt: skip
    processor = load_processor(tiny_model, LIMITS)
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(prompts)
        return [float(n % 2) for n in range(len(completions))]

    args = arguments(trl.GRPOConfig, made, log_completions=True)
    args.num_completions_to_print = 0
    model = load_model(section(tiny_model))
    trainer = rl.GRPOTrainer(model, [reward], args, prompt_rows(rows, ASKED), processing_class=processor)
    asked, tokenize = [], trainer._tokenize_prompts

    def noted(prompts):
        found = tokenize(prompts)
        asked.extend(processor.tokenizer.batch_decode(found[0]))
        return found

    trainer._tokenize_prompts = noted
    trainer.train()
    assert trainer.share_prefix
    texts = {text.replace("<|image_pad|>", "") for text in asked}
    system, empty = "<|im_start|>system\nLook.<|im_end|>\n", PICTURE.replace("<|image_pad|>", "")
    once = f"<|im_start|>user\n{empty}What?<|im_end|>\n<|im_start|>assistant\n"
    assert texts == {system + CHAT.replace("<|image_pad|>", ""), system + once}
    assert {text.count("<|vision_start|>") for text in asked} == {1, 3}
    types = [[block["type"] for block in prompt[1]["content"]] for prompt in seen]
    assert ["text", "image", "text", "image", "text"] in types and ["image", "text"] in types
    (table,) = (pandas.read_parquet(path) for path in (tmp_path / "completions").glob("*.parquet"))
    shown = set(table["prompt"])
    assert any(FIRST in text and "And <image> here?" in text for text in shown)
    assert any(text.endswith("<image>What?") for text in shown)


def test_a_judge_is_told_which_picture_stands_where():
    from rewards.prefer.prompts import request

    assert '"Before: [image 1]\\nAfter: [image 2]\\nWhat was built?"' in request(FIRST, ["a dam", "a road"])
