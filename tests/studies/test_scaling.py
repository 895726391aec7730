"""studies.scaling: curves against enumeration, fits against known coefficients, files as the stages write them."""

import json
import sys
from itertools import combinations
from math import e, exp, inf, log

import numpy as np
import pytest
from scipy.optimize import curve_fit, minimize_scalar
from scipy.special import xlogy

from stage.runs import Run
from studies.scaling import best_of_n, command, figure, forms, grpo, summary
from studies.scaling.best_of_n import BonCurve, best_of_kl, bon_curve, fit_bon
from studies.scaling.grpo import GrpoCurve, fit_rl
from tests.support.processes.commands import ROOT
from tests.support.processes.forked import run
from vlm.common.errors import DataError, UserError


def enumerated(score, value, n):
    """Mean over every n-subset of the mean value of its highest scores: the definition."""
    found = []
    for members in combinations(range(len(score)), n):
        best = max(score[i] for i in members)
        found.append(np.mean([value[i] for i in members if score[i] == best]))
    return np.mean(found)


SCORES = np.array([[0.3, -1.0, 2.5, 0.9, 0.1], [1.0, 1.0, 0.0, 2.0, 2.0], [0.5] * 5, [-inf, 1.0, -inf, -2.0, 1.0]])
GOLDS = np.array([[0, 1, 0.25, 1, -0.5], [1, 0, 1, 0, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0, 0.9, 1, 0.5]])


def test_the_curve_is_the_mean_over_all_subsets():
    curve = bon_curve(SCORES, GOLDS, range(1, 6))
    filled = np.where(np.isinf(SCORES), -2.0, SCORES)  # what cannot be read counts as the prompt's lowest
    for q in range(len(SCORES)):
        for k, n in enumerate(curve.ns):
            assert curve.gold[q, k] == pytest.approx(enumerated(SCORES[q], GOLDS[q], n))
            assert curve.learned[q, k] == pytest.approx(enumerated(SCORES[q], filled[q], n))
    assert curve.gain("gold")[:, 0].tolist() == [0] * 4 and curve.learned[0, -1] == 2.5
    assert curve.std["gold"] == pytest.approx(np.std(GOLDS)) and bon_curve(SCORES, GOLDS).ns == (1, 2, 4, 5)


def test_kl_of_the_best_of_n():
    """By its definition: the best of n by a continuous score has density n F^(n-1) over the start's uniform F."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (1, 2, 7, 64):
        density = n * u ** (n - 1)
        assert best_of_kl(n) == pytest.approx(np.mean(xlogy(density, density)), abs=1e-3)
    assert best_of_kl(2) == pytest.approx(log(2) - 0.5)


def test_what_is_no_table_of_scores():
    with pytest.raises(ValueError, match="expected two finite"):
        bon_curve(SCORES, GOLDS[:, :4])
    with pytest.raises(ValueError, match="expected two finite"):
        bon_curve(np.full((1, 2), np.nan), np.zeros((1, 2)))
    with pytest.raises(DataError, match="no answer that can be read"):
        bon_curve(np.full((1, 2), -inf), np.zeros((1, 2)))
    with pytest.raises(UserError, match="at least two above 1"):
        fit_bon(bon_curve(SCORES[:, :2], GOLDS[:, :2]))


def made_bon(alpha, beta, prompts=300, noise=0.2, ns=(1, 2, 4, 8, 16, 32, 64), seed=0):
    """Prompts around d (alpha - beta d); their own curves differ by a slope each."""
    d, rng = np.sqrt(best_of_kl(ns)), np.random.default_rng(seed)
    gold = 0.4 + d * (alpha - beta * d) + rng.normal(0, noise, (prompts, 1)) * d
    return BonCurve(tuple(ns), gold, gold, {"learned": 1.0, "gold": 1.0})


def test_best_of_n_coefficients_are_recovered():
    found = fit_bon(made_bon(0.5, 0.2, noise=0))
    assert (found.alpha.value, found.beta.value) == pytest.approx((0.5, 0.2))
    assert (found.peak.value, found.height.value) == pytest.approx((1.25, 0.3125))  # α / 2β, α² / 4β
    assert found.error == pytest.approx(0, abs=1e-12) and found.seen and found.offset == 0
    assert found.alpha.low == pytest.approx(0.5) and found.over == "300 prompts"
    d, reward = found.line()
    assert d[0] == reward[0] == 0 and reward.max() == pytest.approx(0.3125, abs=1e-3)


def test_intervals_over_prompts_are_the_normal_ones():
    """Only the slopes differ between prompts, so α has their standard error, and β none at all."""
    curve = made_bon(0.5, 0.2)
    found = fit_bon(curve, count=4000)
    slopes = curve.gain("gold")[:, 1] / curve.d[1]
    half = 1.959964 * slopes.std() / np.sqrt(300)
    assert (found.alpha.high - found.alpha.low) / 2 == pytest.approx(half, rel=0.08)
    assert (found.beta.low, found.beta.high) == pytest.approx((0.2, 0.2))
    assert found.peak.low == pytest.approx(found.alpha.low / 0.4) and found.peak.high == pytest.approx(
        found.alpha.high / 0.4
    )


def test_gaussian_slopes_are_covered():
    inside = 0
    for trial in range(120):
        found = fit_bon(made_bon(0.5, 0.2, prompts=80, seed=trial), count=300, level=0.9, seed=trial)
        inside += found.alpha.low <= 0.5 <= found.alpha.high
    assert 0.80 <= inside / 120 <= 0.97  # ± 3 standard errors around 0.89


def test_peaks_by_search():
    for form, alpha, beta in (("best-of-n", 0.7, 0.3), ("rl", 0.7, 0.3), ("rl", -0.2, 0.5)):
        best = minimize_scalar(lambda d, f=form, c=(alpha, beta): -float(forms.terms(f, d) @ c), bounds=(1e-6, 20),
                               method="bounded", options={"xatol": 1e-9})  # fmt: skip
        assert [float(part) for part in forms.peak(form, alpha, beta)] == pytest.approx([best.x, -best.fun], abs=1e-6)
    assert [float(part) for part in forms.peak("rl", 2.0, 1.0)] == pytest.approx([e, e])
    assert [float(part) for part in forms.peak("best-of-n", 0.5, -0.1)] == [inf, inf]  # rises for ever
    assert [float(part) for part in forms.peak("best-of-n", -0.5, 0.1)] == [0, 0]  # falls from the start
    assert forms.terms("rl", np.array([0.0, 1.0, e])).tolist() == [[0, 0], [1, 0], [e, -e]]


def run_of(alpha, beta, start=0.3, noise=0.0, rows=60, seed=0, far=30.0):
    rng = np.random.default_rng(seed)
    kl = np.linspace(0.0, far, rows)
    d = np.sqrt(kl)
    gold = start + forms.terms("rl", d) @ [alpha, beta] + rng.normal(0, noise, rows)
    return GrpoCurve(np.arange(rows), kl, gold, gold, {"learned": 1.0, "gold": 0.5})


def test_rl_coefficients_are_recovered():
    for start in (None, 0.3):
        found = fit_rl([run_of(0.4, 0.25)], start=start)
        assert (found.alpha.value, found.beta.value, found.offset) == pytest.approx((0.4, 0.25, 0.3))
        assert found.peak.value == pytest.approx(exp(0.4 / 0.25 - 1)) and found.seen
        assert found.height.value == pytest.approx(0.25 * found.peak.value)
        assert found.over == "60 logged rows of one run"


def test_rl_against_scipy_with_noise():
    runs = [run_of(0.4, 0.25, noise=0.05, seed=seed) for seed in range(3)]
    found = fit_rl(runs, count=1000)
    d, gold = np.concatenate([run.d for run in runs]), np.concatenate([run.gold for run in runs])

    def model(d, alpha, beta, start):
        return start + np.where(d > 0, d * (alpha - beta * np.log(np.where(d > 0, d, 1))), 0)

    expected, covariance = curve_fit(model, d, gold, p0=(0, 0, 0))
    assert (found.alpha.value, found.beta.value, found.offset) == pytest.approx(expected, abs=1e-6)
    assert found.alpha.low < 0.4 < found.alpha.high and found.beta.low < 0.25 < found.beta.high
    width = 2 * 1.96 * np.sqrt(covariance[0, 0])  # rows are independent here, so both ways are as wide
    assert found.alpha.high - found.alpha.low == pytest.approx(width, rel=0.4)
    assert found.over == "180 logged rows of 3 runs, and the runs"


def test_a_run_that_went_nowhere_tells_nothing():
    still = run_of(0.4, 0.25, far=0.0)
    with pytest.raises(UserError, match="60 rows with sqrt.KL. from 0 to 0 do not determine the curve"):
        fit_rl([still])
    record = summary.of_grpo([still], "still")
    assert record["gold"]["fit"] is None and any("no fit of gold" in note for note in record["notes"])


def logged(tmp_path, name="grpo", rewards=None, **changes):
    """A run folder as GRPO leaves it: per-token KL, mean length, and gold as the reward of weight 0."""
    rewards = rewards or [{"use": "gated"}, {"use": "demo.world.captions:reward", "weight": 0}]
    run = Run.create(tmp_path / name, {"rewards": rewards, "training": {"beta": 1e-6}})
    true = run_of(0.4, 0.25)
    for step, (kl, gold) in enumerate(zip(true.kl, true.gold, strict=True), 1):
        row = {"kl": kl / 25, "completions/mean_length": 25.0, "score/mean": step / 10, "score/std": 2.0}
        row |= {"rewards/gated/mean": 0.5, "rewards/reward/mean": gold, "rewards/reward/std": 0.5}
        run.log(step, {name: value for name, value in (row | changes).items() if value is not None})
    run.log(60, {"train_runtime": 1.0})
    return tmp_path / name


def test_a_run_folder_is_read(tmp_path):
    curve = grpo.read(logged(tmp_path))
    true = run_of(0.4, 0.25)
    assert curve.kl == pytest.approx(true.kl) and curve.gold == pytest.approx(true.gold)
    assert curve.std == {"learned": 2.0, "gold": 0.5} and curve.notes == () and len(curve.steps) == 60
    mixed = {"reward_raw/open_ended_count": 30.0, "reward_raw/vqa_count": 10.0, "reward_raw/choice_count": 0.0}
    (note,) = grpo.read(logged(tmp_path, "mixed", **mixed)).notes
    assert note.startswith("KL is over all rows (open_ended 75%, vqa 25%)")


def test_what_a_run_did_not_log(tmp_path):
    with pytest.raises(UserError, match="no row has kl: training.beta is 0"):
        grpo.read(logged(tmp_path, "a", kl=None))
    with pytest.raises(UserError, match="no row has score/mean: no reward `score`"):
        grpo.read(logged(tmp_path, "b", **{"score/mean": float("nan")}))
    with pytest.raises(UserError, match="which metric is gold.*rewards/gated/mean, rewards/reward/mean"):
        grpo.read(logged(tmp_path, "c", rewards=[{"use": "gated"}, {"use": "x"}]))
    assert len(grpo.read(tmp_path / "c", gold="rewards/reward/mean").gold) == 60
    with pytest.raises(UserError, match="holds no metrics.jsonl"):
        grpo.read(tmp_path)


@pytest.fixture
def chosen(tmp_path):
    """A best-of-N folder: three captions, one of which nobody can read, and a question of another metric."""
    rows = [("open_ended/gold", SCORES[0], GOLDS[0]), ("open_ended/gold", SCORES[3], GOLDS[3])]
    rows += [("open_ended/gold", [-inf] * 5, GOLDS[0]), ("vqa/exact", SCORES[1], GOLDS[1])]
    (tmp_path / "bon").mkdir()
    with open(tmp_path / "bon/judged.jsonl", "w") as file:
        for number, (metric, scores, golds) in enumerate(rows):
            told = {"score": [None if score == -inf else score for score in scores]}
            row = {"source": "s", "id": str(number), "metric": metric, "quality": list(golds), "scores": told}
            file.write(json.dumps(row) + "\n")
    return tmp_path / "bon"


def test_a_best_of_n_folder_is_read(chosen, caplog, tmp_path):
    curve = best_of_n.read(chosen)
    assert curve.gold == pytest.approx(bon_curve(SCORES[[0, 3]], GOLDS[[0, 3]]).gold)
    assert "1 of 3 prompts have no answer that can be read" in caplog.text
    assert best_of_n.read(chosen, "vqa/exact").gold.shape == (1, 4)
    with pytest.raises(UserError, match="no metric iou; there are open_ended/gold, vqa/exact"):
        best_of_n.read(chosen, "iou")
    with pytest.raises(UserError, match="no scores by 'clip', only by score"):
        best_of_n.read(chosen, selector="clip")
    with pytest.raises(UserError, match="holds no judged.jsonl"):
        best_of_n.read(tmp_path)
    (chosen / "judged.jsonl").write_text('{"source": "s"}\n')
    with pytest.raises(DataError, match="judged.jsonl, line 1: KeyError"):
        best_of_n.read(chosen)


def test_the_command_writes_what_reports_embed(chosen, tmp_path, capsys):
    seeds = f"GRPO={logged(tmp_path, 'a')},{logged(tmp_path, 'b')}"
    assert command.main([str(chosen), seeds, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "| GRPO | gold | d(α − β log d) | 0.4 [0.4, 0.4] | 0.25 [0.25, 0.25] | 1.82 [1.82, 1.82] |" in told
    assert (tmp_path / "out/table.md").read_text() == told
    first, second = json.loads((tmp_path / "out/scaling.json").read_text())["curves"]
    assert (first["method"], first["gold"]["series"][0]["n"]) == ("best-of-n", [1, 2, 4, 5])
    series = first["gold"]["series"][0]
    assert all(
        low <= gain <= high for low, gain, high in zip(*(series[k] for k in ("low", "gain", "high")), strict=True)
    )
    assert [len(one["d"]) for one in second["gold"]["series"]] == [60, 60] and second["gold"]["std"] == 0.5
    assert second["gold"]["start"] == pytest.approx(0.3) and second["gold"]["fit"]["peak_measured"]
    text = (tmp_path / "out/scaling.svg").read_text()
    assert ">GRPO<" in text and "bon (best of n)" in text and "gold is highest" in text
    assert (tmp_path / "out/scaling.png").stat().st_size > 10_000
    assert command.main([str(tmp_path / "nowhere")]) == 2 and "holds no metrics.jsonl" in capsys.readouterr().err
    done = run([sys.executable, ROOT / "launch/scaling.py", chosen], cwd=tmp_path)
    assert "| bon | gold | d(α − βd) |" in done.stdout
    with pytest.raises(ValueError, match="no curves"):
        figure.draw([], tmp_path / "x.png")
