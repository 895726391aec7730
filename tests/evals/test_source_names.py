"""`name:` of a source: two files of one name and the same ids are told apart, and refused without it."""

from __future__ import annotations

import json

import pytest

from evals.stage import unique
from rewards.prefer import rows as candidate_rows
from rewards.prefer.recipe import CandidateSource
from rewards.score.training.preferences import collect
from rewards.score.training.recipe import PreferenceSource
from rewards.select.candidates import check_unique
from samples.mixture import count, draw
from samples.sections import DataSection, SourceSection
from tests.support.doctored import asked, doctor, put_data
from tests.support.sample_rows import dump
from vlm.common.errors import DataError, UserError


@pytest.fixture
def folder(tmp_path):
    """Two evaluation files of one name, with the same ids."""
    put_data(tmp_path)
    for name, image in (("x", "../a.png"), ("y", "../b.png")):
        (tmp_path / name).mkdir()
        dump(tmp_path / name / "test.jsonl", [asked(image, n, source="theirs" if n else None) for n in range(2)])
    return tmp_path


def data(folder, *names):
    given = zip("xy", names, strict=True)
    return DataSection(
        eval=[SourceSection(path=str(folder / x / "test.jsonl"), name=name, outside=True) for x, name in given]
    )


def test_a_name_stands_for_the_files_and_the_rows_own(folder):
    found = list(draw(data(folder, "first", None), "eval", 0).samples)
    assert [sample.source for sample in found] == ["first", "first", "test", "theirs"]
    assert unique(found) == found and check_unique(found) is None
    seen = []
    count(data(folder, None, "second"), "eval", 0, seen.append)
    assert [sample.source for sample in seen] == ["test", "theirs", "second", "second"]
    with pytest.raises(ValueError, match="name is empty"):
        SourceSection(path="x", name=" ")


def test_without_names_they_are_refused(folder):
    found = list(draw(data(folder, None, None), "eval", 0).samples)
    for refuse, error in ((unique, UserError), (check_unique, DataError)):
        with pytest.raises(error, match="two questions are called test/0; .*each source a `name:`"):
            refuse(found)


@pytest.mark.parametrize("launcher", ["eval", "bon"])
def test_a_dry_run_refuses_them(launcher, folder, tiny_model, started):
    sources = [{"path": str(folder / name / "test.jsonl"), "outside": True} for name in "xy"]
    recipe = {"stage": launcher, "model": {"path": str(tiny_model)}, "output": str(folder / "run")}
    recipe |= {"data": {"eval": sources}} | ({"selectors": ["random"]} if launcher == "bon" else {})
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(AssertionError, match="two questions are called test/0"):
        started(f"launch/{launcher}.py", path, "--dry-run")
    assert doctor(folder) == 1
    assert (
        "2 held-out rows are called as another one; give each source a `name:`"
        in json.loads((folder / "out/report.json").read_text())["faults"]
    )
    sources[0]["name"] = "first"
    path.write_text(json.dumps(recipe))
    started(f"launch/{launcher}.py", path, "--dry-run")
    assert doctor(folder) == 0


def test_preferences_and_candidates_have_names(folder):
    path = str(dump(folder / "pairs.jsonl", [{"ranked": ["a", "b"], "source": "theirs"}]))
    found = collect([PreferenceSource(path=path, name="mine"), PreferenceSource(path=path)], "error", "train")
    assert [one.source for one in found] == ["mine", "theirs"]
    row = {"images": [], "task": "caption", "question": "", "candidates": ["a", "b"], "id": "1"}
    path = str(dump(folder / "candidates.jsonl", [row]))
    sources = [CandidateSource(path=path, name="mine"), CandidateSource(path=path)]
    assert [item.key for item in candidate_rows.collect(sources, "error")] == ["mine/1", "candidates/1"]
    with pytest.raises(DataError, match="two rows are called candidates/1; .*each source a `name:`"):
        candidate_rows.collect([sources[1], sources[1]], "error")
