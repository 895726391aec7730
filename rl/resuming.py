"""What GRPO must remember between steps beside transformers' files, so that a resume within a block is exact.

A generation batch serves `steps_per_generation` micro-batches, `num_iterations` times. TRL stores neither its rollouts
nor its place among them, so that a resume in their middle makes new ones and leaves the run's trajectory.
"""

from __future__ import annotations

from typing import Any

import torch

from rl.sharing.rows import Rows
from stage.checkpoints.resumable import Resumable
from stage.checkpoints.stateful import Stateful
from stage.replay.dumps import ROWS, Dumping
from vlm.pictures.unreadable import row_name


class ResumableRollouts(Dumping, Resumable):
    """A run that was stopped anywhere continues as if it had not been (`stage.checkpoints`), and what a step was
    computed from can be kept, to compute it again (`stage.replay.dumps`). Each process keeps its own.

    Overridden: `_generate_and_score_completions` (batches name their rows); of the bases `stored_inputs`,
    `held_inputs`, `loss_state`, `kept_state`, `take_state`.
    """

    def _generate_and_score_completions(self, inputs):
        return {**super()._generate_and_score_completions(inputs), ROWS: [row_name(row) for row in inputs]}

    def stored_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch in which `Rows` are plain."""
        rows = inputs.get("num_images")
        if not isinstance(rows, Rows):
            return dict(inputs)
        return {**inputs, "num_images": rows.plain()}

    def held_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        rows = inputs.get("num_images")
        return {**inputs, "num_images": Rows(**rows)} if isinstance(rows, dict) else inputs

    def loss_state(self) -> dict[str, Any]:
        """What adapts itself from step to step."""
        return {"entropy_coef": self.entropy_coef, "_last_world_entropy": self._last_world_entropy}

    def kept_state(self) -> dict[str, Any]:
        """Place and rollouts of the block, sums until the next log, rewards' own state, a reference that moves."""
        inside = self._step % (self.args.steps_per_generation * self.num_iterations)
        return super().kept_state() | {
            "step": self._step,
            "rollouts": [self.stored_inputs(batch) for batch in self._buffered_inputs] if inside else None,
            "metrics": dict(self._metrics["train"]),
            "step_time": self._current_train_step_time,
            "rewards": [reward.state_dict() if remembers(reward) else None for reward in self.reward_funcs],
            "reference": self.ref_model.state_dict() if self._reference_moves() else None,
        }

    def _reference_moves(self) -> bool:
        """Whether the reference follows the policy, so that its weights must be kept, too; not under DeepSpeed, where a
        recipe that asks for it is refused (`rl.recipe`)."""
        return self.args.sync_ref_model and not self.is_deepspeed_enabled

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        self._step = state["step"]
        self._buffered_inputs = state["rollouts"] and [self.held_inputs(batch) for batch in state["rollouts"]]
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        self._current_train_step_time = state["step_time"]
        for reward, remembered in zip(self.reward_funcs, state["rewards"], strict=True):
            if remembered is not None:
                reward.load_state_dict(remembered)
        if self._reference_moves():
            self.ref_model.load_state_dict(state["reference"])


def remembers(reward: Any) -> bool:
    """Whether a reward has state of its own; TRL takes modules too, whose `state_dict` is their weights."""
    return isinstance(reward, Stateful) and not isinstance(reward, torch.nn.Module)
