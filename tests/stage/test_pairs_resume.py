"""GRPO on rows with two pictures, killed and started again: to the same numbers as the run that nobody killed."""

from __future__ import annotations

import pytest

from stage.checkpoints import manifest
from tests.stage.test_kills import check_same
from tests.support.processes import commands
from tests.support.processes.commands import LETTERS
from tests.support.processes.dying import run
from tests.support.sample_rows import dump, pairs

pytestmark = pytest.mark.xdist_group("kills")


@pytest.fixture
def command(tiny_model, demo_data, tmp_path):
    """(folder name, overrides) → the launcher's arguments and the run folder."""
    (tmp_path / "letters.py").write_text(LETTERS)
    rows = dump(tmp_path / "rows.jsonl", pairs(tmp_path))
    more = [
        f"data.train=[{{path: {rows}}}]", f"rewards=[{{use: {tmp_path}/letters.py:letters}}]",
        # drawn sizes within the budget of a row: what is drawn must be drawn again
        "images={min_pixels: 1568, max_pixels: 12544, row_pixels: 18816, "
        "random_resize: {min_pixels: 1568, max_pixels: 12544}}",
        "training.save_strategy=steps", "training.save_steps=1", "training.max_steps=5", "training.beta=0.05",
        "training.gradient_accumulation_steps=2", "training.steps_per_generation=4", "training.num_iterations=2",
        "training.per_device_train_batch_size=2",
    ]  # fmt: skip

    def make(name, *given):
        return commands.grpo(tiny_model, demo_data, tmp_path / name, *more, *given), tmp_path / name

    return make


def test_a_killed_run_ends_as_one_that_nobody_killed(command):
    """Between the two steps of a block's second iteration; on the way, it draws a second pass over the data, at other
    sizes."""
    argv, expected = command("plain")
    assert run("grpo", argv) == 0
    argv, folder = command("killed", "resume=auto")
    assert run("grpo", argv, "backward", 7) == -9
    assert manifest.latest(folder).step == 3
    assert run("grpo", argv) == 0
    check_same(folder, expected)
