"""studies.tables: rows by hand and by closed form, texts, and the command on evaluations of a study."""

import csv
import io
import json
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from evals import predictions
from evals.benchmarks.published import figures
from evals.scoring.metrics import Judgement, evaluate
from evals.scoring.metrics import Report as Evaluated
from evals.scoring.reading import Reading
from studies.study import Study, StudyRun
from studies.tables import command, effects, figure, layout, rows, text
from studies.tables.rows import Row
from tests.support.processes.commands import ROOT
from tests.support.processes.forked import run
from tests.support.scores.scored import ask, said
from vlm.common.errors import DataError, UserError

METRIC = "vqa/exact"


def report(values, first=0):
    """vqa/exact of the questions q<first>, q<first + 1> …"""
    judged = [Judgement(f"q{first + n}", "vqa", correct=bool(value)) for n, value in enumerate(values)]
    return Evaluated(judged, Reading("qwen2_vl"))


def seeds(*values, start=0):
    return {str(start + number): {"": report(one)} for number, one in enumerate(values)}


def test_one_seed_has_the_interval_of_its_questions():
    """k of 3 right, k ~ Binomial(3, 1/3): P(0) = 8/27 > 5%, and P(3) = 1/27 < 5% < P(2) + P(3)."""
    (row,) = rows.means({"base": seeds([1, 0, 0])}, [METRIC], level=0.9)
    assert (row.label, row.value, row.n_items, row.n_seeds, row.level) == ("base", pytest.approx(1 / 3), 3, 1, 0.9)
    assert (row.low, row.high) == (0, pytest.approx(2 / 3)) and row.scheme == "items" and row.spread is None


def test_seeds_that_agree_on_every_question_widen_the_interval():
    """All questions alike within a seed, so seeds alone spread: the means of three draws of 0, 1, 1."""
    (row,) = rows.means({"r1": seeds([0] * 50, [1] * 50, [1] * 50)}, [METRIC])
    assert row.value == pytest.approx(2 / 3) and row.per_seed == (0, 1, 1) and row.scheme == "crossed"
    assert (row.low, row.high) == (0, 1)  # (1/3)^3 = 3.7% of the draws are all 0
    assert row.spread == pytest.approx(np.sqrt(1 / 3))
    # and seeds that agree with each other are one: the normal interval of 1,000 questions
    values = np.random.default_rng(0).random(1000) < 0.4
    (row,) = rows.means({"r1": seeds(*[values] * 3)}, [METRIC])
    half = 1.959964 * values.std() / np.sqrt(1000)
    assert (row.low, row.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_seeds_with_other_questions_are_nested():
    runs = {"r1": {"0": {"": report([1, 1])}, "1": {"": report([0, 0, 0], first=2)}}}
    (row,) = rows.means(runs, [METRIC])
    assert (row.scheme, row.n_items, row.value) == ("nested", 5, 0.5)
    with pytest.raises(DataError, match="r1 against base, vqa/exact: 5 questions are in one run only"):
        rows.differences(runs | {"base": {"any-seed": {"": report([1, 1])}}}, [("base", "r1")], [METRIC])


def test_differences_pair_seeds_by_name():
    """Seed 1 with seed 1, whatever their order; seed 7 has no partner. Each pair differs by exactly 1/2."""
    before = {"7": {"": report([1, 1])}} | seeds([1, 0], [0, 0], start=1)
    after = {"2": {"": report([0, 1])}, "1": {"": report([1, 1])}}
    (row,) = rows.differences({"zero": before, "r1": after}, [("zero", "r1")], [METRIC])
    assert (row.label, row.against, row.value, row.per_seed) == ("r1", "zero", 0.5, (0.5, 0.5))
    assert row.note == "seeds 1, 2 paired by name (7 without a partner, left out); 2 questions paired by name"
    assert (row.n_seeds, row.n_items, row.low, row.high) == (
        2,
        2,
        0,
        1,
    )  # one question gains, the other not


def test_one_run_stands_against_every_seed():
    runs = {"base": {"any-seed": {"": report([0, 0])}}, "r1": seeds([1, 1], [0, 0])}
    (row,) = rows.differences(runs, [("base", "r1")], [METRIC])
    assert row.note.startswith("one run with each of the seeds 0, 1;") and row.per_seed == (1, 0)
    (row,) = rows.differences(runs, [("r1", "base")], [METRIC])
    assert row.value == -0.5 and row.note.startswith("each of the seeds 0, 1 with one run")


def test_what_cannot_be_compared():
    runs = {"a": seeds([1], [0]), "b": seeds([1], [0], start=5)}
    with pytest.raises(UserError, match="b against a, vqa/exact: seeds 0, 1 and 5, 6 do not pair"):
        rows.differences(runs, [("a", "b")], [METRIC])
    with pytest.raises(UserError, match="no run is called 'c'; there are a, b"):
        rows.differences(runs, [("a", "c")], [METRIC])
    with pytest.raises(UserError, match="no run has the metric 'vqa/exakt'; there are vqa/exact"):
        rows.metrics(runs, ["vqa/exakt"])


MEAN = Row(
    "measured", "", METRIC, "r1_no_score", 0.54321, 0.5, 0.5864, 0.95, 400, 3, (0.5, 0.6, 0.52963), "", "crossed"
)
ROWS = [
    MEAN,
    Row("measured", "", "open_ended/gold", "r1_no_score", -0.02, -0.1, 0.05, 0.95, 40, 3, scheme="crossed"),
    Row("measured", "", METRIC, "base", 0.4, 0.3, 0.5, 0.95, 400, 1, (0.4,), scheme="items"),
    Row("difference", "", METRIC, "r1_no_score", 0.14321, 0.01, 0.25, 0.95, 400, 3, (), "base", "crossed", note="how"),
    *rows.published(one for one in figures("vg-dior") if one.model in ("R1", "SFT")),
]


def test_markdown_by_hand():
    told = text.markdown(ROWS)
    first, second, third = told.split("### ")
    assert (
        "|  | vqa/exact (%, n = 400) | open_ended/gold (%, n = 40) | seeds |\n| --- | ---: | ---: | ---: |\n" in first
    )
    assert "| r1_no_score | 54.3 [50.0, 58.6] | -2.0 [-10.0, 5.0] | 3 |\n" in first
    assert "| base | 40.0 [30.0, 50.0] | – | 1 |\n" in first
    assert "- 95% intervals of what has one seed: percentile bootstrap over questions only" in first
    assert "such an interval holds the truth in 75% of cases, not 95%" in first and "published" not in first
    assert second.startswith("Differences\n\n|  | vqa/exact (points, n = 400) | seeds |")
    assert "| r1_no_score − base | **+14.3** [+1.0, +25.0] | 3 |" in second and "- how\n" in second
    assert third.startswith("vg-dior (published only)") and "| *R1* † | 64.52 | – |" in third
    assert "- † published, not measured here: ScoreRS, arXiv 2503.00743" in third


def test_a_number_that_is_no_share_is_not_in_percent():
    turns = Row("measured", "", "turns/mean", "r1", 1.834, 1.79, 1.88, 0.95, 40, 1)
    assert text.written(turns) == ("1.83", "[1.79, 1.88]")
    assert "turns/mean (number, n = 40)" in text.markdown([turns])
    (axis,) = figure.drawn([turns]).axes
    assert axis.get_ylabel() == "" and {one.get_text() for one in axis.texts} == {"1.83"}


def test_nothing_is_minus_nothing():
    assert text.written(Row("difference", "", METRIC, "a", -1e-9, -0.0004, 0.0, 0.95)) == ("+0.0", "[+0.0, +0.0]")


def test_latex_escapes_every_sign():
    assert text.escaped(r"a_b & 50% $x$ #1 {y} ~ ^ \z") == (
        r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    assert text.escaped("IoU ≥ 0.5 − a < b | c–d ±1") == r"IoU $\geq$ 0.5 $-$ a \textless{} b \textbar{} c--d $\pm$1"
    told = text.latex(ROWS)
    assert r"r1\_no\_score & $54.3$ {\scriptsize $[50.0, 58.6]$} & $-2.0$ {\scriptsize $[-10.0, 5.0]$} & 3 \\" in told
    assert r"r1\_no\_score $-$ base & $\mathbf{+14.3}$ {\scriptsize $[+1.0, +25.0]$} & 3 \\" in told
    assert r"\textit{R1}$^\dagger$ & $64.52$ & -- \\" in told
    assert told.count(r"\toprule") == told.count(r"\bottomrule") == told.count(r"\begin{table}") == 3
    assert told.isascii()
    for line in told.splitlines():  # as many cells as columns, and balanced
        if line.endswith(r"\\"):
            assert line.replace(r"\&", "").count("&") in (2, 3)
        assert line.replace(r"\{", "").replace(r"\}", "").count("{") == line.replace(r"\{", "").replace(
            r"\}", ""
        ).count("}")


def test_published_figures_of_the_same_benchmark_stand_below_a_rule():
    ours = Row("measured", "vg-dior", "grounding/acc@0.5", "ours", 0.6, 0.5, 0.7, 0.95, 10, 1, scheme="items")
    told = text.latex([*rows.published(figures("vg-dior")), ours])
    assert told.count(r"\begin{table}") == 1 and told.count(r"\midrule") == 2
    assert told.index("ours &") < told.rindex(r"\midrule") < told.index(r"\textit{Qwen2VL-7B-RS (base)}")


def test_csv_gives_the_rows_back():
    told = text.to_csv(ROWS)
    assert text.read_csv(told) == ROWS
    first = next(csv.DictReader(io.StringIO(told)))
    assert (first["value"], first["low"], first["n_items"], first["n_seeds"]) == ("0.54321", "0.5", "400", "3")
    odd = Row("published", "a,b", 'x"y', "line\nbreak", 0.1 + 0.2, source="−")
    assert text.read_csv(text.to_csv([odd])) == [odd]
    with pytest.raises(DataError, match="line 2, column low: found 'x', expected a number"):
        text.read_csv(told.replace("0.54321,0.5,", "0.54321,x,"))
    with pytest.raises(DataError, match="columns are .'a'.; expected kind, benchmark"):
        text.read_csv("a\n1\n")


def test_published_figures_are_renamed_apart():
    """In the table under the paper's names; in the picture they may join an arm of ours."""
    names = {"base": "Base", "R1": "R1-with"}
    assert [row.label for row in rows.renamed(ROWS, names)][2:] == ["Base", "r1_no_score", "SFT", "R1"]
    assert rows.renamed(ROWS, names)[3].against == "Base"
    assert [row.label for row in rows.renamed(ROWS, names, published=True)][2:] == [
        "base",
        "r1_no_score",
        "SFT",
        "R1-with",
    ]


def test_arms_as_labels_tell_them():
    assert figure.arms(["zero", "zero_no_score", "sft"]) == {
        "zero": ("zero", ""), "zero_no_score": ("zero", "no_score"), "sft": ("sft", "")
    }  # fmt: skip
    assert figure.arms(["R1-with", "R1-without", "SFT", "lr 1e-5"])["R1-without"] == ("R1", "without")
    assert figure.arms(["SFT", "lr=1e-5", "r1"])["lr=1e-5"] == ("lr=1e-5", "")


def test_the_figure_shows_every_arm(tmp_path):
    found = [
        Row("measured", "", METRIC, label, 0.5 + place / 20, 0.4, 0.8, 0.95, 40, 3, (0.4, 0.5, 0.6), scheme="crossed")
        for place, label in enumerate(("Zero-with", "Zero-without", "SFT", "R1-with", "R1-without"))
    ]
    figure.draw([*found, *rows.published(figures("vg-dior"))], tmp_path / "f.png", title="Ablation")
    texts = {node.text for node in ElementTree.parse(tmp_path / "f.svg").iter("{http://www.w3.org/2000/svg}text")}
    assert {"Zero", "SFT", "R1", "with", "without", "Ablation", "each seed", "64.52", "55.0"} <= texts
    assert "vg-dior: grounding/acc@0.5 (published)" in texts and "published, no interval" in texts
    assert Image.open(tmp_path / "f.png").size[0] > 600
    before = (tmp_path / "f.svg").read_bytes()
    figure.draw([*found, *rows.published(figures("vg-dior"))], tmp_path / "f.svg", title="Ablation")
    assert (tmp_path / "f.svg").read_bytes() == before
    with pytest.raises(ValueError, match="no means"):
        figure.draw([ROWS[3]], tmp_path / "g.png")


@pytest.fixture
def study(tmp_path):
    """Two labels of two seeds; one seed of `r1` is not evaluated."""
    right = {"sft/seed-0": "10", "sft/seed-1": "11", "r1/seed-0": "11", "r1/seed-10": None}
    for place, answers in right.items():
        folder = tmp_path / "study" / place / "eval"
        folder.mkdir(parents=True)
        if answers:
            rows = [ask(str(n), said("a" if one == "1" else "b"), "a") for n, one in enumerate(answers)]
            predictions.write(folder / "predictions.jsonl", rows)
    return tmp_path / "study"


def load(folder):
    return {"": evaluate(predictions.read(folder / "predictions.jsonl"), "qwen2_vl")}


def crossed(*values):
    """A study of {Zero, R1} × {with, without} and its reports; SFT stands for both values of the score."""
    labels = {"Zero-with": ("Zero", "with"), "Zero-without": ("Zero", "without")}
    labels |= {"R1-with": ("R1", "with"), "R1-without": ("R1", "without"), "SFT": ("SFT", None)}
    axes = {"road": ["Zero", "R1", "SFT"], "score": ["with", "without"], "one": ["only"]}
    listed = [StudyRun(label, dict(zip(axes, (*cell, None), strict=True)), 0, {}) for label, cell in labels.items()]
    study = Study("x", axes, [0, 1], listed, {})
    return {label: seeds(*one) for label, one in zip(labels, values, strict=True)}, study


def test_main_effects_are_the_mean_over_the_other_axis():
    """Four questions. Zero: 2/4 with, 1/4 without; R1: 4/4 and 2/4; SFT: 1/4, in both columns.

    R1 − Zero = ((4 − 2) + (2 − 1)) / 2 / 4 = 3/8; SFT − Zero = ((1 − 2) + (1 − 1)) / 2 / 4 = −1/8;
    without − with = ((1 − 2) + (2 − 4)) / 2 / 4 = −3/8, in which SFT, that the score does not concern, has no part.
    """
    zero, zero_without, r1, r1_without, sft = [1, 1, 0, 0], [1, 0, 0, 0], [1] * 4, [1, 1, 0, 0], [0, 1, 0, 0]
    runs, matrix = crossed(*([one, one] for one in (zero, zero_without, r1, r1_without, sft)))
    found = {(row.label, row.against): row for row in effects.effects(runs, matrix, [METRIC])}
    assert {key: row.value for key, row in found.items()} == {
        ("road R1", "road Zero"): 3 / 8, ("road SFT", "road Zero"): -1 / 8, ("score without", "score with"): -3 / 8,
    }  # fmt: skip
    row = found["road R1", "road Zero"]
    assert row.per_seed == (3 / 8, 3 / 8) and (row.n_items, row.n_seeds, row.scheme) == (4, 2, "crossed")
    # by question: 0, 1/2, 1/2, 1/2 for R1, so a resample of four has k/8 with k ~ Binomial(4, 3/4):
    # P(k = 0) = 0.4% < 2.5% < P(k ≤ 1) = 5.1%, and P(k = 4) = 31.6% > 2.5%
    assert (row.low, row.high) == (1 / 8, 4 / 8)
    assert row.note == (
        "main effect, the mean of R1-with − Zero-with, R1-without − Zero-without; seeds 0, 1 paired by name"
    )


def test_seeds_pair_in_main_effects():
    """Seeds differ by 1/2 everywhere and in both arms alike, which pairs take out."""
    low, high, better = [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]
    runs, matrix = crossed([low, high], [low, high], [high, better], [high, better], [low, low])
    row = next(one for one in effects.effects(runs, matrix, [METRIC]) if one.label == "road R1")
    assert (row.value, row.per_seed) == (0.5, (0.5, 0.5))
    del runs["R1-without"]["0"]
    row = next(one for one in effects.effects(runs, matrix, [METRIC]) if one.label == "road R1")
    assert row.per_seed == (0.5,) and "seeds 1 paired" in row.note
    del runs["R1-without"]
    assert [one.label for one in effects.effects(runs, matrix, [METRIC])] == ["road SFT"]  # both its columns are there


def test_a_study_is_found_by_its_folders_or_its_list(study, caplog):
    found = layout.find([str(study)])
    assert {label: list(seeds) for label, seeds in found.items()} == {"r1": ["0"], "sft": ["0", "1"]}
    assert "r1/seed-10 is left out: it has no eval with predictions.jsonl" in caplog.text
    assert list(layout.find([str(study / "sft")])["sft"]) == ["0", "1"]
    runs = [("r1", 0, "r1/seed-0/eval"), ("twin", None, "r1/seed-0/eval"), ("r1", 10, "r1/seed-10/eval")]
    listed = [{"label": label, "seed": seed, "stages": {"eval": place}} for label, seed, place in runs]
    (study / "study.json").write_text(json.dumps({"runs": listed}))
    found = layout.find([str(study), f"old={study}/sft/seed-0/eval,{study}/sft/seed-1/eval"])
    assert {label: list(seeds) for label, seeds in found.items()} == {
        "r1": ["0"], "twin": ["any-seed"], "old": ["0", "1"]
    }  # fmt: skip
    (study / "study.json").write_text('{"runs": 1}')
    with pytest.raises(DataError, match="study.json cannot be read"):
        layout.find([str(study)])


def test_what_is_no_evaluation(study, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        layout.find([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="holds no predictions.jsonl"):
        layout.find([f"a={study}/r1/seed-10/eval"])
    with pytest.raises(UserError, match="two runs are called 'sft'"):
        layout.find([str(study), str(study / "sft")])


def test_the_command_writes_table_and_figure(study, tmp_path, capsys):
    options = ["--against", "sft", "--metrics", METRIC, "--rename", "r1=R1", "--figure", str(tmp_path / "out/f.png")]
    assert command.main([str(study), *options, "--published", "vg-dior"], load, figures) == 2
    assert "no such figures of vg-dior" in capsys.readouterr().err  # it has some, but none of vqa/exact
    assert command.main([str(study), *options, "--format", "csv"], load, figures) == 0
    found = text.read_csv(capsys.readouterr().out)
    assert [(row.kind, row.label, row.value) for row in found] == [
        ("measured", "R1", 1.0), ("measured", "sft", 0.75), ("difference", "R1", 0.5)
    ]  # fmt: skip
    assert found[2].note == "seed 0 paired by name (1 without a partner, left out); 2 questions paired by name"
    assert (tmp_path / "out/f.png").exists() and (tmp_path / "out/f.svg").exists()
    assert command.main([str(study), "--labels", "x"], load, figures) == 2
    assert "no run is called 'x'; there are r1, sft" in capsys.readouterr().err


def test_the_launcher_scores_predictions_afresh(study, tmp_path):
    """From another folder, as a user types it, with the recipe that an evaluation leaves beside its predictions."""
    for folder in study.glob("*/seed-*/eval"):
        (folder / "recipe.yaml").write_text(
            f"model: {{path: m}}\noutput: {folder}\ndata: {{eval: [{{path: {folder}/q.jsonl}}]}}\n"
        )
    done = run([sys.executable, ROOT / "launch/table.py", study, "--metrics", METRIC], cwd=tmp_path)
    assert "| sft | 75.0 [0.0, 100.0] | 2 |" in done.stdout and "| sft − r1 | -50.0 [-100.0, +0.0] | 1 |" in done.stdout
    assert "r1/seed-10 is left out" in done.stderr
