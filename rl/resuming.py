"""What GRPO must remember between steps beside transformers' files, so that a resume within a block is exact.

A generation batch serves `steps_per_generation` micro-batches, `num_iterations` times. TRL stores neither its rollouts
nor its place among them, so that a resume in their middle makes new ones and leaves the run's trajectory.
"""

from __future__ import annotations

from typing import Any

import torch

from rl.sharing.rows import Rows
from rl.table import TRACKERS, as_text
from stage.checkpoints.resumable import Resumable
from stage.checkpoints.stateful import Stateful
from stage.replay.dumps import Dumping


class ResumableRollouts(Dumping, Resumable):
    """`Resumable` and `Dumping` for `rl.GRPOTrainer`; each process keeps its own."""

    def stored_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return as_stored(inputs)

    def held_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return as_held(inputs)

    def loss_state(self) -> dict[str, Any]:
        """What adapts itself from step to step."""
        return {"entropy_coef": self.entropy_coef, "_last_world_entropy": self._last_world_entropy}

    def kept_state(self) -> dict[str, Any]:
        """Place and rollouts of the block, sums until the next log, rewards' own state, a reference that moves."""
        inside = self._step % (self.args.steps_per_generation * self.num_iterations)
        return {
            "step": self._step,
            "rollouts": [as_stored(batch) for batch in self._buffered_inputs] if inside else None,
            "metrics": dict(self._metrics["train"]),
            "step_time": self._current_train_step_time,
            "counters": dict(self._counters.sums),
            "seen": self._seen,
            "table": self._table() if self.accelerator.is_main_process else None,
            "rewards": [reward.state_dict() if remembers(reward) else None for reward in self.reward_funcs],
            "reference": self.ref_model.state_dict() if self._reference_moves() else None,
        }

    def _reference_moves(self) -> bool:
        """Whether the reference follows the policy, so that its weights must be kept, too; not under DeepSpeed, where a
        recipe that asks for it is refused (`rl.recipe`)."""
        return self.args.sync_ref_model and not self.is_deepspeed_enabled

    def take_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._buffered_inputs = state["rollouts"] and [as_held(batch) for batch in state["rollouts"]]
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        self._current_train_step_time = state["step_time"]
        self._counters.sums.clear()
        self._counters.sums.update(state["counters"])
        self._seen = state["seen"]
        if state["table"] is not None:
            self._take_table(state["table"])
        for reward, remembered in zip(self.reward_funcs, state["rewards"], strict=True):
            if remembered is not None:
                reward.load_state_dict(remembered)
        if self._reference_moves():
            self.ref_model.load_state_dict(state["reference"])

    def _table(self) -> dict[str, Any]:
        """TRL's table of the last generation batch, which the next log writes; conversations as text, as `log` does."""
        for column in ("prompt", "completion"):
            rows = self._logs[column]
            for number, messages in enumerate(rows):
                rows[number] = as_text(messages)
        shown = TRACKERS & set(self.args.report_to or ())
        return {name: rows for name, rows in self._logs.items() if shown or name != "images"}

    def _take_table(self, table: dict[str, Any]) -> None:
        for name, rows in table.items():
            if isinstance(rows, dict):
                for column, values in rows.items():
                    self._logs[name][column].extend(values)
            else:
                self._logs[name].extend(rows)


def remembers(reward: Any) -> bool:
    """Whether a reward has state of its own; TRL takes modules too, whose `state_dict` is their weights."""
    return isinstance(reward, Stateful) and not isinstance(reward, torch.nn.Module)


def as_stored(batch: dict[str, Any]) -> dict[str, Any]:
    """A micro-batch in which `Rows` are plain."""
    rows = batch.get("num_images")
    if not isinstance(rows, Rows):
        return dict(batch)
    return {**batch, "num_images": {"prompts": rows.prompts, "pictures": rows.pictures, "shares": rows.shares}}


def as_held(batch: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `as_stored`."""
    rows = batch.get("num_images")
    return {**batch, "num_images": Rows(**rows)} if isinstance(rows, dict) else batch
