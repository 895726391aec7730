"""Evaluations with the zoom, from recipe to table: hf and endpoint, controls, numbers of chains, pictures, resuming.

The model says what the script wants: asked about `near` it zooms on the true region, about `off` on another one, about
`none` not at all, and about `twice` it calls once more than it may. Last turns are its own.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from evals import generate, predictions, stage
from evals.comparing.compare import paired
from evals.controls import zooms
from evals.predictions import Prediction
from evals.recipe import EvalRecipe
from evals.scoring import chains
from evals.scoring.report import Scores
from samples import Sample
from stage.recipe import config
from stage.runs import FINISHED
from tests.evals.test_served import TinyServer, address, turns_of
from tests.support.processes.commands import ROOT
from tests.support.runs.saying import scripted
from tests.support.scores.fake_judge import FakeJudge, completion
from vlm.common.bootstrap import means
from vlm.common.errors import DataError, RecipeError, UserError
from vlm.pictures.drawing import ZOOMED, Picture, grid
from vlm.tools.calls import write
from vlm.tools.zoom import GO_ON, NAME

LEFT, RIGHT = [10, 10, 100, 90], [200, 100, 300, 190]
"""Regions of 320 × 200 pixels."""
KINDS = {"near": LEFT, "off": LEFT, "none": RIGHT, "twice": None}


def call(*bbox):
    return write(NAME, {"bbox": [*bbox]})


def script(text, turn):
    kind = re.search(r"about (\w+)", text)[1]
    if "Zoom in." not in text or kind == "none":  # asked without tools
        return None
    box = (600, 480, 950, 960) if kind == "off" else (0, 0, 350, 480)
    return call(*box) if turn == 0 or kind == "twice" else None


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("data"), []
    for number, (kind, region) in enumerate(KINDS.items()):
        Image.effect_noise((320, 200), 40 + 10 * number).convert("RGB").save(folder / f"{kind}.png")
        asked = {"role": "user", "content": f"How many about {kind}?"}
        row = {"images": [f"{kind}.png"], "messages": [asked], "task": "vqa", "answer": "2", "id": kind}
        rows.append(row | ({"regions": [region]} if region else {}))
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(model, data, output, *more) -> EvalRecipe:
    words = [
        f"model.path={model}", f"output={output}", f"data.eval=[{{path: {data}/q.jsonl}}]", "pictures=0",
        "images={min_pixels: 3136, max_pixels: 12544}", "generation.max_new_tokens=200", "generation.batch_size=2",
        "model.dtype=float32", "tools=[{use: zoom, options: {least: 28}}]", "turns={system: Zoom in.}", "gold=null",
        "prompt={style: direct, system: Look., wording: {vqa: '{question}'}, notation: qwen2_vl}", "inside=text", *more,
    ]  # fmt: skip
    return config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, words)


@pytest.fixture
def loaded(monkeypatch):
    """Each model that is loaded says what the script wants."""
    real = generate.load_model

    def load(section, place):
        model = real(section, place)
        from vlm.loading import load_processor

        return scripted(model, load_processor(section.path, images), script)

    images = recipe("m", Path("d"), "o").images
    monkeypatch.setattr(generate, "load_model", load)


def rows_of(folder: Path, control: str = "") -> dict[str, Prediction]:
    place = folder / "controls" / control if control else folder
    return {row.id: row for row in predictions.read(place / "predictions.jsonl")}


NO_CONTROLS = "controls=[]"


def test_an_evaluation_with_its_controls(tiny_model, data, tmp_path, loaded, caplog):
    report = stage.run(recipe(tiny_model, data, tmp_path / "run", "pictures=4"))
    rows = rows_of(tmp_path / "run")
    assert list(rows) == list(KINDS)
    assert [len(rows[kind].turns) for kind in KINDS] == [3, 3, 1, 3]
    assert rows["twice"].over is True and rows["near"].over is None
    assert rows["near"].crops == [{"turn": 1, "image": 0, "box": [0, 0, 112, 96], "size": [112, 84]}]
    assert rows["off"].crops[0]["box"] == [192, 96, 304, 192]
    for row in rows.values():
        assert row.turns[-1] == {"role": "assistant", "content": row.completion}

    found = {name: metric.value for name, metric in report.metrics.items() if name.startswith(("turns", "zoom/"))}
    gain = found.pop("zoom/gain:vqa/exact")
    assert found.pop("turns/depth_entropy") == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found == {
        "turns/mean": 1.75, "turns/calls": 0.75, "turns/over": 0.25, "turns/failed": 0.0, "zoom/share": 0.75,
        "zoom/holds": 0.5, "zoom/holds_of_all": pytest.approx(1 / 3),
    }  # fmt: skip
    assert gain == 0  # nothing that it says is right
    assert report.metrics["zoom/holds"].n == 2 and report.metrics["zoom/gain:vqa/exact"].n == 3

    plain, true = rows_of(tmp_path / "run", "no_zoom"), rows_of(tmp_path / "run", "true_region")
    assert list(plain) == list(KINDS) and all(row.turns is None and row.crops is None for row in plain.values())
    assert plain["none"].completion != rows["none"].completion  # the prompt speaks of no tool
    assert list(true) == ["near", "off", "none"]
    for row in true.values():
        assert chains.holds(row) and len(row.turns) == 3 and row.turns[0]["content"].startswith("<tool_call>")
    record = json.loads((tmp_path / "run/record.json").read_text())["controls"]
    assert record["true_region"] == {"asked": 3, "left_out": {"without a true region": 1}}
    table = (tmp_path / "run/table.md").read_text()
    assert "| turns/mean | 4 | 1.75 [" in table and "run·true_region" in table
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["zoom/share"]["value"] == 0.75 and metrics["turns/mean"]["unit"] == "number"
    assert metrics["vqa/exact"]["controls"].keys() == {
        "no_zoom",
        "true_region",
    }
    assert (tmp_path / "run/pictures.png").exists()
    assert paired(report, report, "zoom/share").difference == 0  # it can be compared as others


def test_an_endpoint_says_the_same(tiny_model, data, tmp_path, loaded):
    here = recipe(tiny_model, data, tmp_path / "hf", NO_CONTROLS)
    stage.run(here)
    server = TinyServer(here)
    scripted(server.model, server.processor, script)
    with FakeJudge(default=server) as judge:
        asked = ("generation.backend=endpoint", f"endpoint={json.dumps(address(judge))}", NO_CONTROLS)
        stage.run(recipe(tiny_model, data, tmp_path / "served", *asked))
    file = "predictions.jsonl"
    assert (tmp_path / "served" / file).read_text() == (tmp_path / "hf" / file).read_text()
    assert judge.calls == 7  # three questions twice, one once
    second = next(body for body in judge.bodies if len(body["messages"]) > 2)
    roles = [turn["role"] for turn in second["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    picture, text = turns_of(second)[-1]["content"]
    assert text == {"type": "text", "text": GO_ON} and picture["image"].size == (112, 84)
    assert second["max_tokens"] == 200 - 10  # the reply to the first reported ten


def test_an_interrupted_question_is_asked_from_its_first_turn(tiny_model, data, tmp_path):
    """The server dies at a question's second turn; the next start asks both of its turns."""
    said = []

    def replies(body):
        said.append(len(body["messages"]))
        last = body["messages"][-1]["content"][-1]["text"]
        return completion("two" if last == GO_ON or "none" in str(body) else call(0, 0, 350, 480))

    more = ("generation.backend=endpoint", NO_CONTROLS)
    with FakeJudge(replies, replies, replies, default=lambda body: None) as judge:
        keys = f"endpoint={json.dumps(address(judge) | {'concurrency': 1, 'stop_after': 1})}"
        with pytest.raises(UserError, match="1 rows in succession failed"):
            stage.run(recipe(tiny_model, data, tmp_path / "run", *more, keys))
    assert [row.id for row in rows_of(tmp_path / "run").values()] == ["near"] and said == [2, 4, 2]
    said.clear()
    with FakeJudge(default=replies) as judge:
        keys = f"endpoint={json.dumps(address(judge) | {'concurrency': 1})}"
        stage.run(recipe(tiny_model, data, tmp_path / "run", *more, keys))
    assert said == [2, 4, 2, 2, 4] and list(rows_of(tmp_path / "run")) == list(KINDS)
    assert {row.completion for row in rows_of(tmp_path / "run").values()} == {"two"}


def test_it_is_continued(tiny_model, data, tmp_path, loaded):
    stage.run(recipe(tiny_model, data, tmp_path / "run"))
    files = ("predictions.jsonl", "controls/true_region/predictions.jsonl", "controls/no_zoom/predictions.jsonl")
    whole = [(tmp_path / "run" / file).read_text() for file in files]
    (tmp_path / "run" / FINISHED).unlink()
    (tmp_path / "run" / files[0]).write_text("".join(whole[0].splitlines(keepends=True)[:2]))
    (tmp_path / "run" / files[1]).write_text(whole[1].splitlines(keepends=True)[0] + '{"id": "of')
    stage.run(recipe(tiny_model, data, tmp_path / "run"))
    assert [(tmp_path / "run" / file).read_text() for file in files] == whole
    with pytest.raises(UserError, match=r"different: turns.limit"):
        (tmp_path / "run" / FINISHED).unlink()
        stage.run(recipe(tiny_model, data, tmp_path / "run", "turns={system: Zoom in., limit: 2}"))


def test_a_dry_run_says_what_turns_add(tiny_model, data, tmp_path, capsys):
    stage.plan(recipe(tiny_model, data, tmp_path / "run"))
    told = capsys.readouterr().out
    assert f"tools: {NAME}; up to 1 call of a question answered" in told
    assert f"a turn of {NAME} adds up to 16 visual tokens" in told
    assert "control no_zoom: up to 4 questions again" in told and "control true_region" in told
    assert "up to 200 new tokens are for all turns of the model together" in told


def test_an_estimate_counts_every_turn(tiny_model, data, tmp_path, capsys):
    with FakeJudge() as judge:
        keys = ("generation.backend=endpoint", f"endpoint={json.dumps(address(judge))}", NO_CONTROLS)
        stage.plan(recipe(tiny_model, data, tmp_path / "run", *keys, "turns={system: Zoom in., limit: 2}"))
    assert "4 questions in 12 calls" in capsys.readouterr().out


# controls


def sample(kind="near", size=(320, 200), regions=(LEFT,), image=None):
    return Sample([image], [{"role": "user", "content": "q"}], "vqa", "2", size=size, source="q", id=kind,
                  regions=[*regions] if regions else None)  # fmt: skip


@pytest.fixture
def one(data):
    return sample(image=str(data / "near.png"))


def test_controls_are_on_by_default_where_there_is_the_zoom(tiny_model, data, tmp_path):
    assert recipe(tiny_model, data, tmp_path).controls == ["no_zoom", "true_region"]
    assert recipe(tiny_model, data, tmp_path, "tools=[]").controls == []
    assert recipe(tiny_model, data, tmp_path, "controls=[random]").controls == ["random"]


def test_where_forced_calls_go(tiny_model, data, tmp_path, one):
    """Hull of two regions; as large from the middle and from a place that is the question's own."""
    asked = recipe(tiny_model, data, tmp_path)
    several = sample(image=one.images[0], regions=([10, 10, 40, 50], [60, 20, 110, 90]), kind="b")

    def regions(name, *samples):
        found = getattr(zooms, name)(samples, asked)
        return [found.recipe.turns.openings["q", one.id] for one in samples]

    assert regions("true_region", one, several) == [[10, 10, 100, 90], [10, 10, 110, 90]]
    assert regions("centre", one, several) == [[115, 60, 205, 140], [110, 60, 210, 140]]
    first, second = regions("random", one, several)
    assert (first[2] - first[0], first[3] - first[1]) == pytest.approx((90, 80)) and first[:2] != second[:2]
    assert first[0] >= 0 and first[2] <= 320 and first[1] >= 0 and first[3] <= 200
    assert regions("random", several, one) == [second, first]
    other = zooms.random([one], asked.model_copy(update={"seed": 7})).recipe.turns.openings["q", "near"]
    assert other != first


def test_who_cannot_be_shown_a_region_is_left_out_and_counted(tiny_model, data, tmp_path, one):
    asked = recipe(tiny_model, data, tmp_path)
    whole = sample("whole", regions=([0, 0, 320, 200],), image=one.images[0])
    bare = sample("bare", regions=(), image=one.images[0])
    found = zooms.true_region([whole, one, bare], asked)
    assert found.samples == [one]
    assert found.left_out == {zooms.REFUSED: 1, zooms.NO_REGION: 1}
    assert "no question has a true region" in zooms.true_region([whole, bare], asked)
    assert zooms.no_zoom([one], recipe(tiny_model, data, tmp_path, "tools=[]")) == zooms.NO_TOOL


def test_a_benchmark_says_who_zooms(tiny_model, data, tmp_path, one):
    """LRS-VQA's counts are asked without."""
    asked = recipe(tiny_model, data, tmp_path, "benchmark=lrs-vqa")
    counted = Sample(one.images, one.messages, "vqa", "2", source="q", id="c", kind="count", regions=[LEFT])
    assert asked.tooled(one) and not asked.tooled(counted)
    assert zooms.true_region([one, counted], asked).left_out == {zooms.UNZOOMED: 1}


# numbers


def test_gains_are_paired_over_what_zoomed():
    """Of four questions three zoomed: right with and without, right with, wrong with; b has no partner."""
    rows = [Prediction(key, "s", "vqa", "", turns=[], crops=[{}] * (key != "d")) for key in "abcd"]
    report, plain = Scores(), Scores()
    report.add("vqa/exact", means([{"s/a": 1.0, "s/b": 1.0, "s/c": 0.0, "s/d": 0.0}]), "")
    plain.add("vqa/exact", means([{"s/a": 1.0, "s/b": 0.0, "s/c": 0.0, "s/d": 1.0}]), "")
    found = chains.gained(report, plain, rows)
    assert found.metrics["zoom/gain:vqa/exact"].value == pytest.approx(1 / 3)
    assert found.metrics["zoom/gain:vqa/exact"].n == 3
    low, high = found.intervals["zoom/gain:vqa/exact"]
    assert (low, high) == (0.0, 1.0)


def test_entropy_of_depth():
    found = chains.entropy({"a": 0, "b": 1, "c": 1, "d": 2})
    expected = torch.distributions.Categorical(torch.tensor([0.25, 0.5, 0.25])).entropy().item()
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert chains.entropy({"a": 1, "b": 1}).value == 0.0


def test_a_crop_holds_a_region_by_area():
    def row(*boxes):
        crops = [{"turn": 1, "image": image, "box": box, "size": [28, 28]} for image, box in boxes]
        return Prediction("1", "s", "vqa", "", turns=[], crops=crops, regions=[[0, 0, 100, 100], [300, 0, 310, 10]])

    assert chains.holds(row((0, [0, 0, 100, 99]))) and not chains.holds(row((0, [0, 0, 100, 98.9])))
    assert chains.holds(row((0, [290, 0, 320, 10]))) and not chains.holds(row((1, [0, 0, 100, 100])))


# files


CHAIN = {
    "turns": [{"role": "assistant", "content": "x"}, {"role": "tool", "content": "<image>y"}],
    "crops": [{"turn": 1, "image": 0, "box": [0, 0, 5, 5], "size": [28, 28]}],
    "faults": ["refused"],
    "over": True,
}


def put(folder, **more):
    row = {"id": "1", "source": "s", "task": "vqa", "completion": "z", "answer": "2"} | CHAIN | more
    path = folder / "p.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def test_predictions_keep_the_chain(tmp_path):
    (row,) = predictions.read(put(tmp_path))
    assert {name: getattr(row, name) for name in CHAIN} == CHAIN
    assert json.loads(predictions.line(row)).items() >= CHAIN.items()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("turns", [{"role": "user", "content": "x"}], "expected the role assistant or tool"),
        ("turns", [{"role": "tool", "content": 1}], "expected a role and a text"),
        ("turns", "x", "expected a list"),
        ("crops", [{"turn": 1, "image": 0, "box": [0, 0, 5], "size": [28, 28]}], "expected turn, image, box"),
        ("crops", [{"turn": 2, "image": 0, "box": [0, 0, 5, 5], "size": [28, 28]}], "the number of one of 2 turns"),
        ("faults", [1], "expected texts"),
        ("over", 1, "expected true or false"),
    ],
)
def test_a_broken_chain_is_named(tmp_path, field, value, told):
    with pytest.raises(DataError, match=f"line 1, field '{field}'.*{told}"):
        predictions.read(put(tmp_path, **{field: value}))


# pictures


def test_the_region_and_the_crop_are_drawn(tmp_path):
    """A blue region is outlined, and stands larger in the lower right corner; the legend says what the colour means."""
    whole = Image.new("RGB", (300, 300), "white")
    whole.paste((0, 0, 255), (30, 30, 90, 60))
    whole.save(tmp_path / "a.png")
    for source in (whole, str(tmp_path / "a.png")):
        page = grid([Picture(source, "q", zoomed=[[30, 30, 90, 60]])], tmp_path / "g.png")
        plain = grid([Picture(source, "q")], tmp_path / "h.png")
        cell = page.crop((16, 46, 316, 346))
        assert cell.getpixel((30, 45)) == tuple(int(ZOOMED[n : n + 2], 16) for n in (1, 3, 5))
        assert cell.getpixel((240, 270)) == (0, 0, 255) and cell.getpixel((150, 150)) == (255, 255, 255)
        assert cell.crop((172, 235, 294, 294)).getcolors(10000) is not None
        assert page.width == 620 and plain.width == 460


def test_a_tool_of_ones_own_has_no_zoom_controls(tiny_model, data, tmp_path):
    with pytest.raises(RecipeError, match="controls: found 'nozoom'"):
        recipe(tiny_model, data, tmp_path, "controls=[nozoom]")
