"""Curation's parts: rows written back as they were, and which rows are the best."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.curate import corpus, keep
from rewards.curate.recipe import CurateRecipe, KeepSection
from rewards.curate.store import LEFT_OUT, Scores
from samples.readers.rows import Rows
from samples.sections import SourceSection
from stage.parallel.journal import Part
from stage.recipe import config
from tests.support.sample_rows import dump, put_images, turns
from vlm.common.errors import DataError, RecipeError, UserError


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_rows_are_written_in_the_format_they_came_in(tmp_path, name):
    found = [{"b": 1, "a": "é漢", "c": {"z": 1, "y": [1.5e-7]}}, {"half": "\ud800"}, {}]
    path = tmp_path / name
    assert corpus.write(path, iter(found), as_list=name == "x.json") == 3
    stream = Rows(path)
    assert stream.is_list == (name == "x.json")
    assert [list(row.items()) for _, row in stream] == [list(row.items()) for row in found]
    assert "é漢".encode() in path.read_bytes() and path.read_bytes().count(b"\n") == (5 if stream.is_list else 3)
    assert corpus.write(path, iter([]), as_list=True) == 0 and json.loads(path.read_text()) == []
    assert not (tmp_path / f"{name}.part").exists()


SCORE = st.one_of(st.sampled_from([0.0, 1.0, 1.0, 2.0, LEFT_OUT, np.nan]), st.floats(-5, 5))


@given(st.lists(SCORE, max_size=40), st.integers(0, 12))
def test_best_are_the_first_of_a_stable_sort(values, count):
    values = np.array(values, dtype=float)
    have = [place for place in range(len(values)) if np.isfinite(values[place])]
    count = min(count, len(have))
    expected = sorted(sorted(have, key=lambda place: -values[place])[:count])
    assert np.flatnonzero(keep.best(values, count)).tolist() == expected


@given(st.lists(st.lists(SCORE, max_size=15), min_size=1, max_size=4), st.integers(0, 6))
def test_extremes_are_the_ends_of_a_sort(lists, count):
    values = [np.array(v, dtype=float) for v in lists]
    ranked = sorted(float(x) for v in values for x in v if np.isfinite(x))
    top, low = keep.extremes(values, count)
    count = min(count, len(ranked) // 2)
    assert [values[s][n - 1] for s, n in low] == ranked[:count]
    assert [values[s][n - 1] for s, n in top] == ranked[::-1][:count]
    assert len({*top, *low}) == 2 * count


def test_what_is_kept_globally_and_per_source():
    values = [np.array([5.0, 4, 3, 2, np.nan]), np.array([4.5, 1, LEFT_OUT]), np.array([])]

    def kept(**section):
        masks = keep.choose(values, KeepSection(**section))
        return [(np.flatnonzero(mask) + 1).tolist() for mask in masks]

    assert kept(share=0.5) == [[1, 2], [1], []]  # 3 of 6
    assert kept(share=0.5, per_source=True) == [[1, 2], [1], []]
    assert kept(count=2) == [[1], [1], []]
    assert kept(count=2, per_source=True) == [[1, 2], [1, 2], []]
    assert kept(count=99) == [[1, 2, 3, 4], [1, 2], []]
    assert kept(threshold=4) == [[1, 2], [1], []]
    assert kept(share=0.01) == [[1], [], []], "at least one"
    assert keep.quota(5, KeepSection(share=0.5)) == 3 and keep.quota(10, KeepSection(share=0.3)) == 3
    with pytest.raises(UserError, match="no row reaches keep.threshold = 9; the best score is 5"):
        kept(threshold=9)
    with pytest.raises(UserError, match="no row has a score"):
        keep.choose([np.array([np.nan, LEFT_OUT])], KeepSection(share=0.5))


def test_scores_are_read_from_all_parts_and_counted_once(tmp_path):
    with Part(tmp_path, "s", 0) as part:
        part.add({"source": 0, "rows": [1, 3], "scores": [0.5, -1.0]})
        part.add({"source": 1, "rows": [2], "fault": "missing_image", "message": "x"})
    with Part(tmp_path, "s", 1) as part:
        part.add({"source": 0, "rows": [3, 4], "scores": [9.0, 2.0]})
        part.add({"source": 1, "rows": [1], "fault": None})
    scores = Scores.load(tmp_path, "s", 2)
    assert scores.values(0).tolist() == [0.5, pytest.approx(np.nan, nan_ok=True), -1.0, 2.0]
    assert scores.values(1).tolist() == [LEFT_OUT, LEFT_OUT] and scores.scored() == 3
    assert [scores.done(0, row) for row in (1, 2, 3, 4, 5)] == [True, False, True, True, False]
    assert (scores.faults[0].rows, scores.faults[0].kept) == (3, 3)
    assert scores.faults[1].rows == 1 and scores.faults[1].kinds == {"missing_image": 1}
    with Part(tmp_path, "s", 2) as part:
        part.add({"source": 7, "rows": [1], "scores": [1.0]})
    with pytest.raises(DataError, match=r"s.\*.jsonl: cannot read .* delete the file"):
        Scores.load(tmp_path, "s", 2)


# --- what is scored of a row ---


def texts(tmp_path, row, format, **section):
    source = corpus.Source(SourceSection(path=str(dump(tmp_path / "x.json", [row])), format=format, **section))
    ((number, found),) = source
    said = corpus.exchange(source.sample(number, found), "qwen2_vl")
    assert all(str(image).endswith("a.png") for image in said.images) and len(said.images) == 1
    return [turn["content"] for turn in said.messages]


def test_a_conversation_is_scored_whole(tmp_path):
    put_images(tmp_path)
    talk = [*turns("<image>\nWhat is it?", "A dam."), *turns("How high?", "Forty metres.")]
    row = {"image": "a.png", "conversations": talk}
    assert texts(tmp_path, row, "conversations", task="open_ended") == [
        "What is it?", "A dam.", "How high?", "Forty metres.",
    ]  # fmt: skip


def test_of_a_trace_the_answer_is_scored(tmp_path):
    put_images(tmp_path)
    said = turns("<image>What is it?", "<think>Water on the left.</think><answer>A dam.</answer>")
    row = {"messages": said, "images": ["a.png"]}
    assert texts(tmp_path, row, "sharegpt") == ["What is it?", "A dam."]


def test_captions_and_boxes(tmp_path):
    put_images(tmp_path)
    row = {"image": "a.png", "conversations": turns("<image>", "A dam between hills.")}
    assert texts(tmp_path, row, "conversations", task="caption") == ["", "A dam between hills."]
    row = {"image": "a.png", "conversations": turns("<image>\nthe dam", "[10,20,90,80]")}  # of 200 × 100 pixels
    box = "<|box_start|>(50,200),(450,800)<|box_end|>"
    assert texts(tmp_path, row, "vg_dior") == ["the dam", box]


def test_recipes_that_cannot_work_are_refused(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(f"output: {tmp_path}/run\ndata: {{train: [{{path: x.json}}]}}\nby: random\n")
    assert config.load(file, CurateRecipe).keep.share == 0.3
    for change in ("keep.count=2", "keep={count: 2}"):  # the default share is for recipes that say nothing else
        asked = config.load(file, CurateRecipe, [change])
        assert asked.keep == KeepSection(count=2) and asked.keep.share is None
        config.save(asked, tmp_path / "saved.yaml")
        assert config.load(tmp_path / "saved.yaml", CurateRecipe) == asked
    assert config.load(file, CurateRecipe, ["keep.per_source=true"]).keep == KeepSection(share=0.3, per_source=True)
    assert CurateRecipe(output="o", data=config.load(file, CurateRecipe).data, by="random").keep.share == 0.3
    for change, message in [
        ("keep={share: 0.3, count: 5}", "found share and count; expected one of"),
        ("keep={share: null}", "found none of them"),
        ("keep.share=30", "0.3 keeps 30 percent"),
        ("keep={count: 0, share: null}", "count = 0"),
        ("by=score", "scorer.path is empty, and by: score needs"),
        ("by=clip", "clip.path is empty"),
        ("data.train=[]", "data.train is empty"),
        ("notation=yolo", "known notations"),
        ("chunk=0", "chunk = 0"),
    ]:
        with pytest.raises(RecipeError, match=message):
            config.load(file, CurateRecipe, [change])


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ({"labels": ["ship"], "boxes": [[0, 0, 100, 50]]},
         "<|object_ref_start|>ship<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|>"),
        ({"labels": [], "boxes": []}, "There are none."),
    ],
)  # fmt: skip
def test_of_detection_names_are_scored_too_and_that_there_is_nothing(tmp_path, objects, expected):
    put_images(tmp_path)  # 200 x 100
    asked = [{"role": "user", "content": "plane, ship"}]
    row = {"images": ["a.png"], "messages": asked, "task": "detection", "classes": ["plane", "ship"]}
    assert texts(tmp_path, row | objects, "nadir")[-1] == expected


@pytest.mark.parametrize("key", ["classes: [ship]", "notation: qwen2_vl", "tools: false"])
def test_how_a_source_is_asked_is_refused_where_rows_stay_as_they_are(tmp_path, key):
    path = tmp_path / "r.yaml"
    path.write_text(f"output: o\nby: random\ndata: {{train: [{{path: a, {key}}}]}}\n")
    with pytest.raises(RecipeError, match=f"data.train.0.{key.partition(':')[0]}: curation scores every row once"):
        config.load(path, CurateRecipe)
