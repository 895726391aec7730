"""Controls of an evaluation: what reaches the model under each, and what stays of a run that was stopped."""

from __future__ import annotations

import base64
import io
import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evals import controls, predictions, ranks, stage
from evals.benchmarks import session
from evals.comparing import sidebyside
from evals.controls import Asked, registry
from evals.controls.pictures import exchanged, swapped, unpictured
from evals.recipe import EvalRecipe
from samples import Sample
from stage.recipe import config
from stage.runs import FINISHED
from studies.report import evaluations
from studies.report.runs.folders import Folder
from tests.support import benchmark_folders
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, two_processes
from tests.support.sample_rows import dump
from tests.support.scores.fake_judge import FakeJudge, completion, error
from vlm.common.errors import RecipeError, UserError
from vlm.loading import load_processor
from vlm.prefix import rollout

BOTH = ("controls=[blind,shuffled]",)
SIZES = ("images={min_pixels: 12544, max_pixels: 12544}", "pictures=0", "generation.max_new_tokens=6")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine questions about five pictures of several sizes: seven with one (two files of one content among them), one
    with two within its text, one with none."""
    folder = tmp_path_factory.mktemp("data")
    for n, (name, noise) in enumerate((("a", 40), ("b", 60), ("c", 80), ("d", 100), ("e", 120))):
        Image.effect_noise((100 + 20 * n, 90), noise).convert("RGB").save(folder / f"{name}.png")
    (folder / "same.png").write_bytes((folder / "a.png").read_bytes())
    rows = []
    for n, pictures in enumerate(("a", "a", "b", "c", "same", "d", "", "bc", "de")):
        told = f"Before: <image> After: <image>\nHow many ships came, {n}?" if len(pictures) == 2 else f"How many, {n}?"
        names = [pictures] if pictures == "same" else list(pictures)
        asked = {"role": "user", "content": told}
        rows.append(
            {"images": [f"{one}.png" for one in names], "messages": [asked], "task": "vqa", "answer": "2", "id": str(n)}
        )
    dump(folder / "q.jsonl", rows)
    return folder


def recipe(model, data, output, *more) -> EvalRecipe:
    words = [f"model.path={model}", f"output={output}", f"data.eval=[{{path: {data}/q.jsonl}}]", *SIZES]
    return config.load(
        ROOT / "recipes/demo/eval.yaml", EvalRecipe, [*words, "generation.batch_size=4", "model.dtype=float32", *more]
    )


def rows_of(folder: Path, control: str = "") -> dict[str, dict]:
    path = folder / ("controls/" + control if control else "") / ranks.FILE
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


# who is shown what


def sample(number: int, *images) -> Sample:
    return Sample(list(images), [{"role": "user", "content": "q"}], "vqa", answer="2", source="s", id=str(number))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 99))
def test_one_picture_each_is_a_derangement(pictures, seed):
    asked = [sample(n, bytes([one]) * 9) for n, one in enumerate(pictures)]
    found = exchanged(asked, seed)
    if len(set(pictures)) == 1:
        assert found == [None] * len(asked)
        return
    given = {one.images[0]: other.images[0] for one, other in zip(asked, found, strict=True)}
    assert all(own != other for own, other in given.items())
    assert sorted(given.values()) == sorted(given)  # each picture is shown in one other's place
    back = exchanged(asked[::-1], seed)[::-1]
    assert [one.images for one in back] == [one.images for one in found]  # whatever their order


def test_the_seed_decides_who_is_shown_what():
    asked = [sample(n, bytes([n])) for n in range(12)]
    drawn = {tuple(one.images[0] for one in exchanged(asked, seed)) for seed in range(5)}
    assert len(drawn) == 5


def test_several_pictures_are_all_others():
    """(a, b) may be shown (c, d) alone: all other pairs hold one of its own."""
    pairs = ("ab", "ba", "bc", "cd")
    asked = [sample(n, *(one.encode() for one in pair)) for n, pair in enumerate(pairs)]
    found = exchanged([*asked, sample(9, b"a"), sample(10, b"e", b"f", b"g")], 0)
    shown = [None if one is None else b"".join(one.images).decode() for one in found]
    assert shown[0] == shown[1] == "cd" and shown[3] in ("ab", "ba")
    assert shown[2] is None and shown[4] is None and shown[5] is None  # alone with its number of pictures


def test_no_place_of_a_picture_is_left():
    turns = [
        {"role": "user", "content": "Before: <image> After: <image>\nWhat came?"},
        {"role": "assistant", "content": "a house"},
        {"role": "user", "content": "<image>\nAnd here?"},
    ]
    bare = unpictured(Sample(["x", "y", "z"], turns, "vqa", size=(9, 8)))
    assert [turn["content"] for turn in bare.messages] == ["Before:  After: \nWhat came?", "a house", "\nAnd here?"]
    assert bare.images == [] and bare.size == (9, 8)


def test_swapped_pictures_keep_their_names_and_their_truth(tmp_path):
    """Sizes are told apart by hand: 90 × 60 and 50 × 40; a copy under another name is the same picture."""
    for name, size in (("before", (90, 60)), ("after", (50, 40))):
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / f"{name}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "before.png").read_bytes())
    before, after, copy = (str(tmp_path / f"{name}.png") for name in ("before", "after", "copy"))
    turns = [{"role": "user", "content": "Before: <image> After: <image>\nWhat came?"}]
    pair = Sample([before, after], turns, "caption", answer="a house", size=(90, 60), id="0")
    alone, same = sample(1, before), sample(2, before, copy)
    palindrome, three = sample(3, before, after, copy), sample(4, before, copy, after)
    found = swapped([pair, alone, same, palindrome, three], None)
    assert [one.id for one in found.samples] == ["0", "4"]
    assert found.samples[0] == replace(pair, images=[after, before], size=(50, 40))
    assert found.samples[1].images == [after, copy, before] and found.samples[1].size is None
    assert found.left_out == {"with one picture or none": 1, "whose pictures are the same in reversed order": 2}
    assert swapped([alone], None) == "no question has several pictures"
    assert swapped([same], None) == "no question has several pictures that differ in reversed order"


# what reaches the model


@pytest.fixture
def prompts(monkeypatch):
    """What the model is given: a list of batches, each as the processor made it."""
    seen, real = [], rollout.generate

    def generate(model, inputs, index, **how):
        seen.append({name: value.clone() for name, value in inputs.items()})
        return real(model, inputs, index, **how)

    monkeypatch.setattr(rollout, "generate", generate)
    return seen


def texts(batch, tokenizer) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def test_prompts_and_pixels_that_reach_the_model(tiny_model, data, tmp_path, prompts, capsys):
    """By hf: in `blind` the same ids but for those of pictures, and no pixels; in `shuffled` the pixels of the pictures
    that the row names, as the evaluation itself had them. One model is loaded."""
    asked = recipe(tiny_model, data, tmp_path / "run", "generation.batch_size=1", *BOTH)
    processor = load_processor(tiny_model, asked.images)
    loads, real = [], stage.answerer
    try:
        stage.answerer = lambda one: loads.append(one) or real(one)
        report = stage.run(asked)
    finally:
        stage.answerer = real
    assert len(loads) == 1 and len(prompts) == 9 + 8 + 8
    main, blind, shuffled = prompts[:9], prompts[9:17], prompts[17:]
    vision = [processor.tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")]
    places = {processor.image_token_id, *vision}
    with_picture = [batch for number, batch in enumerate(main) if number != 6]
    for own, other in zip(with_picture, blind, strict=True):
        (ids,), (bare,) = texts(own, processor.tokenizer), texts(other, processor.tokenizer)
        assert processor.image_token_id in ids and not places & {*bare}
        said, left = (
            processor.tokenizer.decode(bare),
            processor.tokenizer.decode([one for one in ids if one not in places]),
        )
        assert said == left and "pixel_values" not in other
    rows, exchanged_rows = rows_of(tmp_path / "run"), rows_of(tmp_path / "run", "shuffled")
    assert list(exchanged_rows) == [one for one in rows if one != "6"]
    of_file = {rows[str(n)]["image"]: main[n]["pixel_values"] for n in (0, 2, 3, 4, 5)}
    for number, batch in zip(exchanged_rows, shuffled, strict=True):
        shown = exchanged_rows[number]["image"]
        own = rows[number]["image"]
        assert Path(shown).read_bytes() != Path(own).read_bytes()
        if number in ("7", "8"):
            two = main[15 - int(number)]["pixel_values"]
            assert torch.equal(batch["pixel_values"], two)
        else:
            assert torch.equal(batch["pixel_values"], of_file[shown])
        said = [one for one in texts(batch, processor.tokenizer)[0] if one != processor.image_token_id]
        assert said == [
            one for one in texts(main[int(number)], processor.tokenizer)[0] if one != processor.image_token_id
        ]
    assert "image" not in rows_of(tmp_path / "run", "blind")["0"]
    assert {name: one.asked for name, one in report.controls.items()} == dict.fromkeys(
        ("blind", "shuffled"), [f"q/{n}" for n in range(9) if n != 6]
    )
    table = (tmp_path / "run/table.md").read_text()
    assert "| metric (%) | n | run | run·blind | run·shuffled |" in table and "| vqa/exact | 9 / 8 of 9 |" in table
    assert "- ·blind: the same questions without their pictures" in table
    assert "- run·blind: 8 of 9 questions; left out: 1 without a picture" in table
    assert json.loads((tmp_path / "run/record.json").read_text())["controls"] == {
        "blind": {"asked": 8, "left_out": {"without a picture": 1}},
        "shuffled": {"asked": 8, "left_out": {"without a picture": 1}},
    }


def pictured(body) -> list[bytes]:
    content = body["messages"][-1]["content"]
    parts = [] if isinstance(content, str) else content
    return [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts if part["type"] != "text"]


def said(body) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def seeing(body):
    """Answers right with a picture of noise 40, wrong with any other, and "3" without any."""
    shown = [Image.open(io.BytesIO(one)).tobytes() for one in pictured(body)]
    return completion("<think>t</think><answer>" + ("2" if shown[:1] == [seeing.first] else "3") + "</answer>")


def endpoint(judge) -> list[str]:
    found = {"address": judge.section().address, "model": "tiny", "concurrency": 4, "retries": 0}
    return ["generation.backend=endpoint", f"endpoint={json.dumps(found)}"]


@pytest.fixture
def first_picture(tiny_model, data):
    """What the server is sent of a.png."""
    with Image.open(data / "a.png") as picture:
        size = load_processor(tiny_model, recipe(tiny_model, data, "x").images).sight.seen(picture.size)
        seeing.first = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).tobytes()


def test_an_endpoint_and_what_is_shown_of_it(tiny_model, data, tmp_path, first_picture, capsys):
    """Three of nine questions (a, a and its copy) are right with their picture, none without."""
    with FakeJudge(default=seeing) as judge:
        report = stage.run(recipe(tiny_model, data, tmp_path / "run", *endpoint(judge), *BOTH, "limit=6"))
    main, blind, shuffled = judge.bodies[:6], judge.bodies[6:12], judge.bodies[12:]
    assert all(pictured(body) for body in main) and not any(pictured(body) for body in blind)
    assert all(isinstance(body["messages"][-1]["content"], str) for body in blind)
    assert sorted(map(said, main)) == sorted(map(said, blind)) == sorted(map(said, shuffled))
    own, other = ({said(body): pictured(body) for body in bodies} for bodies in (main, shuffled))
    assert all(own[text] != other[text] and other[text] in own.values() for text in own)
    assert report.metrics["vqa/exact"].value == 0.5 and report.controls["blind"].metrics["vqa/exact"].value == 0.0
    taken = [row["id"] for row in rows_of(tmp_path / "run", "shuffled").values() if ">2<" in row["completion"]]
    assert report.controls["shuffled"].metrics["vqa/exact"].value == len(taken) / 6
    assert len(taken) == 1  # the one question about the picture in whose place a.png is shown
    found = json.loads((tmp_path / "run/metrics.json").read_text())["vqa/exact"]
    assert found["value"] == 0.5 and found["controls"]["blind"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 6}
    assert found["controls"]["shuffled"]["value"] == pytest.approx(1 / 6)
    table = (tmp_path / "run/table.md").read_text()
    assert "- run·blind → run: vqa/exact 0.0 -> 50.0: +50.0 points [" in table
    assert "run·blind → run: vqa/exact 0.0 -> 50.0" in capsys.readouterr().out
    usage = json.loads((tmp_path / "run/finished.json").read_text())["usage"]
    assert usage["calls"] == 18 and usage["input_tokens"] == 1800
    sidebyside.show([f"r1={tmp_path / 'run'}"], tmp_path / "out")
    table = (tmp_path / "out/table.md").read_text()
    assert (
        "| metric (%) | n | r1 | r1·blind | r1·shuffled |" in table
        and "- r1·blind → r1: vqa/exact 0.0 -> 50.0" in table
    )
    marks = sidebyside.panel("", "vqa/exact", {"r1": report}, False).marks
    assert [(mark.model, mark.value) for mark in marks][:2] == [("r1", 0.5), ("r1·blind", 0.0)]
    folder = Folder(tmp_path / "run", "r1", evaluation=json.loads((tmp_path / "run/metrics.json").read_text()))
    page = evaluations.table([type("Curve", (), {"label": "r1", "runs": [folder]})()])
    assert page["labels"] == ["r1", "r1·blind", "r1·shuffled"]
    (row,) = [row for row in page["rows"] if row["key"] == "vqa/exact"]
    assert row["cells"][1] == "0.0 [0.0, 0.0]"


def darker(path: Path, grey: int) -> None:
    Image.new("RGB", (56, 56), (grey,) * 3).save(path)


def test_who_looks_at_both_loses_by_swapping(tiny_model, tmp_path, capsys):
    """The server says whether it became brighter, from both pictures in their order; of one picture, its number. Two
    questions about pairs are right, and wrong in reversed order; one about a single picture is not asked again, and so
    the line of gains stands for the task of the pairs alone."""
    for name, grey in (("dark", 40), ("bright", 200)):
        darker(tmp_path / f"{name}.png", grey)
    turn = {"role": "user", "content": "Before: <image> After: <image>\nDid it become brighter?"}
    choices = ["no", "yes"]
    rows = [
        {"images": ["dark.png", "bright.png"], "answer": "yes", "task": "choice", "choices": choices, "id": "0"},
        {"images": ["bright.png", "dark.png"], "answer": "no", "task": "choice", "choices": choices, "id": "1"},
    ]
    rows = [row | {"messages": [turn]} for row in rows]
    single = {"images": ["dark.png"], "messages": [{"role": "user", "content": "How many?"}], "task": "vqa"}
    dump(tmp_path / "q.jsonl", [*rows, single | {"answer": "2", "id": "2"}])

    def comparing(body):
        greys = [Image.open(io.BytesIO(one)).convert("L").getpixel((0, 0)) for one in pictured(body)]
        word = "2" if len(greys) < 2 else "yes" if greys[0] < greys[1] else "no"
        return completion(f"<think>t</think><answer>{word}</answer>")

    with FakeJudge(default=comparing) as judge:
        report = stage.run(recipe(tiny_model, tmp_path, tmp_path / "run", *endpoint(judge), "controls=[swapped]"))
    of_pairs = [said(body) for body in judge.bodies if said(body).startswith("Before")]
    assert len(of_pairs) == 4 and len({*of_pairs}) == 1  # the texts stay as they are
    assert report.metrics["choice/accuracy"].value == report.metrics["vqa/exact"].value == 1.0
    assert report.controls["swapped"].metrics["choice/accuracy"].value == 0.0
    assert "vqa/exact" not in report.controls["swapped"].metrics
    table = (tmp_path / "run/table.md").read_text()
    assert "- run·swapped → run: choice/accuracy 0.0 -> 100.0: +100.0 points [" in table
    assert "- run·swapped: 2 of 3 questions; left out: 1 with one picture or none" in table
    assert "run·swapped → run: vqa" not in table


def test_what_all_lists_cost_is_known_before_anything_is_sent(tiny_model, data, tmp_path, capsys):
    """Three lists of six: each alone is within the limit, together they are not."""
    with FakeJudge(default=seeing) as judge:
        prices = ["cost={output: 1000000.0, max_cost: 100.0}", "limit=6"]  # 6 tokens each at most, 36 a list
        with pytest.raises(UserError, match="18 calls may cost .* cost.max_cost is 100; nothing was sent"):
            stage.run(recipe(tiny_model, data, tmp_path / "run", *endpoint(judge), *BOTH, *prices))
        with pytest.raises(UserError, match="nothing was sent"):
            stage.plan(recipe(tiny_model, data, tmp_path / "run", *endpoint(judge), *BOTH, *prices))
    assert judge.calls == 0
    stage.plan(recipe(tiny_model, data, tmp_path / "x", *BOTH))
    assert "control blind: up to 9 questions again: the same questions without" in capsys.readouterr().out


def test_a_server_that_refuses_pictures_refuses_no_control(tiny_model, data, tmp_path, first_picture):
    """A refusal is kept for its list alone: the same question without its picture is asked all the same."""

    def picky(body):
        return (
            error(400, "no such picture") if said(body).startswith("How many, 2") and pictured(body) else seeing(body)
        )

    words = ("limit=4", "controls=[blind]")
    for start in (1, 2):
        with FakeJudge(default=picky) as judge:
            asked = recipe(tiny_model, data, tmp_path / "run", *endpoint(judge), *words)
            if start == 1:
                with pytest.raises(UserError, match="1 of 4 questions got no answer"):
                    stage.run(asked)
            else:
                report = stage.run(asked)
    assert judge.calls == 1 + 4 and list(report.refused) == ["q/2"] and not report.controls["blind"].refused
    assert "3" in rows_of(tmp_path / "run", "blind")["2"]["completion"]


# what stays of a run that was stopped


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob(ranks.FILE))}


@pytest.fixture(scope="module")
def whole(tiny_model, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    stage.run(recipe(tiny_model, data, folder, *BOTH))
    return folder


def test_an_interrupted_evaluation_is_continued(tiny_model, data, tmp_path, whole, monkeypatch):
    """Killed within the third answer of `shuffled`."""
    asked = recipe(tiny_model, data, tmp_path / "run", *BOTH)
    stage.run(asked)
    folder = tmp_path / "run"
    assert files(folder) == files(whole)
    (folder / FINISHED).unlink()
    path = folder / "controls/shuffled" / ranks.FILE
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    said, real = [], stage.answer
    monkeypatch.setattr(
        stage, "answer", lambda r, who, todo, *a: said.append((r.output, len(todo))) or real(r, who, todo, *a)
    )
    stage.run(asked)
    assert [count for _, count in said] == [0, 0, 6] or said == [(str(folder / "controls/shuffled"), 6)]
    assert files(folder) == files(whole)
    assert (folder / "metrics.json").read_text() == (whole / "metrics.json").read_text()


def test_a_finished_evaluation_takes_further_controls(tiny_model, data, tmp_path, whole, prompts):
    """What it has is not asked again; the same recipe is refused, as ever."""
    folder = tmp_path / "run"
    stage.run(recipe(tiny_model, data, folder))
    assert "controls" not in json.loads((folder / "record.json").read_text())
    prompts.clear()
    stage.run(recipe(tiny_model, data, folder, "controls=[blind]"))
    assert sum(len(batch["input_ids"]) for batch in prompts) == 8
    with pytest.raises(UserError, match="holds a finished run"):
        stage.run(recipe(tiny_model, data, folder, "controls=[blind]"))
    with pytest.raises(UserError, match=r"another recipe \(different: seed\)"):
        stage.run(recipe(tiny_model, data, folder, "controls=[shuffled]", "seed=3"))
    report = stage.run(recipe(tiny_model, data, folder, "controls=[shuffled]"))
    assert files(folder) == files(whole) and list(report.controls) == ["blind", "shuffled"]


def test_overwriting_takes_no_old_answer(tiny_model, data, tmp_path):
    folder = tmp_path / "run"
    stage.run(recipe(tiny_model, data, folder, *BOTH))
    path = folder / "controls/blind" / ranks.FILE
    path.write_text(path.read_text().replace('"completion": "', '"completion": "old '))
    stage.run(recipe(tiny_model, data, folder, "controls=[blind]", "overwrite=true"))
    assert "old " not in path.read_text() and not (folder / "controls/shuffled" / ranks.FILE).exists()
    assert list(stage.load_report(folder).controls) == ["blind"]


@pytest.mark.slow
def test_two_processes_answer_as_one(tiny_model, data, tmp_path, whole):
    words = [ROOT / "recipes/demo/eval.yaml", f"model.path={tiny_model}", f"output={tmp_path / 'run'}"]
    words += [f"data.eval=[{{path: {data}/q.jsonl}}]", *SIZES, "generation.batch_size=4", "model.dtype=float32"]
    forked.run([*two_processes(), ROOT / "launch/eval.py", *words, "--controls", "blind,shuffled"], cwd=tmp_path)
    assert files(tmp_path / "run") == files(whole)
    assert not list((tmp_path / "run").rglob("predictions.rank*"))
    table = (tmp_path / "run/table.md").read_text()
    assert table == (whole / "table.md").read_text()


# what cannot be asked, and other controls


def test_pictures_that_are_all_the_same_are_not_shuffled(tiny_model, tmp_path, caplog):
    Image.effect_noise((100, 90), 50).convert("RGB").save(tmp_path / "a.png")
    asked = {"messages": [{"role": "user", "content": "How many?"}], "task": "vqa", "answer": "2"}
    dump(tmp_path / "q.jsonl", [{"images": ["a.png"], "id": str(n)} | asked for n in range(2)])
    report = stage.run(recipe(tiny_model, tmp_path, tmp_path / "run", *BOTH))
    why = "there is no other picture to show: no two questions have as many pictures, all of them different"
    assert report.unasked == {"shuffled": why} and list(report.controls) == ["blind"]
    assert f"control shuffled: not asked: {why}" in caplog.text
    assert f"- run·shuffled: not asked: {why}" in (tmp_path / "run/table.md").read_text()
    found = json.loads((tmp_path / "run/metrics.json").read_text())["vqa/exact"]["controls"]
    assert found["shuffled"] == {"value": None, "not_asked": why} and not (tmp_path / "run/controls/shuffled").exists()


def test_a_control_of_a_name_that_is_none(tiny_model, data, tmp_path):
    with pytest.raises(RecipeError, match="controls: found 'blnd', expected one of: blind .the same questions"):
        recipe(tiny_model, data, tmp_path, "controls=[blnd]")
    with pytest.raises(RecipeError, match="expected each once"):
        recipe(tiny_model, data, tmp_path, "controls=[blind,blind]")
    with pytest.raises(ValueError, match="'blind'"):
        controls.register("blind", "again")(controls.find("blind").ask)


def test_a_control_may_change_how_is_asked(tiny_model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "CONTROLS", dict(registry.CONTROLS))
    monkeypatch.setattr(stage, "CONTROLS", registry.CONTROLS)

    @controls.register("brief", "in one token")
    def brief(samples, recipe):
        how = recipe.generation.model_copy(update={"max_new_tokens": 1})
        return Asked(list(samples)[:2], recipe.model_copy(update={"generation": how}), {"long": len(samples) - 2})

    report = stage.run(recipe(tiny_model, data, tmp_path / "run", "controls=[brief]"))
    rows, short = rows_of(tmp_path / "run"), rows_of(tmp_path / "run", "brief")
    assert list(short) == ["0", "1"]
    assert all(rows[n]["completion"].startswith(short[n]["completion"]) for n in short)
    assert len(short["0"]["completion"]) < len(rows["0"]["completion"])
    assert str(report.controls["brief"].coverage) == "2 of 9 questions; left out: 7 long"


def test_boxes_of_another_picture_are_the_same_part_of_the_own(tiny_model, tmp_path):
    """Frame `resized`: the model is shown 200 × 100 in the place of 100 × 100 and says a box in the pixels it sees."""
    for name, size in (("wide", (224, 112)), ("square", (112, 112))):
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / f"{name}.png")
    box = {"task": "grounding", "messages": [{"role": "user", "content": "the ship"}]}
    rows = [
        {"images": ["square.png"], "id": "0", "boxes": [[0, 0, 56, 56]], **box},
        {"images": ["wide.png"], "id": "1", "boxes": [[0, 0, 112, 56]], **box},
    ]
    dump(tmp_path / "q.jsonl", rows)

    def first_quarter(body):
        shown = pictured(body)
        w, h = Image.open(io.BytesIO(shown[0])).size if shown else (112, 112)
        return completion(f'<think>t</think><answer>[{{"bbox_2d": [0, 0, {w // 2}, {h // 2}]}}]</answer>')

    words = ("prompt.notation=qwen2_5_vl", "images={min_pixels: 3136, max_pixels: 1000000}", *BOTH)
    with FakeJudge(default=first_quarter) as judge:
        report = stage.run(recipe(tiny_model, tmp_path, tmp_path / "run", *endpoint(judge), *words))
    assert report.metrics["grounding/miou"].value == 1.0
    assert report.controls["shuffled"].metrics["grounding/miou"].value == 1.0
    assert rows_of(tmp_path / "run", "shuffled")["0"]["resized"] == [224, 112]
    assert rows_of(tmp_path / "run", "shuffled")["0"]["size"] == [112, 112]
    blind = rows_of(tmp_path / "run", "blind")
    assert blind["0"]["resized"] == [112, 112] and blind["1"]["resized"] == [224, 112]
    assert report.controls["blind"].metrics["grounding/miou"].value == pytest.approx((1 + 0.5) / 2)


def test_benchmarks_with_controls(tiny_model, tmp_path, capsys):
    benchmark_folders.vg_dior(tmp_path / "data")
    benchmark_folders.aid(tmp_path / "data")
    words = ["--benchmarks", "vg-dior,aid", "--model", tiny_model, "--data", str(tmp_path / "data")]
    words += ["--out", str(tmp_path / "out"), "generation.max_new_tokens=6", "generation.batch_size=2"]
    words += ["model.dtype=float32", "images.min_pixels=12544", "images.max_pixels=12544", "pictures=0"]
    assert session.main(words) == 0
    summary = (tmp_path / "out/summary.md").read_text()
    assert "| benchmark | metric (%) | n | value | convention |" in summary
    assert session.main([*words, "--controls", "blind,shuffled", "--dry-run"]) == 0
    assert "vg-dior: 6 questions, again for blind, shuffled" in capsys.readouterr().out
    before = (tmp_path / "out/aid/predictions.jsonl").read_text()
    assert session.main([*words, "--controls", "blind,shuffled"]) == 0
    assert (tmp_path / "out/aid/predictions.jsonl").read_text() == before
    summary = (tmp_path / "out/summary.md").read_text()
    assert "| benchmark | metric (%) | n | value | blind | shuffled | convention |" in summary
    assert "| vg-dior | grounding/acc@0.5 | 6 | 0.0 [0.0, 0.0] | 0.0 [0.0, 0.0] | 0.0 [0.0, 0.0] |" in summary
    assert session.main([*words, "--controls", "blind,shuffled"]) == 0
    assert capsys.readouterr().err.count("finished before") == 2
    assert len(predictions.read(tmp_path / "out/aid/controls/blind" / ranks.FILE)) == 4
    assert session.main([*words, "--controls", "blnd"]) == 2
    assert "controls: found 'blnd'" in capsys.readouterr().err


def test_by_recipe_from_the_command_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        monkeypatch.setattr("sys.argv", ["launch/eval.py", "recipes/demo/eval.yaml", "--controls", "blnd"])
        runpy.run_path(str(ROOT / "launch/eval.py"), run_name="__main__")
    assert ended.value.code == 2 and "controls: found 'blnd'" in capsys.readouterr().err
