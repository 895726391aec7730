"""The subcommands of launch/detect.py: cut, merge, run. Each parser sets `run`, which takes the arguments."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evals.merging import submission, whole
from evals.merging.merge import merge
from evals.merging.suppression import THRESHOLD
from evals.merging.whole import Asked, Source
from samples.tiles import classes
from samples.tiles.cutting import PRESETS, Cutting
from samples.tiles.scenes import PICTURES
from vlm.common.console import say
from vlm.common.errors import RecipeError
from vlm.common.files import unwritable
from vlm.common.processes import is_main_process
from vlm.sections import AUTO, PictureSection


def add(subparsers: Any) -> None:
    """The parsers `cut`, `merge` and `run`."""
    one = _parser(subparsers, "cut", "cut scenes into tiles", _CUT)
    _scenes(one)
    one.add_argument("--out", type=Path, required=True, help="folder for the tiles; a second run continues there")
    one.add_argument("--dry-run", action="store_true", help="check everything, say what would be cut, write nothing")
    one.set_defaults(run=_cut)
    one = _parser(subparsers, "merge", "answers about tiles → a submission", _MERGE)
    one.add_argument("answers", type=Path, help="output folder of an evaluation of tiles")
    one.add_argument("--out", type=Path, help="folder of the submission (default: `submission` beside the answers)")
    one.add_argument("--tiles", type=Path, help="folder that `cut` wrote (default: the evaluation's data)")
    _merging(one)
    one.set_defaults(run=_merge)
    one = _parser(subparsers, "run", "scenes → tiles → answers → a submission", _RUN)
    _scenes(one)
    one.add_argument("--out", type=Path, required=True, help="folder for all of it; a second run continues there")
    one.add_argument("--model", required=True, help="checkpoint: a folder or a hub id; with --backend endpoint a name")
    one.add_argument("--notation", default=AUTO, help="how the model writes objects, such as rscovlm_quad")
    one.add_argument("--style", choices=("direct", "r1"), default="direct", help="r1: asks for tags and reads <answer>")
    one.add_argument("--backend", choices=("hf", "vllm", "endpoint"), default="hf", help="what generates")
    one.add_argument("--overwrite", action="store_true", help="ask again what was answered")
    _merging(one)
    one.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    one.set_defaults(run=_run)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; of `run` with `overrides`, wherever they stand. (Subparsers cannot parse intermixed words.)"""
    arguments, others = parser.parse_known_args(argv)
    takes = arguments.command == "run"
    if wrong := [word for word in others if not takes or word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    arguments.overrides = others
    return arguments


def _parser(subparsers: Any, name: str, about: str, description: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=about, description=description, formatter_class=raw
    )
    return parser


def _scenes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenes", type=Path, help="folder as DOTA's, of pictures alone, or other data of detection")
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="rscovlm_512", help="published; the next ones change it")
    add("--size", type=int, metavar="PIXELS", help="width and height of a tile")
    add("--gap", type=int, metavar="PIXELS", help="overlap of neighbours")
    add("--rates", metavar="R,R", help="scales at which the scene is cut, such as 0.5,1,1.5")
    add("--kept", type=float, metavar="SHARE", help="of an object's area inside, from which on the tile has it")
    add("--filled", type=float, metavar="SHARE", help="of a tile that must be more than this inside the scene")
    add("--padding", metavar="R,G,B", help="colour beyond the scene, or `none`: the tile ends there")
    add("--no-empty", action="store_true", help="leave out tiles without objects (for training)")
    add("--classes", help=f"plane,small-vehicle or one of {', '.join(classes.LISTS)}; default: all that the data has")
    add("--format", help=f"of the annotations, `{PICTURES}` for none; default: told from what is there")
    add("--images", type=Path, metavar="DIR", help="where the pictures lie, if the format does not say")
    add("--raster", metavar="JSON", help='how rasters are shown, as images.raster: {"bands": [4, 3, 2], "stretch": …}')
    add("--pixels", type=int, default=PictureSection().limit, help="of the largest scene (as images.limit)")
    add("--on-fault", choices=("error", "skip"), default="error", help="faulty annotations end the run, or are counted")
    add("--workers", type=int, default=min(4, os.cpu_count() or 1), help="threads that write tiles")


def _merging(parser: argparse.ArgumentParser) -> None:
    said = ", ".join(f"{number} {what}" for number, what in submission.TASKS.items())
    parser.add_argument("--task", type=int, choices=submission.TASKS, help=f"{said}; default: by the model's notation")
    parser.add_argument("--iou", type=float, default=THRESHOLD, help="of two objects of a class above it, one goes")
    parser.add_argument("--partial", action="store_true", help="merge although tiles have no answer")


def cutting(arguments: argparse.Namespace) -> Cutting:
    """The preset with what the command line changes. Raises: RecipeError."""
    preset = PRESETS[arguments.preset]
    names = ("size", "gap", "kept", "filled")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.rates is not None:
        changes["rates"] = _numbers("--rates", arguments.rates, float)
    if arguments.padding is not None:
        none = arguments.padding == "none"
        changes["padding"] = None if none else _numbers("--padding", arguments.padding, int)
    if arguments.classes is not None:
        changes["classes"] = classes.named(arguments.classes)
    if arguments.no_empty:
        changes["empty"] = False
    if arguments.raster is not None:
        try:
            changes["raster"] = json.loads(arguments.raster)
        except ValueError as error:
            raise RecipeError(f"--raster {arguments.raster}: found no JSON ({error}), expected an object") from error
    try:
        return Cutting.model_validate(preset.model_dump() | changes)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors())
        raise RecipeError(f"how to cut: {said}") from error


def _numbers(flag: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"{flag} {text}: expected numbers, separated by commas") from error


def source(arguments: argparse.Namespace) -> Source:
    """Raises: RecipeError."""
    if arguments.workers < 1 or arguments.pixels < 1:
        raise RecipeError(f"--workers {arguments.workers} --pixels {arguments.pixels}: expected at least 1")
    how = cutting(arguments)
    if arguments.preset == "rscovlm_512" and how.gap == PRESETS["rscovlm_512"].gap and arguments.gap is None:
        say(f"note: {whole.GUESSED.format(how.gap)}")
    if (fault := unwritable(arguments.out)) is not None:
        raise RecipeError(f"--out {arguments.out}: {fault}; expected a folder that can be made")
    return Source(
        arguments.scenes,
        how,
        arguments.format,
        arguments.images,
        arguments.pixels,
        arguments.workers,
        arguments.on_fault,
    )


def _cut(arguments: argparse.Namespace) -> None:
    if not is_main_process():
        return
    found = source(arguments)
    (whole.plan_cut if arguments.dry_run else whole.cut_all)(found, arguments.out)


def _merge(arguments: argparse.Namespace) -> None:
    if not is_main_process():
        return
    _check_iou(arguments)
    out = arguments.out or arguments.answers.absolute().parent / whole.SUBMISSION
    found = merge(arguments.answers, out, arguments.tiles, arguments.task, arguments.iou, arguments.partial)
    say(f"{found}\n{out / f'Task{found.task}.zip'}", sys.stdout)


def _run(arguments: argparse.Namespace) -> None:
    _check_iou(arguments)
    found = source(arguments)
    names = ("model", "style", "notation", "backend", "overrides", "overwrite")
    asked = Asked(**{name: getattr(arguments, name) for name in names})
    if arguments.dry_run:
        whole.plan(found, asked, arguments.out)
    else:
        whole.run(found, asked, arguments.out, arguments.task, arguments.iou, arguments.partial)


def _check_iou(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.iou <= 1:
        raise RecipeError(f"--iou {arguments.iou}: expected a share from 0 to 1")


_CUT = """Cut large scenes into tiles that overlap, in mmrotate's layout, which the format `dota` reads:

    python launch/detect.py cut DOTA/train --out tiles/train --preset mmrotate_1024
    python launch/detect.py cut DOTA/test --out tiles/test --classes dota-1.0      pictures without annotation

A second run of the same command continues; another way of cutting is refused there."""
_MERGE = """Shift the objects that a model found in tiles back into their scenes, remove what two tiles found twice, and
write the files that DOTA's server takes (Task1_<class>.txt, zipped; every score is 1.0):

    python launch/eval.py recipes/eval.yaml data.eval.0.path=tiles/test … output=runs/answers
    python launch/detect.py merge runs/answers --out runs/submission"""
_RUN = """Cut a folder of scenes, ask a model about every tile, merge the answers, score them where there is a truth:

    python launch/detect.py run DOTA/val --model runs/rscovlm --notation rscovlm_quad --out runs/val
    accelerate launch launch/detect.py run … images.max_pixels=786432 generation.batch_size=32

key.sub=value changes the evaluation's recipe (recipes/eval.yaml shows its keys). A second run of the same command
continues, or says again what came of it."""
