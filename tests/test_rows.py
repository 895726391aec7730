"""Rows for TRL: columns, lazily decoded images, and which samples are collected."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from tests.support.sample_rows import dump
from vlm import rows
from vlm.errors import DataError
from vlm.recipe import DataSection, PromptSection, SourceSection
from vlm.samples import Sample

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
        "task": "grounding",
        "kind": None,
        "answer": None,
        "boxes": [[1.0, 2.0, 9.0, 8.0]],
        "quads": None,
        "size": [20, 10],
        "choices": None,
        "source": "vg",
        "id": "7",
    }
    assert (second["images"], second["image_file"], second["answer"], second["kind"]) == ([], None, "4", "sum")


def test_chat_rows_end_in_the_reference(samples):
    first, second = rows.chat_rows(samples, PROMPT)
    assert first["messages"] == [
        user("Where is the dam?"),
        {"role": "assistant", "content": "<answer>(1,2),(3,4)</answer>"},
    ]
    assert set(first) == {"messages", "images"} and first["images"][0].size == (20, 10)
    assert second == {"messages": [user("2 + 2?"), {"role": "assistant", "content": "4"}], "images": []}


def test_training_and_asking_use_the_same_prompt(demo_data):
    """A trace of the demo, worded when it was written, is asked as the same question in the JSONL would be."""
    from demo.tiny import SYSTEM, WORDING

    section = PromptSection(system=SYSTEM, wording=WORDING)
    traces = rows.collect([SourceSection(str(demo_data / "sft/traces.json"))], DataSection(), "train")
    for row in rows.chat_rows(traces, section):
        system, question, trace = row["messages"]
        assert system == {"role": "system", "content": "Think, then answer."}
        assert question["role"] == "user" and "<image>" not in question["content"]
        assert trace["content"].startswith("<think>") and trace["content"].endswith("</answer>")
    asked = rows.collect([SourceSection(str(demo_data / "test/vg_test.json"), format="vg_dior")], DataSection(), "eval")
    for row, sample in zip(rows.prompt_rows(asked, section), asked, strict=True):
        assert row["prompt"][1]["content"] == f"Where is {sample.messages[0]['content']}?"


def test_a_row_without_a_reference_cannot_be_learnt(samples):
    samples[1].messages.pop()
    with pytest.raises(DataError, match="row '8': messages end without an assistant turn"):
        rows.chat_rows(samples, PROMPT)


def test_images_are_decoded_when_read_and_once_per_group(samples, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(rows, "load", lambda image: decoded.append(image) or Image.new("RGB", (2, 2)))
    rows._decoded.cache_clear()
    table = rows.prompt_rows(samples[:1], PROMPT)
    assert decoded == []
    for _ in range(4):
        assert table[0]["images"][0].size == (2, 2)
    assert decoded == [str(tmp_path / "a.png")]
    rows._decoded.cache_clear()


def test_bytes_are_images_too(tmp_path):
    data = Path(picture(tmp_path / "b.png", (9, 9, 9))).read_bytes()
    (row,) = rows.prompt_rows([Sample([data], [user("x")], "vqa", answer="y")], PROMPT)
    assert row["images"][0].getpixel((0, 0)) == (9, 9, 9)
    assert row["image_file"] is None


@pytest.fixture
def mixed(tmp_path):
    """vqa, caption, vqa, a missing picture, caption, vqa: ids 0 to 5, the fourth row faulty."""
    picture(tmp_path / "a.png", (0, 0, 0))
    tasks = ("vqa", "caption", "vqa", "vqa", "caption", "vqa")
    return dump(
        tmp_path / "mixed.jsonl",
        [
            {
                "images": ["gone.png" if n == 3 else "a.png"],
                "messages": [user("q")],
                "task": task,
                "answer": "yes",
                "id": str(n),
            }
            for n, task in enumerate(tasks)
        ],
    )


def ids(mixed, limit=None, **data):
    return [s.id for s in rows.collect([SourceSection(str(mixed), limit=limit)], DataSection(**data), "train")]


def test_faults_end_the_run_or_are_counted(mixed, caplog):
    with pytest.raises(DataError, match=r"mixed.jsonl, line 4, field 'images'.*gone.png"):
        ids(mixed)
    with caplog.at_level(logging.WARNING):
        assert ids(mixed, on_fault="skip") == ["0", "1", "2", "4", "5"]
    assert "6 rows = 5 kept + 1 skipped" in caplog.text and "missing_image: 1" in caplog.text


def test_the_limit_counts_what_the_tasks_left(mixed):
    assert ids(mixed, on_fault="skip", tasks=["vqa"]) == ["0", "2", "5"]
    assert ids(mixed, limit=2, on_fault="skip", tasks=["caption"]) == ["1", "4"]
    assert ids(mixed, limit=3, on_fault="skip", tasks=["vqa"]) == ["0", "2", "5"]
    assert ids(mixed, limit=1, on_fault="skip") == ["0"]


def test_rows_behind_the_limit_are_not_even_checked(mixed):
    assert ids(mixed, limit=3) == ["0", "1", "2"]  # the fourth is faulty
    assert ids(mixed, limit=2, tasks=["vqa"]) == ["0", "2"]


def test_each_source_has_its_own_limit_and_comes_in_order(mixed):
    sources = [SourceSection(str(mixed), limit=1), SourceSection(str(mixed), limit=2, task="caption")]
    found = rows.collect(sources, DataSection(on_fault="skip"), "train")
    assert [(s.task, s.id) for s in found] == [("vqa", "0"), ("caption", "0"), ("caption", "1")]


def test_nothing_left_is_an_error(mixed):
    with pytest.raises(DataError, match=r"data.eval: no rows left; sources \['.*mixed.jsonl'\], tasks \['grounding'\]"):
        rows.collect([SourceSection(str(mixed))], DataSection(on_fault="skip", tasks=["grounding"]), "eval")
