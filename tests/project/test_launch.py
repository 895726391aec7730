"""The commands of the README, in processes of their own: what they print, and what lies in the run folder after."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.support.processes import forked
from tests.support.processes.commands import ACCELERATE, LIMIT, ROOT, environment, evaluation, grpo, run, sft
from tests.support.runs import wandb_files

QUESTIONS = 16
"""Rows of the fixture `demo_data` to be answered: four test files of 4."""


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_trained(folder: Path, recipe_class: type, overrides: dict, tiny_model: str) -> None:
    """What SFT and GRPO leave behind: records that can be read again, and a model that differs from its start."""
    from stage.recipe import config
    from vlm.loading import load_model, load_processor
    from vlm.sections import ImageSection, ModelSection

    recipe = config.load(folder / "recipe.yaml", recipe_class)
    told = config.to_dict(recipe)
    assert {key: told["training"][key] for key in overrides} == overrides
    assert recipe.model.path == tiny_model and recipe.output == str(folder)
    rows = [row for row in jsonl(folder / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
    assert json.loads((folder / "finished.json").read_text())["steps"] == 2
    with Image.open(folder / "curves.png") as curves:
        assert min(curves.size) > 200
    section = ModelSection(path=str(folder / "final"), dtype="float32", attention="sdpa")
    trained, start = (
        load_model(section).state_dict(),
        load_model(ModelSection(path=tiny_model, dtype="float32")).state_dict(),
    )
    assert trained.keys() == start.keys()
    assert any(not trained[name].equal(start[name]) for name in start)
    processor = load_processor(section.path, ImageSection(min_pixels=12544, max_pixels=12544))
    assert processor.tokenizer.chat_template or processor.chat_template


@pytest.fixture(scope="module")
def sft_run(tiny_model, demo_data, tmp_path_factory):
    """`accelerate launch launch/sft.py …`, bare, from the project's root."""
    folder = tmp_path_factory.mktemp("sft") / "run"
    return folder, run([*ACCELERATE, "launch/sft.py", *sft(tiny_model, demo_data, folder, "training.warmup_steps=0")])


@pytest.fixture(scope="module")
def grpo_run(tiny_model, demo_data, tmp_path_factory):
    """GRPO from another directory with absolute paths, rewarding letters, with wandb and no account."""
    folder = tmp_path_factory.mktemp("grpo")
    (folder / "mine.py").write_text(
        "def letters(completions, answer, **columns):\n"
        "    assert all(isinstance(a, str) for a in answer)\n"
        '    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]\n'
    )
    more = (
        "rewards=[{use: gated}, {use: 'mine.py:letters', weight: 0.5}]",
        "training.warmup_steps=0",
        "tracking={report_to: [wandb], mode: offline, project: nadir-test, tags: [demo, tiny], samples: {every: 1}, "
        "alerts: {window: 2, patience: 1}}",
    )
    argv = grpo(tiny_model, demo_data, folder / "run", *more)
    home = {"HOME": str(folder / "home"), "WANDB_API_KEY": "", "NETRC": str(folder / "none")}
    return folder / "run", run([*ACCELERATE, ROOT / "launch/grpo.py", *argv], cwd=folder, **home)


def test_sft_command(sft_run, tiny_model):
    from sft.recipe import SFTRecipe

    folder, done = sft_run
    check_trained(folder, SFTRecipe, {"max_steps": 2, "per_device_train_batch_size": 4}, tiny_model)
    assert "sft: step 2/2" in done.stderr + done.stdout


def test_grpo_command(grpo_run, tiny_model, demo_data):
    from rl.recipe import GRPORecipe

    folder, done = grpo_run
    check_trained(folder, GRPORecipe, {"num_generations": 2, "max_completion_length": 12}, tiny_model)
    assert "grpo: step 2/2" in done.stderr + done.stdout and "reward" in done.stderr + done.stdout
    rows = [row for row in jsonl(folder / "metrics.jsonl") if "reward" in row]
    for row in rows:  # the weighted sum; a random model never keeps the format
        assert row["rewards/gated/mean"] == 0 and row["reward_raw/format"] == 0
        assert row["reward"] == pytest.approx(0.5 * row["rewards/letters/mean"])
    assert rows[0]["rewards/letters/mean"] > 0


def test_completions_table(grpo_run, demo_data):
    """Each completion with its picture, question, truth and rewards, readable without the data set."""
    import pandas

    folder, _ = grpo_run
    tables = sorted((folder / "completions").glob("*.parquet"))
    assert [path.name for path in tables] == ["completions_00001.parquet", "completions_00002.parquet"]
    truth = {row["id"]: row for row in jsonl(demo_data / "grpo/prompts.jsonl")}
    for path in tables:
        table = pandas.read_parquet(path)
        assert len(table) == 4
        for row in table.to_dict("records"):
            question = truth[Path(row["image_file"]).stem]
            assert Path(row["image_file"]).is_file() and row["task"] == question["task"]
            assert row["answer"] == question["answer"]
            assert question["messages"][0]["content"] in row["prompt"] and "<image>" in row["prompt"]
            assert row["letters"] == pytest.approx(sum(c.isalpha() for c in row["completion"]) / 20)
            assert row["gated"] == 0
            assert "<|image_pad|>" not in row["completion"]


def test_wandb_without_an_account(grpo_run):
    """The table of completions with its pictures waits in the run folder, whole, for `wandb sync`."""
    folder, done = grpo_run
    found = wandb_files.read(folder)
    assert (found.run.project, list(found.run.tags)) == ("nadir-test", ["demo", "tiny"])
    assert len(found.tables) == 2  # one a step
    rows = jsonl(folder / "samples.jsonl")
    assert [cell["completion"] for table in found.tables for cell in table] == [row["completion"] for row in rows]
    for cell, row in zip((cell for table in found.tables for cell in table), rows, strict=True):
        assert (cell["step"], cell["id"], cell["letters"]) == (row["step"], row["id"], row["rewards"]["letters"])
        with Image.open(folder / row["image"]) as kept:
            assert (cell["image"]["width"], cell["image"]["height"]) == kept.size == tuple(row["truth"]["size"])
        assert found.files[cell["image"]["path"]].read_bytes() == (folder / row["image"]).read_bytes()
    assert len(rows) == 8 and "api key" not in (done.stdout + done.stderr).lower()


def test_alerts_reach_every_place(grpo_run):
    """A random model comes to no end: its completions are cut off in both steps, a window of two."""
    folder, done = grpo_run
    (told,) = jsonl(folder / "alerts.jsonl")
    assert (told["sign"], told["since"], told["step"]) == ("clipped", 2, 2)
    (sent,) = wandb_files.read(folder).alerts
    assert (sent.title, sent.text, sent.level) == (told["title"], told["text"], "WARN")
    assert f"{told['title']}. {told['text']}" in done.stderr


@pytest.fixture(scope="module")
def interrupted(tiny_model, demo_data, tmp_path_factory):
    """An evaluation stopped by Ctrl-C after its first answers; with what it said and left."""
    folder = tmp_path_factory.mktemp("eval") / "run"
    argv = evaluation(tiny_model, demo_data, folder, "generation.batch_size=1", "generation.max_new_tokens=160")
    command = [sys.executable, ROOT / "launch/eval.py", *argv]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # a shell that runs the tests in the background makes them ignore Ctrl-C, and their children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    answers, deadline = folder / "predictions.jsonl", time.monotonic() + LIMIT
    while not (answers.exists() and answers.read_bytes().count(b"\n")):
        assert process.poll() is None and time.monotonic() < deadline, "ended before its first answer"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=LIMIT)[0].decode()
    kept, finished = answers.read_bytes(), (folder / "finished.json").exists()
    with answers.open("ab") as file:  # and as after a power cut: half a line at the end
        file.write(b'{"id": "half a li')
    return argv, folder, process.returncode, output, kept, finished


@pytest.fixture(scope="module")
def evaluated(interrupted):
    """The folder of the evaluation, finished by a second run; with what that run printed."""
    argv, folder, *_ = interrupted
    return argv, folder, forked.run([sys.executable, "launch/eval.py", *argv])


def test_ctrl_c_and_again(interrupted, evaluated, demo_data):
    """A second run of the same command answers what is left, each question once, and keeps what was there."""
    _, folder, code, output, kept, finished = interrupted
    assert code == 130 and "interrupted" in output and "Traceback" not in output
    before = kept.count(b"\n")
    assert 1 <= before < QUESTIONS and not finished
    assert f"continuing: {before} of {QUESTIONS}" in evaluated[2].stderr
    assert (folder / "predictions.jsonl").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    answered = [(row["source"], row["id"]) for row in jsonl(folder / "predictions.jsonl")]
    asked = [("vg_test", row["id"]) for row in json.loads((demo_data / "test/vg_test.json").read_text())]
    for name in ("vqa", "choice", "caption"):
        asked += [(row["source"], row["id"]) for row in jsonl(demo_data / f"test/{name}_test.jsonl")]
    assert answered == asked and len(asked) == QUESTIONS


def test_evaluation_folder(evaluated):
    """Metrics, table and pictures; and a finished evaluation is refused, not repeated."""
    from evals.recipe import EvalRecipe
    from stage.recipe import config

    argv, folder, _ = evaluated
    recipe = config.load(folder / "recipe.yaml", EvalRecipe)
    assert recipe.generation.batch_size == 1 and recipe.prompt.system == "Think, then answer."
    report = json.loads((folder / "metrics.json").read_text())
    text = json.dumps(report)
    for name in ("grounding/acc@0.5", "grounding/miou", "vqa/exact", "choice/accuracy", "open_ended/gold"):
        assert name in text and name in (folder / "table.md").read_text()
    with Image.open(folder / "pictures.png") as grid:
        assert min(grid.size) > 200
    again = forked.run([sys.executable, "launch/eval.py", *argv], expect=2)
    assert again.stderr.splitlines()[-1].startswith("error: ") and "holds a finished run" in again.stderr


def test_compare_command(evaluated, tmp_path):
    _, folder, _ = evaluated
    done = forked.run([sys.executable, "launch/compare.py", f"base={folder}", f"sft={folder}", "--out", tmp_path])
    # a model beside itself: no difference, and an interval of no width
    assert "base → sft: vqa/exact" in done.stdout and "+0.0 points [+0.0, +0.0]" in done.stdout
    table = (tmp_path / "table.md").read_text()
    assert "base" in table and "sft" in table and "grounding/acc@0.5" in table
    wrong = forked.run([sys.executable, "launch/compare.py", f"base={tmp_path}"], expect=2)
    assert wrong.stderr.startswith("error: ") and "predictions.jsonl" in wrong.stderr


@pytest.mark.parametrize("recipe", ["r1", "zero"])
def test_plan_of_the_paper(recipe, tmp_path, started, monkeypatch):
    """10 a GPU × 2 × 8 = 160 completions, 160 / 5 = 32 prompts, 8,000 / 32 × 2 epochs = 500 steps.

    Largest image: 1024² / 28² = 1,337 tokens. A plan writes nothing.
    """
    words = [ROOT / f"recipes/{recipe}.yaml", "--dry-run"]
    if recipe == "r1":  # the README's words
        said = run([*ACCELERATE, ROOT / "launch/grpo.py", *words], cwd=tmp_path).stdout
    else:
        monkeypatch.chdir(tmp_path)
        said = started("launch/grpo.py", *words)
    cells = {row[1].strip(): row[2].strip() for row in (line.split("│") for line in said.splitlines()) if row[2:]}
    assert cells["completions per step"].endswith("8 processes = 160")
    assert cells["prompts per step"] == "160 / G=5 = 32"
    assert (cells["steps per epoch"], cells["steps in all"]) == ("250", "500")
    assert cells["largest (max_pixels 1,048,576)"] == "1,337"
    assert "ZeRO-3 over 8" in said and "fits: " in said and "8×A100-80G" in said
    assert not list(tmp_path.iterdir())


def test_plan_of_sft_and_eval(started):
    """2 × 4 × 8 = 64 samples; 2,000 / 64 → 32 steps."""
    said = started("launch/sft.py", ROOT / "recipes/sft.yaml", "--dry-run")
    assert "8 processes = 64" in said and "fits: " in said
    steps = next(line for line in said.splitlines() if "steps in all" in line)
    assert steps.split("│")[2].strip() == "32"
    said = started("launch/eval.py", ROOT / "recipes/eval.yaml", "data.eval.0.limit=500", "--dry-run")
    assert "500 questions\n" in said and "335 to 1337 visual tokens" in said


def test_keys():
    """A page of keys with their meanings, with and without a recipe; then every key."""
    short = run([sys.executable, "launch/grpo.py", "--keys"]).stdout
    assert "sharding.zero: " in short and "model.lora.r: " not in short
    assert run([sys.executable, "launch/grpo.py", "--keys", "recipes/r1.yaml"]).stdout == short
    every = run([sys.executable, "launch/grpo.py", "--keys", "all"], PYTHONIOENCODING="ascii").stdout
    assert "model.lora.r: " in every and "\\u2265" in every  # what such a terminal cannot show is spelled out
