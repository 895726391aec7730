"""The benchmarks' declarations: complete, buildable as recipes, and clear where data is missing."""

import dataclasses

import pytest

from evals.benchmarks import BENCHMARKS, find, session
from evals.benchmarks.published import FIGURES, figures
from evals.scoring.scores import Answers, Choice, Classes, Grounding
from samples import FORMATS, TASKS
from tests.support import benchmark_folders
from tests.support.processes.commands import ROOT
from vlm.common.errors import RecipeError, UserError
from vlm.sections import PromptSection

WANTED = (
    "vg-dior dior-rsvg dior-rsvg-val rsvg rsvg-val vrs-vg avvg geo-vg vrsbench-refer vrsbench-vqa vrsbench-caption "
    "rsvqa-lr rsvqa-hr lhrs-bench aid nwpu ucmerced meter-ml whu-rs19 siri-whu "
    "geochat-bench lrs-vqa dota lrs-gro xlrs-bench mme-realworld-rs"
)


def arguments(*more):
    return session.parser().parse_intermixed_args(["--model", "m", "--benchmarks", "x", *map(str, more)])


def test_all_are_there():
    assert set(WANTED.split()) <= set(BENCHMARKS)
    assert all(name == one.name for name, one in BENCHMARKS.items())


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("style", ["direct", "r1"])
def test_each_is_a_recipe(name, style, tmp_path):
    """Formats, wordings and notations are checked on the way."""
    one = session.recipe(name, arguments("--style", style, "--data", tmp_path, "--out", tmp_path / "out"))
    assert one.benchmark == name and one.output == str(tmp_path / "out" / name)
    assert one.inside == ("text" if style == "direct" else "answer")
    assert all(source.format in FORMATS and source.path.startswith(str(tmp_path)) for source in one.data.eval)
    for source in BENCHMARKS[name].sources:
        assert f"{source.path.split('/')[0].split('.')[0]}" in BENCHMARKS[name].layout
    assert {task for score in BENCHMARKS[name].scores for task in score.tasks} <= set(TASKS)


def test_grounding_is_worded_by_notation():
    def prompt(name, *more) -> PromptSection:
        return session.recipe(name, arguments(*more)).prompt

    assert prompt("dior-rsvg").wording == {} and prompt("dior-rsvg").system is None  # Nadir's own, for Qwen2-VL
    rscovlm = prompt("dior-rsvg", "--notation", "rscovlm")
    assert rscovlm.wording == {"grounding": "find the {question}"} and "'x1,y1,x2,y2 object'" in rscovlm.system
    assert prompt("dior-rsvg", "--notation", "rscovlm", "--wording", "nadir").wording == {}
    # R1 asks for its tags by the system prompt, which must then stand
    assert prompt("dior-rsvg", "--notation", "rscovlm", "--style", "r1").system is None
    assert "word or phrase" in prompt("rsvqa-lr").wording["vqa"]
    dota = prompt("dota", "--notation", "rscovlm_quad")  # detection is worded by the notation itself
    assert "detection" not in dota.wording and dota.system is None


def test_overrides_lie_on_top():
    one = session.recipe("aid", arguments("generation.batch_size=3", "images.min_pixels=784", "model.dtype=float32"))
    assert (one.generation.batch_size, one.images.min_pixels, one.model.dtype) == (3, 784, "float32")
    with pytest.raises(RecipeError, match="unknown key `generation.batch_sise`; did you mean"):
        session.recipe("aid", arguments("generation.batch_sise=3"))


def test_a_benchmark_says_what_its_pictures_need(monkeypatch):
    """Above the defaults, below the command line."""
    monkeypatch.setitem(BENCHMARKS, "lrs-vqa", dataclasses.replace(find("lrs-vqa"), images={"max_pixels": 5000000}))
    one = session.recipe("lrs-vqa", arguments())
    assert (one.images.min_pixels, one.images.max_pixels) == (262144, 5000000)
    assert session.recipe("lrs-vqa", arguments("images.max_pixels=786432")).images.max_pixels == 786432
    assert session.recipe("aid", arguments()).images.max_pixels == 1048576


def test_data_that_is_missing_says_what_to_put_where(tmp_path):
    with pytest.raises(UserError) as error:
        find("dior-rsvg").check(tmp_path)
    said = str(error.value)
    assert f"not found: {tmp_path}/DIOR-RSVG" in said and "DIOR-RSVG/Annotations/*.xml" in said and "--data" in said
    benchmark_folders.vg_dior(tmp_path, 1)
    find("vg-dior").check(tmp_path)
    assert find("rsvg").missing(tmp_path) == [
        f"{tmp_path}/refGeo/{name}" for name in ("metainfo/rsvg_test.jsonl", "images/rsvg")
    ]


def test_names_that_are_no_benchmark():
    with pytest.raises(UserError, match=r"'lhrs-bensh' \(did you mean lhrs-bench\?\); there are vg-dior"):
        find("lhrs-bensh")
    with pytest.raises(UserError, match="--benchmarks NAMES and --model PATH are needed"):
        session.evaluate(session.parser().parse_args(["--model", "m"]))


def test_published_figures_stand_under_metrics_that_there_are():
    """As the papers print them, and under a metric whose convention is theirs."""
    assert {figure.benchmark for figure in FIGURES} == {"vg-dior", "lhrs-bench", "dior-rsvg", "lrs-vqa", "xlrs-bench"}
    values = {(figure.benchmark, figure.model): round(100 * figure.value, 2) for figure in FIGURES}
    assert values["vg-dior", "R1"] == 64.52 and values["lhrs-bench", "R1"] == 69.13
    assert values["vg-dior", "PPO, raw score"] == 57.10 and values["lhrs-bench", "Qwen2VL-7B-RS (base)"] == 67.08
    assert values["dior-rsvg", "RSCoVLM"] == 84.55 and values["lrs-vqa", "RSCoVLM with zoom"] == 45.71
    assert figures("dior-rsvg")[0].metric == "grounding/acc@0.5:rscovlm"
    assert {figure.metric for figure in figures("lrs-vqa")} == {"vqa/mean_of_sources:wordnet"}  # not that of its types
    assert "FAIR, Bridge and STAR" in figures("lrs-vqa")[0].note and find("lrs-vqa").scores[0].synonyms
    kinds = {name: type(find(name).scores[0]) for name in ("vg-dior", "lhrs-bench", "dior-rsvg", "lrs-vqa", "aid")}
    assert kinds == {
        "vg-dior": Grounding,
        "lhrs-bench": Choice,
        "dior-rsvg": Grounding,
        "lrs-vqa": Answers,
        "aid": Classes,
    }
    assert "rscovlm" in find("dior-rsvg").scores[0].conventions


def test_the_documentation_names_them_all():
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in BENCHMARKS)


def test_an_engine_that_cannot_run_is_refused_in_a_dry_run_too(monkeypatch, tmp_path):
    """As a recipe is by `stage.cli.launch`."""
    monkeypatch.setattr("vlm.common.versions.BUILDS", ())
    monkeypatch.setattr(type(find("aid")), "check", lambda self, root: None)
    for more in ((), ("--dry-run",)):
        asked = session.parser().parse_args(["--model", "m", "--benchmarks", "aid", "--backend", "vllm", *more])
        with pytest.raises(RecipeError, match="generation.backend vllm: vLLM is not installed here"):
            session.evaluate(asked)
