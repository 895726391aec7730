"""What a run writes: bytes of a checkpoint and of `final/`, how many checkpoints stay, and whether its disk has room.

A checkpoint holds the weights (an adapter under LoRA) as they are trained, and what a resume needs: AdamW's two
moments, and under DeepSpeed a float32 copy of what is trained. DeepSpeed stores the weights once more in stages 1 and
2, and from stage 2 on the frozen ones, unless there is LoRA. Checked against real ones in tests/stage/test_storage.py.

Left out: rollouts that a checkpoint within a generation batch keeps, dumps, tables of completions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from stage.checkpoints import folders, manifest
from stage.planning import optimisers
from stage.planning.job import Batch, Job
from stage.planning.memory import Setup
from vlm.common.console import say
from vlm.common.errors import RecipeError
from vlm.shapes import Shape

GB = 10**9
RATE = 10**9
"""Bytes a second that a shared file system is taken to write; a local NVMe disk writes two or three times as many."""
SURE = 0.95
"""Share of a planned size that is certainly needed (tests: planned within 3%)."""


@dataclass(frozen=True)
class Storage:
    """Bytes, and numbers of checkpoints."""

    output: str
    weights: int
    """Of a checkpoint: what `from_pretrained` loads."""
    resume: int
    """Of a checkpoint: what a resume needs beside them."""
    final: int
    """Of `final/`, and of the adapter beside it where a score model's is merged."""
    written: int | None
    """Checkpoints that the run writes in all; None where its measurements decide."""
    limit: int | None
    """`save_total_limit`, the best one included where it stays as well."""
    certain: bool = True
    """Whether the optimiser is known."""

    @property
    def checkpoint(self) -> int:
        return self.weights + self.resume

    @property
    def kept(self) -> int | None:
        """Checkpoints that lie there at the end."""
        if self.limit is None or self.written is None:
            return self.written if self.limit is None else self.limit
        return min(self.written, self.limit)

    @property
    def peak(self) -> int:
        """The most bytes at one time: the oldest checkpoint goes when the new one is there. One, where the number is
        not known."""
        kept = 1 if self.kept is None else self.kept
        while_writing = kept + 1 if self.written is None or self.written > kept else kept
        return max(while_writing * self.checkpoint, kept * self.checkpoint + self.final)

    @property
    def first(self) -> int:
        """The least that must be free when the run begins: for its first checkpoint, else for `final/`."""
        if self.written == 0:
            return self.final
        return max(self.checkpoint if self.certain else self.weights, self.final)

    @property
    def seconds(self) -> float:
        """To write one checkpoint at `RATE`."""
        return self.checkpoint / RATE


def storage(job: Job, sizes: Shape, setup: Setup, batch: Batch, merged: bool = False) -> Storage:
    """merged: `final/` holds the whole model under LoRA, too (score models)."""
    b, trained, saving = setup.weight_bytes, sizes.total_trainable, job.saving
    adapter = (4 if setup.zero == 0 else b) * trained
    whole = b * sizes.total
    weights = adapter if setup.lora else whole
    kept = optimisers.state_bytes(setup.optimiser, 4 if setup.lora or setup.zero else b, flat=setup.zero > 0)
    resume = round(kept * trained)
    if setup.zero:
        resume += 4 * trained
        resume += weights if setup.zero < 3 else 0
        resume += b * (sizes.total - trained) if setup.zero >= 2 and not setup.lora else 0
    return Storage(
        output=saving.output,
        weights=weights,
        resume=0 if saving.save_only_model else resume,
        final=weights + (whole if setup.lora and merged else 0),
        written=_written(job, batch),
        limit=saving.save_total_limit and saving.save_total_limit + saving.best,
        certain=optimisers.known(setup.optimiser),
    )


def _written(job: Job, batch: Batch) -> int | None:
    """Checkpoints of a whole run, as transformers counts them: the last step's is one of them."""
    saving = job.saving
    if saving.save_strategy == "steps":
        every = saving.save_steps if saving.save_steps >= 1 else math.ceil(saving.save_steps * batch.steps)
        return math.ceil(batch.steps / max(1, int(every)))
    if saving.save_strategy == "epoch":
        return math.ceil(batch.steps / batch.steps_per_epoch)
    return 0 if saving.save_strategy == "no" else None


def check_room(planned: Storage, overwrite: bool = False) -> None:
    """Refuse a run that certainly cannot keep its first checkpoint, or its model; say where there is room for few.

    Raises: RecipeError.
    """
    refused, doubtful = shortage(planned, overwrite)
    if refused:
        raise RecipeError(refused)
    if doubtful:
        say(f"note: {doubtful}")


def shortage(planned: Storage, overwrite: bool = False) -> tuple[str | None, str | None]:
    """(why there is certainly too little room on this machine, why there may be).

    overwrite: the checkpoints of an earlier run in `output` will be gone; else they stay, and count as kept: a run that
    goes on from them may need no other one, so it is told and not refused.
    """
    output = Path(planned.output)
    held, found = _held(output), folders.room(output)
    first = found + held if overwrite else found
    lacking = first < SURE * planned.first
    if lacking and (overwrite or not held):
        what = "final/" if planned.written == 0 else "a checkpoint"
        return (
            f"output: the disk of {output} has {size(first)} free, and {what} takes {size(planned.first)}; make room, "
            f"or choose an output on another disk{_advice(planned)}"
        ), None
    if lacking or found + held < planned.peak:
        return None, (
            f"the disk of {output} has {size(found)} free, and checkpoints and final/ take up to {size(planned.peak)} "
            "at a time: what finds no room is left out, with a warning; make room, or lower training.save_total_limit"
        )
    return None, None


def _advice(planned: Storage) -> str:
    return ", or write training.save_only_model=true (no resume)" if planned.written and planned.resume else ""


def _held(output: Path) -> int:
    return sum(
        path.stat().st_size for folder in manifest.folders(output) for path in folder.rglob("*") if path.is_file()
    )


def size(count: int) -> str:
    """In GB, as disks are sold; small ones in MB."""
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 10**6:.1f} MB"
