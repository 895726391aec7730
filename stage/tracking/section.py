"""The recipe's section `tracking:`."""

from __future__ import annotations

import json
from typing import Any, Literal

from vlm.common.errors import RecipeError
from vlm.common.section import Section

TRACKERS = {
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
    "swanlab": ("swanlab",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "dvclive": ("dvclive",),
}
"""Name in `report_to` → modules, of which one must be installed; pip knows the first by its own name."""
SEED = "seed"
"""The axis that is averaged over."""


class SampleSection(Section):
    """The table of completions: picture with boxes, prompt, trace, answer, truth, each reward and advantage.

    Written to `samples.jsonl` and `samples/` in the run folder, and sent to wandb and trackio.
    """

    rows: int = 16
    "Rows of a table, over all processes: completions of as many prompts as fit, two of each to be compared."
    every: int = 10
    "A table every N steps; the first and the last step have one, too."
    pixels: int = 65536
    "Pictures are reduced to this many pixels (256²) in the table."

    def check(self) -> None:
        if min(self.rows, self.every) < 1 or self.pixels < 1024:
            raise RecipeError(
                f"rows = {self.rows}, every = {self.every}, pixels = {self.pixels}; expected rows and every from 1, "
                "pixels (in all, not per side) from 1024; write `samples: null` for no table"
            )


class AlertSection(Section):
    """Signs that a run collapses (`stage.tracking.signs`); each of them null to switch it off.

    A sign is reported when it shows in `patience` logs in a row, and again only after it was gone for `window` logs.
    """

    window: int = 10
    "Logs that a mean is over, and that a run must have before anything is reported."
    patience: int = 3
    "Logs in a row."
    reward: float | None = 0.3
    "The reward has lost this share of its best mean."
    entropy: float | None = 0.2
    "The policy's entropy is below this share of what it began with."
    length: float | None = 3.0
    "Completions are this many times as long, or as short, as they were."
    clipped: float | None = 0.5
    "This share of completions is cut off at `max_completion_length`."
    kl: float | None = 1.0
    "KL to the reference in nats a token (logged with `training.beta` above 0)."
    zero_spread: float | None = 0.8
    "Share of groups in which every completion has the same reward, so that they teach nothing."
    divergence: float | None = 0.03
    "A rule reward or gold has fallen by this much within two windows while the learned score rose."

    def check(self) -> None:
        if self.window < 2 or self.patience < 1:
            raise RecipeError(f"window = {self.window}, patience = {self.patience}; expected at least 2 and 1 logs")
        for key in ("reward", "entropy", "clipped", "zero_spread"):
            if (share := getattr(self, key)) is not None and not 0 < share < 1:
                raise RecipeError(f"{key} = {share}; expected a share between 0 and 1, or null for no such alert")
        for key, least in (("length", 1), ("kl", 0), ("divergence", 0)):
            if (limit := getattr(self, key)) is not None and not limit > least:
                raise RecipeError(f"{key} = {limit}; expected a number above {least}, or null for no such alert")


class TrackingSection(Section):
    report_to: list[str] = []
    "Where metrics go besides the run folder, e.g. [wandb], [trackio] or [tensorboard]."
    project: str | None = None
    "Project in wandb or trackio."
    group: str | None = None
    "wandb group: runs to be compared, e.g. the name of an ablation."
    tags: list[str] = []
    "wandb tags."
    axes: dict[str, Any] = {}
    "Axis of an ablation → this run's value on it: tags `axis:value`, and columns to group by; `seed` is averaged over."
    name: str | None = None
    "Name of the run; without it, the output folder's."
    mode: Literal["online", "offline", "disabled"] | None = None
    "wandb's mode; null: as WANDB_MODE says, else online. `offline` needs no account and no network."
    samples: SampleSection | None = SampleSection()
    "GRPO: the table of completions; null for none."
    alerts: AlertSection | None = AlertSection()
    "Signs of collapse, reported in the log, in `alerts.jsonl` and by wandb and trackio; null for none."

    def check(self) -> None:
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise RecipeError(
                    f"report_to names {tracker!r}; known: {', '.join(TRACKERS)}. Write [] for none; `all` is "
                    "not offered, for it would report to whatever happens to be installed"
                )
        for axis, value in self.axes.items():
            if isinstance(value, dict | list):
                raise RecipeError(f"axes.{axis} = {value}; expected a number or a text that names the value")

    @property
    def cell(self) -> str | None:
        """What runs that differ by the seed alone have in common, e.g. "reward=score, start=sft"; None without axes."""
        named = [f"{axis}={shown(value)}" for axis, value in self.axes.items() if axis != SEED]
        return ", ".join(named) or (None if not self.axes else self.group or "all")


def shown(value: Any) -> str:
    """A recipe's value as YAML writes it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
