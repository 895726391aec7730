"""The demo world on disk and as pre-training text, and the base that was made from it."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

import samples
from demo import corpus, dataset, tiny
from demo.world.render import render
from demo.world.scene import SPLIT_SEEDS, place, scene
from demo.world.tasks import ask
from vlm import answers
from vlm.boxes import iou, read_boxes
from vlm.loading import load_processor
from vlm.pictures import images
from vlm.prompts import options_text
from vlm.sections import ImageSection, ModelSection

BASE = Path(__file__).parents[2] / "demo" / "base"


@pytest.fixture(scope="module")
def processor(tiny_model):
    return load_processor(tiny_model, ImageSection(min_pixels=112 * 112, max_pixels=112 * 112))


def pointed_at(question: str, seed: str):
    """The one thing of the scene that a grounding phrase ("the red object") names."""
    *color, name = question.removeprefix("the ").split()
    (thing,) = (t for t in scene(int(seed)).things if name in (t.name, "object") and (not color or t.color == color[0]))
    return thing


def same_picture(sample) -> None:
    """The JPEG is the scene's picture, up to compression."""
    stored, drawn = np.asarray(images.load(sample.images[0]), int), np.asarray(render(scene(int(sample.id))), int)
    assert sample.size in (None, (224, 224)) and stored.shape == drawn.shape == (224, 224, 3)
    assert np.abs(stored - drawn).mean() < 6


def test_grounding_files_say_what_the_scene_holds(demo_data):
    published = list(samples.read(demo_data / "test/vg_test.json", format="vg_dior"))
    ours = [s for s in samples.read(demo_data / "grpo/prompts.jsonl") if s.task == "grounding"]
    assert len(published) == 4 and len(ours) >= 3
    for sample, tolerance in [*((s, 0.051) for s in published), *((s, 1e-9) for s in ours)]:
        same_picture(sample)
        thing = pointed_at(sample.messages[0]["content"], sample.id)
        assert sample.task == "grounding" and len(sample.messages) == 1
        assert sample.boxes[0] == pytest.approx(thing.box, abs=tolerance)
    for sample in ours:  # the reference as text: per mille, so within half of 0.224 pixels
        (box,) = read_boxes(sample.answer, "qwen2_vl", sample.size)
        assert box == pytest.approx(sample.boxes[0], abs=0.113)


def test_question_files_hold_what_was_asked(demo_data):
    for split, file in (("grpo", "prompts"), ("test", "vqa_test"), ("test", "choice_test")):
        for sample in samples.read(demo_data / split / f"{file}.jsonl"):
            same_picture(sample)
            things = scene(int(sample.id)).things
            question = sample.messages[0]["content"]
            if sample.kind == "count":
                name = question.removeprefix("How many ").removesuffix("s are there?")
                assert sample.answer == str(sum(t.name == name for t in things))
            elif sample.task == "choice":
                there = [f"{t.color} {t.name}" for t in things]
                assert [text in there for text in sample.choices].index(True) == "ABCD".index(sample.answer)
            elif sample.kind == "presence":
                noun = question.removeprefix("Is there a ").removesuffix("?")
                assert (sample.answer == "yes") == (noun in [f"{t.color} {t.name}" for t in things])


def test_traces_answer_as_the_scene_does(demo_data):
    rows = list(samples.read(demo_data / "sft/traces.json"))
    assert len(rows) == 16
    for sample in rows:
        same_picture(sample)
        question, reference = (turn["content"] for turn in sample.messages)
        parsed = answers.parse(reference)
        assert parsed.well_formed and parsed.answer == sample.answer
        if question.startswith("Where is the"):
            (box,) = read_boxes(parsed.answer, "qwen2_vl", (224, 224))
            truth = pointed_at(question.removeprefix("Where is ").removesuffix("?"), sample.id).box
            assert iou(box, truth) > 0.98
        elif question.startswith("Which"):
            assert re.fullmatch(r"Which .+\? A\. \w+ \w+ B\. \w+ \w+ C\. \w+ \w+ D\. \w+ \w+", question)


def test_a_layout_read_and_written_again_is_the_same(demo_data, tmp_path):
    rows = list(samples.read(demo_data / "grpo/prompts.jsonl"))
    samples.write(tmp_path / "again.jsonl", rows)
    again = list(samples.read(tmp_path / "again.jsonl"))
    assert again == rows


def test_the_same_seed_writes_the_same_files_and_another_asks_anew(demo_data, tmp_path):
    def ids(first):
        dataset.prompts(tmp_path / str(first), first, 6)
        return (tmp_path / str(first) / "prompts.jsonl").read_text()

    start = SPLIT_SEEDS["grpo"]
    assert ids(start) == "".join((demo_data / "grpo/prompts.jsonl").read_text().splitlines(True)[:6])
    other = {json.loads(line)["id"] for line in ids(start + dataset.SEED_STRIDE).splitlines()}
    assert not other & {json.loads(line)["id"] for line in ids(start).splitlines()}


def test_no_picture_is_in_two_splits(demo_data):
    stems = [{path.stem for path in (demo_data / split / "images").iterdir()} for split in ("sft", "grpo", "test")]
    assert all(stems) and len(set().union(*stems)) == sum(map(len, stems))


def turns_of(text: str) -> list[dict]:
    """A rendered chat taken apart, the image's placeholder as content."""
    turns = []
    for role, content in re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", text, re.DOTALL):
        parts = [{"type": "text", "text": content.removeprefix("<|vision_start|><|image_pad|><|vision_end|>")}]
        if parts[0]["text"] != content:
            parts.insert(0, {"type": "image"})
        turns.append({"role": role, "content": parts})
    return turns


CAPTIONS = (0, 1, 30_000, 30_001)
CHATS = (80_000, 80_001, 102_400, 102_401, *range(115_200, 115_240))
"""Rows of every phase of the corpus, enough of the last to meet the R1 prompt."""


def test_captions_say_what_is_there_and_where():
    """Each thing once, with its own colour, class, place and box; checked from the words."""
    for row in (*range(6), *range(30_000, 30_020)):
        one, (image, text) = corpus.conversation(row)
        assert image == ("<|vision_start|><|image_pad|><|vision_end|>", False) and text[1]
        lines = text[0].removesuffix("<|endoftext|>").split("\n")
        assert len(lines) == len(one.things) > 1
        free = list(one.things)
        for line in lines:
            thing = next(t for t in free if t.color in line and t.name in line and place(t) in line)
            free.remove(thing)
            box = re.search(r"<\|box_start\|>(.+)<\|box_end\|>", line)
            assert bool(box) is (row >= 30_000)
            if box:
                assert read_boxes(box[1], "qwen2_vl", (224, 224)) == [
                    pytest.approx(thing.box, abs=0.2)
                ]  # a thousandth of 224 pixels


def test_each_phase_has_its_rows():
    phases = [corpus.phase_of(row) for row in (0, 25_599, 25_600, 76_799, 76_800, 102_399, 102_400, 127_999, 128_000)]
    assert phases == ["index"] * 2 + ["captions"] * 2 + ["answers"] * 2 + ["reasoning"] * 2 + ["careless"]


def test_pretraining_text_is_what_the_chat_template_gives(processor):
    systems = set()
    for row in CHATS:
        text = "".join(piece for piece, _ in corpus.conversation(row)[1])
        turns = turns_of(text)
        assert [turn["role"] for turn in turns] == ["system"] + ["user", "assistant"] * corpus.TURNS
        assert processor.apply_chat_template(turns) == text
        if turns[0]["content"][0]["text"] == "You are a helpful assistant.":  # the template's own, when none is given
            assert processor.apply_chat_template(turns[1:]) == text
        systems.add(turns[0]["content"][0]["text"])
        assert text.count("<|image_pad|>") == 1
    assert systems == {"You are a helpful assistant.", tiny.SYSTEM}


def test_pretraining_batches_learn_the_answers_only(processor):
    scenes = [corpus.conversation(row) for row in (*CAPTIONS, *CHATS[:4])]
    rows = [([render(one)], pieces) for one, pieces in scenes]
    batch = corpus.collate(rows, processor)
    texts = ["".join(piece for piece, _ in pieces) for _, pieces in rows]
    stock = processor(
        images=[shown for pictures, _ in rows for shown in pictures], text=texts, padding=True, return_tensors="pt"
    )
    for key in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"):
        assert (batch[key] == stock[key]).all(), key
    for text, labels in zip(texts, batch["labels"].tolist(), strict=True):
        learnt = processor.tokenizer.decode([token for token in labels if token != -100])
        said = [turn["content"][0]["text"] for turn in turns_of(text) if turn["role"] == "assistant"]
        whole = "".join(f"{answer}<|im_end|>" for answer in said)
        assert learnt == (whole or text.removeprefix("<|vision_start|><|image_pad|><|vision_end|>"))


def test_careless_annotation_is_as_careless_as_it_says():
    """Sides are pushed out by 20% on average and 40% at most; a third of the things is left out; never all of them."""
    rng, pushed, kept, there = random.Random(0), [], 0, 0
    for seed in range(2000):
        full = scene(SPLIT_SEEDS["pretrain"] + seed)
        seen = corpus.annotated(full, rng).things
        if len(full.things) == 4:
            kept, there = kept + len(seen), there + 4
        thing = full.things[0]
        x1, y1, x2, y2 = thing.box
        loose = corpus.loosen(thing, rng)
        if min(x1, y1) > 30 and max(x2, y2) < 194:  # clear of the clipping
            pushed += [(x1 - loose[0]) / (x2 - x1), (loose[3] - y2) / (y2 - y1)]
        assert seen and loose[0] <= x1 and loose[1] <= y1 and loose[2] >= x2 and loose[3] >= y2
    assert max(pushed) <= 0.4 and np.mean(pushed) == pytest.approx(0.2, abs=0.015)
    assert kept / there == pytest.approx(0.65, abs=0.04)


def test_grounding_is_asked_in_the_words_of_every_stage():
    item = ask(scene(SPLIT_SEEDS["test"]), "choice", random.Random(0))
    assert tiny.WORDING["choice"].format(question="Q", options=options_text(item.choices)) == "Q " + " ".join(
        f"{letter}. {text}" for letter, text in zip("ABCD", item.choices, strict=True)
    )


def test_the_shipped_base():
    from vlm.loading import load_model

    assert sum(path.stat().st_size for path in BASE.rglob("*") if path.is_file()) <= 8_000_000
    model = load_model(
        ModelSection(path=str(BASE), dtype="float32", attention="sdpa")
    )  # strict: every tensor, no other
    assert 2_900_000 < model.num_parameters() < 2_940_000
    card = (BASE / "README.md").read_text()
    assert re.search(r"seed\D{0,12}\d", card, re.IGNORECASE) and "demo.pretrain" in card
    assert "acc@0.5" in card and re.search(r"\d+\.\d", card)
