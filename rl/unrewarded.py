"""Completions that no reward applies to, or whose rewards failed: said in a line, not as TRL's dump of the row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vlm.pictures.unreadable import row_name

logger = logging.getLogger(__name__)
NAMED = 4
"""Rows in a message."""


class Unrewarded:
    """Overridden: `_calculate_rewards`. Each process speaks of its own rows, of the first such batch, the second, the
    fourth, the eighth …, for there may be one at each step.
    """

    _unrewarded = 0
    "Batches with such completions."

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        theirs = logging.getLogger("trl.trainer.grpo_trainer")
        theirs.addFilter(_no_dump)
        try:
            found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            theirs.removeFilter(_no_dump)
        begin = self.accelerator.process_index * len(prompts)
        without = found[begin : begin + len(prompts)].isnan().all(dim=1).nonzero().flatten().tolist()
        if without:
            self._unrewarded += 1
            if self._unrewarded.bit_count() == 1:
                logger.warning(told([inputs[row] for row in without], len(prompts), self._unrewarded))
        return found


def told(without: Sequence[dict[str, Any]], rows: int, batches: int) -> str:
    """without: the rows of the data whose completions have no reward, of so many in the batch."""
    names = list(dict.fromkeys(row_name(row) if "id" in row else "a row without an id" for row in without))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{len(without)} of {rows} completions have no reward: none applies to their row, or it failed; they train "
        f"nothing ({', '.join(names[:NAMED])}{more}; batch {batches} of this kind)"
    )


def _no_dump(record: logging.LogRecord) -> bool:
    return "All reward functions returned None" not in str(record.msg)
