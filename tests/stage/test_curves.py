"""The picture of the metrics: its smoothing, and a panel for each series."""

import numpy as np
import pytest
from PIL import Image

from stage import curves
from stage.runs import Run
from vlm.common.errors import DataError


def test_smooth_is_the_bias_corrected_average():
    # span 3: a = 1/2, so m1 = x1; m2 = (x1/4 + x2/2) / (3/4); m3 = (x1/8 + x2/4 + x3/2) / (7/8)
    out = curves.smooth(np.array([3.0, 6.0, 14.0]), span=3)
    assert out == pytest.approx([3.0, (0.75 + 3.0) / 0.75, (0.375 + 1.5 + 7.0) / 0.875])
    assert curves.smooth(np.full(5, 0.7), span=10) == pytest.approx(0.7)  # a constant stays itself from the start


def test_draw_makes_a_panel_for_each_series_that_exists(tmp_path):
    run = Run.create(tmp_path, {})
    for step in range(20):
        run.log(step, {"loss": 1 / (step + 1), "rewards/iou/mean": step / 20, "kl": float("nan"), "epoch": 1.0})
    run.log(20, {"eval_loss": 0.3, "note": "text"})
    drawn = curves.draw(run.metrics, tmp_path / "curves.png", title="a run")
    assert drawn == ["Reward components, raw", "Loss"], "kl was never finite, so it has no panel"
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG" and image.width > 600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20, "the picture is blank"


def test_draw_holds_at_most_nine_panels(tmp_path):
    keys = ["reward", "reward_raw/iou", "loss", "mean_token_accuracy", "kl", "completions/mean_length", "entropy",
            "frac_reward_zero_std", "grad_norm", "learning_rate"]  # fmt: skip
    run = Run.create(tmp_path, {})
    run.log(1, dict.fromkeys(keys, 0.5))
    assert len(curves.draw(run.metrics, tmp_path / "curves.png")) == 9


def test_a_run_shorter_than_a_logging_interval_has_no_picture(tmp_path, caplog):
    run = Run.create(tmp_path, {})
    run.log(1, {"train_runtime": 3.0})
    curves.draw_run(run, "SFT")
    assert not (tmp_path / "curves.png").exists() and "training.logging_steps" in caplog.text
    run.log(2, {"loss": 3.0})
    curves.draw_run(run, "SFT")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_draw_without_series_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "note": "x"}\n')
    with pytest.raises(DataError, match="no series to draw in 1 rows"):
        curves.draw(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
