"""The report's chapter on over-optimisation: found where it was measured, and the fits of `studies.scaling`."""

import base64

import numpy as np
import pytest

from studies.report import optimisation, page
from studies.report.runs import labels
from tests.support.runs.run_folders import training

GOLD = {"rewards": [{"use": "gated", "weight": 1.0}, {"use": "demo.world.captions:reward", "weight": 0}]}


def rows(alpha, beta):
    """Gold on the published form d (alpha - beta log d), the learned reward on a straight line; KL of 20 tokens."""
    found = []
    for step, d in enumerate(np.linspace(0.2, 4, 20), 1):
        gold, learned = d * (alpha - beta * np.log(d)), 0.3 + d
        kl = {"kl": d**2 / 20, "completions/mean_length": 20.0}
        stds = {"score/std": 1.0, "rewards/reward/std": 0.5}
        found.append({"step": step, "score/mean": learned, "rewards/reward/mean": gold, **kl, **stds})
    return found


def test_the_published_form_is_found_again(tmp_path):
    training(tmp_path / "a", rows(0.6, 0.5), **GOLD)
    curves = labels.curves([str(tmp_path / "a")], False)
    found = optimisation.chapter(curves, "rewards/reward/mean")
    (gold,) = [row for row in found["rows"] if row[1] == "gold"]
    assert [float(cell.split()[0]) for cell in gold[3:5]] == pytest.approx([0.6, 0.5], rel=1e-2)
    peak = float(gold[5].split()[0])  # d* = exp(alpha / beta - 1)
    assert peak == pytest.approx(np.exp(0.6 / 0.5 - 1), rel=2e-2)
    kind, _, content = found["picture"].partition(",")
    assert kind == "data:image/svg+xml;base64" and b"<svg" in base64.b64decode(content)
    text = page.html(page.Asked(curves))  # gold is found by its weight of 0
    assert '<section id="optimisation">' in text and gold[3] in text and 'href="#optimisation"' in text


def test_without_a_measured_kl_there_is_no_chapter(tmp_path):
    plain = [{k: v for k, v in row.items() if k != "kl"} for row in rows(0.6, 0.5)]
    training(tmp_path / "a", plain, **GOLD)
    curves = labels.curves([str(tmp_path / "a")], False)
    assert optimisation.chapter(curves, "rewards/reward/mean") is None
    assert 'id="optimisation"' not in page.html(page.Asked(curves))


def test_too_few_rows_are_told_and_shown_without_a_fit(tmp_path):
    training(tmp_path / "a", rows(0.6, 0.5)[:3], **GOLD)
    found = optimisation.chapter(labels.curves([str(tmp_path / "a")], False), "rewards/reward/mean")
    assert found["rows"] == [] and any("no fit of gold" in note for note in found["notes"])
