"""Columns of the data that are no field of ours: rewards get them, and one that none has is refused before weights."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import rewards
import rl
import samples
from rewards import gold
from rewards.columns import check_columns, required
from rewards.guarded import Limits, guard
from rl.recipe import GRPORecipe
from samples import Sample
from samples.columns import Columns
from samples.rows import prompt_rows
from stage.recipe import config
from stage.trainer.arguments import arguments
from tests.support.processes.commands import ROOT
from tests.support.tiny_checkpoints import section
from vlm.common.errors import RecipeError
from vlm.loading import load_model, load_processor
from vlm.sections import ImageSection, ModelSection, PromptSection

ACCURACY = "def accuracy(completions, solution, **columns):\n    return [float(len(str(one))) for one in solution]\n"


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "accuracy.py").write_text(ACCURACY)
    return f"{tmp_path / 'accuracy.py'}:accuracy"


@pytest.fixture
def table(tmp_path):
    """TRL's rows: `solution` beside our `answer` of the same content, and a column of our own in one of them."""
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    turn = [{"role": "user", "content": "How many?"}]
    row = {"prompt": turn, "image": "a.png", "task": "vqa", "solution": 12}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'solution': 'abc', 'level': [1]})}\n")
    return tmp_path / "rows.jsonl"


def sample(task="vqa", columns=None, **more):
    return Sample([], [{"role": "user", "content": "?"}], task, columns=columns, **more)


def by_task(*rows):
    return Columns(rows).by_task


def test_columns_by_task():
    rows = (sample(answer="3", columns={"a": 1, "b": None}), sample("caption", kind="x"), sample(columns={"c": 0}))
    assert by_task(*rows) == {"vqa": {"answer", "a", "c"}, "caption": {"kind"}}


def test_what_a_reward_requires(plugin):
    reward = rewards.resolve(plugin)
    assert required(reward) == required(guard(reward, Limits())) == ["solution"]
    assert required(rewards.exact_match) == required(rewards.resolve("gated")) == []

    class Held:
        def __call__(self, completions, level, answer, prompts=None, **columns):
            return [0.0 for _ in completions]

    assert required(Held()) == ["level", "answer"]


def test_a_column_that_no_row_has_is_refused(plugin):
    guarded = guard(rewards.resolve(plugin), Limits())
    rows = by_task(sample(answer="3", columns={"solutions": 1, "level": 2}))
    said = (
        r"reward 'accuracy' needs the column 'solution', which no row of the data has; did you mean 'solutions'\? "
        r"columns at hand: answer, level, solutions. Name it at the source: `columns: \{solution: solutions\}`"
    )
    with pytest.raises(RecipeError, match=said):
        rewards.check_data([guarded], rows)
    rewards.check_data([guarded], by_task(sample(answer="3"), sample(columns={"solution": 1})))
    rewards.check_data([guarded], {"vqa"})  # rows that are not here: tasks alone


def test_inside_of_gated_the_rows_of_the_task_count(plugin):
    gated = guard(rewards.resolve("gated", tasks={"caption": plugin}), Limits())
    caption, vqa = sample("caption", columns={"solution": "x"}), sample(answer="3", columns={"solution": "x"})
    rewards.check_data([gated], by_task(caption, vqa))
    rewards.check_data([gated], by_task(vqa))
    with pytest.raises(
        RecipeError, match=r"'gated', tasks.caption \(accuracy\) needs .* of the rows of task 'caption'"
    ):
        rewards.check_data([gated], by_task(sample("caption"), vqa))


def test_an_option_that_a_column_would_replace_is_refused():
    def mentions(completions, word="dam", **columns):
        return [0.0 for _ in completions]

    rows = by_task(sample(columns={"word": "x"}))
    with pytest.raises(RecipeError, match="its option 'word' has the name of a column"):
        check_columns([mentions], rows)
    rewards.check_data([mentions], by_task(sample(columns={"other": "x"})))


def test_trls_columns_reach_a_guarded_reward_in_training(table, plugin, tiny_model, tmp_path):
    """The reward is the length of the solution: 2 of 12, 3 of abc; `level` is None where the row lacks it."""
    seen = []

    def level(completions, level, **columns):
        seen.extend(level)
        return [0.0 for _ in completions]

    read = list(samples.read(table))
    made = GRPORecipe(
        model=ModelSection(path=str(tiny_model), dtype="float32", attention="sdpa"), output=str(tmp_path / "run")
    )
    made.training = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 3, "max_steps": 1}
    made.training |= {"gradient_checkpointing": False, "logging_steps": 1}
    import trl

    args = arguments(trl.GRPOConfig, made, log_completions=True)
    limits = ImageSection(min_pixels=56 * 56, max_pixels=56 * 56)
    functions = [guard(rewards.resolve(plugin), Limits()), guard(level, Limits())]
    rewards.check_data(functions, by_task(*read))
    trainer = rl.GRPOTrainer(
        load_model(section(tiny_model)), functions, args, prompt_rows(read, PromptSection(system="Think.")),
        processing_class=load_processor(tiny_model, limits),
    )  # fmt: skip
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "rewards/accuracy/mean" in entry)
    assert logged["rewards/accuracy/mean"] == pytest.approx(2.5)
    assert sorted(map(str, seen)) == ["None", "None", "[1]", "[1]"]


def test_a_judge_gets_columns_and_none_where_a_row_lacks_them():
    seen = []

    def judge(completions, level, **columns):
        seen.append(level)
        return [1.0 for _ in completions]

    one = sample("caption", columns={"level": 2})
    assert gold.values(judge, one, ["a", "b"]) == [1.0, 1.0]
    assert gold.values(judge, sample("caption"), ["a"]) == [1.0] and seen == [[2, 2], [None]]


@pytest.mark.parametrize("launcher", ["grpo", "eval", "bon"])
def test_a_dry_run_refuses_it(launcher, plugin, tmp_path, tiny_model, capsys, started):
    rows = tmp_path / "rows.jsonl"
    row = {"images": [], "messages": [{"role": "user", "content": "?"}], "task": "caption", "solutions": "x"}
    rows.write_text(json.dumps(row) + "\n")
    role = "train" if launcher == "grpo" else "eval"
    recipe = {
        "model": {"path": str(tiny_model)},
        "output": str(tmp_path / "run"),
        "data": {role: [{"path": str(rows)}]},
    }
    if launcher == "grpo":
        recipe |= {"stage": "grpo", "rewards": [{"use": plugin}]}
        recipe["training"] = {"per_device_train_batch_size": 2, "num_generations": 2}
    else:
        recipe |= {"stage": launcher, "gold": plugin}
    if launcher == "bon":
        recipe |= {"selectors": ["random"]}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(AssertionError, match=r"reward 'accuracy' needs the column 'solution'.*'solutions'"):
        started(f"launch/{launcher}.py", path, "--dry-run")
    recipe["data"][role][0]["columns"] = {"solution": "solutions"}
    path.write_text(json.dumps(recipe))
    started(f"launch/{launcher}.py", path, "--dry-run")


def test_a_recipe_of_the_repository_still_plans():
    assert config.load(ROOT / "recipes/r1.yaml", GRPORecipe).rewards[0].use == "gated"
