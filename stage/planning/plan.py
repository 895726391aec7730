"""A plan: its numbers, what they say about the target, and its tables for the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stage.planning.gpus import Fleet
from stage.planning.job import Batch, Job
from stage.planning.memory import GIB, OVERHEAD
from vlm.adapters import PARTS
from vlm.shapes import Shape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Plan:
    """Numbers first; `render` shows them to people."""

    job: Job
    shape: Shape
    fleet: Fleet | None
    batch: Batch
    visual_limits: tuple[int, int]
    """Fewest and most visual tokens of an image under the recipe's pixel limits."""
    visual: dict[tuple[int, int], int]
    """Visual tokens of each image size that was given."""
    visual_planned: int
    """Visual tokens of one sequence that the memory is planned for."""
    phases: dict[str, dict[str, int]]
    """Bytes on one GPU by phase (`update`, and for GRPO `rollout`) and component."""
    host: int
    """Bytes of host memory of one process (offload)."""
    by_zero: dict[int, int]
    """Peak bytes on one GPU under each ZeRO stage."""
    notes: tuple[str, ...] = field(default=())

    @property
    def peak(self) -> int:
        """Bytes on one GPU at the worst moment, `OVERHEAD` included."""
        return max(sum(parts.values()) for parts in self.phases.values()) + OVERHEAD

    def fits(self, gpu_gib: float | None = None) -> bool | None:
        """Whether the peak fits a GPU with that much usable memory (None: the target's; no target: None)."""
        if gpu_gib is None and self.fleet is not None:
            gpu_gib = self.fleet.gib
        return None if gpu_gib is None else self.peak <= gpu_gib * GIB

    def verdict(self) -> str:
        """The answer in a sentence, with what would help where it does not fit."""
        need = f"the peak of {self.peak / GIB:.1f} GiB a GPU ({self.peak_phase})"
        if self.fleet is None:
            return f"{need}; name the target (gpus=8xA100-80G) for a verdict"
        have = f"the {self.fleet.gib:.1f} GiB of {self.fleet}"
        if self.fits():
            return f"fits: {need} is within {have}"
        return f"does not fit: {need} exceeds {have}; {_advice(self, self.fleet)}"

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    def render(self, console: Console | None = None) -> None:
        """Print parameters, batches, visual tokens, memory and the verdict."""
        from rich.console import Console

        console = console or Console()
        for table in (_parameters(self), _batch(self), _visual(self), _memory(self), _stages(self)):
            console.print(table)
        if self.host:
            console.print(f"host memory for offload: {_gib(self.host)} GiB a process")
        for note in self.notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        console.print(self.verdict(), markup=False, style={True: "green", False: "bold red", None: ""}[self.fits()])


def _advice(plan: Plan, fleet: Fleet) -> str:
    better = [stage for stage, peak in plan.by_zero.items() if peak <= fleet.gib * GIB]
    if better:
        return f"sharding.zero={min(better)} fits"
    options = ["a smaller per-device batch (with more accumulation)", "fewer max_pixels", "fewer completion tokens"]
    if not plan.job.checkpointing:
        options.insert(0, "gradient checkpointing")
    if not plan.job.sharding.offload:
        options.append("sharding.offload")
    if plan.job.model.lora is None:
        options.append("model.lora")
    options += ["the score model on other GPUs (launch/serve.py)"] if plan.job.resident else []
    return f"no ZeRO stage does alone; try {', '.join(options)}"


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _parameters(plan: Plan) -> Table:
    table = _table("Parameters", "part", "total", "trainable")
    for part in PARTS:
        table.add_row(part, f"{plan.shape.parameters[part]:,}", f"{plan.shape.trainable[part]:,}")
    table.add_row("all", f"{plan.shape.total:,}", f"{plan.shape.total_trainable:,}")
    return table


def _batch(plan: Plan) -> Table:
    job, batch = plan.job, plan.batch
    table = _table("Batches", "", "")
    unit = "completions" if job.stage == "grpo" else "samples"
    product = f"{job.per_device_batch} a GPU × {job.accumulation} accumulation × {batch.processes} processes"
    table.add_row(f"{unit} per step", f"{product} = {batch.per_step:,}")
    if job.stage == "grpo":
        table.add_row("prompts per step", f"{batch.per_step:,} / G={job.group} = {batch.prompts_per_step:g}")
        table.add_row("completions per generation", f"{batch.generation:,} ({batch.prompts_per_generation:,} prompts)")
    table.add_row("rows in the data", f"{job.samples:,}")
    table.add_row("steps per epoch", f"{batch.steps_per_epoch:,}")
    table.add_row("steps in all", f"{batch.steps:,}")
    return table


def _visual(plan: Plan) -> Table:
    job = plan.job
    table = _table("Visual tokens per image", "image", "tokens")
    low, high = plan.visual_limits
    table.add_row(f"smallest (min_pixels {job.images.min_pixels:,})", f"{low:,}")
    table.add_row(f"largest (max_pixels {job.images.max_pixels:,})", f"{high:,}")
    for (width, height), tokens in plan.visual.items():
        table.add_row(f"{width}×{height}", f"{tokens:,}")
    sequence = plan.visual_planned + job.prompt_tokens + job.completion_tokens
    table.add_row("longest sequence planned for, text included", f"{sequence:,}")
    return table


def _memory(plan: Plan) -> Table:
    names = list(dict.fromkeys(name for parts in plan.phases.values() for name in parts))
    title = f"GiB per GPU, ZeRO-{plan.job.sharding.zero} over {plan.batch.processes}"
    table = _table(title + (" with offload" if plan.host else ""), "", *plan.phases)
    for name in names:
        table.add_row(name, *(_gib(parts[name]) if name in parts else "" for parts in plan.phases.values()))
    table.add_row("CUDA, NCCL, fragmentation", *([_gib(OVERHEAD)] * len(plan.phases)))
    table.add_row("sum", *(_gib(sum(parts.values()) + OVERHEAD) for parts in plan.phases.values()))
    return table


def _stages(plan: Plan) -> Table:
    table = _table("Peak by ZeRO stage", "stage", "GiB per GPU", *(["fits"] if plan.fleet else []))
    for stage, peak in plan.by_zero.items():
        mark = [] if plan.fleet is None else ["yes" if peak <= plan.fleet.gib * GIB else "no"]
        table.add_row(f"{stage}{' ←' if stage == plan.job.sharding.zero else ''}", _gib(peak), *mark)
    return table
