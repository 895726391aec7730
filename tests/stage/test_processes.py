"""One process or two (gloo): the same trajectory at the same global batch.

A step of GRPO has 12 completions of 3 prompts: one process computes them in two micro-batches of 6, or two processes
6 each, so that one group's completions stand in both. A step of SFT has 8 traces: 2 × 4, or 4 in each of two.

The two processes also report to wandb, offline and without an account: what arrives there, and in the run folder.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pandas
import pytest
from PIL import Image
from safetensors.torch import load_file

from stage.runs import read_metrics
from tests.support.processes.commands import LETTERS, ROOT, grpo, run, sft, two_processes
from tests.support.processes.common_numbers import go
from tests.support.runs import wandb_files

TOLERANCE = 1e-5
"""Of weights, which move by more than a thousand times as much; relative of metrics."""
SGD = ["optim=sgd", "learning_rate=0.5", "lr_scheduler_type=constant", "warmup_steps=0", "max_steps=2"]
"""An update linear in the gradient; Adam's first step is its sign, which rounding can turn."""
TRACKING = "samples: {rows: 7, pixels: 2500}, axes: {start: zero, seed: 0}"
WANDB = f"report_to: [wandb], mode: offline, project: p, group: demo, tags: [tiny], {TRACKING}"


def jobs(tiny_model, demo_data, folder, accumulation: int) -> list:
    """Both stages; the output folders tell the number of processes by their names."""
    reward = folder / "letters.py"
    reward.write_text(LETTERS)
    common = [f"training.{key}" for key in (*SGD, f"gradient_accumulation_steps={accumulation}")]
    rollouts = ["num_generations=4", "per_device_train_batch_size=6", "num_iterations=2", "beta=0.1"]
    rollouts = [f"training.{key}" for key in rollouts] + [f"rewards=[{{use: {reward}:letters}}]"]
    rollouts += ["dump.steps=[2]", "dump.weights=true", f"tracking={{{WANDB if accumulation == 1 else TRACKING}}}"]
    return [
        ["grpo", grpo(tiny_model, demo_data, folder / f"grpo-{accumulation}", *common, *rollouts)],
        ["sft", sft(tiny_model, demo_data, folder / f"sft-{accumulation}", *common)],
    ]


@pytest.fixture(scope="module")
def folder(tiny_model, demo_data, tmp_path_factory):
    """Holds `grpo-2` and `sft-2` of one process, and `grpo-1` and `sft-1` of two."""
    folder = tmp_path_factory.mktemp("processes")
    two = json.dumps(jobs(tiny_model, demo_data, folder, 1))
    home = {"HOME": str(folder / "home"), "WANDB_API_KEY": "", "NETRC": str(folder / "none")}
    run([*two_processes(), ROOT / "tests/support/processes/common_numbers.py", two], cwd=folder, **home)
    go(jobs(tiny_model, demo_data, folder, 2))
    return folder


def metrics(folder) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("stage", ["grpo", "sft"])
def test_the_same_trajectory(folder, stage, tiny_model):
    counts = [json.loads((folder / f"{stage}-{n}/record.json").read_text())["processes"] for n in (1, 2)]
    assert [(count["world_size"], count["type"]) for count in counts] == [(2, "MULTI_CPU"), (1, "NO")]
    two, one = metrics(folder / f"{stage}-1"), metrics(folder / f"{stage}-2")
    assert len(one) == len(two) == 2
    of_rollouts = ["kl", "entropy", "reward", "reward_std"] if stage == "grpo" else []  # SFT's: means of micro-batches
    for key in ("loss", "grad_norm", "num_tokens", *of_rollouts):
        expected = [row[key] for row in one if key in row]
        assert [row[key] for row in two if key in row] == pytest.approx(expected, rel=TOLERANCE, abs=1e-6), key
        assert expected, key
    start = load_file(f"{tiny_model}/model.safetensors")
    expected, found = (load_file(folder / f"{stage}-{n}/final/model.safetensors") for n in (2, 1))
    assert found.keys() == expected.keys() == start.keys()
    assert max((expected[name] - start[name]).abs().max().item() for name in start) > 1000 * TOLERANCE
    assert max((expected[name] - found[name]).abs().max().item() for name in start) < TOLERANCE


def test_a_group_in_two_processes_has_the_advantages_of_one(folder):
    """Of each completion: the second prompt's stand in both processes, and count against each other all the same."""
    tables = []
    for name in ("grpo-1", "grpo-2"):
        table = pandas.read_parquet(folder / name / "completions/completions_00001.parquet")
        tables.append(table.sort_values(["prompt", "completion"])[["prompt", "completion", "letters", "advantage"]])
    two, one = tables
    assert len(one) == 12 and one["completion"].nunique() > 6 and one["advantage"].abs().max() > 0.5
    assert two["completion"].to_list() == one["completion"].to_list()
    assert two["advantage"].to_list() == pytest.approx(one["advantage"].to_list(), rel=1e-5, abs=1e-6)
    groups = one.groupby("prompt")["letters"]
    expected = (one["letters"] - groups.transform("mean")) / (groups.transform("std") + 1e-4)
    assert one["advantage"].to_list() == pytest.approx(expected.to_list(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", ["grpo", "sft"])
def test_no_picture_goes_to_the_other_process_whole(folder, stage):
    """A scene has 224² pixels of three bytes; what is gathered of one for the table has 2,500 pixels as JPEG."""
    sizes = [int((folder / f"gathered-{stage}-{rank}").read_text()) for rank in (0, 1)]
    assert 0 < max(sizes) < 10_000


def test_a_step_of_two_processes_is_replayed_in_one(folder, monkeypatch, capsys, log_levels):
    monkeypatch.setattr(sys, "argv", ["replay.py", str(folder / "grpo-1"), "--step", "2"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "launch/replay.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert done.value.code == 0 and "rank 1, micro-batch 0" in said and "reproduced, bit by bit" in said
    row = next(row for row in metrics(folder / "grpo-1") if row["step"] == 2)
    assert float(said.partition("gradient norm ")[2].split()[0]) == pytest.approx(row["grad_norm"], rel=1e-6)


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_show_the_rows_that_one_shows(folder):
    """Of 7 rows: two completions of each of the three prompts; the last prompt's stand in the second process. One
    generation is trained on in both steps."""
    two, one = (jsonl(folder / name / "samples.jsonl") for name in ("grpo-1", "grpo-2"))
    places = [(1, 0, 0), (1, 1, 0), (1, 4, 1), (1, 5, 1), (1, 8, 2), (1, 9, 2)]
    for rows in (one, two):
        assert [(row["step"], row["row"], row["group"]) for row in rows] == places
    table = pandas.read_parquet(folder / "grpo-1/completions/completions_00001.parquet")
    assert len(table) == 12  # TRL's own file stays whole
    for here, there in zip(two, one, strict=True):
        numbers = [[row.pop("advantage"), row.pop("rewards")["letters"]] for row in (here, there)]
        assert here == there and numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-6)
        noted = table.iloc[here["row"]]
        assert (here["prompt"], here["completion"]) == (noted["prompt"], noted["completion"])
        assert numbers[0] == [noted["advantage"], noted["letters"]]
        assert here["id"] == Path(noted["image_file"]).stem and here["truth"]["answer"] == noted["answer"]
        with Image.open(folder / "grpo-1" / here["image"]) as kept, Image.open(noted["image_file"]) as scene:
            assert kept.size == (50, 50) == tuple(here["image_size"]) and tuple(here["truth"]["size"]) == scene.size
            small, large = (picture.convert("RGB").resize((1, 1), Image.Resampling.BOX) for picture in (kept, scene))
            assert small.getpixel((0, 0)) == pytest.approx(large.getpixel((0, 0)), abs=4)


def test_wandb_knows_group_tags_axes_and_recipe_and_has_the_table(folder):
    found = wandb_files.read(folder / "grpo-1")
    assert (found.run.project, found.run.run_group, found.run.job_type) == ("p", "demo", "grpo")
    assert list(found.run.tags) == ["tiny", "start:zero", "seed:0"]
    assert found.run.run_id == json.loads((folder / "grpo-1/tracking.json").read_text())["wandb"]
    assert found.config["axes"] == {"start": "zero", "seed": 0} and found.config["cell"] == "start=zero"
    assert found.config["recipe"]["training"]["num_generations"] == 4
    assert [entry["train/global_step"] for entry in found.history if "train/loss" in entry] == [1, 2]
    assert not [name for entry in found.history for name in entry if name.startswith("profiling/")]
    (table,) = found.tables
    rows = jsonl(folder / "grpo-1/samples.jsonl")
    for cells, row in zip(table, rows, strict=True):
        assert [cells[key] for key in ("id", "completion", "advantage")] == [
            row["id"],
            row["completion"],
            row["advantage"],
        ]
        assert cells["letters"] == row["rewards"]["letters"] and cells["image"]["path"] in found.files
        assert ("truth" in cells["image"].get("boxes", ())) == (row["task"] == "grounding")
