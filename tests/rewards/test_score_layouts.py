"""Preferences as TRL, LLaMA-Factory and ms-swift write them, and keys that would be lost: never a blind model."""

from __future__ import annotations

import io
import json

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from rewards.score.training import examined, planned
from rewards.score.training.preferences import Preference, collect, read, write
from rewards.score.training.recipe import PreferenceSource, ScoreRecipe
from samples import Faults
from stage.recipe import config
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from vlm.common.errors import DataError, RecipeError

pytestmark = pytest.mark.versions

Q, GOOD, BAD = "How many ships?", "Two ships.", "Five."
USER, SYSTEM = {"role": "user", "content": Q}, {"role": "system", "content": "Be brief."}
PARTS = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": Q}]}


def said(text):
    return {"role": "assistant", "content": text}


def turn(kind, text):
    return {"from": kind, "value": text}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pics").mkdir()
    for name in ("0", "1"):
        Image.new("RGB", (56, 56)).save(tmp_path / f"pics/{name}.png")
    return tmp_path


LAYOUTS = {
    "images beside chosen": {"images": ["pics/0.png"], "question": Q, "chosen": GOOD, "rejected": BAD},
    "image beside ranked": {"image": "pics/0.png", "question": Q, "ranked": [GOOD, BAD]},
    "prompt beside ranked": {"images": ["pics/0.png"], "prompt": [USER], "ranked": [GOOD, BAD]},
    "messages beside ranked": {"images": ["pics/0.png"], "messages": [SYSTEM, USER], "ranked": [GOOD, BAD]},
    "TRL, texts": {"image": "pics/0.png", "prompt": Q, "chosen": GOOD, "rejected": BAD},
    "TRL, turns": {"images": ["pics/0.png"], "prompt": [PARTS], "chosen": [said(GOOD)], "rejected": [said(BAD)]},
    "TRL, whole conversations": {
        "images": ["pics/0.png"], "prompt": [USER], "chosen": [USER, said(GOOD)], "rejected": [USER, said(BAD)],
    },
    "TRL, implicit prompt": {"images": ["pics/0.png"], "chosen": [PARTS, said(GOOD)], "rejected": [PARTS, said(BAD)]},
    "LLaMA-Factory": {
        "conversations": [turn("human", f"<image>{Q}")], "chosen": turn("gpt", GOOD), "rejected": turn("gpt", BAD),
        "images": ["pics/0.png"],
    },
    "ms-swift": {
        "messages": [{"role": "user", "content": f"<image>{Q}"}, said(GOOD)], "rejected_response": BAD,
        "images": ["pics/0.png"],
    },
    "ms-swift, messages": {
        "messages": [USER, said(GOOD)], "rejected_messages": [USER, said(BAD)], "images": ["pics/0.png"], "videos": [],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_keeps_its_picture_and_question(folder, name):
    path = dump(folder / "pairs.jsonl", [LAYOUTS[name]])
    assert list(read(path)) == [
        Preference([str(folder / "pics/0.png")], Q, [GOOD, BAD], source="pairs", id="#1"),
    ]
    (blind,) = read(path, text_only=True)
    assert (blind.images, blind.question, blind.ranked) == ([], Q, [GOOD, BAD])


FIRST = [{"role": "user", "content": "What is it?"}, said("A port.")]
TALKS = {
    "messages beside ranked": {"messages": [SYSTEM, *FIRST, USER], "ranked": [GOOD, BAD]},
    "TRL": {"prompt": [*FIRST, PARTS], "chosen": [said(GOOD)], "rejected": [said(BAD)]},
    "TRL, implicit prompt": {"chosen": [*FIRST, USER, said(GOOD)], "rejected": [*FIRST, USER, said(BAD)]},
    "LLaMA-Factory": {
        "conversations": [turn("human", "<image>What is it?"), turn("gpt", "A port."), turn("human", Q)],
        "chosen": turn("gpt", GOOD), "rejected": turn("gpt", BAD),
    },
    "alpaca": {"instruction": Q, "history": [["What is it?", "A port."]], "chosen": GOOD, "rejected": BAD},
    "ms-swift": {"messages": [*FIRST, USER, said(GOOD)], "rejected_response": BAD},
    "ms-swift, messages": {"messages": [*FIRST, USER, said(GOOD)], "rejected_messages": [*FIRST, USER, said(BAD)]},
}  # fmt: skip


@pytest.mark.parametrize("name", TALKS)
def test_turns_before_the_question_are_shared(folder, name):
    path = dump(folder / "talks.jsonl", [TALKS[name] | {"images": ["pics/0.png"]}])
    (found,) = read(path)
    asked = f"<image>{Q}" if name == "TRL" else Q  # its parts put the picture into the second question
    assert (found.before, found.question, found.ranked) == (FIRST, asked, [GOOD, BAD])
    for exchange, text in zip(found.exchanges(), (GOOD, BAD), strict=True):
        assert exchange.messages == (*FIRST, USER | {"content": asked}, said(text)) and exchange.images == tuple(
            found.images
        )
    write(folder / "again.jsonl", [found])
    assert list(read(folder / "again.jsonl")) == [found]
    (row,) = examined.Records(PreferenceSource(path=str(path)), Faults())
    assert row.messages == [*FIRST, USER | {"content": asked}]


def test_alpacas_input_is_part_of_the_question(folder):
    row = {"instruction": "Count.", "input": "Ships only.", "chosen": GOOD, "rejected": BAD}
    (found,) = read(dump(folder / "pairs.jsonl", [row]))
    assert found.question == "Count.\nShips only." and found.before == []


def test_control_tokens_before_the_question(folder):
    row = TALKS["alpaca"] | {"history": [["What <|im_end|>?", "A port."]]}
    path = dump(folder / "pairs.jsonl", [row])
    recipe = config.build(
        {"model": {"path": str(ROOT / "demo/base")}, "output": "o", "data": {"train": [{"path": str(path)}]}},
        ScoreRecipe,
    )
    with pytest.raises(DataError, match="field 'question': found the control token"):
        list(read(path, check=planned.text_check(recipe)))


def test_a_dataset_of_the_hub_is_refused_by_key():
    with pytest.raises(RecipeError, match=r"data\.train.*path = 'hub:a/b': .*hf download a/b"):
        config.build({"output": "o", "data": {"train": [{"path": "hub:a/b"}]}}, ScoreRecipe)


def test_several_rejected_responses(folder):
    row = {"messages": [USER, said(GOOD)], "rejected_response": [BAD, "Red."], "images": ["pics/0.png"]}
    found = list(read(dump(folder / "pairs.jsonl", [row])))
    assert [one.ranked for one in found] == [[GOOD, BAD], [GOOD, "Red."]]


def test_trls_parquet(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(buffer, "PNG")
    turns = {"prompt": [[USER]], "chosen": [[said(GOOD)]], "rejected": [[said(BAD)]]}
    images = [[{"bytes": buffer.getvalue(), "path": None}]]
    parquet.write_table(pyarrow.table({"images": images, **turns}), folder / "pairs.parquet")
    (found,) = read(folder / "pairs.parquet")
    assert (found.images, found.question, found.ranked) == ([buffer.getvalue()], Q, [GOOD, BAD])


PAIR = {"images": ["pics/0.png"], "question": Q, "chosen": GOOD, "rejected": BAD}
BARE = {"question": Q, "chosen": GOOD, "rejected": BAD}
REFUSED = {
    "a slip of images": (BARE | {"imges": ["pics/0.png"]}, "field 'imges': found a key that is not read, .* 'images'"),
    "a slip of image": (BARE | {"imag": "pics/0.png"}, "field 'imag': .* expected 'image'"),
    "a slip of the question": ({"questoin": Q, "chosen": GOOD, "rejected": BAD}, "field 'questoin'.*'question'"),
    "a picture elsewhere": (BARE | {"photo": "pics/0.png"}, "field 'photo': found 'pics/0.png'.*columns: {images: pho"),
    "pictures elsewhere": (BARE | {"pics": ["pics/0.png"]}, "field 'pics': found"),
    "two keys of pictures": (PAIR | {"image": "pics/1.png"}, "field 'image': found pictures under 'images', too"),
    "two questions": (PAIR | {"prompt": Q}, "field 'prompt': found a question under 'question', too"),
    "a question elsewhere": (
        {"images": ["pics/0.png"], "query": Q, "chosen": GOOD, "rejected": BAD},
        r"field 'query': found .*columns: \{question: query\}",
    ),
    "turns out of turn": (
        {"prompt": [USER, USER], "chosen": GOOD, "rejected": BAD}, "field 'prompt'.*roles user, user, expected user",
    ),
    "no question last": (
        {"prompt": [USER, said("Which?")], "chosen": GOOD, "rejected": BAD}, "field 'prompt'.*the user's question last",
    ),
    "other turns before": (
        {"chosen": [USER, said("a"), USER, said(GOOD)], "rejected": [USER, said("b"), USER, said(BAD)]},
        "field 'chosen': found the roles assistant, user, assistant",
    ),
    "a history that is none": (
        {"instruction": Q, "history": ["a"], "chosen": GOOD, "rejected": BAD}, "field 'history': found \\['a'\\]",
    ),
    "video": (PAIR | {"videos": ["a.mp4"]}, "field 'videos'.*no stage reads videos"),
    "objects": (PAIR | {"objects": {"ref": ["a"]}}, "field 'objects'"),
    "dates": (PAIR | {"dates": ["2019-04"]}, "field 'dates': found .*expected the question to name the pictures"),
    "another picture for the worse": (PAIR | {"rejected_images": ["pics/1.png"]}, "field 'rejected_images'"),
    "too many tags": (PAIR | {"question": f"<image><image>{Q}"}, r"field 'question': found 2 <image> tags.*\(1\)"),
    "a tag without a picture": (BARE | {"question": f"<image>{Q}"}, r"found 1 <image> tags, expected as many .*\(0\)"),
    "a tag in an answer": (PAIR | {"chosen": "<image> Two."}, "field 'chosen'.*no <image> tags"),
    "no better answer": ({"messages": [USER], "rejected_response": BAD}, "expected the better answer, last"),
    "a side of several turns": (
        {"prompt": [USER], "chosen": [said("a"), USER, said(GOOD)], "rejected": [said(BAD)]},
        "field 'chosen': found the roles assistant, user, assistant",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_lost_is_refused(folder, name):
    row, message = REFUSED[name]
    for rows in ([row], [PAIR, row]):
        if "messages" in row and len(rows) > 1:
            continue  # another layout than that of the first row
        path = dump(folder / "pairs.jsonl", rows)
        with pytest.raises(DataError, match=rf"pairs.jsonl, line {len(rows)}, .*{message}"):
            list(read(path))


def test_text_only_takes_a_picture_under_any_key(folder):
    (found,) = read(dump(folder / "pairs.jsonl", [BARE | {"photo": "pics/0.png"}]), text_only=True)
    assert found.images == []


def test_renamed_columns_and_those_that_are_not_read(folder, capsys):
    row = {"photo": "pics/1.png", "problem": Q, "best": GOOD, "rejected": BAD, "licence": "CC0", "score_chosen": 3}
    names = {"images": "photo", "question": "problem", "chosen": "best"}
    path = dump(folder / "pairs.jsonl", [row])
    with pytest.raises(DataError, match="field 'images': found 'pics/1.png', expected a list of paths"):
        list(read(path, columns=names))
    names = names | {"image": "photo"}
    del names["images"]
    source = PreferenceSource(path=str(path), columns=names)
    (found,) = collect([source], "error", "train")
    assert (found.images, found.question) == ([str(folder / "pics/1.png")], Q)
    said = f"{path}: columns that are not read: licence, score_chosen"
    assert capsys.readouterr().err.splitlines() == [said]
    assert planned.survey([source]).images == 1 and capsys.readouterr().err.splitlines() == [said]


def test_a_dry_run_ends_at_a_lost_picture(folder):
    path = dump(folder / "pairs.jsonl", [PAIR, BARE | {"imges": ["pics/0.png"]}])
    sources = [PreferenceSource(path=str(path))]
    with pytest.raises(DataError, match="line 2, field 'imges'"):
        planned.survey(sources, "error")
    assert planned.survey(sources, "skip").records == 1


def test_json_is_what_is_written():
    assert json.loads(json.dumps(LAYOUTS)) == LAYOUTS
