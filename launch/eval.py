"""Generate and score, by recipe or by benchmark:

python launch/eval.py recipes/eval.yaml model.path=… [key.sub=value …] [--dry-run]
python launch/eval.py --benchmarks vg-dior,aid --model PATH [--data ROOT] [--out DIR] [key.sub=value …]   (--list, -h)

Both forms take `--controls blind,shuffled`: every question is asked again without its picture, and with another one.
Many processes: `accelerate launch launch/eval.py …`.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from evals import stage  # noqa: E402
from evals.benchmarks import session  # noqa: E402
from evals.recipe import EvalRecipe  # noqa: E402
from rewards import gold  # noqa: E402
from stage.cli import launch  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def run(recipe: EvalRecipe) -> None:
    stage.run(recipe, gold.judge(recipe.gold), check_columns=partial(gold.check, recipe.gold))


def plan(recipe: EvalRecipe) -> None:
    stage.plan(recipe, partial(gold.check, recipe.gold))


def words(argv: list[str]) -> list[str]:
    """The command line by recipe, with `--controls a,b` as the recipe's key."""
    out = []
    for at, word in enumerate(argv):
        if word.startswith("--controls="):
            out.append(f"controls=[{word.partition('=')[2]}]")
        elif at and argv[at - 1] == "--controls":
            out.append(f"controls=[{word}]")
        elif word != "--controls" or at == len(argv) - 1:
            out.append(word)
    return out


if __name__ == "__main__":
    named = any(word.split("=")[0] in ("--benchmarks", "--list") for word in sys.argv[1:])
    other = f"Or one model on public benchmarks:\n\n{session.parser().format_help()}"
    with terminal():
        sys.exit(session.main() if named else launch(EvalRecipe, run, plan, words(sys.argv[1:]), epilog=other))
