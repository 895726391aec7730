"""The reward `caption`: its mixture by hand, where it applies, what it needs, and how a recipe hands it frequencies."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from rewards.rules.bleu import bleu
from rewards.rules.cider import cider_d, weighted
from rewards.rules.frequencies import load
from vlm.answers import words
from vlm.common.errors import DataError, RecipeError

ROOT = Path(__file__).parents[2]
TEXTS = [
    ["a road is built", "a street appears in the north"],
    ["nothing has changed", "the scene is the same as before"],
    ["a house is built near the road", "one house appears"],
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three pairs of pictures, which are no pictures: nobody opens them."""
    folder = tmp_path_factory.mktemp("captions")
    rows = []
    for number, texts in enumerate(TEXTS):
        names = [f"{number}_{date}.png" for date in "AB"]
        for name in names:
            (folder / name).touch()
        turn = {"role": "user", "content": "What has changed?"}
        rows.append({"images": names, "task": "caption", "messages": [turn], "references": texts, "id": str(number)})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def reward(corpus):
    return rewards.resolve("caption", frequencies={"path": str(corpus)}, full=3.0, inside="text")


def value_of(reward, said, references=TEXTS[0], **columns):
    return reward(completions=[said], references=[references], task=["caption"], **columns)[0]


def test_by_hand(reward, corpus):
    said, true = words("A road appears in the south."), [words(text) for text in TEXTS[0]]
    score = cider_d(weighted(said, reward.frequencies), [weighted(one, reward.frequencies) for one in true])
    assert 0.5 < score < 3.0
    assert value_of(reward, "A road appears in the south.") == pytest.approx(0.8 * score / 3 + 0.2 * bleu(said, true))
    alone = rewards.resolve("caption", frequencies={"path": str(corpus)}, full=3.0, cider=1.0, inside="text")
    assert value_of(alone, "A road appears in the south.") == pytest.approx(score / 3)
    assert value_of(reward, TEXTS[0][0]) == pytest.approx(1.0)  # half of 10, and more, is beyond `full`
    assert value_of(reward, "trees") == 0


@pytest.mark.parametrize("said", ["", " ", ".", "!?", '""', "``````"])
def test_a_text_without_words_earns_nothing(reward, said):
    assert value_of(reward, said) == 0


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(" ".join(sum(TEXTS, [])).split())).map(" ".join))
def test_any_text_earns_between_0_and_1(reward, said):
    value = value_of(reward, said)
    assert 0 <= value <= 1
    assert value_of(reward, f"  {said.upper().lower()}!") == pytest.approx(value_of(reward, said.upper().lower()))


def test_the_answer_is_the_reference_where_there_are_none(reward):
    columns = {"task": ["caption"], "answer": ["a road is built"]}
    assert reward(completions=["a road is built"], **columns)[0] == pytest.approx(1.0)
    assert reward(completions=["a road is built"], references=[None], **columns)[0] == pytest.approx(1.0)
    assert reward(completions=["a road is built"], references=[[" ", "trees grow"]], **columns)[0] == 0


def test_rows_it_is_not_for(reward):
    assert reward(completions=["a road"], references=[TEXTS[0]], task=["vqa"]) == [None]
    assert reward(completions=["a road"]) == [None]  # without tasks it is for rows that have references
    with pytest.raises(DataError, match="source 'cc', id '7'.*applies to task 'caption' and needs the field 'referen"):
        value_of(reward, "a road", None, source=["cc"], id=["7"])
    with pytest.raises(DataError, match="finds no words"):
        value_of(reward, "a road", ["...", "!"])


def test_tags_and_metrics(corpus):
    reward = rewards.resolve("caption", frequencies={"path": str(corpus)}, applies_to="open_ended")
    said = ["<think>x</think>\n<answer>a road is built</answer>", "a road is built"]
    logged = []
    values = reward(
        completions=said,
        references=[TEXTS[0]] * 2,
        task=["open_ended"] * 2,
        log_metric=lambda name, value: logged.append((name, value)),
    )
    assert values[0] == pytest.approx(1.0) and values[1] == 0
    assert logged == [("reward_unreadable/caption", 0.0), ("reward_unreadable/caption", 1.0)]
    inside = rewards.resolve("gated", tasks={"caption": {"use": "caption", "frequencies": {"path": str(corpus)}}})
    assert inside(completions=said, references=[TEXTS[0]] * 2, task=["caption"] * 2)[0] == pytest.approx(1.0)


def test_what_is_paid_in_full_is_said(corpus, capsys):
    found = rewards.resolve("caption", frequencies={"path": str(corpus)})
    assert found.full == found.frequencies.consensus
    heard = re.search(
        r"3 documents and (\d+) n-grams of .*rows\.jsonl; .* in full from (\S+) on", capsys.readouterr().err
    )
    assert int(heard[1]) == len(found.frequencies.counts) and float(heard[2]) == pytest.approx(found.full, rel=1e-2)


def test_without_fixed_frequencies_it_is_refused():
    with pytest.raises(RecipeError, match=r"from step to step; write `frequencies: \{path"):
        rewards.resolve("caption")
    with pytest.raises(RecipeError, match="frequencies: found 3"):
        rewards.resolve("caption", frequencies=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cider": 1.5}, "cider is 1.5"),
        ({"full": 0}, "full is 0; expected a CIDEr-D"),
        ({"full": 11.0}, "full is 11.0"),
        ({"full": "most"}, "full is 'most'"),
        ({"full": True}, "full is True"),
        ({"full": float("nan")}, "full is nan"),
        ({"inside": "tags"}, "'inside' is 'tags'"),
        ({"frequencies": {"formt": "nadir"}}, "frequencies: unknown key `formt`; did you mean `format`"),
        ({"frequencies": {"path": "x", "format": "levir"}}, "format = 'levir'; known formats"),
        ({"frequencies": {"path": "x", "task": "captions"}}, "found 'captions', expected one of"),
        ({"frequencies": {}}, "path"),
    ],
)
def test_options_that_cannot_be_right_are_refused(corpus, options, said):
    with pytest.raises(RecipeError, match=said):
        rewards.resolve("caption", **{"frequencies": {"path": str(corpus)}} | options)


def test_auto_needs_pictures_with_several_captions(corpus, tmp_path):
    bare = {"documents": 9, "counts": {"a": 3}, "consensus": None}
    (tmp_path / "f.json").write_text(json.dumps(bare))
    with pytest.raises(RecipeError, match=r"no picture has two captions that share.*`full: 1\.0`"):
        rewards.resolve("caption", frequencies=str(tmp_path / "f.json"))
    assert rewards.resolve("caption", frequencies=str(tmp_path / "f.json"), full=1).full == 1.0


def test_the_command_writes_what_the_rows_say(corpus, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"stage: grpo\noutput: {tmp_path}/out\nmodel: {{path: {ROOT}/demo/base}}\n"
        f"data: {{train: [{{path: {corpus}}}]}}\n"
        f"rewards: [{{use: caption, options: {{frequencies: {tmp_path}/f.json}}}}]\n"
    )
    command = [str(ROOT / "launch/data.py"), str(recipe), "--frequencies", str(tmp_path / "f.json")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(command[0], run_name="__main__")
    assert not ended.value.code, capsys.readouterr().err
    straight = rewards.resolve("caption", frequencies={"path": str(corpus)}).frequencies
    assert load(tmp_path / "f.json") == straight
    assert rewards.resolve("caption", frequencies=str(tmp_path / "f.json")).full == straight.consensus
