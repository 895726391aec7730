"""Curves of the HTML report: labels, bands by hand, thinning that loses no peak, what a folder holds."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.report import evaluations, figures, numbers, panels
from studies.report.bands import band
from studies.report.runs import folders, labels
from studies.report.thinning import kept, rounded
from tests.support.runs.run_folders import curve, evaluation, training
from vlm.common.bootstrap import means
from vlm.common.errors import DataError, UserError


def series(steps, values):
    return np.array(steps), np.array(values, dtype=float)


def test_a_band_is_mean_least_and_greatest_at_each_step():
    made = band([series([1, 2, 3], [1, 2, 3]), series([1, 2, 3], [3, 2, 9]), series([1, 2, 3], [2, 5, 0])])
    assert made.steps.tolist() == [1, 2, 3]
    assert made.mean.tolist() == [2, 3, 4]
    assert made.low.tolist() == [1, 2, 0]
    assert made.high.tolist() == [3, 5, 9]
    assert made.counts.tolist() == [3, 3, 3]


def test_a_band_goes_on_over_the_runs_that_are_left_and_skips_what_one_did_not_log():
    made = band([series([1, 2, 3, 4], [1, 1, 1, 1]), series([1, 3], [3, 5])])
    assert made.steps.tolist() == [1, 3, 4]  # at 2 the second run was under way and logged nothing
    assert made.mean.tolist() == [2, 3, 1]
    assert made.counts.tolist() == [2, 2, 1]
    assert made.low[2] == made.high[2] == 1


def test_a_bootstrap_band_is_the_quantiles_of_all_resamples():
    values = np.array([[0.0, 1.0], [1.0, 4.0], [5.0, 4.0]])
    made = band([series([1, 2], row) for row in values], "bootstrap")
    # 3 runs have 27 equally likely resamples with few different means, on which the quantiles of 2000 draws fall
    exact = np.array([values[[a, b, c]].mean(0) for a in range(3) for b in range(3) for c in range(3)])
    low, high = np.quantile(exact, [0.025, 0.975], axis=0, method="inverted_cdf")
    assert made.low == pytest.approx(low) and made.high == pytest.approx(high)


def test_thinning_keeps_first_last_least_and_greatest_of_every_column():
    steps = np.arange(1, 10_001)
    values = np.random.default_rng(0).normal(size=10_000)
    values[[1234, 8765]] = 50, -50
    places = kept(steps, 100, values)
    assert len(places) <= 400 and (np.diff(places) > 0).all()
    for start in range(0, 10_000, 100):  # a column has 100 steps, but for rounding at its edges
        inside = places[(places >= start) & (places < start + 100)]
        part = values[start + 1 : start + 99]
        assert values[inside].max() >= part.max() and values[inside].min() <= part.min()
    assert {0, 1234, 8765, 9999} <= {*places.tolist()}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(1, 20))
def test_thinning_never_loses_an_extreme_of_any_array(values, columns):
    one = np.array(values)
    other = one[::-1].copy()
    places = kept(np.arange(len(one)), columns, one, other)
    for each in (one, other):
        assert each[places].min() == each.min() and each[places].max() == each.max()
    assert places[0] == 0 and places[-1] == len(one) - 1


def test_numbers_keep_five_digits():
    assert rounded([0.123456789, 2.0, 1e-7, 123456.7]) == [0.12346, 2, 1e-7, 123460]
    assert (
        numbers.number(0.0625) == "0.0625"
        and numbers.number(-1234.4) == "−1,234"
        and numbers.number(2.5e-7) == "2.50e−07"
    )


def test_runs_that_differ_by_their_seed_are_one_label(tmp_path):
    for seed in (0, 1, 10):
        training(tmp_path / f"r1-seed{seed}", curve([1.0]), seed=seed, model={"path": f"runs/sft-seed{seed}/final"})
    training(tmp_path / "zero", curve([1.0]), training={"learning_rate": 2e-4})
    compared = labels.curves([str(tmp_path)], compare=True)
    assert [(one.label, [run.name for run in one.runs]) for one in compared] == [
        ("r1", ["r1-seed0", "r1-seed1", "r1-seed10"]), ("zero", ["zero"])
    ]  # fmt: skip
    assert len(labels.curves([str(tmp_path)], compare=False)) == 4
    named = labels.curves([f"a={tmp_path}/zero", f"b={tmp_path}/r1-seed0,{tmp_path}/r1-seed1"], compare=True)
    assert [(one.label, len(one.runs)) for one in named] == [("a", 1), ("b", 2)]


def test_an_evaluation_goes_to_the_label_whose_model_it_asked(tmp_path):
    training(tmp_path / "r1", curve([1.0]))
    evaluation(tmp_path / "eval-r1", {"vqa/exact": 0.5}, model=str(tmp_path / "r1" / "final"))
    evaluation(tmp_path / "eval-base", {"vqa/exact": 0.25})
    found = evaluations.table(labels.curves([str(tmp_path)], compare=True))
    assert found["labels"] == ["eval-base", "r1"]
    assert found["rows"][0]["cells"] == ["25.0 [15.0, 35.0]", "50.0 [40.0, 60.0]"]


def test_numbers_that_are_no_shares_are_no_percentages(tmp_path):
    for seed, label in enumerate(("a", "b")):
        evaluation(tmp_path / label, {"vqa/exact": 0.5, "turns/mean": 1.5 + seed, "turns/depth_entropy": 0.5})
    found = evaluations.table(curves := labels.curves([str(tmp_path)], compare=False))
    assert {row["key"]: row["cells"][0] for row in found["rows"]} == {
        "vqa/exact": "50.0 [40.0, 60.0]", "turns/mean": "1.50 [1.40, 1.60]", "turns/depth_entropy": "0.50 [0.40, 0.60]"
    }  # fmt: skip
    assert "No percentages: turns/mean, turns/depth_entropy" in found["notes"]
    assert {row.metric for curve in curves for row in evaluations._rows(curve, None)} == {"vqa/exact"}


def test_a_short_run_that_logged_nothing_is_no_evaluation(tmp_path):
    """GRPO from the SFT's model, shorter than its logging_steps: its own label, not that of the model's maker."""
    training(tmp_path / "sft", curve([1.0]), stage="sft")
    training(tmp_path / "r1", [{"step": 2}], model={"path": str(tmp_path / "sft" / "final")})
    (tmp_path / "r1/metrics.jsonl").unlink()
    found = labels.curves([str(tmp_path)], compare=True)
    assert {one.label: [run.stage for run in one.runs] for one in found} == {"sft": ["sft"], "r1": ["grpo"]}


def test_the_picture_of_evaluations_has_labels_seeds_and_intervals(tmp_path):
    for label, values in {"base": [0.25], "r1": [0.5, 0.6]}.items():
        for seed, value in enumerate(values):
            evaluation(tmp_path / f"{label}-{seed}", {"vqa/exact": value, "vqa/exact[count]": 0.1})
    asked = [f"base={tmp_path}/base-0", f"r1={tmp_path}/r1-0,{tmp_path}/r1-1"]
    found = labels.curves(asked, compare=True)
    rows = {row.label: row for curve in found for row in evaluations._rows(curve, None)}
    assert {label: (row.metric, row.value, row.low, row.high) for label, row in rows.items()} == {
        "base": ("vqa/exact", 0.25, pytest.approx(0.15), 0.35),
        "r1": ("vqa/exact", pytest.approx(0.55), None, None),
    }
    assert rows["r1"].per_seed == (0.5, 0.6)
    start = "data:image/svg+xml;base64,"
    picture, narrow = evaluations.pictures(found)
    assert picture.startswith(start) and narrow.startswith(start)
    drawn = base64.b64decode(picture.removeprefix(start)).decode()
    for text in ("vqa/exact", "base", "r1", "25.0", "55.0", "95% interval", "each seed"):
        assert f">{text}<" in drawn, text
    assert "[count]" not in drawn and evaluations.pictures(found[:1]) == []


def test_a_matrix_has_its_labels_and_shared_stages_once(tmp_path):
    for place in ("SFT/seed-0/sft", "R1/seed-0/grpo", "R1/seed-1/grpo"):
        training(tmp_path / place, curve([1.0]), stage=place.rpartition("/")[2])
    evaluation(tmp_path / "R1/seed-0/eval", {"vqa/exact": 0.5})
    stages = {"sft": {"launch": "sft"}, "grpo": {"launch": "grpo"}, "eval": {"launch": "eval"}}
    runs = [
        {"label": "R1", "seed": 0, "stages": {s: f"R1/seed-0/{s}" for s in stages} | {"sft": "SFT/seed-0/sft"}},
        {"label": "R1", "seed": 1, "stages": {s: f"R1/seed-1/{s}" for s in stages} | {"sft": "SFT/seed-0/sft"}},
        {"label": "SFT", "seed": 0, "stages": {"sft": "SFT/seed-0/sft"}},
    ]
    (tmp_path / "study.json").write_text(json.dumps({"runs": runs, "matrix": {"stages": stages}}))
    found = labels.curves([str(tmp_path)], compare=True)
    assert {one.label: [run.name for run in one.runs] for one in found} == {
        "SFT": ["SFT/seed-0/sft"],
        "R1": ["R1/seed-0/grpo", "R1/seed-1/grpo", "R1/seed-0/eval"]
    }  # fmt: skip
    # the matrix's seed, whatever the recipe of a stage that draws nothing says
    (r1,) = (one for one in found if one.label == "R1")
    assert [run.seed for run in r1.runs] == ["0", "1", "0"] and r1.runs[1].recipe["seed"] == 0
    assert labels.title([str(tmp_path)]) == tmp_path.name
    assert labels.title([f"{tmp_path}/SFT/seed-0/sft"]) == labels.title([f"a={tmp_path}"]) == ""


def test_every_metric_stands_in_one_panel():
    keys = [
        "reward",
        "eval_reward",
        "kl",
        "reward_raw/vqa",
        "reward_raw/vqa_count",
        "score/corr_length",
        "mine/own",
        "epoch",
    ]
    placed = [(panel.title, names) for _, chosen in panels.placed(keys) for panel, names in chosen]
    assert placed[0] == ("Reward", {"reward": "", "eval_reward": "(held out)"})
    assert placed[-1] == ("mine/own", {"mine/own": ""})
    assert [key for _, names in placed for key in names] == [
        "reward", "eval_reward", "kl", "reward_raw/vqa", "reward_raw/vqa_count", "score/corr_length", "mine/own"
    ]  # fmt: skip


def test_lines_carry_bands_and_smooth_each_run_by_itself(tmp_path):
    for seed, level in ((0, 0.0), (1, 1.0)):
        training(tmp_path / f"a-seed{seed}", curve([level] * 12 + [level + 1]), seed=seed)
    (section,) = figures.sections(labels.curves([str(tmp_path)], True), figures.Look())
    (line,) = section["panels"][0]["lines"]
    assert line["runs"] == 2
    assert line["raw"]["y"] == [0.5] * 12 + [1.5] and line["raw"]["lo"][-1] == 1 and line["raw"]["hi"][-1] == 2
    assert 0.5 < line["smooth"]["y"][-1] < 1.5 and line["smooth"]["y"][0] == 0.5


def test_what_never_changes_is_told_in_words(tmp_path):
    training(tmp_path / "a", [{"step": n, "reward": n, "kl": 0.0} for n in range(3)])
    (section,) = figures.sections(labels.curves([str(tmp_path / "a")], False), figures.Look())
    assert [panel["title"] for panel in section["panels"]] == ["Reward"]
    assert section["constant"] == [{"title": "KL to the reference", "keys": ["kl"], "value": 0}]


def test_the_way_through_the_plane_is_means_of_equal_parts(tmp_path):
    rows = [{"step": n, "score/mean": n, "rewards/gold/mean": -n} for n in range(24)]
    curves = labels.curves([str(training(tmp_path / "a", rows))], False)
    (path,) = figures.planes(curves, "score/mean", "rewards/gold/mean")["paths"]
    assert path["x"] == [0.5 + 2 * n for n in range(12)] and path["y"] == [-0.5 - 2 * n for n in range(12)]
    assert path["r"] == -1 and path["n"] == 24 and path["step"][-1] == 23
    assert figures.planes(curves, "score/mean", "absent") is None


def test_what_leaves_its_healthy_range_is_listed(tmp_path):
    rows = [{"step": n, "score/shuffled_won": 0.9 if n < 20 else 0.4, "reward_raw/format": 1.0} for n in range(1, 31)]
    listed = numbers.outside(labels.curves([str(training(tmp_path / "a", rows))], False))
    assert [(row["key"], row["ended"]) for row in listed] == [
        ("score/shuffled_won", [{"label": "a", "value": "0.400", "of": ""}])
    ]


def test_an_advice_stands_once_and_the_least_possible_beside_what_was_spent(tmp_path):
    for name, rate in {"a": 1, "b": 2}.items():
        rows = [{"step": n, "score/shuffled_won": 0.1 * rate, "tokens/rollout": 9 + n, "tokens/rollout_ideal": n}
                for n in range(1, 31)]  # fmt: skip
        training(tmp_path / name, rows, training={"learning_rate": rate})
    curves = labels.curves([str(tmp_path)], True)
    (row,) = numbers.outside(curves)
    assert [(one["label"], one["value"]) for one in row["ended"]] == [("a", "0.100"), ("b", "0.200")]
    drawn = [one for part in figures.sections(curves, figures.Look()) for one in part["panels"]]
    (panel,) = [one for one in drawn if "tokens/rollout" in one["keys"]]
    assert panel["keys"] == ["tokens/rollout", "tokens/rollout_ideal"]
    assert [(line["label"], line["ideal"]) for line in panel["lines"]] == [(0, False), (1, False), (0, True), (1, True)]


def test_several_seeds_have_an_interval_over_seeds_and_questions(tmp_path):
    """All 30 questions right in one seed, none in the other: a resample of two seeds has 0, 1/2 or 1 with 1/4, 1/2 and
    1/4, and questions change nothing."""
    for seed, value in enumerate([0.0, 1.0]):
        evaluation(tmp_path / f"r1-{seed}", {"vqa/exact": value})

    class Report:
        def __init__(self, value):
            self.value = value

        def statistic(self, metric):
            return means([{str(n): self.value for n in range(30)}])

    found = labels.curves([f"r1={tmp_path}/r1-0,{tmp_path}/r1-1"], True)
    (row,) = evaluations._rows(found[0], lambda folder: {"": Report(float(folder.name[-1]))})
    assert (row.value, row.low, row.high, row.level) == (0.5, 0.0, 1.0, 0.95)

    def unreadable(folder):
        raise DataError("no predictions")

    (row,) = evaluations._rows(found[0], unreadable)
    assert (row.value, row.low, row.high) == (0.5, None, None)


def test_a_folder_holds_what_the_run_wrote(tmp_path):
    rows = [{"step": 1, "loss": 1.0, "kl": float("nan"), "note": "x"}, {"step": 2, "loss": 0.5}]
    rows += [{"step": 2, "train_runtime": 3.5, "train_loss": 0.5}]
    read = folders.read(training(tmp_path / "a", rows, seed=3))
    assert {key: values.tolist() for key, (_, values) in read.series.items()} == {"loss": [1.0, 0.5]}
    assert read.summary["train_runtime"] == 3.5 and read.state == "finished" and read.recipe["seed"] == 3
    assert folders.read(training(tmp_path / "b", rows, finished=False)).state == "unfinished"
    assert read.environment["python"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        folders.find(tmp_path / "absent")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(DataError, match=r"neither recipe.yaml nor metrics.jsonl"):
        folders.find(tmp_path / "empty")
    broken = training(tmp_path / "a", curve([1.0, 2.0]))
    (broken / "environment.json").write_text("{")
    with pytest.raises(DataError, match=r"environment.json: cannot be read as JSON"):
        folders.read(broken)
    (broken / "environment.json").unlink()
    (broken / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2"):
        folders.read(broken)
    with pytest.raises(DataError, match="label=folder"):
        labels.curves(["a="], True)
