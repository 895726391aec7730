"""What every launcher does around its stage: read the command line, show errors as messages.

    launch/grpo.py recipes/r1.yaml training.learning_rate=2e-6 --dry-run

Positional: the recipe, then `key.sub=value` overrides. Flags: `--dry-run` prints the plan and stops before any weight
loads; `--keys` prints the keys that a recipe needs first (`--keys all`: every one) with type, default and meaning;
`--schema` the same for editors.
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stage.guards import lock
from stage.guards.allocator import expandable
from stage.guards.disk import is_full
from stage.parallel.sharding import check_launch
from stage.recipe import config
from stage.recipe.editors import json_schema
from stage.recipe.keys import page
from stage.recipe.together import check_engines, doubts
from stage.tracking.trackers import check_account, check_installed
from vlm.common.console import EXIT_USER_ERROR, log_to_stderr, report, say
from vlm.common.errors import RESUMABLE, Interrupted, RecipeError, UserError
from vlm.common.files import unwritable
from vlm.common.processes import is_main_process
from vlm.common.section import Section
from vlm.loading import resolve_attention
from vlm.pictures import images

T = TypeVar("T", bound=Section)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
AGAIN = "a training with resume=auto goes on from its last checkpoint"
OF_EACH = ("rewards.guarded", "rl.unrewarded", "rewards.score.reward.faults", "stage.guards", "vlm.pictures.unreadable")
"""Loggers whose warnings are about one process's rows, so that every process is heard."""


def check_machine(recipe: Any) -> None:
    """Refuse what the recipe asks of this machine in vain, before data is read and torch is imported. A dry run plans
    for another machine.

    Raises: RecipeError.
    """
    expandable(recipe)
    if hasattr(recipe, "model") and recipe.model.attention == "flash_attention_2":
        resolve_attention(recipe.model.attention, recipe.model.dtype)
    if hasattr(recipe, "sharding"):
        check_launch(recipe)
    if hasattr(recipe, "tracking"):
        check_account(recipe.tracking)


def check_output(recipe: Any, dry_run: bool) -> None:
    """Raises: RecipeError where a run could not write into its `output`; a dry run only says it."""
    fault = unwritable(Path(recipe.output)) if hasattr(recipe, "output") else None
    if fault is None:
        return
    told = f"output: {recipe.output}: {fault}"
    if not dry_run:
        raise RecipeError(f"{told}; expected a folder that can be made; choose another, such as output=~/runs/NAME")
    say(f"note: {told} on this machine, where a run would end at once")


def launch(
    recipe_class: type[T],
    train: Callable[[T], None],
    plan: Callable[[T], None],
    argv: Sequence[str] | None = None,
    *,
    epilog: str = "",
) -> int:
    """Run a stage from the command line; returns the exit code.

    0 done, 2 the user's error, 75 stopped by a signal with a checkpoint (stage.signals), 130 Ctrl-C without one.

    train: does the work of a resolved recipe. plan: prints what it would do (`--dry-run`), without weights. epilog:
    goes below `--help`, as it is.
    """
    parser = argparse.ArgumentParser(
        description="See the README; `--keys` lists what a recipe may hold.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the recipe")
    parser.add_argument("--dry-run", action="store_true", help="resolve, check and print the plan; load no weights")
    parser.add_argument("--keys", nargs="?", const="", metavar="all|WORD", help="list the recipe's keys and stop")
    parser.add_argument("--schema", action="store_true", help="print the recipe's JSON schema, for editors, and stop")
    arguments = parser.parse_intermixed_args(argv)
    if (arguments.keys or "").endswith((".yaml", ".yml")):
        arguments.keys = ""  # the recipe, behind a flag that takes a word
    if arguments.keys is not None or arguments.schema:
        say(json_schema(recipe_class) if arguments.schema else page(recipe_class, arguments.keys), sys.stdout)
        return 0
    if arguments.recipe is None:
        parser.error("a recipe is needed, e.g. recipes/r1.yaml")

    def work() -> None:
        recipe = config.load(arguments.recipe, recipe_class, arguments.overrides)
        open_questions = recipe.settle(fetch=True) if hasattr(recipe, "settle") else []
        check_engines(recipe)
        if hasattr(recipe, "images"):
            images.use(recipe.images)
        if hasattr(recipe, "tracking"):
            check_installed(recipe.tracking)
        for doubt in (*open_questions, *doubts(recipe)) if is_main_process() else ():
            say(f"note: {doubt}")
        check_output(recipe, arguments.dry_run)
        if not arguments.dry_run:
            check_machine(recipe)
            train(recipe)
        elif is_main_process():  # eight processes print one plan
            plan(recipe)

    return guarded(work)


def unusable_place(error: Exception) -> str | None:
    """What to say of an error of the disk that the user can mend: it is full, or a place is not theirs."""
    if is_full(error):
        return f"the disk is full: {error}. Make room, and start the same command again ({AGAIN})"
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename is not None:
        return f"{error.filename}: {error.strerror}; expected a place that this user may read and write"
    return None


def guarded(work: Callable[[], object]) -> int:
    """Do the work with our logging on and errors shown as messages; returns the exit code as `launch` does."""
    # TRL still writes the old name of this option; the user can do nothing about it
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)
    log_to_stderr()
    for ours in ("vlm", "samples", "stage", "rewards", "sft", "rl", "evals"):
        logging.getLogger(ours).setLevel(logging.INFO if is_main_process() else logging.ERROR)
    if not is_main_process():
        for each in OF_EACH:  # what only this process may have seen
            logging.getLogger(each).setLevel(logging.WARNING)
    try:
        work()
    except UserError as error:
        report(error)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        say(f"{stop}; to resume: the same command with resume=auto")
        return RESUMABLE
    except KeyboardInterrupt:
        say("interrupted; what was written stays in the run folder")
        return 130
    except Exception as error:
        if (said := unusable_place(error)) is None:
            raise
        report(UserError(said))
        return EXIT_USER_ERROR
    finally:
        lock.release_all()
    return 0
