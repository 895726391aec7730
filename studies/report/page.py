"""The page: everything about the runs in one HTML file that asks the network for nothing.

Texts from runs (completions, recipes, paths) are not trusted: Jinja escapes what is in the page, `embedded` what
is in its JSON, and the script puts texts in place as texts, never as HTML. The content security policy allows
exactly this script and this style sheet, by their hashes, pictures that lie in the page, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from studies.report import evaluations, figures, numbers, optimisation, panels
from studies.report.bands import SAID, Kind
from studies.report.pictures import Cut, Pictures
from studies.report.runs import chains, recipes, samples
from studies.report.runs.folders import Folder, natural
from studies.report.runs.labels import Curve
from vlm.common.redaction import redact
from vlm.pictures import images
from vlm.sections import PictureSection

SCRIPTS = ("draw.js", "chart.js", "samples.js", "page.js")
ALERTS = "alerts.jsonl"
LEARNED = ("score/mean", "score/margin")
LISTED = 12
"""Runs above which the table of them is folded behind what became of them."""


@dataclass
class Asked:
    """What the report shall hold. classes: of recipes, for the difference to their bases."""

    curves: Sequence[Curve]
    title: str = ""
    band: Kind = "range"
    rows: int = 300
    "Completions in the browser of samples, over all runs."
    gold: str | None = None
    "Metric that tells the truth; None: the one that is watched without pay, or is called gold."
    classes: Sequence[type] = field(default_factory=list)
    load: evaluations.Load | None = None
    "What an evaluation's predictions say, for intervals over seeds."


def html(asked: Asked) -> str:
    """The page. Raises: DataError for a file of a run that cannot be read."""
    curves = asked.curves
    runs = [(curve, run) for curve in curves for run in curve.runs]
    how = figures.look(curves, asked.band)
    gold = _gold(asked)
    drawn, notes = _drawn(asked, how, gold)
    shown, pictures, missing = _shown(curves, asked.rows)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    style, script = _file("page.css"), "".join(_file(name) for name in SCRIPTS)
    context = {
        "title": asked.title or " · ".join(curve.label for curve in curves[:4]) + (" …" if len(curves) > 4 else ""),
        "subtitle": _subtitle(curves, asked.band),
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "overview": [numbers.overview(curve, run) for curve, run in runs],
        "folded": len(runs) > LISTED,
        "states": numbers.states([run for _, run in runs]),
        "swatches": {curve.label: number for number, curve in enumerate(curves)},
        "labels": [curve.label for curve in curves],
        "notes": notes + missing,
        "alerts": [alert for _, run in runs for alert in alerts(run)],
        "outside": numbers.outside(curves),
        "evaluations": evaluations.table(curves),
        "evaluations_pictures": evaluations.pictures(curves, asked.load),
        "ends": numbers.ends([curve for curve in curves if curve.trained], asked.band),
        "trained": [(number, curve.label) for number, curve in enumerate(curves) if curve.trained],
        "banded": any(len(curve.trained) > 1 for curve in curves),
        "band": SAID[asked.band],
        "figures": drawn,
        "optimisation": optimisation.chapter(curves, gold),
        "samples": shown,
        "samples_note": _samples_note(shown),
        "between": recipes.between(curves) if len(curves) > 1 else {},
        "recipes": [_recipe(curve, asked.classes) for curve in curves if curve.runs[0].recipe],
        "environments": [_environment(run) for _, run in runs],
        "made": datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        "payloads": {name: embedded(value) for name, value in
                     (("figures", drawn), ("samples", shown), ("pictures", pictures.uris))},
    }  # fmt: skip
    context["chapters"] = list(_chapters(context))
    return environment.get_template("page.html").render(context)


def embedded(value: Any) -> str:
    """JSON that can stand in a <script> element: no `<` closes it or opens a comment, whatever texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _breakable(key: str) -> markupsafe.Markup:
    """A key that a narrow table may break after dots, slashes and underscores, and before a bracket."""
    return markupsafe.Markup("<wbr>").join(part for part in re.split(r"(?<=[./_])|(?=\[)", key))


def _file(name: str) -> str:
    return resources.files("studies.report").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = f"img-src data:; style-src {source(style)}; script-src {source(script)}"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _drawn(asked: Asked, how: figures.Look, gold: str | None) -> tuple[dict[str, Any], list[str]]:
    """The figures, and what has to be said about them."""
    curves = asked.curves
    keys = {key for curve in curves for key in curve.keys}
    score = next((key for key in LEARNED if key in keys), None)
    plane = figures.planes(curves, score, gold) if score and gold in keys else None
    drawn = {
        "labels": [{"name": curve.label, "runs": [run.name for run in curve.trained]} for curve in curves],
        "band": SAID[asked.band],
        "sections": figures.sections(curves, how),
        "planes": [plane] if plane else [],
    }
    notes = [f"--gold {asked.gold}: no run logged it"] if asked.gold and asked.gold not in keys else []
    for curve in curves:
        if len({run.last_step for run in curve.trained}) > 1:
            ended = ", ".join(f"{run.name} at step {run.last_step:,}" for run in curve.trained)
            notes.append(f"{curve.label}: runs end at different steps ({ended}); each curve continues over the others")
    return drawn, notes


def _gold(asked: Asked) -> str | None:
    return asked.gold or next((found for curve in asked.curves for run in curve.runs if (found := gold_of(run))), None)


def gold_of(run: Folder) -> str | None:
    """The metric that tells the truth: a reward of weight 0, which is there to be watched; or one called gold."""
    for reward in run.recipe.get("rewards") or []:
        if reward.get("weight") == 0:
            name = str(reward.get("use")).rpartition(":")[2].rpartition("/")[2]
            if (key := f"rewards/{name}/mean") in run.series:
                return key
    return next((key for key in run.series if "gold" in panels.trained(key).split("/")), None)


def _shown(curves: Sequence[Curve], rows: int) -> tuple[dict[str, Any], Pictures, list[str]]:
    """The rows of the browser, their pictures, and how many of these are missing."""
    runs = [(number, run) for number, curve in enumerate(curves) for run in curve.runs]
    said = [run.recipe.get("images") or {} for _, run in runs]
    most = max((one.get("limit") or 0 for one in said), default=0)
    if most > images.limit():  # what a run could open, its report can
        images.use(PictureSection(limit=most))
    found = [(n, run, samples.read(run, max(1, rows // len(runs)))) for n, run in runs] if rows > 0 else []
    pictures = Pictures()
    everything = [one for _, _, asked in found for one in asked]
    cut = [crop.picture for one in everything for said in one.said for crop in said.crops if crop.picture]
    beside = [path for one in everything for _, path in one.further]
    numbers = pictures.add([*(one.image for one in everything if one.image), *beside, *cut])
    rows_shown = []
    for label, run, asked in found:
        for one in asked:
            image = numbers.get(one.image) if one.image else None
            row: dict[str, Any] = asdict(one) | {"label": label, "run": run.name, "image": image}
            row["boxes"] = [figures.rounded(box) for box in one.boxes]
            row["regions"] = [figures.rounded(box) for box in one.regions]
            row["size"] = list(one.size) if one.size else None
            row["further"] = [[number, numbers.get(path)] for number, path in one.further]
            for said, original in zip(row["said"], one.said, strict=True):
                said["read"] = [figures.rounded(box) for box in said["read"]] if said["read"] else None
                said["text"] = said["text"] if said["answer"] is None or said["trace"] is None else None
                if original.turns:  # which hold both
                    said["text"] = said["trace"] = None
                said["crops"] = [_crop(crop, numbers) for crop in original.crops]
                said["rewards"] = {k: v if v is None else figures.rounded([v])[0] for k, v in said["rewards"].items()}
            rows_shown.append(row)
    notes = []
    if pictures.missing:
        path, why = next(iter(pictures.missing.items()))
        notes.append(f"{len(pictures.missing)} pictures of samples cannot be shown, the first: {path}: {why}")
    return {"asked": rows_shown}, pictures, notes


def _crop(crop: chains.Crop, numbers: dict[Path | Cut, int]) -> dict[str, Any]:
    picture = numbers.get(crop.picture) if crop.picture else None
    return {"turn": crop.turn, "image": crop.image, "box": figures.rounded(crop.box), "picture": picture}


def _samples_note(shown: dict[str, Any]) -> str:
    all_said = [said for one in shown["asked"] for said in one["said"]]
    count = sum(said["times"] for said in all_said)
    note = (
        f"{count:,} completions of {len(shown['asked']):,} prompts, spread evenly over the runs. Boxes: the truth is "
        "green and solid, what was answered orange and dashed."
    )
    if any(one["mask"] or any(said["mask"] for said in one["said"]) for one in shown["asked"]):
        note += " Masks likewise, lightly filled."
    if any(said["crops"] for said in all_said):
        note += " Regions that a tool showed are blue and numbered; where the answer is to be seen is green and dotted."
    return note


def _subtitle(curves: Sequence[Curve], kind: Kind) -> str:
    runs = sum(len(curve.runs) for curve in curves)
    said = f"{runs} run{'s' * (runs > 1)}"
    if len(curves) > 1:
        said += f", {len(curves)} labels"
    if any(len(curve.trained) > 1 for curve in curves):
        said += f"; curves are means over seeds, bands the {SAID[kind]}"
    return said


def _recipe(curve: Curve, classes: Sequence[type]) -> dict[str, Any]:
    run = curve.runs[0]
    return {
        "label": curve.label,
        "run": run.name,
        "text": redact(recipes.text(run)),
        "difference": recipes.difference(run, classes),
    }


def _environment(run: Folder) -> dict[str, Any]:
    known = run.environment
    facts: dict[str, str] = {}
    for name in ("started", "directory", "python"):
        if known.get(name):
            facts[name] = str(known[name])
    for group in ("hardware", "git", "packages", "variables"):
        for name, value in (known.get(group) or {}).items():
            if value not in (None, "", [], {}):
                facts[f"{group} · {name}"] = _plain(value)
    for group, values in run.record.items():
        for name, value in (values or {}).items() if isinstance(values, dict) else [("", values)]:
            if value not in (None, "", [], {}):
                facts[f"{group} · {name}".rstrip(" ·")] = _plain(value)
    command = shlex.join(map(str, known["command"])) if known.get("command") else ""
    facts = {name: redact(value) for name, value in facts.items()}
    data = [row for role, drawn in run.data.items() for row in _mixture(role, drawn)]
    return {"name": run.name, "command": redact(command), "facts": facts, "changes": run.changes, "data": data}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mixture(role: str, drawn: dict[str, Any]) -> Iterable[dict[str, str]]:
    for source in drawn.get("sources") or []:
        for task, counts in (source.get("tasks") or {}).items():
            share = f"{100 * counts.get('share', 0):.1f}%"
            path = numbers.shortened(str(source.get("path", "")))
            yield {"role": role, "source": path, "task": task, "rows": f"{counts.get('rows', 0):,}", "share": share}


def alerts(run: Folder) -> list[dict[str, str]]:
    """Signs of collapse that were told while the run trained (alerts.jsonl)."""
    path: Path = run.path / ALERTS
    if not path.is_file():
        return []
    found = []
    for row, _ in samples.lines(path):
        text = " – ".join(str(row[key]) for key in ("title", "text") if row.get(key))
        found.append({"run": run.name, "step": str(row.get("step", "")), "text": redact(text)})
    return sorted(found, key=lambda one: natural(one["step"]))


def _chapters(context: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "runs", "Runs"
    for name, text in (("alerts", "Alerts"), ("outside", "Unhealthy"), ("evaluations", "Evaluations")):
        if context[name]:
            yield name, text
    if context["ends"]:
        yield "ends", "Numbers"
    for section in context["figures"]["sections"]:
        yield section["name"], {"others": "Others", "score": "Learned reward"}.get(section["name"], section["title"])
    if context["optimisation"]:
        yield "optimisation", "Over-optimisation"
    if context["samples"]["asked"]:
        yield "samples", "Samples"
    yield "recipes", "Recipes"
    yield "environment", "Environment"
