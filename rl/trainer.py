"""`rl.GRPOTrainer`: TRL's GRPOTrainer for image prompts, a drop-in with the same arguments.

What differs from trl 1.16.0, in the order of the bases; each says in its docstring which methods it overrides:

    `rl.arguments.handed_over`            image tokens are never sampled, on any backend; only safetensors are loaded;
                                          the reference model is of the policy's commit, its head as stored
    `rl.unrewarded.Unrewarded`            completions without a reward are named in a line
    `rl.table.Table`                      the table of completions can be read by itself, and is shown to trackers
    `rl.turns.conversing.Turns`           completions of several turns, with tools between them
    `rl.counters.Counted`                 seconds, tokens, pictures and memory of each step in the log
    `rl.engine.Sampler`, `Engine`         vLLM is told the same prompt, and its log-probabilities are compared
    `rl.sharing.prompts.SharedPrompts`    each prompt is computed once for all its completions
    `stage.guards.finite.FiniteSteps`     a step whose loss or gradient is not finite does not happen
    `rl.resuming.ResumableRollouts`       a stopped run continues exactly; the inputs of a step can be dumped for replay
    `stage.trainer.orders.FlatOrder`      the order of millions of rows is a tensor, not a list
    `stage.parallel.fsdp.FullySharded`    FSDP2 trains as DDP does

From the outside in: the table reads a batch that is finished, and its work is not counted; what is counted includes the
preparation of shared prompts; what changes TRL's computation comes last, next to it.
"""

from __future__ import annotations

from typing import Any

import trl

from rl.arguments import handed_over, heads_as_stored, pinned
from rl.counters import Counted
from rl.engine import Sampler, engine
from rl.resuming import ResumableRollouts
from rl.sharing.prompts import SharedPrompts
from rl.table import Table
from rl.turns.conversing import Turns
from rl.unrewarded import Unrewarded
from stage.guards.finite import FiniteSteps
from stage.parallel.fsdp import FullySharded
from stage.trainer.orders import FlatOrder
from vlm.adapters import float32_adapters
from vlm.prefix.rollout import fix_top_p


class GRPOTrainer(
    Unrewarded,
    Table,
    Turns,
    Counted,
    Sampler,
    SharedPrompts,
    FiniteSteps,
    ResumableRollouts,
    FlatOrder,
    FullySharded,
    trl.GRPOTrainer,
):
    """`model` is a Qwen2-VL or Qwen2.5-VL: loaded (PEFT too), a folder or a hub id. share_prefix, check_sharing: see
    `SharedPrompts`; the others are TRL's.

    Overridden: `__init__` (arguments only; the processor pads on the left, whatever it was loaded with: TRL tokenises
    prompts twice, once padding them itself and once through the processor, and padding on the right there shifts the
    image positions of every shorter prompt).
    """

    _tag_names = ["trl", "grpo", "nadir"]

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: trl.GRPOConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *positional: Any,
        share_prefix: bool = True,
        check_sharing: bool = True,
        **named: Any,
    ):
        args, processing_class = handed_over(model, reward_funcs, args, processing_class)
        given = (model, reward_funcs, args, train_dataset, eval_dataset, processing_class, *positional)
        with pinned(model), heads_as_stored(), engine(), float32_adapters(model):
            super().__init__(*given, share_prefix=share_prefix, check_sharing=check_sharing, **named)
        self._tokenizer.padding_side = "left"
        if self.args.full_determinism:
            fix_top_p(self.model)
