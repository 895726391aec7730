"""study.json in a matrix's output folder: what was asked, and where each run's stages lie; for tables and reports.

from studies import study
for run in study.read("runs/ablation").runs:
    run.label, run.values["score"], run.seed, run.stages["eval"]        # R1-with, with, 0, a run folder
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stage import runs
from stage.recipe import config
from vlm.common.errors import DataError, UserError

if TYPE_CHECKING:
    from studies.matrix.planning import Plan

FILE = "study.json"


@dataclass(frozen=True)
class StudyRun:
    label: str
    values: dict[str, str | None]
    "Axis → value; None where it makes no difference to this run, which then stands for all of its values."
    seed: int | None
    "None where it makes no difference."
    stages: dict[str, Path]
    "Stage → its folder; several runs may have the same."


@dataclass(frozen=True)
class Study:
    name: str
    axes: dict[str, list[str]]
    "Axis → values, in the order of the matrix."
    seeds: list[int]
    runs: list[StudyRun]
    launchers: dict[str, str | None]
    "Stage → its launcher; None of a command."

    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))


def write(plan: Plan, axes: dict[str, list[str]]) -> Path:
    """Write it, if it differs from what is there. Folders are seen from the output folder, which may be moved."""
    output = Path(plan.matrix.output)
    content = {
        "name": plan.name,
        "file": str(plan.file),
        "axes": axes,
        "seeds": plan.matrix.seeds,
        "runs": [
            {
                "label": run.label,
                "values": run.values,
                "seed": run.seed,
                "stages": {name: stage.key for name, stage in run.stages.items()},
            }
            for run in plan.runs
        ],
        "matrix": config.to_dict(plan.matrix),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path = output / FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        output.mkdir(parents=True, exist_ok=True)
        runs.replace(path, text)
    return path


def read(folder: str | Path) -> Study:
    """Of an ablation's output folder; only the runs, each with label, seed and stages, must be there.

    Raises: UserError where there is no such file; DataError where it is not as described.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {FILE}; expected the output folder of launch/ablate.py")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [
            StudyRun(
                one["label"],
                one.get("values", {}),
                one["seed"],
                {name: Path(folder) / place for name, place in one["stages"].items()},
            )
            for one in content["runs"]
        ]
        stages = content.get("matrix", {}).get("stages", {})
        launchers = {name: section.get("launch") for name, section in stages.items()}
        return Study(content.get("name", ""), content.get("axes", {}), content.get("seeds", []), found, launchers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}); expected what launch/ablate.py writes: runs, each with label, seed "
            "and stages"
        ) from error
