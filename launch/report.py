"""Runs as one HTML file:  python launch/report.py runs/r1 [--out report.html]

    python launch/report.py runs/r1 runs/r1_no_score --compare
    python launch/report.py score=runs/a,runs/b rules=runs/c --compare --band bootstrap
    python launch/report.py runs/ablation --compare          # a folder of runs

RUN is a run folder (training or evaluation), a folder that holds some, the output folder of launch/ablate.py, or
label=folder,folder. With --compare, runs that differ by their seed alone are one curve with a band. The file holds
everything, scripts and pictures too, and asks the network for nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from stage.cli import guarded  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def write(asked: argparse.Namespace) -> None:
    from evals.comparing.sidebyside import evaluations
    from evals.recipe import EvalRecipe
    from rewards.score.training.recipe import ScoreRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe
    from studies.report import page
    from studies.report.runs import labels
    from vlm.common.files import replace

    curves = labels.curves(asked.runs, asked.compare)
    out = asked.out or Path(asked.runs[0] if asked.runs[0].count("=") == 0 else ".") / "report.html"
    classes = [GRPORecipe, SFTRecipe, ScoreRecipe, EvalRecipe]
    title = asked.title or labels.title(asked.runs)
    text = page.html(page.Asked(curves, title, asked.band, asked.rows, asked.gold, classes, evaluations))
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, text)
    count = sum(len(curve.runs) for curve in curves)
    print(f"{out}: {count} run{'s' * (count > 1)}, {len(text.encode()) / 1e6:.1f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, help="the file; by default report.html in the first folder")
    parser.add_argument("--compare", action="store_true", help="runs that differ by their seed alone are one curve")
    parser.add_argument("--band", choices=["range", "bootstrap"], default="range", help="what a band shows")
    parser.add_argument("--rows", type=int, default=300, help="completions to look at; 0 for none")
    parser.add_argument("--gold", metavar="METRIC", help="what is the truth; the learned score is drawn against it")
    parser.add_argument("--title", default="")
    asked = parser.parse_args()
    return guarded(lambda: write(asked))


if __name__ == "__main__":
    with terminal():
        sys.exit(main())
