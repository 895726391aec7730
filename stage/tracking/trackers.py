"""The recipe's `tracking:` for the trackers: whether they can be used here; project, group, tags, columns."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from pathlib import Path
from typing import Any

from stage.recipe import config
from stage.tracking.section import TRACKERS, TrackingSection, shown
from vlm.common.errors import RecipeError
from vlm.common.processes import is_main_process

LONGEST_TAG = 64
"""Characters that wandb takes."""
IDENTITY = "tracking.json"
"""In the run folder: {"wandb": id}, so that a resumed run continues under the one it had."""


def check_installed(tracking: TrackingSection) -> None:
    """Refuse a tracker that is not installed, before anything is read or loaded. Raises: RecipeError."""
    for name in tracking.report_to:
        modules = TRACKERS[name]
        if not any(importlib.util.find_spec(module) for module in modules):
            rest = [other for other in tracking.report_to if other != name]
            raise RecipeError(
                f"tracking.report_to names {name}, which is not installed: pip install {modules[0].replace('_', '-')}; "
                f"or tracking.report_to=[{', '.join(rest)}]"
            )


def check_account(tracking: TrackingSection) -> None:
    """Refuse wandb's mode `online` without an account, as wandb would once weights are loaded. Raises: RecipeError."""
    if "wandb" not in tracking.report_to or _mode(tracking) != "online" or not is_main_process():
        return
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise RecipeError(
            "tracking.report_to names wandb, which has no account here: run `wandb login`, or set WANDB_API_KEY; or "
            "tracking.mode=offline, which keeps all in the run folder for `wandb sync`"
        )


def _mode(tracking: TrackingSection) -> str:
    return tracking.mode or os.environ.get("WANDB_MODE") or "online"


def running(tracker: str) -> Any:
    """wandb's run, or trackio itself, which has one at a time and the same methods; None where there is no run (`mode:
    disabled`), and for other trackers."""
    if tracker == "wandb":
        import wandb

        return wandb.run
    return importlib.import_module(tracker) if tracker == "trackio" else None


def tags(tracking: TrackingSection) -> list[str]:
    """The recipe's, and `axis:value` for each axis: a comma would end a tag in wandb's environment variable, and an
    equals sign would not survive the filters of wandb-workspaces."""
    axes = [f"{axis}:{shown(value)}" for axis, value in tracking.axes.items()]
    made = [" ".join(tag.replace(",", " ").split()) for tag in [*tracking.tags, *axes]]
    return [tag if len(tag) <= LONGEST_TAG else tag[: LONGEST_TAG - 1] + "…" for tag in made]


def labels(recipe: Any) -> dict[str, Any]:
    """What a tracker's configuration of the run gets beside the trainer's: the resolved recipe (which holds no secret:
    `stage.recipe.config` refuses them), and `axes`, `cell` (the same in runs that differ by the seed alone), `group`
    and `stage` to group by."""
    tracking = recipe.tracking
    return {
        "recipe": config.to_dict(recipe),
        "axes": dict(tracking.axes),
        "cell": tracking.cell,
        "group": tracking.group,
        "stage": recipe.stage,
    }


def announce(tracking: TrackingSection, output: str, stage: str) -> None:
    """Hand the section to wandb through its environment variables. Raises: RecipeError where a tracker is missing."""
    check_installed(tracking)
    if "wandb" not in tracking.report_to:
        return
    os.environ["WANDB_MODE"] = _mode(tracking)
    os.environ.setdefault("WANDB_DIR", output)
    # pictures of tables wait here for `wandb sync`; by default in the home folder, away from the run
    os.environ.setdefault("WANDB_DATA_DIR", os.path.join(output, "wandb"))
    for name, value in (
        ("WANDB_PROJECT", tracking.project),
        ("WANDB_RUN_GROUP", tracking.group),
        ("WANDB_TAGS", ",".join(tags(tracking))),
        ("WANDB_JOB_TYPE", stage),
    ):
        if value:
            os.environ[name] = value


def identify(tracking: TrackingSection, folder: Path, resumed: bool) -> None:
    """Let wandb know the run under one id, which lies in the run folder, however often it is resumed."""
    if "wandb" not in tracking.report_to:
        return
    path = folder / IDENTITY
    if resumed and path.is_file():
        name = json.loads(path.read_text(encoding="utf-8"))["wandb"]
    else:
        name = secrets.token_hex(4)
        path.write_text(json.dumps({"wandb": name}) + "\n", encoding="utf-8")
    os.environ |= {"WANDB_RUN_ID": name, "WANDB_RESUME": "allow"}
