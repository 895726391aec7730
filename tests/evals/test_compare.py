"""evals.comparing.compare: the paired bootstrap against closed forms and enumeration, and the tables."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from evals.comparing import compare, sidebyside
from evals.scoring.metrics import Judgement, Report, evaluate
from evals.scoring.reading import Reading
from tests.support.scores.scored import GROUNDING
from vlm.common.errors import DataError


def run(values, kinds=None):
    """A report whose vqa/exact of question i is values[i]."""
    kinds = [()] * len(values) if kinds is None else kinds
    judged = [Judgement(f"q{i}", "vqa", kinds[i], correct=bool(v)) for i, v in enumerate(values)]
    return Report(judged, Reading("vhm"))


def ious(values):
    return Report([Judgement(f"q{i}", "grounding", iou=float(v)) for i, v in enumerate(values)], Reading("vhm"))


def test_paired_equals_the_normal_interval_for_many_questions():
    rng = np.random.default_rng(1)
    a = rng.random(2000) < 0.5
    b = np.where(rng.random(2000) < 0.8, a, rng.random(2000) < 0.7)  # answers mostly alike: a paired design
    found = compare.paired(run(a), run(b), "vqa/exact")
    delta = b.astype(float) - a
    half = 1.959964 * delta.std() / np.sqrt(2000)
    assert found.difference == pytest.approx(delta.mean(), abs=1e-12)
    assert (found.a, found.b) == pytest.approx((a.mean(), b.mean()))
    assert found.low == pytest.approx(delta.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(delta.mean() + half, abs=0.05 * half)
    unpaired = 1.959964 * np.sqrt((a.var() + b.var()) / 2000)
    assert half < 0.6 * unpaired  # why pairs are compared
    assert found == compare.paired(run(a), run(b), "vqa/exact")  # seeded
    assert (found.n, found.seeds) == (2000, 1)


def test_paired_is_exact_where_enumeration_is_possible():
    # Differences 0, 0, 1: a resample's mean is k/3, k ~ Binomial(3, 1/3), P(k=0) = 8/27, P(k=3) = 1/27.
    found = compare.paired(ious([0.2, 0.5, 0]), ious([0.2, 0.5, 1]), "grounding/miou", level=0.9)
    assert (found.low, found.high) == pytest.approx((0, 2 / 3), abs=1e-12)  # 5%: 0; 95%: 26/27 of mass is <= 2/3
    found = compare.paired(ious([0.2, 0.5, 0]), ious([0.2, 0.5, 1]), "grounding/miou", level=0.99)
    assert (found.low, found.high) == pytest.approx((0, 1), abs=1e-12)


def test_equal_runs_and_constant_gains_have_no_width():
    same = compare.paired(run([1, 0, 1]), run([1, 0, 1]), "vqa/exact")
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    gain = compare.paired(ious([0.1, 0.2, 0.3]), ious([0.3, 0.4, 0.5]), "grounding/miou")
    assert (gain.low, gain.high) == pytest.approx((0.2, 0.2))


def test_seeds_are_a_level_of_their_own():
    # No spread between questions: seed s gains s/4 everywhere. Resampled: means of 3 draws of 0, 1/4, 1/2.
    # Variance 1/24 / 3; the lowest mean, 0, has 1/27 > 2.5% of the mass, the highest, 1/2, as much.
    a = ious([0.0] * 40)
    found = compare.paired(a, [ious([gain] * 40) for gain in (0, 0.25, 0.5)], "grounding/miou")
    assert (found.seeds, found.n, found.difference) == (3, 40, 0.25)
    assert (found.low, found.high) == pytest.approx((0, 0.5))
    # No spread between seeds: three equal runs tell no more than one: questions are resampled jointly.
    rng = np.random.default_rng(2)
    a, b = rng.random(1000), rng.random(1000)
    one = compare.paired(ious(a), ious(b), "grounding/miou")
    three = compare.paired([ious(a)] * 3, [ious(b)] * 3, "grounding/miou")
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_mean_of_kinds_weighs_types_equally():
    # 900 questions of one type without a gain, 100 of another with a gain of 1/2: by types the gain is 1/4.
    kinds = [("x",)] * 900 + [("y",)] * 100
    a, b = run([0] * 1000, kinds), run([0] * 900 + [0, 1] * 50, kinds)
    found = compare.paired(a, b, "vqa/mean_of_kinds")
    assert (found.a, found.b, found.n) == (0, 0.25, 1000)
    half = 1.959964 * 0.5 * np.sqrt(0.25 / 100)  # half the standard error of a share of 1/2 over 100 questions
    assert found.low == pytest.approx(0.25 - half, abs=0.1 * half)
    assert found.high == pytest.approx(0.25 + half, abs=0.1 * half)


def test_what_cannot_be_compared():
    with pytest.raises(DataError, match="1 questions are in one run only"):
        compare.paired(run([1, 0]), run([1, 0, 1]), "vqa/exact")
    with pytest.raises(DataError, match="applies to no question; there are vqa/exact"):
        compare.paired(run([1]), run([1]), "grounding/miou")
    with pytest.raises(DataError, match="found 2 runs against 3"):
        compare.paired([run([1])] * 2, [run([1])] * 3, "vqa/exact")
    with pytest.raises(DataError, match="different types"):
        compare.paired(run([1, 0], [("x",), ("y",)]), run([1, 0], [("y",), ("x",)]), "vqa/mean_of_kinds")


def test_difference_reads_as_a_sentence():
    found = compare.Difference("vqa/exact", 0.5, 0.562, 0.062, 0.01, 0.1144, 0.95, 200, 3)
    assert str(found) == ("vqa/exact 50.0 -> 56.2: +6.2 points [+1.0, +11.4] (95% paired, n = 200, 3 seeds)")


def test_a_number_that_is_no_share_has_no_points():
    found = compare.Difference("turns/mean", 1.667, 1.9, 0.233, 0.2, 0.3, 0.95, 40, 1)
    assert str(found) == "turns/mean 1.67 -> 1.90: +0.23 [+0.20, +0.30] (95% paired, n = 40)"


def test_tables_hold_the_numbers_and_the_conventions():
    reports = {"base": run([1, 0, 0, 0], [("x",)] * 4), "SFT": evaluate(GROUNDING, "qwen2_vl")}
    text = compare.markdown(reports)
    assert "| metric (%) | n | base | SFT |" in text
    assert "| grounding/acc@0.5 | 10 | – | 30.0 [0.0, 60.0] |" in text  # X ~ B(10, 0.3): P(0) = 2.8%, P(> 6) = 1.1%
    assert "| vqa/exact[x] | 4 | 25.0 [0.0, 75.0] | – |" in text
    assert "- grounding/acc@0.5: IoU >= 0.5, plain IoU" in text
    assert text.index("grounding/miou") < text.index("vqa/exact") < text.index("vqa/exact[x]")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(compare.table(reports, title="demo"))
    shown = console.export_text()
    assert "demo" in shown and "grounding/acc@0.5" in shown and "vqa/exact[x]" in shown and "30.0" in shown


def test_a_convention_is_said_once_on_the_terminal_and_in_full_in_files():
    reports, told = {"SFT": evaluate(GROUNDING, "qwen2_vl")}, set()

    def printed():
        console = Console(width=2000, record=True, file=io.StringIO())
        console.print(compare.table(reports, told=told))
        return console.export_text()

    first = printed()
    assert first.count("boxes = miss, kept") == 1 and "grounding/acc@0.7: IoU >= 0.7, plain IoU" in first
    assert "else as above" in first
    assert "boxes = miss, kept" not in printed()  # of the next benchmark
    assert compare.markdown(reports).count("boxes = miss, kept") == 2  # acc@0.5, acc@0.7


@pytest.mark.parametrize(("count", "said"), [(29, True), (30, False)])
def test_few_questions_are_told(count, said):
    note = f"- n = {count}: intervals say little (fewer than 30 questions)"
    assert (note in compare.markdown({"base": run(([1, 0] * 15)[:count])})) is said


def test_every_task_has_a_panel():
    """The first number that all have who were asked the task; the benchmark's own before it; no panel of the format."""
    both = run([1, 0, 1])
    both.join(ious([0.6, 0.2, 0.9]))
    reports = {"base": both, "r1": run([1, 1, 1]), "sft": ious([0.5, 0.5])}
    assert sidebyside._headlines("", reports) == ["vqa/exact", "grounding/acc@0.5"]
    panels = [sidebyside.panel("", metric, reports, False) for metric in sidebyside._headlines("", reports)]
    assert [(panel.title, [mark.model for mark in panel.marks]) for panel in panels] == [
        ("vqa", ["base", "r1"]), ("grounding", ["base", "sft"]),
    ]  # fmt: skip
    assert panels[0].note == "n = 3: intervals say little (fewer than 30 questions)"


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_name_is_cut_short(columns, count):
    """At 80 columns, and fewer: every metric, run and number is there whole, folded at worst."""
    found = run([1, 0, 0, 0], [("comparison of sizes",)] * 4)
    reports = {f"qwen2vl-7b-r1-seed-{number}": found for number in range(count)}
    console = Console(width=columns, record=True, file=io.StringIO())
    console.print(compare.table(reports))
    shown = console.export_text()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= columns
    runs = []
    for one in shown.split("┏")[1:]:
        lines = [re.split("[│┃]", line)[1:-1] for line in one.splitlines() if line[:1] in "│┃"]
        texts = [[cell.strip() for cell in column] for column in zip(*lines, strict=True)]
        for metric in found.metrics:
            assert metric.replace(" ", "") in "".join(texts[0]).replace(" ", "")
            assert columns < 80 or metric in texts[0]  # in one piece
        for text in texts[2:]:
            runs.append("".join(text).partition("25.0")[0])
            assert "25.0[0.0,75.0]" in "".join(text).replace(" ", "")
    assert runs == list(reports)
