"""One model on several benchmarks:

    python launch/eval.py --benchmarks vg-dior,lhrs-bench --model runs/r1/final --data data --out runs/eval/r1
    python launch/eval.py --benchmarks lrs-vqa --controls blind,shuffled --model … (`evals.controls`)
    accelerate launch launch/eval.py --benchmarks aid,nwpu --model … images.max_pixels=786432 generation.batch_size=64

Each benchmark becomes a recipe (`recipes/eval.yaml` shows its keys) and an evaluation of its own in OUT/NAME; what
follows as key.sub=value changes all of them. The same command again continues where it stopped: finished
benchmarks are read, not asked again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals import stage
from evals.benchmarks import BENCHMARKS, find
from evals.comparing import compare
from evals.generate import answerer
from evals.recipe import EvalRecipe
from evals.scoring.report import Scores, as_dict
from samples import mixture
from stage.cli import check_machine, guarded
from stage.planning import control
from stage.recipe import config
from stage.recipe.sections import notation_of
from stage.recipe.together import check_engines
from stage.runs import FINISHED
from vlm.boxes.asking import asking
from vlm.common.console import say
from vlm.common.errors import UserError
from vlm.common.processes import is_main_process
from vlm.pictures import images
from vlm.sections import AUTO
from vlm.shapes import family_here


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--benchmarks", help="names, separated by commas; see --list")
    out.add_argument("--list", action="store_true", help="list the benchmarks and what they need, and stop")
    out.add_argument("--model", help="checkpoint: a folder or a hub id; with --backend endpoint a name")
    out.add_argument("--data", type=Path, default=Path("data"), help="folder that the benchmarks' files are below")
    out.add_argument("--out", type=Path, help="output folder (default: runs/eval/ and the model's name)")
    out.add_argument("--style", choices=("direct", "r1"), default="direct", help="r1: asks for tags and reads <answer>")
    out.add_argument("--notation", default=AUTO, help="how the model writes boxes; grounding is worded by it")
    out.add_argument("--wording", choices=("project", "nadir"), default="project", help="whose words the questions use")
    out.add_argument("--backend", choices=("hf", "vllm", "endpoint"), default="hf", help="what generates")
    out.add_argument("--controls", default=AUTO, help="ask again, by commas: blind, shuffled, swapped …")
    out.add_argument("--limit", type=int, help="only the first N questions of each benchmark")
    out.add_argument("--overwrite", action="store_true", help="ask again what was answered")
    out.add_argument("--dry-run", action="store_true", help="check everything, print the plan, load no weights")
    out.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to every benchmark's recipe")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parser().parse_intermixed_args(argv)
    return guarded(lambda: listing(arguments.data) if arguments.list else evaluate(arguments))


def listing(root: Path) -> None:
    """Print name, title, whether the data is there, and what is asked without a zoom."""
    for benchmark in BENCHMARKS.values():
        there = "there" if not benchmark.missing(root) else f"not below {root}"
        plain = f"; no zoom for {', '.join(benchmark.unzoomed)}" if benchmark.unzoomed else ""
        say(f"{benchmark.name}: {benchmark.title}; data {there}{plain}\n{benchmark.layout}", sys.stdout)


def evaluate(arguments: argparse.Namespace) -> dict[str, Scores]:
    """All that was asked for, by benchmark. Everything that can be wrong is found before weights load."""
    if not arguments.model or not arguments.benchmarks:
        raise UserError("--benchmarks NAMES and --model PATH are needed; --list lists the benchmarks")
    names = list(dict.fromkeys(name.strip() for name in arguments.benchmarks.split(",") if name.strip()))
    for name in names:
        find(name).check(arguments.data)
    arguments.notation, doubts = notation(arguments)  # once: it may ask the hub; a settled one asks nothing
    recipes = {name: recipe(name, arguments) for name in names}
    for doubt in doubts if is_main_process() else ():
        say(f"note: {doubt}")
    check_engines(recipes[names[0]])
    if not arguments.dry_run:
        check_machine(recipes[names[0]])
    else:
        for name, one in recipes.items():
            images.use(one.images)
            rows = mixture.draw(one.data, "eval", one.seed, control.of_recipe(one)).samples
            again = f", again for {', '.join(one.controls)}" if one.controls else ""
            say(f"{name}: {len(stage.questions(one, list(rows)))} questions{again} → {one.output}", sys.stdout)
        return {}
    asked, reports = None, {}
    for name, one in recipes.items():
        images.use(one.images)  # each has its own limit
        if finished(one):
            say(f"{name}: finished before, read from {one.output}")
            reports[name] = stage.load_report(Path(one.output), one)
            continue
        asked = asked or answerer(one)
        reports[name] = stage.run(one, asked=asked)
    if is_main_process():
        summarise(reports, folder(arguments))
    return reports


def folder(arguments: argparse.Namespace) -> Path:
    return arguments.out or Path("runs/eval") / Path(arguments.model.rstrip("/")).name


def notation(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """How the model writes boxes, and what to say of it."""
    family = None if arguments.notation != AUTO else family_here((arguments.model,), fetch=True)
    return notation_of(arguments.notation, family, True, "--notation", (arguments.model,))


def recipe(name: str, arguments: argparse.Namespace) -> EvalRecipe:
    """The benchmark as a recipe. Raises: RecipeError as `config.load`."""
    benchmark, direct = find(name), arguments.style == "direct"
    written, _ = notation(arguments)
    prompt: dict[str, Any] = {"style": arguments.style, "notation": written}
    if arguments.wording == "project":
        how = asking(written)
        prompt["wording"] = ({"grounding": how.grounding} if how.grounding else {}) | dict(benchmark.wording)
        if direct and any("grounding" in score.tasks for score in benchmark.scores):
            prompt["system"] = benchmark.system or how.system
    values = {
        "benchmark": name,
        "model": {"path": arguments.model},
        "output": str(folder(arguments) / name),
        "data": {"eval": [source.section(arguments.data.absolute()) for source in benchmark.sources]},
        "prompt": prompt,
        "images": dict(benchmark.images),
        "inside": "text" if direct else "answer",
        "generation": {"backend": arguments.backend},
        "controls": [name.strip() for name in arguments.controls.split(",") if name.strip()],
        "limit": arguments.limit,
        "overwrite": arguments.overwrite,
    }
    return config.build(values, EvalRecipe, arguments.overrides, f"--benchmarks {name}")


def finished(recipe: EvalRecipe) -> bool:
    """Whether this very evaluation was done before. Raises: UserError where another one is in its folder."""
    there = Path(recipe.output)
    if recipe.overwrite or not (there / FINISHED).exists():
        return False
    more = stage.further(recipe, there)
    changes = stage.changed(there, recipe)
    if changes:
        raise UserError(
            f"{there} holds an evaluation by another recipe (different: {', '.join(sorted(changes))}); choose another "
            "--out, or --overwrite"
        )
    return not more


def summarise(reports: dict[str, Scores], out: Path) -> None:
    """The headline of each benchmark, with its controls: on the terminal, in OUT/summary.md and OUT/summary.json."""
    controls = list(dict.fromkeys(name for report in reports.values() for name in (*report.controls, *report.unasked)))
    heads = ["benchmark", "metric (%)", "n", "value", *controls, "convention"]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- | ---: |" + " ---: |" * (1 + len(controls)) + " --- |"]
    for name, report in reports.items():
        metric = headline(name, report)
        found = report.metrics.get(metric)
        cells = [name, metric, report.count(found) if found else "", compare.cell(report, metric)]
        cells += [
            compare.cell(report.controls[one], metric) if one in report.controls
            else "not asked" if one in report.unasked else "–"
            for one in controls
        ]  # fmt: skip
        lines.append("| " + " | ".join([*cells, found.convention if found else report.missing.get(metric, "")]) + " |")
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text("\n".join(lines) + "\n")
    (out / "summary.json").write_text(json.dumps({n: as_dict(r) for n, r in reports.items()}, indent=2) + "\n")
    say("\n".join(lines), sys.stdout)


def headline(name: str, report: Scores) -> str:
    """The benchmark's first metric; of a part without it, such as RSVQA's counts alone, the first there is."""
    wanted = find(name).headline
    return wanted if wanted in report.metrics or wanted in report.missing else next(iter(report.metrics), wanted)
