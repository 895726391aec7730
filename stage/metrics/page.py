"""docs/metrics.md from the registry."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stage.metrics.metric import Group, Metric, Need

HEAD = """# What a run logs

Generated from the registry in `stage/metrics/` by `python -m stage.metrics > docs/metrics.md`: change it there. A test
finds every name that small runs of all stages log, and has every entry logged by one of them.

Each row of `metrics.jsonl` in the run folder is one log; dashboards get the same names behind `train/` and `eval/`.
Under a name are its unit and the rows that it is in, where those are not the rows of training steps alone. *Healthy* is
a range only where one holds in general, by definition, from the literature or from what [LOG.md](../LOG.md) measured;
otherwise it says why there is none. ↓ or ↑: which way is a bad sign in the course of a run. A range that is left once
is a question, not a verdict.

`training.…` are the keys of TRL's GRPOConfig, SFTConfig and RewardConfig; `python launch/grpo.py --keys all` lists the
others. `score:variant` is the option `variant` of the reward `score`. In code: `stage.metrics.find("eval_kl").healthy`.
What a reward of yours logs under a name of its own (`log_metric`) is not here.
"""

SECTIONS = {
    "tracking": "stage/tracking/section.py",
    "rewards": "rl/recipe.py",
    "share_prefix": "rl/recipe.py",
    "train": "rewards/score/training/recipe.py",
    "score:": "rewards/score/reward/score.py",
    "gated:": "rewards/gated.py",
    "data": "samples/sections.py",
    **dict.fromkeys(("guards", "sharding", "watchdog"), "stage/recipe/sections.py"),
    **dict.fromkeys(("model", "images", "prompt", "tools", "turns"), "vlm/sections.py"),
}
"""First part of a recipe's key → the file that says what it does; `training` is the stage's own."""
STAGES = {"sft": "sft/recipe.py", "grpo": "rl/recipe.py", "score": "rewards/score/training/recipe.py"}
CODE = re.compile(r"`([^`]+)`")
KEY = re.compile(r"(\w+)(\.\w+)*|(score:|gated:)\w+")
NEEDS: dict[Need | None, str] = {
    "cuda": "on a GPU only",
    "vllm": "under vLLM only",
    "dashboard": "not in metrics.jsonl",
}
ROWS = {
    ("step", "eval"): "also `eval_…`",
    ("step", "end"): "every row",
    ("end",): "last row only",
}


def page(groups: Iterable[Group]) -> str:
    """The whole page, a table for each group."""
    groups = list(groups)
    places = [f"[{group.title}](#{_anchor(group.title)})" for group in groups]
    return "\n".join([HEAD, " · ".join(places), "", *(line for group in groups for line in _table(group))])


def where(key: str, metric: Metric) -> str | None:
    """The file, from the root, in which a recipe's key or a reward's option is described; None for other words."""
    found = KEY.fullmatch(key)
    if found is None:
        return None
    section = found[3] or found[1]
    if section == "training":
        return STAGES[metric.stages[0]] if len(metric.stages) == 1 else "stage/trainer/arguments.py"
    if section == "data" and metric.stages == ("score",):
        return STAGES["score"]
    return SECTIONS.get(section)


def _table(group: Group) -> list[str]:
    rows = [
        f"| {_name(metric)} | {_linked(_sentence(metric.meaning), metric)} | {_healthy(metric)} "
        f"| {_linked(metric.advice, metric)} |"
        for metric in group.metrics
    ]
    head = ["| name | what it is | healthy | what to do |", "|---|---|---|---|"]
    return [f"## {group.title}", "", _linked(group.about, group.metrics[0]), "", *head, *rows, ""]


def _name(metric: Metric) -> str:
    """The name, with unit, rows and conditions below it."""
    evaluated = metric.rows == ("eval",)
    below = [metric.unit, ROWS.get(metric.rows, ""), _linked(metric.when, metric), NEEDS.get(metric.needs, "")]
    return "<br>".join([f"`{'eval_' * evaluated}{metric.name}`", *filter(None, below)])


def _healthy(metric: Metric) -> str:
    course = {"lower": " ↓", "higher": " ↑", None: ""}[metric.worse]
    verdict = f"**{metric.healthy}**" if metric.healthy else f"–{course}"
    return f"{verdict}<br>{_linked(_sentence(metric.why), metric)}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _linked(text: str, metric: Metric) -> str:
    """Keys of recipes become links to where they are described; a bar would end the table's cell."""

    def link(found: re.Match[str]) -> str:
        place = where(found[1], metric)
        return f"[{found[0]}](../{place})" if place else found[0]

    return CODE.sub(link, text).replace("|", "\\|")


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
