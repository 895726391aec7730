"""Rows for TRL: columns, lazily decoded images, and which samples are collected."""

from pathlib import Path

import pytest
from PIL import Image

from samples import Sample, rows
from samples.mixture import draw
from samples.sections import DataSection, SourceSection
from tests.support.sights import resizing
from vlm.common.errors import DataError
from vlm.sections import ImageSection, PromptSection

PROMPT = PromptSection(style="direct", wording={"vqa": "{question}", "grounding": "Where is {question}?"})


def user(text):
    return {"role": "user", "content": text}


def picture(path, color):
    Image.new("RGB", (20, 10), color).save(path)
    return str(path)


@pytest.fixture
def samples(tmp_path):
    return [
        Sample(
            [picture(tmp_path / "a.png", (1, 2, 3))],
            [user("the dam"), {"role": "assistant", "content": "<answer>(1,2),(3,4)</answer>"}],
            "grounding",
            boxes=[[1.0, 2.0, 9.0, 8.0]],
            size=(20, 10),
            source="vg",
            id="7",
        ),
        Sample([], [user("2 + 2?"), {"role": "assistant", "content": "4"}], "vqa", answer="4", kind="sum", id="8"),
    ]


def test_prompt_rows_carry_the_truth_and_the_decoded_picture(samples, tmp_path):
    first, second = rows.prompt_rows(samples, PROMPT)
    images = first.pop("images")
    assert [(i.mode, i.size, i.getpixel((5, 5))) for i in images] == [("RGB", (20, 10), (1, 2, 3))]
    assert first == {
        "prompt": [user("Where is the dam?")],
        "image_file": str(tmp_path / "a.png"),
        "image_names": [str(tmp_path / "a.png")],
        "task": "grounding",
        "kind": None,
        "answer": None,
        "boxes": [[1.0, 2.0, 9.0, 8.0]],
        "quads": None,
        "size": [20, 10],
        "choices": None,
        "references": None,
        "regions": None,
        **dict.fromkeys(("labels", "difficult", "classes", "written", "mask", "dates", "form", "named")),
        "source": "vg",
        "id": "7",
        "copy": 0,
    }
    assert (second["images"], second["image_file"], second["answer"], second["kind"]) == ([], None, "4", "sum")


def test_chat_rows_end_in_the_reference(samples):
    first, second = rows.chat_rows(samples, PROMPT)
    assert first["messages"] == [
        user("Where is the dam?"),
        {"role": "assistant", "content": "<answer>(1,2),(3,4)</answer>"},
    ]
    assert set(first) == {"messages", "images", "source", "id"} and first["images"][0].size == (20, 10)
    turns = [user("2 + 2?"), {"role": "assistant", "content": "4"}]
    assert second == {"messages": turns, "images": [], "source": samples[1].source, "id": "8"}


def test_training_and_asking_use_the_same_prompt(demo_data):
    """A trace of the demo, worded when it was written, is asked as the same question in the JSONL would be."""
    from demo.tiny import SYSTEM, WORDING

    section = PromptSection(system=SYSTEM, wording=WORDING)
    traces = draw(DataSection(train=[SourceSection(path=str(demo_data / "sft/traces.json"))]), "train", 0).samples
    for row in rows.chat_rows(traces, section):
        system, question, trace = row["messages"]
        assert system == {"role": "system", "content": "Think, then answer."}
        assert question["role"] == "user" and "<image>" not in question["content"]
        assert trace["content"].startswith("<think>") and trace["content"].endswith("</answer>")
    held_out = DataSection(eval=[SourceSection(path=str(demo_data / "test/vg_test.json"), format="vg_dior")])
    asked = draw(held_out, "eval", 0).samples
    for row, sample in zip(rows.prompt_rows(asked, section), asked, strict=True):
        assert row["prompt"][1]["content"] == f"Where is {sample.messages[0]['content']}?"


def test_a_row_without_a_reference_cannot_be_learnt(samples):
    samples[1].messages.pop()
    with pytest.raises(DataError, match="row '8': messages end without an assistant turn"):
        rows.chat_rows(samples, PROMPT.model_copy(update={"style": "r1"}))
    assert rows.chat_rows(samples, PROMPT)[1]["messages"][-1] == {"role": "assistant", "content": "4"}
    samples[1].answer = None
    with pytest.raises(DataError, match="row '8': messages end without an assistant turn"):
        rows.chat_rows(samples, PROMPT)


def test_images_are_decoded_when_read_and_once_per_group(samples, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(rows, "load", lambda image: decoded.append(image) or Image.new("RGB", (2, 2)))
    rows.decoded.clear()
    table = rows.prompt_rows(samples[:1], PROMPT)
    assert decoded == []
    for _ in range(4):
        assert table[0]["images"][0].size == (2, 2)
    assert decoded == [str(tmp_path / "a.png")]
    rows.decoded.clear()


def test_bytes_are_images_too(tmp_path):
    data = Path(picture(tmp_path / "b.png", (9, 9, 9))).read_bytes()
    (row,) = rows.prompt_rows([Sample([data], [user("x")], "vqa", answer="y")], PROMPT)
    assert row["images"][0].getpixel((0, 0)) == (9, 9, 9)
    assert row["image_file"] is None


@pytest.mark.parametrize("make", [rows.prompt_rows, rows.chat_rows])
def test_a_picture_that_was_replaced_by_another_size_is_a_fault_of_its_row(samples, make):
    """Its boxes count in the pixels of the one that was checked. A new size of the same picture is no less wrong."""
    sizes = resizing(ImageSection(min_pixels=56 * 56, max_pixels=112 * 112))
    Image.new("RGB", (40, 20)).save(samples[0].images[0])
    with pytest.raises(DataError, match="vg: row '7': image .*a.png: found 40 x 20 pixels, expected 20 x 10 as when"):
        make(samples[:1], PROMPT, sizes)[0]
    table = make(samples, PROMPT, sizes, "skip")
    assert table[0]["id"] == "8"
