"""What the doctor says of texts: replies that are missing or have another form, questions asked twice, preferences."""

from __future__ import annotations

import json

import pytest

from samples import Sample
from samples.rows import chat_rows, say_untagged
from tests.support.doctored import asked, doctor, put_data
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from vlm.common.errors import DataError
from vlm.sections import PromptSection

R1 = "<think>I count.</think><answer>two words</answer>"


@pytest.fixture
def folder(tmp_path):
    return put_data(tmp_path)


def found(folder):
    return json.loads((folder / "out/report.json").read_text())


def turns(question, *reply):
    said = [{"role": "assistant", "content": text} for text in reply]
    return [{"role": "user", "content": question}, *said]


def supervised(folder, style, *rows):
    dump(folder / "train.jsonl", list(rows))
    (folder / "recipe.yaml").write_text(
        f"stage: sft\noutput: {folder}/run\nmodel: {{path: {ROOT}/demo/base, dtype: float32}}\n"
        f"images: {{min_pixels: 12544, max_pixels: 12544}}\nprompt: {{style: {style}}}\n"
        f"data:\n  train: [{{path: {folder}/train.jsonl}}]\n"
    )


# SFT under `direct` takes the truth that the row has.


def row(task="vqa", **truth):
    return Sample([], turns("What?"), task, **truth)


def test_a_reply_is_written_from_the_truth():
    letters = ["housing", "farming", "industry"]
    rows = [
        row(answer="3"),
        row("classification", answer="farmland"),
        row("caption", answer="A field."),
        row("choice", answer="farming", choices=letters),
        row("choice", answer="C", choices=letters),
        row("vqa", answer="2", boxes=[[0.0, 0.0, 10.0, 10.0]], size=(100, 100)),
        row("grounding", answer="ship", boxes=[[0.0, 0.0, 10.0, 10.0]], size=(100, 100)),
        Sample([], turns("What?", "As written."), "vqa", answer="3"),
    ]
    direct = PromptSection(style="direct", notation="qwen2_vl")
    assert [one["messages"][-1]["content"] for one in chat_rows(rows, direct)] == [
        "3", "farmland", "A field.", "B", "C", "2", "<|box_start|>(0,0),(100,100)<|box_end|>", "As written.",
    ]  # fmt: skip
    with pytest.raises(DataError, match="messages end without an assistant turn"):
        chat_rows([row(answer="3")], PromptSection())
    with pytest.raises(DataError, match="messages end without an assistant turn"):
        chat_rows([row("caption")], direct)


def test_rows_without_a_reply_are_unfit(folder):
    rows = [asked("a.png", 1, messages=turns("one", R1)), asked("b.png", 2), asked("c.png", 3)]
    supervised(folder, "r1", *rows)
    assert doctor(folder) == 1
    report = found(folder)
    assert report["faults"] == ["2 rows are without a reply to learn from: supervised training refuses them"]
    assert report["replies"]["without a reply to learn from"] == {"count": 2, "first": ["train/2", "train/3"]}
    assert (report["sources"][0]["fit"], report["sources"][0]["unfit"]) == (1, 2)
    assert doctor(folder, "prompt.style=direct") == 0  # the answer is the reply
    captions = [asked("a.png", 1, task="caption", answer=None)]
    supervised(folder, "direct", *captions)
    assert doctor(folder) == 1


def test_replies_without_tags_are_a_warning_under_r1(folder):
    rows = [asked("a.png", n, messages=turns(f"question {n}", R1 if n == 0 else "two words")) for n in range(4)]
    supervised(folder, "r1", *rows)
    assert doctor(folder) == 0
    said = "3 of 4 rows (75%) are with a reply without <think> and <answer>: prompt.style r1 asks for them"
    assert found(folder)["warnings"] == [said]
    assert doctor(folder, "prompt.style=direct") == 0 and found(folder)["warnings"] == []


def test_a_run_says_the_share_of_replies_without_tags(capsys):
    rows = [Sample([], turns("?", text), "vqa", answer="3") for text in (R1, "3", "<answer>3</answer>", R1)]
    say_untagged(rows, PromptSection())
    said = capsys.readouterr().err
    assert said.startswith(
        "data.train: 2 of 4 rows (50%) have a reply without <think> and <answer>, which prompt.style"
    )
    say_untagged(rows, PromptSection(style="direct"))
    say_untagged(rows[:1], PromptSection())
    assert capsys.readouterr().err == ""


# Questions asked twice.


def test_repeated_questions_are_counted(folder):
    same = [asked("a.png", 1), asked("a.png", 2) | {"messages": turns("question  1")}]
    other = [
        asked("a.png", 3, messages=turns("question 1"), answer="one"),
        asked("b.png", 4, messages=turns("question 1")),
    ]
    dump(folder / "train.jsonl", [*same, *other])
    dump(folder / "test.jsonl", [asked("d.png", 1)])
    assert doctor(folder) == 0
    report = found(folder)
    assert report["repeated"] == {
        "asked again with the same answer": {"count": 1, "first": ["train/2"]},
        "asked again with another answer": {"count": 1, "first": ["train/3"]},
    }
    assert report["warnings"] == ["1 rows are asked again with the same answer (same pictures, same text)"]


# Preferences.


def score(folder, rows, held_out=()):
    dump(folder / "pairs.jsonl", rows)
    dump(folder / "held.jsonl", list(held_out))
    held = f"  eval: [{{path: {folder}/held.jsonl}}]\n" if held_out else ""
    (folder / "recipe.yaml").write_text(
        f"stage: score\noutput: {folder}/run\nmodel: {{path: {ROOT}/demo/base, dtype: float32}}\n"
        f"images: {{min_pixels: 12544, max_pixels: 12544}}\ndata:\n  train: [{{path: {folder}/pairs.jsonl}}]\n{held}"
    )


def pair(image, *ranked, **more):
    return {"images": [image], "question": "How many?", "ranked": list(ranked)} | more


def test_a_score_recipe_is_examined(folder, capsys):
    rows = [pair("a.png", "Two.", "Five."), pair("a.png", "Two.", "Five."), pair("a.png", "Two.", "A hundred and one.")]
    score(folder, rows, [pair("d.png", "One.", "Two.")])
    assert doctor(folder) == 0
    report = found(folder)
    train, held = report["sources"]
    assert (train["rows"], train["fit"], held["rows"], report["pictures"]["different"]) == (3, 3, 1, 2)
    assert train["tasks"] == {"preference": {"": 3}}
    assert report["repeated"]["asked again with the same answer"]["count"] == 1
    lengths = report["lengths"]["tokens"]
    assert lengths["count"] == 4 and lengths["max"] > lengths["min"] > 16  # 16 visual tokens, and the texts


def test_a_score_recipe_with_faults_is_not_fit(folder):
    score(
        folder,
        [pair("a.png", "Two.", "Five."), pair("gone.png", "a", "b"), pair("a.png", "c")],
        [pair("a.png", "x", "y")],
    )
    assert doctor(folder) == 1
    report = found(folder)
    assert report["sources"][0]["faulty"] == 2
    assert report["faults"][1].startswith("contamination: 1 pictures of the evaluation are in training, too: same file")
    lines = [json.loads(line)["message"] for line in (folder / "out/faults.jsonl").read_text().splitlines()]
    assert "line 2, field 'images'" in lines[0] and "line 3, field 'ranked'" in lines[1]


def test_recipes_of_other_kinds_are_not_compared(folder, capsys):
    score(folder, [pair("a.png", "Two.", "Five.")])
    (folder / "other.yaml").write_text(
        f"stage: grpo\noutput: {folder}/x\nmodel: {{path: x}}\ndata: {{eval: [{{path: {folder}/test.jsonl}}]}}\n"
    )
    assert doctor(folder, against=str(folder / "other.yaml")) == 2
    assert "--against" in capsys.readouterr().err


def test_masks_are_measured_against_what_their_form_can_say(folder):
    """Pictures of 64 pixels, seen at 112: 4 × 4 cells of 16. Half of the picture is 2 of 4 columns, exactly; one pixel
    is written as its cell, 1 of 256; nothing is nothing."""
    sought = [{"role": "user", "content": "the dam"}]
    shapes = ([[0, 0, 32, 0, 32, 64, 0, 64]], [[5, 5, 6, 5, 6, 6, 5, 6]], [])
    rows = [asked("a.png", n, task="segmentation", messages=sought, mask=mask) for n, mask in enumerate(shapes)]
    for row in rows:
        del row["answer"]
    dump(folder / "train.jsonl", rows)
    assert doctor(folder) == 0
    report = found(folder)
    assert report["masks"]["count"] == 2 and report["masks"]["side"]["max"] == pytest.approx(0.5**0.5)
    assert report["masks"]["iou_as_text"]["min"] == pytest.approx(1 / 256)
    assert report["masks"]["iou_as_text"]["max"] == 1
    assert {kind: one["count"] for kind, one in report["masks"]["odd"].items()} == {
        "of which the form rscovlm says less than 25% (IoU of the written mask)": 1,
        "nothing in them": 1,
    }
    assert "1 masks: nothing in them" in report["warnings"]
