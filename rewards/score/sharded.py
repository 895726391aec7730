"""A score model that is split over the processes of a ZeRO-3 run, as the policy and the reference model are.

Each process holds its part of every weight, and a forward pass gathers them layer by layer. So a pass needs all
processes, and all in the same layer: they make the same number of passes, and where one of them has an image, all of
them send one through the vision tower in every pass. A process with less to do makes passes whose scores nobody reads,
about an exchange without words and a picture of one visual token.

What can fail in one process alone (a file that cannot be read, a text that cannot be tokenised) happens before the
first pass, and is agreed upon. What fails in a pass (memory) ends the run: the others wait in a collective call that
the failed process can no longer join, until the launcher ends them.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rewards.score.model.exchange import Exchange
from rewards.score.placement import Loaded, random_state_kept
from rewards.score.scorer import ScorerUnavailable
from stage.guards import broken_gpu
from stage.parallel import agreement
from vlm.common.errors import RecipeError, UserError

if TYPE_CHECKING:
    from rewards.score.model.passes import Pass

NOTHING = Exchange.of("", "")


class PassFailed(UserError):
    """A forward pass broke off in this process, and cannot be repeated: the other processes are in the middle of it."""


class Sharded(Loaded):
    """A scorer whose calls are collective: every process makes each of them, with its own exchanges or none."""

    collective = True

    _engine: Any = None
    _shares = False
    "Whether passes are packed; the model says so once it is there."

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Raw scores of this process's exchanges, in order.

        Raises: DataError naming an image that cannot be read, and UserError in the other processes; ScorerUnavailable
        where these exchanges could not be prepared for another reason, while the others get their scores; PassFailed.
        """
        from rewards.score.model.passes import passes

        module = self._loaded().module
        processor = module.scorer.processor

        def prepared() -> tuple[list[Pass], str]:
            try:
                read = self._readable(exchanges, module.scorer)
                return list(passes(read, processor, self.batch_size, self._shares)), ""
            except UserError:
                raise
            except Exception as cause:  # as `attempt` sees it: these rows fail, and the run continues
                broken_gpu.check(cause)
                return [], f"{type(cause).__name__}: {cause}"

        mine, failure = agreement.settled(prepared, "preparing exchanges for the score model")
        scores = self._run(self._padded(mine, processor, module.config), len(exchanges))
        if failure:
            raise ScorerUnavailable(f"score model {self.path}: {failure}")
        return scores

    def fingerprint(self) -> str:
        """Of the loaded model: the one that a service with the same model shows. Collective, as `score` is."""
        from rewards.score.model.fingerprint import fingerprint

        return fingerprint(self._loaded().module.scorer)

    def _padded(self, mine: list[Pass], processor, config) -> list[Pass]:
        """As many passes as every process makes, each with a picture where any process has one."""
        from rewards.score.model.passes import passes
        from vlm import families

        plans = agreement.gather((len(mine), any(one.keys for one in mine)))
        idle = replace(next(passes([NOTHING], processor, 1, self._shares)), rows=[])
        padded = [*mine, *[idle] * (max(count for count, _ in plans) - len(mine))]
        if not any(pictures for _, pictures in plans):
            return padded
        blank, _ = families.of(config).blank(config)
        shown = {"pixel_values": blank["pixel_values"], "fresh_grids": blank["image_grid_thw"]}
        return [one if one.fresh else replace(one, **shown) for one in padded]

    def _run(self, planned: Sequence[Pass], rows: int) -> list[float]:
        import torch

        scores, features = [0.0] * rows, {}
        for number, one in enumerate(planned, 1):
            try:
                with torch.no_grad():
                    values, features = self._engine(one, features)
                values = values.tolist()  # brings the errors of the device to light here
            except Exception as cause:  # whatever it is, this pass cannot be repeated by one process
                broken_gpu.check(cause)
                raise PassFailed(
                    f"reward 'score', sharded: forward pass {number} of {len(planned)} broke off in process "
                    f"{agreement.rank()}: {type(cause).__name__}: {cause}; the run ends, since the other processes "
                    "wait in it. Where memory ran out, lower `batch_size` or `max_pixels` of the reward, or use `urls`"
                ) from cause
            for row, value in zip(one.rows, values, strict=False):  # an idle pass has a value and no row
                scores[row] = value
        return scores

    def _loaded(self) -> Any:
        if self._engine is None:
            self._engine = self._load(agreement.settled(self._checked, "looking for the score model"))
        return self._engine

    def _checked(self) -> str:
        """The type in which ZeRO-3 keeps weights here.

        Raises: RecipeError where ZeRO-3 is off, where another type is asked for, or where the checkpoint is missing.
        """
        from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

        if not is_deepspeed_zero3_enabled():
            raise RecipeError(needs_zero3("here it is off"))
        config = deepspeed_config()
        half = [dtype for key, dtype in (("bf16", "bfloat16"), ("fp16", "float16")) if _enabled(config, key)]
        kept, asked = (half or ["float32"])[0], self.options.get("dtype")
        if asked not in (None, kept):
            raise RecipeError(
                f"reward 'score': dtype is {asked!r}, but ZeRO-3 keeps the weights of this run in {kept}, those of a "
                "sharded score model too; leave `dtype` out, or serve the model (`urls`)"
            )
        self.prepare()
        return kept

    def _load(self, dtype: str) -> Any:
        """DeepSpeed's engine around the model, split while it is loaded: no process ever holds the whole."""
        from accelerate.state import AcceleratorState
        from trl.models.utils import prepare_deepspeed

        from rewards.score.model.passes import Forward
        from rewards.score.model.prefixes import sharing
        from rewards.score.model.score_model import ScoreModel

        with random_state_kept():
            model = Forward(ScoreModel.from_pretrained(self.path, **self.options | {"dtype": dtype}))
            self._shares = sharing(model.scorer, self.share_prefix)
            # TRL asks its accelerator for the state alone. A second Accelerator would reset the gradient
            # accumulation that the trainer's shares with all others.
            return prepare_deepspeed(model, types.SimpleNamespace(state=AcceleratorState()))


def needs_zero3(found: str) -> str:
    """The message of a RecipeError."""
    return (
        f"reward 'score': `sharded` splits the score model over the processes of a ZeRO-3 run, and {found}; set "
        "sharding.zero: 3 in the recipe, or leave `sharded` out (each process then holds a whole copy)"
    )


def _enabled(config: dict[str, Any], section: str) -> bool:
    return config.get(section, {}).get("enabled") is True
