"""Two processes under ZeRO-3 on rows with two pictures: what is learned is what one process learns of all rows."""

from __future__ import annotations

import json
import sys

import pytest

from rewards.score.training.preferences import Preference, write
from tests.stage.test_mixed_rows import STEP, TOLERANCE, apart, whole
from tests.support.processes import forked
from tests.support.processes.commands import LETTERS, ROOT, grpo, sft, two_processes
from tests.support.sample_rows import dump, pairs
from tests.support.tiny_checkpoints import state

pytestmark = pytest.mark.slow

TWO, ONE = 2, 3
"""Prompts of `tests.families.conftest`: with two pictures of different sizes, and with one."""
IMAGES = "images={min_pixels: 1568, max_pixels: 12544, row_pixels: 18816}"


MORE = pytest.mark.full


@pytest.mark.parametrize(
    ("kind", "each"),
    [
        ("qwen2_vl", [(TWO, ONE)]),
        pytest.param("qwen2_vl", [(TWO, TWO)], marks=MORE),
        pytest.param("internvl", [(TWO, TWO), (TWO, ONE)], marks=MORE),
    ],
)
def test_gradients_of_every_pass(kind, each, family_checkpoints, tmp_path):
    """SFT's, GRPO's row by row and by shared prefixes; two pictures in each process, or in one beside one picture."""
    kinds = {kind: family_checkpoints(kind)}
    script = ROOT / "tests/families/passes.py"
    argv = [*two_processes(), script, tmp_path, json.dumps(kinds), json.dumps(each)]
    said = forked.run(argv, cwd=tmp_path).stdout
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"kind"')]
    assert len(lines) == len(each) * 3
    for line in lines:
        assert line["off"] < 1e-6 and line["largest"] > 1 and not line["idle"], line
        assert line["apart"] < 1e-5 * max(1, line["largest"]), line


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with four rows, and as many preferences: pairs of pictures, of one and of two sizes, and one alone."""
    folder = tmp_path_factory.mktemp("pairs")
    found = pairs(folder)
    dump(folder / "rows.jsonl", found)
    ranked = [Preference(row["images"], row["messages"][0]["content"], [row["answer"], "a lake"]) for row in found]
    write(folder / "score.jsonl", ranked)
    (folder / "letters.py").write_text(LETTERS)
    return folder


def trained(stage, tiny_model, demo_data, rows, tmp_path, zero: int, count: int, *more: str):
    """The weights after one step over all rows."""
    output = tmp_path / f"{stage}-{zero}-{count}-{len(more)}"
    given = [f"training.{key}={value}" for key, value in STEP.items()]
    given += ["data.shuffle=false", f"sharding.zero={zero}", IMAGES]
    given += [f"training.per_device_train_batch_size={(8 if stage == 'grpo' else 4) // count}", *more]
    if stage == "grpo":
        given += [f"data.train=[{{path: {rows}/rows.jsonl}}]", f"rewards=[{{use: {rows}/letters.py:letters}}]"]
        argv = grpo(tiny_model, demo_data, output, *given, "training.beta=0.1")
    elif stage == "sft":
        argv = sft(tiny_model, demo_data, output, *given, f"data.train=[{{path: {rows}/rows.jsonl}}]")
    else:
        argv = [str(ROOT / "recipes/demo/score.yaml"), f"output={output}", f"model.path={tiny_model}", *given]
        argv += [f"data.train=[{{path: {rows}/score.jsonl}}]", "data.eval=[]"]
    script = ROOT / ("tests/support/processes/zero_cpu.py" if zero else f"launch/{stage}.py")
    start = two_processes() if count == 2 else [sys.executable]
    forked.run([*start, script, *argv], cwd=tmp_path, LAUNCHER=stage)
    return whole(output / "final") if stage == "score" else state(output / "final")


@pytest.mark.parametrize("stage", [pytest.param("sft", marks=MORE), "score", "grpo"])
def test_a_step_of_two_processes(stage, tiny_model, demo_data, rows, tmp_path):
    """As of one; of GRPO, whose random numbers are each process's own, as of two by DDP that share no prefix."""
    given = (stage, tiny_model, demo_data, rows, tmp_path)
    expected = trained(*given, 0, 2, "share_prefix=false") if stage == "grpo" else trained(*given, 0, 1)
    assert apart(trained(*given, 3, 2), expected) < TOLERANCE
    start = {name.split("visual.")[1]: value for name, value in state(tiny_model).items() if "visual." in name}
    moved = [value - start[name.split("visual.")[1]] for name, value in expected.items() if "visual." in name]
    assert len(moved) == len(start) and max(change.abs().max() for change in moved) > 10 * TOLERANCE
