"""Training rows that a model answers without their picture: which are marked, and how they are left out."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from evals.controls import marking
from rl.recipe import GRPORecipe
from samples import mixture
from samples.mixture.marks import prompt_key, read, row_key
from samples.sections import DataSection, SourceSection
from sft.recipe import SFTRecipe
from stage.planning import control
from stage.recipe import config
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, two_processes
from tests.support.sample_rows import dump
from tests.support.scores.fake_judge import FakeJudge, completion, error
from vlm.common.errors import DataError, RecipeError, UserError
from vlm.pictures import images
from vlm.sections import PromptSection


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def asked(text, number, task="vqa", **more):
    turns = [{"role": "user", "content": text}]
    return {"images": ["a.png"], "messages": turns, "task": task, "id": str(number)} | more


CHOICES = {"task": "choice", "choices": ["housing", "farming", "industry"]}
ROWS = [
    asked("Is there water?", 0, answer="yes", kind="presence"),
    asked("Is there a road?", 1, answer="no", kind="presence"),
    asked("How many ships?", 2, answer="2", kind="count"),
    asked("What is here?", 3, answer="B", **CHOICES),
    asked("What is <image>there?", 4, answer="A", **CHOICES),
    asked("the ship", 5, "grounding", boxes=[[0, 0, 56, 56]]),
    asked("the plane", 6, "grounding", boxes=[[0, 0, 20, 20]]),
    asked("Describe it.", 7, "open_ended", answer="a port"),
    asked("Is it text?", 8, answer="yes") | {"images": []},
]
SAID = {
    "Is there water?": "Yes.",
    "Is there a road?": "yes",
    "How many ships?": "2",
    "What is here?": "B",
    "What is there?": "B",
    "the ship": "<|box_start|>(0,0),(500,500)<|box_end|>",
    "the plane": "<|box_start|>(0,0),(500,500)<|box_end|>",
}


@pytest.fixture
def data(tmp_path):
    Image.effect_noise((112, 112), 60).convert("RGB").save(tmp_path / "a.png")
    dump(tmp_path / "q.jsonl", ROWS)
    text = f"""
        stage: grpo
        output: {tmp_path}/run
        model: {{path: {{model}}, dtype: float32}}
        images: {{min_pixels: 12544, max_pixels: 12544}}
        prompt: {{style: direct, notation: qwen2_vl}}
        data:
          train: [{{path: {tmp_path}/q.jsonl, limit: 9, repeat: 2}}]
          cache: {tmp_path}/cache
        rewards: [{{use: exact_match, options: {{inside: text}}}}]
        training: {{max_completion_length: 6, num_generations: 2, per_device_train_batch_size: 2}}
    """
    (tmp_path / "grpo.yaml").write_text(text)
    return tmp_path


def question(body) -> str:
    content = body["messages"][-1]["content"]
    assert isinstance(content, str)  # no picture
    return content.splitlines()[0].rpartition(": ")[2]


def knowing(body):
    return completion(SAID[question(body)])


def grpo(data, model, *more) -> GRPORecipe:
    path = data / "grpo.yaml"
    path.write_text(path.read_text().replace("{model}", str(model)))
    return config.load(path, GRPORecipe, more)


def mark(recipe, data, judge=None, draws=1, share=0.75, model="tiny", *more):
    folder = data / "report"
    if judge is not None:
        found = {"address": judge.section().address, "model": "tiny", "concurrency": 2, "retries": 0}
        more = ("generation.backend=endpoint", f"endpoint={json.dumps(found)}", *more)
    asking = marking.asking(recipe, str(model), folder, draws, more)
    images.use(asking.images)
    return marking.mark(asking, folder, draws, share, control.of_recipe(recipe))


def lines(data) -> list[dict]:
    return [json.loads(line) for line in (data / "report/blind.jsonl").read_text().splitlines()]


def test_what_is_marked(tiny_model, data):
    """By a server that knows some: right by the exact rule of each task; what has none is said."""
    recipe = grpo(data, tiny_model)
    with FakeJudge(default=knowing) as judge:
        found = mark(recipe, data, judge)
    assert judge.calls == 7
    rows = lines(data)
    assert [row["blind"] for row in rows] == [True, False, True, True, False, True, False, None, None]
    assert [row["share"] for row in rows] == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, None, None]
    assert [row["row"] for row in rows] == list(range(1, 10)) and {row["source"] for row in rows} == {"q"}
    assert [row["why"].partition(":")[0] for row in rows[7:]] == [
        "task open_ended has no exact rule",
        "has no picture",
    ]
    assert {(row["model"], row["prompt"], row["file"]) for row in rows} == {
        ("tiny", prompt_key(recipe.prompt), str(data / "q.jsonl"))
    }
    assert (found["rows"], found["asked"], found["blind"]) == (9, 7, 4)
    by = {(part["task"], part["kind"]): part for part in found["parts"]}
    assert by["vqa", "presence"] == {
        "file": str(data / "q.jsonl"), "task": "vqa", "kind": "presence", "rows": 2, "asked": 2, "right": 0.5,
        "blind": 1, "most_common": 0.5,
    }  # fmt: skip
    assert by["vqa", ""]["rows"] == 4 and by["vqa", ""]["asked"] == 3
    assert by["choice", ""]["chance"] == pytest.approx(1 / 3) and by["choice", ""]["right"] == 0.5
    assert by["grounding", ""]["right"] == 0.5 and "most_common" not in by["grounding", ""]
    assert json.loads((data / "report/blind.json").read_text()) == found
    assert set(found["unmarked"][str(data / "q.jsonl")].values()) == {1}


def test_several_draws_and_a_threshold(tiny_model, data):
    """Three of four draws right: blind at 0.75, not above. Other thresholds and fewer draws ask nothing again."""
    said = {}

    def sometimes(body):
        text = question(body)
        said[text] = said.get(text, 0) + 1
        assert body["temperature"] == 1.0 and isinstance(body["seed"], int)
        return completion("2" if said[text] != 2 else "3")

    recipe = grpo(data, tiny_model)
    with FakeJudge(default=sometimes) as judge:
        mark(recipe, data, judge, 4, 0.75)
        assert judge.calls == 28 and len({body["seed"] for body in judge.bodies}) == 28
        assert [(row["share"], row["blind"]) for row in lines(data)][2] == (0.75, True)
        mark(recipe, data, judge, 4, 0.8)
        assert [(row["share"], row["blind"], row["draws"]) for row in lines(data)][2] == (0.75, False, 4)
        assert judge.calls == 28
        mark(recipe, data, judge, 5, 0.8)
        assert judge.calls == 35 and lines(data)[2]["share"] == 0.8


def test_what_a_server_refuses_is_not_marked(tiny_model, data):
    def picky(body):
        return error(400, "no") if question(body) == "How many ships?" else knowing(body)

    with FakeJudge(default=picky) as judge:
        with pytest.raises(UserError, match="1 of 7 questions got no answer"):
            mark(grpo(data, tiny_model), data, judge)
        assert not (data / "report/blind.jsonl").exists()
        mark(grpo(data, tiny_model), data, judge)
    assert judge.calls == 8
    assert lines(data)[2]["share"] is None and lines(data)[2]["why"].startswith("refused by the server: ")


def test_of_a_trace_the_question_is_asked(tiny_model, data):
    """SFT: what comes before the reply."""
    reply = {"role": "assistant", "content": "<think>It is wide.</think><answer>2</answer>"}
    dump(data / "q.jsonl", [ROWS[2] | {"messages": [*ROWS[2]["messages"], reply]}])
    (data / "sft.yaml").write_text((data / "grpo.yaml").read_text().replace("stage: grpo", "stage: sft"))
    text = re.sub(r"\n\s*(rewards|training):.*", "", (data / "sft.yaml").read_text())
    (data / "sft.yaml").write_text(text.replace("{model}", str(tiny_model)))
    with FakeJudge(default=knowing) as judge:
        mark(config.load(data / "sft.yaml", SFTRecipe), data, judge)
    assert [body["messages"][-1]["role"] for body in judge.bodies] == ["user"] and lines(data)[0]["blind"] is True


def test_a_model_here_is_asked_once(tiny_model, data):
    """By transformers, and killed in the middle: the answers that are there are not asked for again."""
    recipe = grpo(data, tiny_model)
    mark(recipe, data, None, 2, 0.75, tiny_model, "generation.batch_size=4")
    (journal,) = (data / "report/blind").glob("answers-*.0.jsonl")
    whole, marks = journal.read_text(), (data / "report/blind.jsonl").read_text()
    kept = whole.splitlines(keepends=True)
    assert len(kept) == 14
    journal.write_text("".join(kept[:5]) + kept[5][:25])
    (data / "report/blind.jsonl").unlink()
    mark(recipe, data, None, 2, 0.75, tiny_model, "generation.batch_size=4")
    assert sorted(journal.read_text().splitlines()) == sorted(whole.splitlines())
    assert journal.read_text().startswith("".join(kept[:5]))
    assert (data / "report/blind.jsonl").read_text() == marks
    mark(recipe, data, None, 1, 0.75, tiny_model)
    assert len(list((data / "report/blind").glob("answers-*.0.jsonl"))) == 2  # greedy ones are others


@pytest.mark.slow
def test_two_processes_mark_as_one(tiny_model, data):
    grpo(data, tiny_model)
    words = [ROOT / "launch/data.py", data / "grpo.yaml", "--blind", tiny_model, "--asking", "generation.batch_size=4"]
    forked.run([*two_processes(), *words, "--out", data / "both"], cwd=data)
    mark(grpo(data, tiny_model), data, None, 1, 0.75, tiny_model, "generation.batch_size=4")
    assert (data / "both/blind.jsonl").read_text() == (data / "report/blind.jsonl").read_text()
    assert len(list((data / "both/blind").glob("answers-*.jsonl"))) == 2


def test_the_command(tiny_model, data, started):
    grpo(data, tiny_model)
    with FakeJudge(default=knowing) as judge:
        endpoint = {"address": judge.section().address, "model": "tiny", "retries": 0}
        asking = ["--asking", "generation.backend=endpoint", "--asking", f"endpoint={json.dumps(endpoint)}"]
        told = started("launch/data.py", data / "grpo.yaml", "--blind", "tiny", *asking, COLUMNS="140")
    assert "4 of 7 rows are blind: its one answer right without the picture" in told
    assert "1 rows are not marked, and stay: task open_ended has no exact rule" in told
    marks = data / "run/doctor/blind.jsonl"
    assert f"data.drop_blind={marks}" in told and marks.exists()
    told = started("launch/grpo.py", data / "grpo.yaml", f"data.drop_blind={marks}", "--dry-run", COLUMNS="140")
    assert f"rows that tiny answers without their picture are left out ({marks})" in told or "blind" in told
    assert re.search(r"│ grounding\s*│\s*2 │\s*1 │\s*1 │\s*1 │\s*2 │", told), told
    assert re.search(r"│ all.*│\s*9 │\s*4 │\s*5 │\s*5 │\s*10 │", told), told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blind-draws", "0"], "--blind-draws 0: expected at least 1"),
        (["--blind-share", "0"], "--blind-share 0: expected a share"),
        (["--blind-draws", "2", "--asking", "generation.temperature=0"], "all draws would be the same"),
        (["--asking", "generation.batchsize=3"], "unknown key"),
    ],
)
def test_what_cannot_be_asked(words, message, tiny_model, data, monkeypatch, capsys):
    grpo(data, tiny_model)
    monkeypatch.setattr("sys.argv", ["data.py", str(data / "grpo.yaml"), "--blind", str(tiny_model), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "launch/data.py"), run_name="__main__")
    assert ended.value.code == 2 and message in capsys.readouterr().err


# leaving them out


@pytest.fixture
def marks(data, tiny_model) -> Path:
    with FakeJudge(default=knowing) as judge:
        mark(grpo(data, tiny_model), data, judge)
    return data / "report/blind.jsonl"


def section(data, marks=None, rows=None, **source) -> DataSection:
    sources = [SourceSection(path=str(data / "q.jsonl"), **source)]
    where = {"drop_blind": None if marks is None else str(marks), "cache": str(data / "cache")}
    return DataSection(train=sources, rows=rows, **where)


def test_marked_rows_are_left_out_and_counted(data, marks):
    found = mixture.draw(section(data, marks), "train", 0)
    assert [row.id for row in found.samples] == ["1", "4", "6", "7", "8"]
    record = found.to_dict()
    prompt = prompt_key(PromptSection(style="direct"))
    assert record["drop_blind"] == {"path": str(marks), "rows": 4, "models": ["tiny"], "prompts": [prompt]}
    tasks = record["sources"][0]["tasks"]
    assert {task: (one["read"], one["blind"], one["kept"]) for task, one in tasks.items()} == {
        "choice": (2, 1, 1), "grounding": (2, 1, 1), "open_ended": (1, 0, 1), "vqa": (4, 2, 2),
    }  # fmt: skip
    plain = mixture.draw(section(data), "train", 0)
    assert "drop_blind" not in plain.to_dict() and "blind" not in plain.to_dict()["sources"][0]["tasks"]["vqa"]
    assert plain.parts[0].digest == found.parts[0].digest and plain.parts[0].used != found.parts[0].used
    seen = []
    counted = mixture.count(section(data, marks), "train", 0, seen.append)
    assert counted.to_dict() == record and [row.id for row in seen] == ["1", "4", "6", "7", "8"]


def test_shares_are_of_what_is_left(data, marks):
    """Half of five is three; by ratio six rows are the five and one of them again; limits count before."""
    half = mixture.draw(section(data, marks, percent=50), "train", 0)
    assert half.rows == 3 and {row.id for row in half.samples} < set("14678")
    assert mixture.count(section(data, marks, percent=50), "train", 0).rows == 3
    by_ratio = section(data, marks, rows=6, ratio=1.0)
    found = [row.id for row in mixture.draw(by_ratio, "train", 0).samples]
    assert found[:5] == list("14678") and found[5] in found[:5]
    assert [row.id for row in mixture.draw(section(data, marks, limit=5), "train", 0).samples] == ["1", "4"]
    assert mixture.draw(section(data, marks, repeat=2), "train", 0).rows == 10


def test_marks_hold_wherever_the_row_stands(data, marks, tmp_path):
    """Another order, another name of the source, and fewer rows; held-out rows are never left out."""
    dump(data / "q.jsonl", ROWS[5::-1])
    found = mixture.draw(section(data, marks, name="mine"), "train", 0)
    assert [row.id for row in found.samples] == ["4", "1"]
    held_out = section(data, marks).model_copy(update={"eval": [SourceSection(path=str(data / "q.jsonl"))]})
    assert mixture.draw(held_out, "eval", 0).rows == 6


def test_marks_of_other_rows_are_refused(data, marks):
    changed = [*ROWS[:2], asked("How many tanks?", 2, answer="2"), *ROWS[3:]]
    dump(data / "q.jsonl", changed)
    said = r"data.drop_blind: .*blind.jsonl has no mark for 1 of the 9 rows of .*q.jsonl, the first q/2; it was made"
    for draw in (mixture.draw, mixture.count):
        with pytest.raises(DataError, match=said):
            draw(section(data, marks), "train", 0)
    dump(data / "q.jsonl", [ROWS[0], ROWS[2]])
    with pytest.raises(DataError, match="no rows left; .* and data.drop_blind leaves 2 out"):
        mixture.draw(section(data, marks), "train", 0)
    with pytest.raises(DataError, match="of which 2 are left out by data.drop_blind"):
        mixture.draw(section(data, marks, percent=50), "train", 0)


def test_another_prompt_is_noted(data, marks, tiny_model, capsys):
    mixture.draw(grpo(data, tiny_model, f"data.drop_blind={marks}").data, "train", 0)
    assert "another prompt" not in capsys.readouterr().err
    mixture.draw(grpo(data, tiny_model, f"data.drop_blind={marks}", "prompt.system=Look.").data, "train", 0)
    assert "tiny was asked by another prompt than this recipe's" in capsys.readouterr().err


FAULTS = {
    "no file": (None, "cannot be read .No such file.*launch/data.py RECIPE --blind MODEL"),
    "no json": ("{", "line 1: found no JSON"),
    "no key": ('{"blind": true}', "line 1, field 'key': found none"),
    "wrong key": ('{"key": "xyz", "file": "", "blind": true, "model": "", "prompt": ""}', "field 'key': found 'xyz'"),
    "no verdict": ('{"key": "0f", "file": "", "blind": 3, "model": "", "prompt": ""}', "field 'blind': found 3"),
    "a list": ("[1]", "line 1, field 'key': found none"),
    "no text": ('{"key": "0f", "file": 1, "blind": true, "model": "", "prompt": ""}', "field 'file': found 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_are_no_marks(name, data):
    text, message = FAULTS[name]
    if text is not None:
        (data / "m.jsonl").write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        mixture.draw(section(data, data / "m.jsonl"), "train", 0)


def test_where_there_is_nothing_to_leave_out(data):
    found = DataSection(eval=[SourceSection(path=str(data / "q.jsonl"))])
    with pytest.raises(RecipeError, match="train is empty"):
        found.model_copy(update={"drop_blind": "x.jsonl"}).check()


def test_a_key_is_what_is_asked(data):
    """Neither the source's name nor the row's, nor boxes and size; pictures by name below the folder."""
    (first, *_), (again, *_) = (list(mixture.draw(section(data, name=name), "train", 0).samples) for name in ("a", "b"))
    assert row_key(first, data.absolute()) == row_key(again, data.absolute())
    again.answer = "no"
    assert row_key(first, data.absolute()) != row_key(again, data.absolute())


def test_a_file_of_marks_by_hand(tmp_path):
    rows = [
        {"key": f"{key:016x}", "file": "f", "blind": blind, "model": "m", "prompt": "p"}
        for key, blind in ((2**64 - 1, True), (7, False), (9, None))
    ]
    dump(tmp_path / "m.jsonl", rows)
    found = read(str(tmp_path / "m.jsonl"))
    assert [found.of(key) for key in (2**64 - 1, 7, 9, 8)] == [True, False, False, None]
    assert found.models == ("m",) and found.files == ("f",)


def test_the_doctor_counts_them_too(data, marks, tiny_model, started):
    grpo(data, tiny_model)
    words = [data / "grpo.yaml", f"data.drop_blind={marks}", "--out", data / "doctor", "--workers", "1"]
    started("launch/data.py", *words)
    found = json.loads((data / "doctor/report.json").read_text())
    train = found["mixture"]["train"]
    assert (
        train["rows"] == 10 and train["drop_blind"]["rows"] == 4 and train["sources"][0]["tasks"]["vqa"]["blind"] == 2
    )
    assert found["sources"][0]["rows"] == 9  # all are examined
