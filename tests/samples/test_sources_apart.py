"""Sources of one mixture that are asked and written in their own way: `notation:` and `tools:` of a source.

The picture is 200 x 100 pixels, and seen at 196 x 112: x by 0.98, y by 1.12.
"""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

import rewards
from evals import predictions
from evals.scoring.reading import Reading
from samples import mixture
from samples.rows import chat_rows, prompt_rows, spelled
from samples.sections import DataSection
from tests.support.sample_rows import put_images, row
from vlm.boxes import NOTHING, read_detections
from vlm.common.errors import DataError, RecipeError
from vlm.families.sight import Grid
from vlm.pictures.resizing import Resizing
from vlm.sections import PromptSection, ResizeSection, ToolSection, TurnSection
from vlm.tools.toolbox import instruction

QUAD = [50, 25, 150, 25, 150, 75, 50, 75]
CLASSES = ["plane", "ship"]
GRID = Grid(28, 28 * 28, 1 << 20)
SIZES = Resizing(GRID)
DIRECT = PromptSection(style="direct", notation="qwen2_5_vl")
JSON = '```json\n[\n\t{"bbox_2d": [49, 28, 147, 84]}\n]\n```'


def detected(**changes):
    fields = {"task": "detection", "question": "plane, ship", "quads": [QUAD], "labels": ["ship"], "classes": CLASSES}
    return {"images": ["a.png"], **fields, **changes}


@pytest.fixture
def draw(tmp_path):
    put_images(tmp_path)
    for name, rows in {
        "detected": [detected(), detected(quads=[], labels=[])],
        "referred": [{"images": ["a.png"], "task": "grounding", "question": "the ship", "quads": [QUAD]}],
        "asked": [row(task="vqa", boxes=..., answer="yes")],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))

    def of(**sources):
        train = [
            {"path": str(tmp_path / f"{name.rstrip('_')}.jsonl"), "name": name, **keys}
            for name, keys in sources.items()
        ]
        return mixture.draw(DataSection(train=train, shuffle=False, cache=None), "train", 0).samples

    return of


def test_each_source_is_asked_and_written_in_its_notation(draw):
    """The corners of the quadrilateral, and the box around it, in pixels of the picture as it is seen."""
    samples = draw(
        detected={"notation": "rscovlm_quad"}, detected_={"notation": "rscovlm"}, referred={"notation": "rscovlm_quad"},
        referred_={},
    )  # fmt: skip
    rows = list(chat_rows(samples, DIRECT, SIZES))
    said = [one["messages"][-1]["content"] for one in rows]
    corners = "49,28,147,28,147,84,49,84"
    assert said == [f"{corners} ship\n", NOTHING, "49,28,147,84 ship\n", NOTHING, corners, JSON]
    asked = [[turn["content"] for turn in one["messages"][:-1]] for one in rows]
    assert [turns[-1] for turns in asked] == [
        *["find the plane, ship"] * 4, "find the the ship",
        "Give the bounding box of the object that this sentence describes: the ship",
    ]  # fmt: skip
    told = ["polygon vertices", "polygon vertices", "'x1,y1,x2,y2 object'", "'x1,y1,x2,y2 object'", "polygon vertices"]
    assert all(words in turns[0] for words, turns in zip(told, asked, strict=False)) and len(asked[-1]) == 1


def test_rewards_and_metrics_read_a_row_in_its_notation(draw):
    """The same lines are right where their source writes lines, and unreadable where it writes JSON."""
    samples = draw(detected={"notation": "rscovlm"}, detected_={}, referred={"notation": "rscovlm"}, referred_={})
    rows = [one for one in prompt_rows(samples, DIRECT, SIZES) if one["boxes"]]
    assert [one["written"] for one in rows] == ["rscovlm", None, "rscovlm", None]
    said = ["49,28,147,84 ship", JSON.replace("]}", '], "label": "ship"}'), "49,28,147,84", JSON]
    columns = {name: [one[name] for one in rows] for name in rows[0] if name not in ("prompt", "images")}
    for reward, expected in (("detect", [1, 1, None, None]), ("iou", [None, None, 1, 1])):
        judge = rewards.resolve(reward, notation="qwen2_5_vl", inside="text")
        assert judge([], said, **columns) == [None if one is None else pytest.approx(one) for one in expected]
        swapped = judge([], [said[1], "49,28,147,84 ship", said[3], "49,28,147,84"], **columns)
        assert [one for one in swapped if one is not None][1] == 0
    reading = Reading("qwen2_5_vl", "text")
    asked = [one for one in samples if one.boxes]
    for sample, text in zip(asked, said, strict=True):
        kept = predictions.from_sample(sample, text, resized=(196, 112))
        found = reading.detections(kept) if sample.task == "detection" else reading.said(kept)
        assert found.boxes == [pytest.approx([50, 25, 150, 75])]
        again = predictions._prediction(json.loads(predictions.line(kept)), "here")
        assert (again.written, again.labels, again.classes) == (sample.written, sample.labels, sample.classes)


def test_a_source_without_the_tools(draw):
    samples = draw(asked={}, asked_={"tools": False})
    tools, turns = [ToolSection(use="zoom")], TurnSection(ask="Zoom in.")
    section = DIRECT.told(instruction(tools, turns), turns.ask)
    with_tools, without = [spelled(one, section, None).asked for one in samples]
    assert with_tools[0]["role"] == "system" and with_tools[-1]["content"].endswith("Zoom in.")
    assert without == [with_tools[-1] | {"content": with_tools[-1]["content"].removesuffix("\nZoom in.")}]


def test_a_source_without_the_tools_has_no_rows_that_zoom(draw, tmp_path):
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "", "zoom": [20, 10, 80, 60]}]
    turns.append({"role": "assistant", "content": "a crane"})
    (tmp_path / "chain.jsonl").write_text(
        json.dumps(row(task="vqa", boxes=..., answer="a crane", messages=turns)) + "\n"
    )
    with pytest.raises(DataError, match="not `tools: false` at the source"):
        chat_rows(draw(chain={"tools": False}), DIRECT, SIZES)


def test_a_notation_that_cannot_say_what_objects_are_is_refused(draw):
    with pytest.raises(ValidationError, match="notation = 'lines'; known notations"):
        draw(detected={"notation": "lines"})
    with pytest.raises(RecipeError, match="vhm has no place for what an object is called"):
        list(prompt_rows(draw(detected={"notation": "vhm"}), DIRECT, SIZES))


def test_objects_follow_the_size_that_is_drawn(draw):
    """Corners of the text, in pixels of the picture as it is drawn in this pass, are those of the original again."""
    samples, sizes = draw(detected={"notation": "rscovlm_quad"}), Resizing(GRID, ResizeSection(), seed=3)
    seen = set()
    for number in range(4):
        sizes.passed = number
        first, second = chat_rows(samples, DIRECT, sizes)
        drawn = GRID.seen(first["images"][0].size)
        (found,) = read_detections(first["messages"][-1]["content"], "rscovlm_quad", (200, 100), drawn).objects
        assert found.quad == pytest.approx(QUAD, abs=0.5 * max(200 / drawn[0], 100 / drawn[1]) + 1e-9)
        assert second["messages"][-1]["content"] == NOTHING
        seen.add(drawn)
    assert len(seen) == 4
