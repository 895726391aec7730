"""Comments of recipes say what the recipe does: their numbers are compared with it and with its plan.

PHRASES are all that a comment may say in numbers of what is counted here (UNITS); such a number in other words is a
fault, so that nobody changes a value and leaves a comment behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml

from stage.planning.gpus import parse_gpus
from stage.planning.job import Batch, Job, batches, common
from stage.planning.memory import GIB
from stage.recipe import config
from tests.project.test_project import RECIPES, ROOT, STAGES, stage_of
from vlm import loading
from vlm.families.sight import Grid

UNITS = "prompts|completions|records|rows|pairs|traces|samples|pixels|tokens|steps|epochs|GPUs|GPU|batch|GB|GiB"
COUNTED = re.compile(
    rf"\b\d[\d,.]*(?:[K²]|\s*×\s*\d+)?\s+(?:\w+\s+)?(?:{UNITS})\b|\b(?:batch|accumulated)\W+(?:of\s+)?\d"
)
TIMES = {"twice": 2}


def number(text: str) -> int:
    return TIMES.get(text) or int(text.replace(",", ""))


def batch_of(recipe: Any, processes: int) -> Batch:
    """As the plan has it, for data without end."""
    kind = "grpo" if recipe.stage == "grpo" else "sft"
    group = recipe.argument("num_generations") if kind == "grpo" else 1
    return batches(Job(kind, samples=2**40, group=group, **common(recipe)), processes)


def a_step(recipe, gpus, count, unit, paper, times) -> bool:
    """Of the whole fleet, and what the paper calls a batch: one pass of it, before accumulation."""
    batch = batch_of(recipe, number(gpus))
    found = batch.prompts_per_step if unit == "prompts" else batch.per_step
    accumulation = number(times.removesuffix(" times")) if times else 1
    assert recipe.gpus and recipe.gpus.startswith(f"{gpus}x")
    assert (recipe.stage == "grpo") == (unit == "prompts")
    return found == number(count) == number(paper) * accumulation and accumulation == recipe.argument(
        "gradient_accumulation_steps"
    )


def a_device(recipe, prompts, group) -> bool:
    asked = recipe.argument
    held = (number(prompts) * number(group), number(group))
    return held == (asked("per_device_train_batch_size"), asked("num_generations"))


def open_and_closed(recipe, open_ended, closed) -> bool:
    limits = {True: 0, False: 0}
    for source in recipe.data.train:
        limits[source.task == "open_ended"] += source.limit
    return (limits[True], limits[False]) == (number(open_ended), number(closed))


def sides(recipe, low, high) -> bool:
    return (number(low) ** 2, number(high) ** 2) == (recipe.images.min_pixels, recipe.images.max_pixels)


def one_size(recipe, width, height, tokens) -> bool:
    limits = (recipe["images"]["min_pixels"], recipe["images"]["max_pixels"])
    return limits == (number(width) * number(height),) * 2 and Grid(28, *limits).bounds() == (number(tokens),) * 2


def rows(recipe, count) -> bool:
    return sum(source.limit or 0 for source in recipe.data.train) == number(count)


def a_checkpoint(recipe, gigabytes) -> bool:
    from rl.stage import planned

    return round(planned(recipe, 2**30).storage.checkpoint / 1e9) == number(gigabytes)


def one_gpu(recipe, gigabytes) -> bool:
    fleet = parse_gpus(recipe.gpus)
    return fleet.count == 1 and fleet.card.endswith(f"-{gigabytes}G")


def peak(recipe, planned, room) -> bool:
    """Of a plan while no data is here."""
    from rewards import resolve
    from rewards.score.reward.score import learned
    from rewards.score.training.planned import resident
    from rl import stage as rl
    from sft import stage as sft

    if recipe.stage == "sft":
        plan = sft.planned(recipe, 2**30)
    else:
        scores = learned([resolve(reward.use, **reward.options) for reward in recipe.rewards])
        plan = rl.planned(recipe, 2**30, resident(scores, recipe.model)[0])
    return (f"{plan.peak / GIB:.1f}", f"{plan.fleet.gib:.1f}") == (planned, room) and plan.fits()


def merging(recipe, adapter, merged) -> bool:
    """SFT: of its own adapter. GRPO: into what it begins with."""
    return adapter == f"{recipe.output}/final" if recipe.stage == "sft" else merged == recipe.model.path


def batch_of_another(recipe, base) -> bool:
    other = recipe_of(f"recipes/{base}")
    return batch_of(recipe, 1).per_step == batch_of(other, parse_gpus(other.gpus).count).per_step


def a_node(settings, gpus) -> bool:
    return settings["num_processes"] == number(gpus) and settings["num_machines"] == 1


def of_the_demo(recipe, count) -> bool:
    """Rows that `demo.dataset` makes, all of which are taken."""
    made = re.search(r'"--traces", type=int, default=(\d+)', (ROOT / "demo/dataset.py").read_text(encoding="utf-8"))
    return made is not None and made[1] == count and all(source.limit is None for source in recipe.data.train)


PHRASES: dict[str, Callable[..., bool]] = {
    r"on (\d+) GPUs (\d+) (prompts|records) a step: the paper's batch of (\d+)"
    r"(?:, accumulated (twice|\d+ times))?": a_step,
    r"(\d+) prompts × (\d+)": a_device,
    r"([\d,]+) open rows for the learned reward, ([\d,]+) closed rows": open_and_closed,
    r"(\d+)² to (\d+)² pixels": sides,
    r"(\d+) × (\d+) pixels: (\d+) visual tokens": one_size,
    r"the ([\d,]+) pairs of UltraFeedback": rows,
    r"SFT on ([\d,]+) reasoning traces": rows,
    r"a checkpoint takes ([\d,]+) GB": a_checkpoint,
    r"on one GPU of (\d+) GB": one_gpu,
    r"[Bb]y --dry-run it takes ([\d.]+) of ([\d.]+) GiB": peak,
    r"python -m vlm\.adapters (runs/\S+) (runs/\S+)": merging,
    r"([\w.]+)'s batch, on one GPU": batch_of_another,
    r"on one node of (\d+) GPUs": a_node,
    r"of the demo: (\d+) truthful reasoning traces": of_the_demo,
}


@cache
def comments(name: str) -> tuple[str, ...]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return tuple(found[1] for line in lines if (found := re.search(r"(?:^|\s)# ?(.*)$", line)))


def unchecked(comment: str) -> str | None:
    """What a comment says in numbers and no phrase."""
    for phrase in PHRASES:
        comment = re.sub(phrase, "…", comment)
    left = COUNTED.search(comment)
    return left and left[0]


def recipe_of(name: str) -> Any:
    """A recipe as its launcher reads it; of a base or accelerate's file the mapping that it is."""
    stage = None if name.startswith("recipes/accelerate/") else stage_of(ROOT / name)
    if stage is None:
        return yaml.safe_load((ROOT / name).read_text())
    module, cls = STAGES[stage].split(":")
    return config.load(ROOT / name, getattr(__import__(module, fromlist=[cls]), cls))


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_in_comments_are_those_of_the_recipe(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)
    for comment in comments(name):
        assert unchecked(comment) is None, f"{name}: {comment!r} says {unchecked(comment)!r}; expected one of PHRASES"
        for phrase, holds in PHRASES.items():
            for said in re.findall(phrase, comment):
                values = said if isinstance(said, tuple) else (said,)
                assert holds(recipe_of(name), *values), f"{name}: {comment!r} is not what the recipe does"


def test_every_phrase_is_in_use():
    said = [comment for name in RECIPES for comment in comments(name)]
    assert [phrase for phrase in PHRASES if not any(re.search(phrase, comment) for comment in said)] == []


def test_wrong_and_unknown_comments_are_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    r1 = recipe_of("recipes/r1.yaml")
    assert a_step(r1, "8", "32", "prompts", "16", "twice")
    assert not a_step(r1, "8", "16", "prompts", "16", "")  # what r1.yaml used to say
    assert not sides(r1, "512", "1000") and not rows(r1, "7,999") and not a_device(r1, "2", "4")
    for comment in (
        "on 8 GPUs the paper's batch of 16 prompts",
        "4,096 new tokens",
        "4K open rows",
        "2 × 5 completions",
    ):
        assert unchecked(comment), comment
    for comment in ("the best 30% of the rows", "T .95, top-p 1", "500 Euro", "stage 3 of 3: every weight"):
        assert unchecked(comment) is None, comment
