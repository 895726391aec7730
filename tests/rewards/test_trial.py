"""Rewards before and at the start of a run: tried by `--dry-run`, learned ones checked, dead ones ended at once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import rewards
from rewards.guarded import Limits, guard
from rewards.score import placement
from rewards.score.model.layout import check_stored
from rewards.score.placement import InProcess, Served
from rewards.score.scorer import ScorerRefused
from rewards.trial import Specimens, try_out
from rewards.values import WrongValues
from samples import Sample
from tests.support.processes.commands import ROOT
from tests.support.scores.score_servers import Running
from tests.support.tiny_checkpoints import picture
from vlm.common.errors import RecipeError
from vlm.families.sight import Grid
from vlm.sections import DetectionSection, PromptSection

PLUGINS = """
import urllib.request

def short(completions, limit=40, **columns):
    return [float(len(completion[0]["content"]) <= limit) for completion in completions]

def one(completions, **columns):
    return [1.0]

def broken(completions, answer, **columns):
    return [1.0 / (len(text) - len(text)) for text in answer]

def judge(completions, **columns):
    urllib.request.urlopen("http://127.0.0.1:9/", timeout=5)

async def later(completions, resized, images, trainer_state, **columns):
    return [picture.size[0] / size[0] for (picture,), size in zip(images, resized)]
"""
SIGHT = Grid(28, 112 * 112, 112 * 112)
ASK = [{"role": "user", "content": "What is there?"}]


@pytest.fixture
def plugins(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGINS)
    return lambda name: f"{tmp_path}/mine.py:{name}"


@pytest.fixture
def rows(tmp_path):
    """One row of each of four tasks; the picture of the last is not here."""
    path = tmp_path / "a.png"
    picture(112, 112).save(path)
    named = {"source": "a.jsonl", "size": (112, 112)}
    return [
        Sample([str(path)], ASK, "vqa", answer="12", kind="count", id="1", **named),
        Sample([str(path)], ASK, "grounding", boxes=[[28, 28, 56, 84]], id="2", **named),
        Sample([str(path)], ASK, "choice", answer="B", choices=["harbor", "airport"], id="3", **named),
        Sample([str(tmp_path / "b.png")], ASK, "open_ended", answer="a harbor", id="4", **named),
    ]


def tried(found, rows, capsys, style="r1"):
    try_out([guard(reward, Limits()) for reward in found], rows, PromptSection(style=style, notation="qwen2_vl"), SIGHT)
    return capsys.readouterr().err.splitlines()


def test_each_reward_says_what_came_back(rows, plugins, capsys):
    """Of `gated` each entry on the rows that are its; the values by the rewards' definitions."""
    tasks = {"vqa/count": {"use": "count", "closeness": "exact"}, "open_ended": {"use": "score", "model": "demo/score"}}
    gated = rewards.resolve("gated", tasks=tasks)
    lines = tried([gated, rewards.resolve(plugins("short")), rewards.resolve(plugins("later"))], rows, capsys)
    assert [line.partition(" on a.jsonl: ")[2] for line in lines if "gated" in line or "'choice'" in line] == [
        "row '2': its own answer: 1, another: 0, nothing: 0",
        "row '3': its own answer: 1, another: 0, nothing: 0",
        "row '1': its own answer: 1, another: 0, nothing: 0",
    ]
    assert "score model demo/score: its config.json, 94 tensors, head and tokenizer fit" in lines
    short = [line for line in lines if "'short'" in line]
    assert len(short) == 4 and all("its own answer: 0, another: 0, nothing: 1" in line for line in short)
    assert f"reward 'short' ({plugins('short').rpartition(':')[0]}:4) on a.jsonl" in short[0]
    assert all("its own answer: 1, another: 1, nothing: 1" in line for line in lines if "'later'" in line)
    direct = tried([rewards.resolve("iou", inside="text")], rows[1:2], capsys, style="direct")
    assert direct[0].endswith("row '2': its own answer: 1, another: 0, nothing: 0")


def test_detect_is_tried_on_a_row_with_objects(rows, capsys):
    """The whole answer is written, by the names that an open question asks for; the frame's rounding costs a little."""
    named = {"task": "detection", "size": (112, 112), "classes": ["plane", "storage tank"]}
    image = rows[0].images
    empty = Sample(image, ASK, boxes=[], labels=[], id="0", **named)
    full = Sample(
        image, ASK, boxes=[[28, 28, 56, 84], [0, 0, 28, 28]], labels=["plane", "storage tank"], id="1", **named
    )
    kept = Specimens()
    for sample in (empty, full, empty):
        kept.see(sample)
    assert kept.few == [full]
    gated = rewards.resolve("gated", tasks={"detection": "detect"}, notation="rscovlm")
    for asked in (DetectionSection(), DetectionSection(open=1.0)):
        prompt = PromptSection(style="r1", notation="rscovlm", detection=asked)
        try_out([guard(gated, Limits())], [empty, full], prompt, SIGHT)
        told = [line.partition(": its")[2] for line in capsys.readouterr().err.splitlines()]
        assert told == [" own answer: 1, another: 0, nothing: 0"] * 2


def test_a_reward_that_cannot_be_is_refused(rows, plugins, capsys):
    with pytest.raises(WrongValues, match=r"reward 'one' \(.*mine.py:7\) returned 1 value for 12 completions"):
        tried([rewards.resolve(plugins("one"))], rows, capsys)
    with pytest.raises(
        RecipeError,
        match=r"'broken' \(.*mine.py:10\) raised ZeroDivisionError: .* .*mine.py:11, on made-up.*row '1'",
    ):
        tried([rewards.resolve(plugins("broken"))], rows, capsys)
    gated = rewards.resolve("gated", tasks={"vqa": plugins("one"), "vqa/count": None, "choice": None})
    with pytest.raises(WrongValues, match="'gated', tasks.vqa, 'one'"):
        tried([gated], [Sample([], ASK, "vqa", answer="x")], capsys)


def test_what_cannot_be_reached_is_told(rows, plugins, caplog, capsys, monkeypatch):
    monkeypatch.setattr(placement, "ASKED", 0.1)
    assert tried([rewards.resolve(plugins("judge"))], rows, capsys) == []
    assert "reward 'judge'" in caplog.text and "could not reach what it asks: URLError" in caplog.text
    assert "mine.py:14" in caplog.text
    assert tried([rewards.resolve("format")], [], capsys) == ["rewards: not tried, for the data is not here"]
    assert InProcess("runs/not/yet").ready().endswith("it is not here, and is not checked")
    assert "not ready, and a run would wait for it" in Served(["http://127.0.0.1:9"]).ready()


def test_specimens_are_one_of_each_task_and_kind(rows):
    kept, many = Specimens(), Sample([], ASK, "grounding", boxes=[[0, 0, 1, 1]] * 2)
    for sample in (many, *rows, *rows):
        kept.see(sample)
    assert kept.few == [rows[1], rows[0], rows[2], rows[3]]


# learned rewards, by their files


def _changed(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


HEAD = "reward_head.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: _changed(folder, lambda w: w.pop(HEAD)), "it lacks 1 tensors .*reward_head"),
        (
            lambda folder: _changed(folder, lambda w: w.update({HEAD: torch.zeros(2, 64)})),
            r"shape \(2, 64\), its config",
        ),
        (lambda folder: _changed(folder, lambda w: w.update({"more": torch.zeros(1)})), "no place for 1 tensors .more"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "has no tokenizer"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "damaged or cut short",
        ),
        (lambda folder: shutil.rmtree(folder), "no folder"),
    ],
)
def test_a_wrong_score_model_is_found_by_its_files(change, message, tmp_path):
    folder = tmp_path / "score"
    shutil.copytree(ROOT / "demo/score", folder)
    assert "94 tensors" in check_stored(str(folder))
    change(folder)
    with pytest.raises(RecipeError, match=message):
        InProcess(str(folder)).prepare()


def test_a_service_that_answers_is_ready(monkeypatch):
    service = Running(token="a-token-of-its-own", loaded=False)
    monkeypatch.setenv("TOKEN", "a-token-of-its-own")
    try:
        monkeypatch.setattr(placement, "ASKED", 0.2)
        served = Served([service.url], token_variable="TOKEN")
        assert "503 Service Unavailable: the model is loading" in served.ready()
        service.load()
        monkeypatch.setattr(placement, "ASKED", 60.0)
        assert served.ready() == "score service: ready, with the model m1"
        with pytest.raises(ScorerRefused, match="401"):
            Served([service.url]).ready()
    finally:
        service.kill()


# in runs


@pytest.fixture
def recipe(tmp_path, rows, tiny_model):
    """A recipe of one step on the tiny model, as words for a launcher; its argument: the recipe's rewards."""
    data = tmp_path / "rows.jsonl"
    row = {"images": ["a.png"], "messages": ASK, "task": "vqa", "answer": "12"}
    data.write_text("".join(json.dumps(row | {"id": str(number)}) + "\n" for number in range(4)))
    file = tmp_path / "recipe.yaml"
    made = {
        "stage": "grpo",
        "model": {"path": str(tiny_model), "dtype": "float32", "attention": "sdpa"},
        "output": str(tmp_path / "run"),
        "data": {"train": [{"path": str(data)}]},
        "images": {"min_pixels": 112 * 112, "max_pixels": 112 * 112},
        "training": {"per_device_train_batch_size": 4, "num_generations": 2, "max_steps": 1, "max_completion_length": 4}
        | {"gradient_accumulation_steps": 1, "use_cpu": True, "gradient_checkpointing": False},
    }

    def words(found):
        file.write_text(json.dumps(made | {"rewards": found}))
        return [file]

    return words


def test_a_dry_run_tries_them(recipe, plugins, started):
    with pytest.raises(AssertionError, match=r"error: reward 'one' \(.*mine.py:7\) returned 1 value for 3 completions"):
        started("launch/grpo.py", *recipe([{"use": plugins("one")}]), "--dry-run")
    assert "Peak by ZeRO stage" in started("launch/grpo.py", *recipe([{"use": plugins("short")}]), "--dry-run")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("one", r"error: reward 'one' \(.*mine.py:7\) returned 1 value for 4 completions"),
        (
            "broken",
            r"failed on all 4 rows of a generation batch.* Cause: ZeroDivisionError: .* .*mine.py:11 \(rows",
        ),
    ],
)
def test_a_run_of_a_broken_reward_ends_before_its_first_step(use, message, recipe, plugins, started, tmp_path):
    with pytest.raises(AssertionError, match=message) as ended:
        started("launch/grpo.py", *recipe([{"use": plugins(use)}]))
    assert "Traceback" not in str(ended.value)
    assert not (tmp_path / "run/final").exists() and not list((tmp_path / "run").glob("checkpoint-*"))


def test_the_score_model_is_there_before_the_policys_weights(recipe, started, monkeypatch):
    """No row of the data is scored, and the model loads all the same."""
    order = []
    load = InProcess.load
    monkeypatch.setattr(InProcess, "load", lambda self: order.append("score model") or load(self))

    def policy(recipe, device):
        order.append("policy")
        raise RecipeError("far enough")

    monkeypatch.setattr("stage.trainer.models.untrained", policy)
    score = {"use": "score", "options": {"model": str(ROOT / "demo/score")}}
    with pytest.raises(AssertionError, match="far enough"):
        started("launch/grpo.py", *recipe([{"use": "format"}, score]))
    assert order == ["score model", "policy"]
    score["options"]["model"] = str(ROOT / "demo/base")
    with pytest.raises(AssertionError, match="demo/base lacks reward_head.weight"):
        started("launch/grpo.py", *recipe([{"use": "format"}, score]))
    assert order == ["score model", "policy"]
