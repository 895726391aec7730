"""A saved view and a report of an ablation in wandb, built in code (`launch/workspace.py`).

Runs are those of a wandb group, as `tracking.group` has them; curves are means over the runs of a cell (all that
differ by the seed alone: `tracking.axes`), with a band of one standard deviation. Names are the trainer's, which
transformers' callback puts under `train/`. `definitions` builds everything without a network; `save` needs an account.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samples import TASKS
from vlm.common.errors import UserError

STEP = "train/global_step"
INSTALL = "pip install 'nadir-rl[dashboards]', or in a checkout pip install -e '.[dashboards]'"


@dataclass(frozen=True)
class Curve:
    """A line plot: metrics by name, or a pattern of names (RE2) for those that depend on the recipe."""

    title: str
    names: tuple[str, ...] = ()
    pattern: str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chapter:
    name: str
    reading: str
    "What to look for, in the report."
    curves: tuple[Curve, ...]
    opened: bool = True


CHAPTERS = (
    Chapter(
        "Reward",
        "The weighted sum of all rewards, as the policy is trained on it. Where most groups have no spread, a step "
        "teaches little.",
        (
            Curve("Reward", ("reward",)),
            Curve("Standard deviation of the reward", ("reward_std",)),
            Curve("Share of groups without spread", ("frac_reward_zero_std",), low=0, high=1),
        ),
    ),
    Chapter(
        "Components",
        "Each reward before its weight, and what `gated` measures before its gate: rules should rise with the sum.",
        (
            Curve("Rewards", pattern="^train/rewards/.*/mean$"),
            Curve("Raw rewards by task", pattern=f"^train/reward_raw/({'|'.join(TASKS)})$", low=0, high=1),
            Curve("Share in the right format", ("reward_raw/format",), low=0, high=1),
        ),
    ),
    Chapter(
        "Learned reward",
        "Healthy: the score rises and the components with it; the shuffled-image gap stays above 0 (it looks at the "
        "picture); the probes' drift stays 0 (it is the same model); no strong correlation with length.",
        (
            Curve("Raw score", ("score/mean", "score/margin")),
            Curve("Spread within a group", ("score/group_std",)),
            Curve("Correlation with length and format", ("score/corr_length", "score/corr_format"), low=-1, high=1),
            Curve("Score with the own picture less with another", ("score/shuffled_gap",)),
            Curve("Drift on fixed probes", ("score/probe_drift",)),
            Curve("Rows without a score", ("score/failed", "score/masked_count")),
        ),
    ),
    Chapter(
        "Policy",
        "A collapse shows here first: entropy falling to 0, lengths running away, KL rising without bound.",
        (
            Curve("KL to the reference", ("kl",)),
            Curve("Entropy", ("entropy",)),
            Curve("Tokens of a completion", ("completions/mean_length",)),
            Curve("Share cut off", ("completions/clipped_ratio",), low=0, high=1),
            Curve("Gradient norm", ("grad_norm",)),
            Curve("Learning rate", ("learning_rate",)),
        ),
    ),
    Chapter(
        "Throughput",
        "Seconds of a step by phase, and what they bought.",
        (
            Curve("Tokens a second", ("throughput/tokens",)),
            Curve("Share of the GPU's peak", ("throughput/mfu",), low=0, high=1),
            Curve("Seconds by phase", tuple(f"time/{p}" for p in ("rollout", "rewards", "reference", "update"))),
            Curve("Peak memory, GiB", ("memory/peak_gib",)),
        ),
        opened=False,
    ),
)
COMPARED = ("reward", "reward_raw/format", "completions/mean_length", "entropy", "kl")
"""Last values, as bars."""


@dataclass(frozen=True)
class View:
    """What is shown."""

    project: str
    groups: Sequence[str]
    entity: str = ""
    "Empty: the account's own."
    axes: Sequence[str] = ()
    "Of `tracking.axes`, to group by instead of the cell."
    stage: str | None = "grpo"
    "None: of all stages."
    title: str = ""

    @property
    def name(self) -> str:
        return self.title or f"Ablation {', '.join(self.groups)}"

    @property
    def keys(self) -> list[str]:
        """Of the run's configuration, to group by."""
        return [f"axes.{axis}" for axis in self.axes] or ["cell"]


def definitions(view: View) -> tuple[Any, Any]:
    """(workspace, report) of wandb-workspaces, not saved. Raises: UserError where the package is missing."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(f"wandb-workspaces is not installed ({error}); {INSTALL}") from error
    return _workspace(view, workspaces, reports), _report(view, reports)


def described(workspace: Any, report: Any) -> str:
    """Both as the JSON that `save` sends."""
    models = {"workspace": workspace._to_model(), "report": report._to_model()}
    return json.dumps({name: model.model_dump(mode="json", by_alias=True) for name, model in models.items()}, indent=2)


def save(view: View) -> tuple[str, str]:
    """Saves both to wandb; their addresses. Raises: UserError where nobody is logged in."""
    import wandb

    if not view.entity:
        try:
            entity = wandb.Api().default_entity
        except wandb.errors.UsageError as error:
            raise UserError(f"wandb: {error}; `wandb login`, or --dry-run to see what would be saved") from error
        view = View(**{**vars(view), "entity": entity})
    workspace, report = definitions(view)
    workspace.save()
    report.save()
    return workspace.url, report.url


def _workspace(view: View, workspaces: Any, reports: Any) -> Any:
    sections = [
        workspaces.Section(
            name=chapter.name, panels=[plot(curve, view, reports) for curve in chapter.curves], is_open=chapter.opened
        )
        for chapter in CHAPTERS
    ]
    sections.append(workspaces.Section(name="Completions", panels=[_completions(reports)], is_open=True))
    return workspaces.Workspace(
        entity=view.entity,
        project=view.project,
        name=view.name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=workspaces.RunsetSettings(
            filters=filters(view), groupby=[workspaces.Config(key) for key in view.keys]
        ),
    )


def _report(view: View, reports: Any) -> Any:
    blocks = [
        reports.MarkdownBlock(
            f"Runs of the group {', '.join(view.groups)}, by {', '.join(view.keys)}. Curves are means over seeds with "
            "a band of one standard deviation, which is no confidence interval; how many runs a line stands for is in "
            "the run table."
        ),
        reports.TableOfContents(),
    ]
    for chapter in CHAPTERS:
        panels = [plot(curve, view, reports) for curve in chapter.curves]
        blocks += [reports.H2(chapter.name), reports.P(chapter.reading), _grid(panels, view, reports)]
    bars = [
        reports.BarPlot(
            title=f"{name}, last value", metrics=[f"train/{name}"], groupby=_group(view, reports),
            groupby_aggfunc="mean", groupby_rangefunc="stddev",
        )
        for name in COMPARED
    ]  # fmt: skip
    differing = reports.RunComparer(diff_only="split", layout=reports.Layout(w=24, h=12))
    for heading, panels in (
        ("Where they ended", bars),
        ("What they say", [_completions(reports)]),
        ("What differs", [differing]),
    ):
        blocks += [reports.H2(heading), _grid(panels, view, reports)]
    return reports.Report(
        entity=view.entity,
        project=view.project,
        title=view.name,
        description=f"Written by launch/workspace.py for the group {', '.join(view.groups)}.",
        blocks=blocks,
        width="fluid",
    )


def _completions(reports: Any) -> Any:
    return reports.WeavePanelSummaryTable(table_name="completions", layout=reports.Layout(w=24, h=12))


def _grid(panels: list[Any], view: View, reports: Any) -> Any:
    """The runs' entity and project are the report's own: naming them would take a question to the server."""
    runs = reports.Runset(name=view.name, filters=filters(view), groupby=[f"config.{key}" for key in view.keys])
    return reports.PanelGrid(runsets=[runs], panels=panels)


def plot(curve: Curve, view: View, reports: Any) -> Any:
    named = {"metric_regex": curve.pattern} if curve.pattern else {"y": [f"train/{name}" for name in curve.names]}
    return reports.LinePlot(
        title=curve.title,
        x=STEP,
        range_y=(curve.low, curve.high),
        groupby=_group(view, reports),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        **named,
    )


def _group(view: View, reports: Any) -> Any:
    """A plot can name one key; of several it takes the grouping of its run set, which has them all."""
    return reports.Config(view.keys[0]) if len(view.keys) == 1 else None


def filters(view: View) -> str:
    """The runs, in the language of wandb-workspaces. Raises: UserError for a name that it cannot quote."""
    for name in (*view.groups, *([view.stage] if view.stage else [])):
        if any(mark in name for mark in "'\"\\="):
            raise UserError(f"group {name!r}: filters of wandb-workspaces can hold no quote, backslash or equals sign")
    quoted = ", ".join(f"'{name}'" for name in view.groups)
    found = f"Group in [{quoted}]"
    return found + (f" and JobType = '{view.stage}'" if view.stage else "")
