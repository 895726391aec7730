"""A picture in one process and text alone in the other: the vision tower runs in both, or DDP and ZeRO-2 would stop at
its gradients, and ZeRO-3 wait for its weights. What is learned is what one process learns of both rows."""

from __future__ import annotations

import sys

import pytest

from rewards.score.training.preferences import Preference, write
from tests.support.processes import forked
from tests.support.processes.commands import LETTERS, ROOT, grpo, sft, two_processes
from tests.support.sample_rows import dump, shown_and_told
from tests.support.tiny_checkpoints import state

STEP = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "warmup_steps": 0}
STEP |= {"gradient_checkpointing": True, "logging_steps": 1}
TOLERANCE = 1e-5
"""Of weights, in float32."""


@pytest.fixture(scope="module")
def rows(demo_data, tmp_path_factory):
    """A folder with two rows, one with a picture, then one of text, and two pairs of such."""
    folder = tmp_path_factory.mktemp("mixed")
    shown, told = shown_and_told(demo_data)
    pairs = [Preference(shown["images"], shown["messages"][0]["content"], ["two ships", "a lake"])]
    pairs += [Preference([], told["messages"][0]["content"], ["four", "five or so"])]
    write(folder / "score.jsonl", pairs)
    dump(folder / "rows.jsonl", (shown, told))
    (folder / "letters.py").write_text(LETTERS)
    return folder


def trained(stage, tiny_model, demo_data, rows, tmp_path, zero: int, count: int = 2, *more: str):
    """The weights after one step over both rows."""
    output, given = tmp_path / f"{stage}-{zero}-{count}", more
    more = [f"training.{key}={value}" for key, value in STEP.items()]
    more += ["data.shuffle=false", f"sharding.zero={zero}", f"training.per_device_train_batch_size={2 // count}"]
    more += given
    if stage == "grpo":
        more += [f"data.train.0.path={rows}/rows.jsonl", f"rewards=[{{use: {rows}/letters.py:letters}}]"]
        more += ["training.per_device_train_batch_size=2", "training.beta=0.1"]
        argv = grpo(tiny_model, demo_data, output, *more)
    elif stage == "sft":
        argv = sft(tiny_model, demo_data, output, *more, f"data.train=[{{path: {rows}/rows.jsonl}}]")
    else:
        argv = [str(ROOT / "recipes/demo/score.yaml"), f"output={output}", f"model.path={tiny_model}", *more]
        argv += [f"data.train=[{{path: {rows}/score.jsonl}}]", "data.eval=[]"]
    script = ROOT / ("tests/support/processes/zero_cpu.py" if zero else f"launch/{stage}.py")
    start = two_processes() if count == 2 else [sys.executable]
    forked.run([*start, script, *argv], cwd=tmp_path, LAUNCHER=stage)
    return state(output / "final") if stage != "score" else whole(output / "final")


def whole(folder):
    """The weights of a score model."""
    from rewards.score.model.score_model import ScoreModel

    return ScoreModel.from_pretrained(folder).state_dict()


def apart(one, two) -> float:
    assert one.keys() == two.keys()
    return max((one[name].float() - two[name].float()).abs().max().item() for name in one)


@pytest.mark.parametrize(
    ("stage", "kind", "stages"),
    [
        ("sft", "qwen2_vl", (2, 3)),
        ("score", "qwen3_vl", (3,)),
        ("grpo", "qwen2_vl", (3,)),
        pytest.param("sft", "qwen2_vl", (0, 1), marks=pytest.mark.full),
        pytest.param("score", "qwen3_vl", (0, 1, 2), marks=pytest.mark.full),
        pytest.param("score", "qwen2_vl", (0, 1, 2, 3), marks=pytest.mark.full),
        pytest.param("grpo", "qwen2_vl", (1, 2), marks=pytest.mark.full),
    ],
)
def test_a_picture_in_one_process_alone(stage, kind, stages, tiny_model, family_checkpoints, demo_data, rows, tmp_path):
    """As one process; GRPO, whose random numbers are each process's own, as DDP, with two completions of each row."""
    model = tiny_model if kind == "qwen2_vl" else family_checkpoints(kind)
    given = (stage, model, demo_data, rows, tmp_path)
    expected = trained(*given, zero=0, count=2 if stage == "grpo" else 1)
    for zero in stages:
        assert apart(trained(*given, zero), expected) < TOLERANCE, zero
    if stage == "grpo":
        assert apart(trained(*given, stages[-1], 2, "share_prefix=false", "overwrite=true"), expected) < TOLERANCE
        import pandas

        table = pandas.read_parquet(tmp_path / "grpo-0-2/completions/completions_00001.parquet")
        assert table["image_file"].notna().sum() == 2 and len(table) == 4
    seen = {name.split("visual.")[1]: value for name, value in state(model).items() if "visual." in name}
    moved = [value - seen[name.split("visual.")[1]] for name, value in expected.items() if "visual." in name]
    assert len(moved) == len(seen) and max(change.abs().max() for change in moved) > 10 * TOLERANCE
