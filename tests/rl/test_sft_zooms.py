"""Conversations that zoom under SFT: what is asked, called, shown and learnt, token by token, written out by hand.

The picture has 896 x 896 pixels; the colour of a pixel says where it is. The model sees 16 visual tokens of it.
"""

from __future__ import annotations

import pytest
from PIL import Image

from samples import mixture
from samples.doctor.gallery import Gallery
from samples.doctor.rows import UNSHOWN, Rows
from samples.doctor.subject import subject
from samples.rows import chat_rows
from sft.recipe import SFTRecipe
from sft.teaching import Teaching
from stage.planning.lengths import Lengths
from stage.recipe import config
from tests.rl.test_sft import RECIPE, SYSTEM
from tests.support.sample_rows import dump
from vlm.common.errors import DataError
from vlm.pictures.resizing import by_role
from vlm.shapes import sight_of
from vlm.tools.toolbox import instruction, zoom_of
from vlm.tools.zoom import GO_ON

pytestmark = pytest.mark.xdist_group("sft")
WIDE, HIGH = 896, 896
ASKED = "What stands at the pier?"


def look(*box, said=""):
    return {"role": "assistant", "content": said, "zoom": list(box)}


def said(text):
    return {"role": "assistant", "content": text}


def call(*bbox, image=None):
    more = "" if image is None else f', "image": {image}'
    return f'<tool_call>\n{{"name": "image_zoom_in", "arguments": {{"bbox": {list(bbox)}{more}}}}}\n</tool_call>'


ROWS = {
    "once": ([look(224, 224, 448, 448), said("a crane")], [call(250, 250, 500, 500), "a crane"]),
    "often": (
        [
            look(0, 0, 448, 448, said="West first."),
            look(112, 112, 224, 224),
            look(448, 448, 672, 560),
            look(448, 448, 672, 560, said="Again."),
            said("two"),
        ],
        [
            "West first.\n" + call(0, 0, 500, 500),
            call(250, 250, 500, 500),  # a quarter of the crop before it, which is meant where no number is said
            call(500, 500, 750, 625, image=1),  # not in the crop before it
            "Again.\n" + call(500, 500, 750, 625, image=1),  # all of the crop before it, which is not shown again
            "two",
        ],
    ),
    "never": ([said("a dam")], ["a dam"]),
}
"""name → the reply's turns, and the texts that are learnt."""
REGIONS = {
    "once": [(224, 224, 448, 448)],
    "often": [(0, 0, 448, 448), (112, 112, 224, 224), (448, 448, 672, 560), (448, 448, 672, 560)],
    "never": [],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zooms")
    red = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize((WIDE, HIGH))
    green = Image.linear_gradient("L").resize((WIDE, HIGH))
    Image.merge("RGB", [red, green, Image.new("L", (WIDE, HIGH), 40)]).save(folder / "a.png")
    return folder


def put(folder, name, *names, **changes):
    found = [
        {"images": ["a.png"], "messages": [{"role": "user", "content": ASKED}, *ROWS[one][0]], "task": "vqa",
         "answer": ROWS[one][1][-1], "id": one} | changes
        for one in names
    ]  # fmt: skip
    return dump(folder / name, found)


def recipe(model, data, output, *overrides, tools="tools=[{use: zoom, options: {least: 28}}]"):
    changes = (f"model.path={model}", f"data.train.0.path={data}", f"output={output}", "overwrite=true", tools)
    return config.load(
        RECIPE, SFTRecipe, [*changes, "prompt.wording.vqa='{question}'", "prompt.style=direct", *overrides]
    )


def grid(asked, row):
    """Visual tokens of each crop of a row, by the processor's arithmetic."""
    return [sight_of(asked).tokens(crop.size) for crop in row["images"][1:]]


def by_hand(words, name, asked, crops):
    """(ids, labels) of a row. crops: visual tokens of each."""
    head = f"{SYSTEM}\n\n{instruction(asked.tools, asked.turns)}"
    picture = "<|vision_start|>{}<|vision_end|>"
    pieces = [(f"<|im_start|>system\n{head}<|im_end|>\n", False)]
    shown = [picture.format("<|image_pad|>" * 16) + ASKED]
    shown += [picture.format("<|image_pad|>" * count) + GO_ON for count in crops]
    for question, text in zip(shown, ROWS[name][1], strict=True):
        pieces.append((f"<|im_start|>user\n{question}<|im_end|>\n", False))
        pieces += [("<|im_start|>assistant\n", False), (f"{text}<|im_end|>\n", True)]
    ids, labels = [], []
    for text, learnt in pieces:
        tokens = words(text, add_special_tokens=False).input_ids
        ids += tokens
        labels += tokens if learnt else [-100] * len(tokens)
    return ids, labels


def table(asked, tool=True):
    sight = sight_of(asked)
    found = mixture.draw(asked.data, "train", 0).samples
    return chat_rows(found, asked.prompt, by_role(asked)["train"], zoom=zoom_of(asked.tools, sight) if tool else None)


def test_turns_of_a_chain(folder, tiny_model, tmp_path):
    """The crop's middle has the colour of the region's middle, and it is cut at full resolution."""
    asked = recipe(tiny_model, put(folder, "rows.jsonl", *ROWS), tmp_path / "run")
    for row, (name, (_, texts)) in zip(table(asked), ROWS.items(), strict=True):
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == ["system", *["user", "assistant"] * len(texts)]
        spelled = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
        assert [part if isinstance(part, str) else part[0]["text"] for part in spelled] == texts
        picture, *crops = row["images"]
        assert picture.size == (WIDE, HIGH) and len(crops) == len(REGIONS[name])
        for crop, (x1, y1, x2, y2) in zip(crops, REGIONS[name], strict=True):
            assert 0.5 < crop.size[0] * crop.size[1] / asked.images.max_pixels <= 1
            middle = crop.getpixel((crop.size[0] // 2, crop.size[1] // 2))
            assert middle[0] == pytest.approx((x1 + x2) / 2 / WIDE * 255, abs=4)
            assert middle[1] == pytest.approx((y1 + y2) / 2 / HIGH * 255, abs=4)
            edge = crop.getpixel((0, 0))
            assert edge[0] == pytest.approx(x1 / WIDE * 255, abs=4)


def test_the_loss_counts_what_the_model_says_alone(folder, tiny_model, tmp_path, monkeypatch):
    from sft import stage
    from stage.trainer import finish

    kept, save = [], finish.save_model
    monkeypatch.setattr(finish, "save_model", lambda trainer, *rest: kept.append(trainer) or save(trainer, *rest))
    monkeypatch.setattr("trl.SFTTrainer.train", lambda self, *_: None)
    monkeypatch.setattr(finish, "check_trained", lambda trainer: None)
    monkeypatch.setattr("stage.curves.draw", lambda *_, **__: None)
    asked = recipe(tiny_model, put(folder, "rows.jsonl", *ROWS), tmp_path / "run")
    stage.train(asked)
    (trainer,) = kept
    order = ["often", "never", "once"]
    batch = trainer.data_collator([trainer.train_dataset[list(ROWS).index(name)] for name in order])
    words = trainer.processing_class.tokenizer
    crops = {name: grid(asked, row) for row, name in zip(table(asked), ROWS, strict=True)}
    expected = [by_hand(words, name, asked, crops[name]) for name in order]
    width = max(len(ids) for ids, _ in expected)
    for row, (ids, labels) in enumerate(expected):
        rest = width - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [words.pad_token_id] * rest
        assert batch["labels"][row].tolist() == labels + [-100] * rest
    learnt = batch["labels"][batch["labels"] != -100]
    assert trainer.processing_class.image_token_id not in learnt.tolist()
    assert (learnt == words.convert_tokens_to_ids("<|im_end|>")).sum() == 5 + 1 + 2
    assert batch["image_grid_thw"].prod(-1).tolist() == [4 * count for name in order for count in (16, *crops[name])]


@pytest.mark.parametrize("name", ROWS)
def test_rows_whose_crops_or_calls_are_cut(folder, tiny_model, tmp_path, name):
    """At the last length of each outcome and the first of the next; and the length that is planned."""
    from tests.support.tiny_checkpoints import pixels
    from vlm.loading import load_processor

    words = load_processor(tiny_model, pixels()).tokenizer
    path = put(folder, f"{name}.jsonl", name)
    asked = recipe(tiny_model, path, tmp_path / "run")
    (row,) = table(asked)
    crops = grid(asked, row)
    ids, labels = by_hand(words, name, asked, crops)
    shown = max(place + 1 for place, token in enumerate(ids) if words.convert_ids_to_tokens(token) == "<|image_pad|>")
    first = next(place for place, label in enumerate(labels) if label != -100)

    def read(limit, on_fault="error"):
        cut = recipe(tiny_model, path, tmp_path / "run", f"training.max_length={limit}", f"data.on_fault={on_fault}")
        teaching = Teaching(cut)
        return mixture.draw(cut.data, "train", 0, teaching), teaching

    with pytest.raises(DataError, match=f"pictures that end at token {shown}"):
        read(shown - 1)
    least = max(shown, first + 1)
    for limit in (least, len(ids) - 1, len(ids)):
        tally = read(limit)[1].tally
        assert (tally["rows"], tally["cut"]) == (1, limit < len(ids)), limit
        assert tally["deep"] == (name == "often")  # four looks, and turns.limit is 1
    lengths = Lengths(asked, answers=True)
    for sample in mixture.draw(asked.data, "train", 0).samples:
        lengths.see(sample)
    measured, _ = lengths.measure(False)
    assert measured["images_per_sample"] == 1
    assert measured["prompt_tokens"] + measured["completion_tokens"] == len(ids) - 16


def test_regions_that_the_tool_would_refuse(folder, tiny_model, tmp_path):
    """A fault of the row before weights load: it can be skipped, and the doctor names it."""
    whole = [{"role": "user", "content": ASKED}, look(0, 0, 880, 896), said("a crane")]
    path = dump(
        folder / "whole.jsonl",
        [{"images": ["a.png"], "messages": turns, "task": "vqa", "answer": "a crane", "id": str(number)}
         for number, turns in enumerate([whole, [whole[0], *ROWS["once"][0]]])],
    )  # fmt: skip
    asked = recipe(tiny_model, path, tmp_path / "run")
    with pytest.raises(DataError, match=r"whole.jsonl, line 1, field 'messages': .*\[0.0, 0.0, 880.0, 896.0\].*refuse"):
        mixture.draw(asked.data, "train", 0, Teaching(asked))
    skipping = recipe(tiny_model, path, tmp_path / "run", "data.on_fault=skip")
    assert mixture.draw(skipping.data, "train", 0, Teaching(skipping)).rows == 1
    assert looked_at(asked) == {UNSHOWN: 1}


def looked_at(asked):
    patient = subject(asked)
    with Gallery(1) as gallery:
        found = Rows(gallery, patient.ruler, patient.sight)
        for sample in mixture.draw(asked.data, "train", 0).samples:
            found.add(sample, "train", 0)
        found.measure()
        gallery.finish()
    return found.replies.counts


def test_without_the_tool(folder, tiny_model, tmp_path):
    path = put(folder, "rows.jsonl", "never", "once")
    plain = recipe(tiny_model, path, tmp_path / "run", tools="seed=0")
    with pytest.raises(DataError, match=r"row 'once': field 'messages\[2\].zoom': .*tools: \[{use: zoom}\]"):
        table(plain)
    assert looked_at(plain) == {UNSHOWN: 1}


def test_the_doctor_measures_what_is_trained_on(folder, tiny_model, tmp_path):
    from tests.support.tiny_checkpoints import pixels
    from vlm.loading import load_processor

    asked = recipe(tiny_model, put(folder, "rows.jsonl", *ROWS), tmp_path / "run")
    words = load_processor(tiny_model, pixels()).tokenizer
    patient = subject(asked)
    found = patient.ruler.text_tokens(list(mixture.draw(asked.data, "train", 0).samples))
    for row, name, tokens in zip(table(asked), ROWS, found, strict=True):
        ids, _ = by_hand(words, name, asked, grid(asked, row))
        assert tokens == len(ids) - 16 - 2  # the row's own picture, and the two tokens around it
