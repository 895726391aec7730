"""Two processes: gloo DDP, ZeRO-2 and ZeRO-3 train the same model from the same rollouts.

One generation and two updates from it (num_iterations 2): at the first update policy and reference agree, at the
second they do not, so that the reference model counts (beta > 0). SGD makes an update linear in the gradient; Adam's
first step is the gradient's sign, which rounding can turn where the gradient is almost zero.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from stage.parallel.sharding import buckets
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, grpo, two_processes
from tests.support.runs import planned_storage
from tests.support.tiny_checkpoints import state

TRAINING = {
    "per_device_train_batch_size": 2,  # one group of 4 in two processes
    "num_generations": 4,
    "num_iterations": 2,
    "beta": 0.1,
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
}
STAGES = {"ddp": 0, "zero2": 2, "zero3": 3}
SAVING = ("training.save_strategy=steps", "training.save_steps=1", "training.save_total_limit=2", "dump.steps=[2]")
TOLERANCE = 1e-5
"""Of weights and relative of metrics, in float32; measured 2e-7. The weights themselves move by 4e-2."""

LETTERS = """
import os, signal
def letters(completions, **columns):
    if os.environ.get("STOP") == os.environ["RANK"]:
        os.kill(os.getppid(), signal.SIGTERM)
    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]
"""
"""STOP: the process that ends the launcher in its first rollout, as a scheduler does."""


@pytest.fixture(scope="module")
def trained(tiny_model, demo_data, tmp_path_factory):
    """Run folder and output by name of STAGES; under `stopped` what ZeRO-3's first start has left and said."""
    folder = tmp_path_factory.mktemp("distributed")
    reward = folder / "letters.py"
    reward.write_text(LETTERS)
    results = {}
    for name, zero in STAGES.items():
        settings = [f"training.{key}={value}" for key, value in TRAINING.items()]
        argv = grpo(tiny_model, demo_data, folder / name, *settings, f"rewards=[{{use: {reward}:letters}}]", *SAVING)
        script = ROOT / ("tests/support/processes/zero_cpu.py" if zero else "launch/grpo.py")
        command = [*two_processes(), script, *argv, f"sharding.zero={zero}", "resume=auto"]
        if zero == 3:  # stopped by a SIGTERM to the launcher while it samples; all else holds of the run that went on
            stopped = forked.run(command, cwd=folder, expect=1, STOP="1")
            results["stopped"] = json.loads((folder / name / "interrupted.json").read_text()), stopped.stderr
        done = forked.run(command, cwd=folder)
        results[name] = folder / name, done.stdout + done.stderr
    return results


def metrics(folder) -> list[dict]:
    """The rows of the two updates."""
    from stage.runs import read_metrics

    return [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


def test_each_ran_as_it_should(trained):
    """Engines as DeepSpeed built them: policy and reference, in two processes."""
    engines = {
        name: Counter(re.findall(r"engine: ZeRO-\d on \d", out)) for name, (_, out) in trained.items() if name in STAGES
    }
    assert engines["ddp"] == {}
    # a reference without gradients has nothing that ZeRO-2 could shard; TRL gives it an engine of stage 0
    assert engines["zero2"] == {"engine: ZeRO-2 on 2": 2, "engine: ZeRO-0 on 2": 2}
    assert engines["zero3"] == {"engine: ZeRO-3 on 2": 4}
    whole = re.findall(r"engine: tensors kept whole: (\d+)", trained["zero3"][1])
    assert whole == ["0"] * 4  # every tensor is split, norms and biases too


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_buckets_are_as_planned(trained, name, tiny_model):
    """Of the engine that trains, in both processes, under a configuration that names them "auto"."""
    from vlm.loading import raw_config

    zero, config = STAGES[name], raw_config(tiny_model)
    expected = buckets(zero, config.get("text_config", config)["hidden_size"])
    _, out = trained[name]
    found = re.findall(rf"engine: ZeRO-{zero} on 2 processes: reduce (\d+), prefetch (\d+), live (\d+)", out)
    assert len(found) == 2
    for reduce, prefetch, live in found:
        assert int(reduce) == expected["reduce_bucket_size"] < 5e8
        if zero == 3:
            assert int(prefetch) == expected["stage3_prefetch_bucket_size"]
            assert int(live) == expected["stage3_max_live_parameters"]


@pytest.mark.parametrize("name", STAGES)
def test_checkpoints_take_what_was_planned(trained, name, monkeypatch):
    from rl.recipe import GRPORecipe
    from rl.stage import planned
    from stage.recipe import config

    monkeypatch.setenv("WORLD_SIZE", "2")
    folder, _ = trained[name]
    expected = planned(config.load(folder / "recipe.yaml", GRPORecipe), rows=100).storage
    planned_storage.check(folder / "checkpoint-2", expected)
    assert (folder / "final/model.safetensors").stat().st_size == pytest.approx(expected.final, rel=0.03)


@pytest.mark.parametrize("name", STAGES)
def test_run_folder(trained, name):
    """Written once, by the main process, with the completions of both."""
    import pandas

    folder, _ = trained[name]
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [1, 2]
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert numbers and all(map(math.isfinite, numbers))
    assert json.loads((folder / "finished.json").read_text())["steps"] == 2
    table = pandas.read_parquet(folder / "completions/completions_00001.parquet")
    assert len(table) == 4 and table["prompt"].nunique() == 1  # one group, two completions from each process
    assert table["letters"].mean() == pytest.approx(rows[0]["reward"], rel=1e-6)
    # standard deviation of the group over both processes, as GRPO scales advantages: Bessel's n - 1
    assert table["letters"].std(ddof=1) == pytest.approx(rows[0]["reward_std"], rel=1e-5)
    assert table["letters"].std(ddof=1) > 0.01
    advantages = (table["letters"] - table["letters"].mean()) / (table["letters"].std(ddof=1) + 1e-4)
    assert table["advantage"].to_list() == pytest.approx(advantages.to_list(), rel=1e-4)


def test_same_rollouts_and_metrics(trained):
    """Rewards and lengths to the digit; loss, gradient norm and KL to rounding."""
    expected = metrics(trained["ddp"][0])
    assert expected[0]["kl"] == 0  # policy and reference are the same weights
    assert expected[1]["kl"] > 0.01
    for name in ("zero2", "zero3"):
        found = metrics(trained[name][0])
        for key in ("reward", "reward_std", "completions/mean_length", "num_tokens"):
            assert found[0][key] == expected[0][key], (name, key)
        for step in (0, 1):
            for key in ("loss", "grad_norm", "kl", "entropy"):
                assert found[step][key] == pytest.approx(expected[step][key], rel=TOLERANCE, abs=1e-6), (name, key)


def test_same_weights(trained, tiny_model):
    """`final/` is whole and strict to load, moved from the start, and the same however it was sharded."""
    start, expected = state(tiny_model), state(trained["ddp"][0] / "final")
    moved = max((expected[name] - start[name]).abs().max().item() for name in start)
    assert moved > 100 * TOLERANCE
    assert any(not expected[name].equal(start[name]) for name in start if ".visual." in name)
    for name in ("zero2", "zero3"):
        found = state(trained[name][0] / "final")
        assert found.keys() == expected.keys() == start.keys()
        worst = max((found[tensor] - expected[tensor]).abs().max().item() for tensor in found)
        assert worst < TOLERANCE, name


def test_published_names(trained, tiny_model):
    """Names in the file, as every other reader of Qwen2-VL knows them. transformers 5.23 alone writes
    model.model.embed_tokens under ZeRO-3."""
    from safetensors import safe_open

    def names(folder):
        with safe_open(folder / "model.safetensors", "pt") as file:
            return set(file.keys())

    start = names(Path(tiny_model))
    assert "model.embed_tokens.weight" in start and "visual.patch_embed.proj.weight" in start
    for name in STAGES:
        assert names(trained[name][0] / "final") == start


@pytest.mark.parametrize("name", STAGES)
def test_a_step_is_computed_again_in_one_process(trained, name):
    """From the dump of both and the gathered weights, without sharding; the norm is that which the engine logged."""
    from rl import replaying as grpo_step
    from rl.recipe import GRPORecipe
    from stage.replay import replaying

    dump = replaying.read(trained[name][0], 2)
    recipe = dump.recipe([GRPORecipe])
    model, weights = replaying.model_of(dump, recipe, grpo_step.untrained)
    found = replaying.replay(grpo_step.trainer(recipe, model, "cpu"), dump)
    assert "checkpoint-1" in weights and [loss.rank for loss in found.losses] == [0, 1]
    assert max(loss.off() for loss in found.losses) < 1e-6
    assert found.gradient_norm == pytest.approx(metrics(trained[name][0])[1]["grad_norm"], rel=TOLERANCE)


def test_a_signal_stops_all_processes_at_the_same_step(trained):
    """And the same command has gone on from there, inside of a block: the other tests are of its end."""
    told, said = trained["stopped"]
    assert "stopped by SIGTERM after step 1" in said and (told["step"], told["exit_code"]) == (1, 75)
    folder, said = trained["zero3"]
    assert "resume: from" in said and not (folder / "interrupted.json").exists()


def test_the_log_says_what_the_first_hour_shows(trained):
    """docs/clusters.md, but for numbers, signal and machine."""
    page = (ROOT / "docs/clusters.md").read_text().partition("## The first hour")[2]
    said = trained["stopped"][1] + trained["zero3"][1]

    def shape(line: str) -> str:
        for shown, here in (("cuda", "cpu"), ("nccl", "gloo"), ("bfloat16", "float32"), ("SIGINT", "SIGTERM")):
            line = line.replace(shown, here)
        return re.sub(r"\d[\d,.:]*\d|\d", "N", re.sub(r"(?<=from )\S+/", "", line))

    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)[1].splitlines()
    found = [shape(line) for line in said.splitlines()]
    assert len(shown) == 4
    for line in map(shape, shown):
        assert any(line in other for other in found), (line, found)


def test_resumed_inside_of_a_block(trained, tiny_model, demo_data, tmp_path):
    """ZeRO-2 from the checkpoint after the first update, whose rollouts serve the second one too."""
    plain, _ = trained["zero2"]
    settings = [f"training.{key}={value}" for key, value in TRAINING.items()]
    settings += [f"rewards=[{{use: {plain.parent}/letters.py:letters}}]", "sharding.zero=2"]
    argv = grpo(tiny_model, demo_data, tmp_path / "run", *settings, f"resume={plain}/checkpoint-1")
    forked.run([*two_processes(), ROOT / "tests/support/processes/zero_cpu.py", *argv], cwd=tmp_path)
    assert [row["step"] for row in metrics(tmp_path / "run")] == [2]
    assert metrics(tmp_path / "run")[-1]["loss"] == pytest.approx(metrics(plain)[-1]["loss"], rel=TOLERANCE, abs=1e-6)
    found, expected = state(tmp_path / "run/final"), state(plain / "final")
    assert max((found[tensor] - expected[tensor]).abs().max().item() for tensor in expected) < TOLERANCE


KILLED = {"ddp": 50, "zero2": 53}
"""Seeds of the moments at which processes die (`tests.support.processes.killed_ranks`)."""
ALL = ("rollout", "rewards", "backward", "writing")
"""Places to which every process comes."""
MAIN = ("log", "manifest", "renaming", "renamed")
"""Places to which only the main one comes."""


def moments(seed: int, count: int, calls: int) -> list[dict]:
    """Random moments: of one process and of both in turn, each at one of the first `calls` times at a place."""
    drawn, found = random.Random(seed), []
    for number in range(count):
        rank = drawn.randrange(2)
        place = drawn.choice(ALL if rank else (*ALL, *MAIN))
        found.append({"rank": rank, "both": number % 2 == 1, "place": place, "call": drawn.randint(1, calls)})
    return found


def killed(folder, argv, zero, kills):
    """Run on to the end, whatever dies; the weights of `final/`."""
    script = ROOT / "tests/support/processes/killed_ranks.py"
    told = {"KILLS": json.dumps(kills), "JOURNAL": str(folder / "deaths")}
    for start in range(len(kills) + 1):  # each is a launcher of its own, as after a requeue
        command = [*two_processes(), script, *argv, f"sharding.zero={zero}", "resume=auto"]
        forked.run(command, cwd=folder, expect=int(start < len(kills)), START=str(start), **told)
    deaths = [json.loads(line) for line in (folder / "deaths").read_text().splitlines()]
    assert deaths == kills  # each of them came about
    return state(folder / "run/final")


@pytest.mark.parametrize("name", KILLED)
def test_one_process_and_both_are_killed(trained, tiny_model, demo_data, tmp_path, name):
    """kill -9 of one of two, and of both, each at a random moment, and the same command once more after each. The end
    is that of the run nobody killed, to the bit."""
    plain, _ = trained[name]
    settings = [f"training.{key}={value}" for key, value in TRAINING.items()]
    settings += [f"rewards=[{{use: {plain.parent}/letters.py:letters}}]", *SAVING]
    argv = grpo(tiny_model, demo_data, tmp_path / "run", *settings)
    found = killed(tmp_path, argv, STAGES[name], moments(KILLED[name], 2, 1))
    expected = state(plain / "final")
    assert [tensor for tensor in expected if not found[tensor].equal(expected[tensor])] == []
    clock = ("time", "throughput/", "train_", "step_time")
    rows = [
        [{key: value for key, value in row.items() if not key.startswith(clock)} for row in metrics(folder)]
        for folder in (tmp_path / "run", plain)
    ]
    assert rows[0] == rows[1]


@pytest.mark.full
@pytest.mark.parametrize("seed", [2026, 2027])
@pytest.mark.parametrize("name", KILLED)
def test_killed_at_ten_random_moments_each(tiny_model, demo_data, tmp_path, name, seed):
    """Ten deaths of one process and ten of both, in a run of 60 steps with blocks of two iterations."""
    (tmp_path / "letters.py").write_text(LETTERS)
    settings = [f"training.{key}={value}" for key, value in TRAINING.items()]
    settings += [f"rewards=[{{use: {tmp_path}/letters.py:letters}}]", *SAVING[:3], "training.max_steps=60"]
    settings += ["training.learning_rate=0.05"]
    kills, zero = moments(seed, 20, 4), STAGES[name]
    plain = grpo(tiny_model, demo_data, tmp_path / "plain", *settings, f"sharding.zero={zero}")
    script = ROOT / ("tests/support/processes/zero_cpu.py" if zero else "launch/grpo.py")
    forked.run([*two_processes(), script, *plain], cwd=tmp_path)
    found = killed(tmp_path, grpo(tiny_model, demo_data, tmp_path / "run", *settings), zero, kills)
    expected = state(tmp_path / "plain/final")
    worst = max((found[tensor] - expected[tensor]).abs().max().item() for tensor in expected)
    print(f"{name}, seed {seed}: {len(kills)} deaths; largest difference of a weight {worst:g}; {kills}")
    assert worst == 0


def test_dry_run_counts_the_processes(tiny_model, demo_data, tmp_path, started):
    """4 a process × 2 processes / G = 2: 4 prompts a step, 16 rows in 4 steps."""
    argv = grpo(tiny_model, demo_data, tmp_path / "run", "training.max_steps=-1", "training.num_train_epochs=1")
    said = started("launch/grpo.py", *argv, "--dry-run", WORLD_SIZE="2", RANK="0")
    assert "4 a GPU × 1 accumulation × 2 processes = 8" in said
    steps = next(line for line in said.splitlines() if "steps in all" in line)
    assert steps.split("│")[2].strip() == "4"
