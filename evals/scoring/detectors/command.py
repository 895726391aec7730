"""`launch/detect.py score`: the numbers of a detector, from the files that it leaves.

python launch/detect.py score Task1.zip --truth DOTA/val/labelTxt --choose-on trainval/Task1.zip DOTA/trainval/labelTxt
python launch/detect.py score results.json --truth instances_val.json --out runs/detectors/fcos
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.comparing import compare
from evals.scoring.detecting.pictures import Picture, pool
from evals.scoring.detectors import results, submission
from evals.scoring.detectors.cut import Cut, choose
from evals.scoring.detectors.found import pictures
from evals.scoring.detectors.scored import as_scored, at_cut
from evals.scoring.detectors.truth import read as read_truth
from evals.scoring.report import Scores, as_dict
from vlm.common.console import say
from vlm.common.errors import UserError
from vlm.common.files import replace

ABOUT = """numbers of a detector, from a DOTA submission or COCO results

AP by the detector's scores (VOC07, VOC12, COCO), and AP_nc, which leaves scores out so that models without any can
stand beside it: the detector keeps what it scores above θ, the one of 0, 0.05 … 0.95 with the greatest AP_nc50 on the
data of --choose-on.
"""


def add(subparsers: Any) -> None:
    """The parser `score` of launch/detect.py; its `run` takes what is parsed."""
    parser = subparsers.add_parser(
        "score", help=ABOUT.partition("\n")[0], description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = "folder or zip of Task1_<class>.txt (or Task2_), or COCO's results (.json)"
    parser.add_argument("submission", type=Path, help=given)
    parser.add_argument("--truth", type=Path, required=True, help="DOTA folder of labels, or COCO file (.json)")
    parser.add_argument(
        "--choose-on",
        nargs=2,
        type=Path,
        metavar=("SUBMISSION", "TRUTH"),
        help="choose θ on this data of the same detector (default: on what is scored, which is optimistic)",
    )
    theta = "cut at this θ instead of choosing one, such as one that was chosen before"
    parser.add_argument("--theta", type=float, help=theta)
    parser.add_argument("--out", type=Path, help="write table.md and metrics.json here")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Scores]:
    """Print the table; returns the numbers as they are scored, and cut. Raises: UserError, DataError."""
    if arguments.theta is not None and arguments.choose_on:
        raise UserError("--theta and --choose-on: expected one of them; --theta says what --choose-on would find out")
    if arguments.theta is not None and not 0 <= arguments.theta < 1:
        raise UserError(f"--theta {arguments.theta:g}: expected 0 or more, and less than 1")
    scored, rotated, notes = side_by_side(arguments.submission, arguments.truth)
    chosen, where = _chosen(arguments, scored, rotated)
    reports = {"by score": as_scored(scored, rotated), f"s > {chosen.theta:g}": at_cut(scored, rotated, chosen, where)}
    for note in notes:
        say(f"note: {arguments.submission}: {note}")
    Console().print(compare.table(reports, title=str(arguments.submission)))
    say(f"θ = {chosen.theta:g}, {where}", sys.stdout)
    if arguments.out is not None:
        _write(arguments.out, reports, chosen, where)
    return reports


def side_by_side(found: Path, true: Path) -> tuple[list[Picture], bool, list[str]]:
    """Pictures with truth and findings, whether shapes are quadrilaterals, and what to say of them."""
    read: Any = results if found.suffix == ".json" else submission
    rotated = results.rotated(found) if found.suffix == ".json" else submission.task(found) == 1
    truth = read_truth(true, rotated)
    objects, notes = read.read(found, truth)
    return pictures(truth, objects), rotated, notes


def _chosen(arguments: argparse.Namespace, scored: list[Picture], rotated: bool) -> tuple[Cut, str]:
    """θ, and where it comes from in words."""
    if arguments.theta is not None:
        return Cut(arguments.theta, {}), "as --theta says"
    if not arguments.choose_on:
        found = pool(scored)
        return choose(found), "chosen on the very data that is scored: optimistic, see --choose-on"
    others, turned, notes = side_by_side(*arguments.choose_on)
    if turned != rotated:
        one, other = (("quadrilaterals" if each else "boxes") for each in (turned, rotated))
        raise UserError(
            f"--choose-on: {arguments.choose_on[0]} has {one}, {arguments.submission} has {other}; expected both alike"
        )
    for note in notes:
        say(f"note: {arguments.choose_on[0]}: {note}")
    return choose(pool(others)), f"chosen on {arguments.choose_on[0]} and {arguments.choose_on[1]}"


def _write(out: Path, reports: dict[str, Scores], chosen: Cut, where: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    by_score, cut = reports.values()
    theta = {"theta": chosen.theta, "chosen": where, "tried": {f"{at:g}": ap for at, ap in chosen.tried.items()}}
    found = {"theta": theta, "by_score": as_dict(by_score), "cut": as_dict(cut)}
    replace(out / "metrics.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    replace(out / "table.md", compare.markdown(reports) + f"- θ = {chosen.theta:g}, {where}\n")
