"""A plan: its numbers, what they say about the target, and its tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stage.checkpoints import folders
from stage.parallel.sharding import buckets
from stage.planning.gpus import Fleet
from stage.planning.job import Batch, Job
from stage.planning.memory import GIB, OVERHEAD, Host
from stage.planning.storage import GB, RATE, Storage, shortage, size
from vlm.adapters import PARTS
from vlm.shapes import Shape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


MANY = 3
"""Checkpoints that may stay unremarked."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What can be said of a model whose sizes are not known: batches and data. Numbers first; `render` shows them to
    people."""

    job: Job
    fleet: Fleet | None
    batch: Batch
    sees: str
    """What the model sees of pictures, in words."""
    visual_limits: tuple[int, int]
    """Fewest and most visual tokens of an image under the recipe's pixel limits."""
    visual: dict[tuple[int, int], int]
    """Visual tokens of each image size that was given."""
    visual_planned: int
    """Visual tokens of one sequence that is planned for."""
    notes: tuple[str, ...] = ()
    storage: Storage | None = None
    unplanned: str = ""
    """Why there is no more."""

    def verdict(self) -> str:
        return f"memory and disk: not planned: {self.unplanned}"

    def render(self, console: Console | None = None) -> None:
        """Print parameters, batches, visual tokens, memory, buckets, disk and the verdict, as far as they are known."""
        from rich.console import Console

        console = console or Console()
        for table in self.tables():
            console.print(table)
        for note in self.remarks():
            console.print(f"note: {note}", markup=False, highlight=False)
        console.print(self.verdict(), markup=False, style=self.style)

    def tables(self) -> Iterator[Table]:
        yield _batch(self)
        yield _visual(self)

    def remarks(self) -> Iterator[str]:
        yield f"pictures: {self.sees}"
        yield from self.notes

    @property
    def style(self) -> str:
        """Of the verdict."""
        return "bold yellow"


@dataclass(frozen=True, kw_only=True)
class Plan(Outline):
    """Of a model whose sizes are known."""

    shape: Shape
    phases: dict[str, dict[str, int]]
    """Bytes on one GPU by phase (`update`, and for GRPO `rollout`) and component."""
    host: Host
    storage: Storage
    by_zero: dict[int, int]
    """Peak bytes on one GPU under each ZeRO stage."""

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

    def tables(self) -> Iterator[Table]:
        yield _parameters(self)
        yield from super().tables()
        yield _memory(self)
        yield _stages(self)
        if self.job.sharding.zero:
            yield _buckets(self)
        yield _host(self)
        yield _disk(self)

    def remarks(self) -> Iterator[str]:
        yield from super().remarks()
        yield from _doubts(self.storage)

    @property
    def style(self) -> str:
        return {True: "green", False: "bold red", None: ""}[self.fits()]


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
    elif plan.job.model.quantization is None:
        options.append("model.quantization=nf4")
    if plan.job.engine:
        options.append("a smaller training.vllm_gpu_memory_utilization, or training.vllm_enable_sleep_mode")
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
    if plan.shape.quantized:
        table.add_row(f"in {plan.job.model.quantization}, of the language model", f"{plan.shape.quantized:,}", "0")
    table.add_row("all", f"{plan.shape.total:,}", f"{plan.shape.total_trainable:,}")
    return table


def _batch(plan: Outline) -> Table:
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
    table.add_row("data-loader workers of a process", job.workers)
    return table


def _visual(plan: Outline) -> Table:
    job = plan.job
    table = _table("Visual tokens per image", "image", "tokens")
    low, high = plan.visual_limits
    if 0 < low == high:
        table.add_row("each", f"{high:,}")
    elif high:
        table.add_row(f"smallest (min_pixels {job.images.min_pixels:,})", f"{low:,}")
        table.add_row(f"largest (max_pixels {job.images.max_pixels:,})", f"{high:,}")
    for (width, height), tokens in plan.visual.items():
        table.add_row(f"{width}×{height}", f"{tokens:,}")
    sequence = plan.visual_planned + job.prompt_tokens + job.completion_tokens
    table.add_row(f"longest sequence planned for, text {'included' if high else 'alone'}", f"{sequence:,}")
    return table


def _memory(plan: Plan) -> Table:
    names = list(dict.fromkeys(name for parts in plan.phases.values() for name in parts))
    title = f"GiB per GPU, ZeRO-{plan.job.sharding.zero} over {plan.batch.processes}"
    table = _table(title + (" with offload" if plan.host.training else ""), "", *plan.phases)
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


def _buckets(plan: Plan) -> Table:
    table = _table("DeepSpeed", "", "elements")
    for name, elements in buckets(plan.job.sharding.zero, plan.shape.hidden).items():
        table.add_row(name, f"{elements:,}")
    return table


def _host(plan: Plan) -> Table:
    table, held = _table("Host memory", "", "GiB"), plan.host
    alone = ", the first alone" if plan.job.sharding.zero == 3 and plan.batch.processes > 1 else ""
    table.add_row(f"a process, while weights load{alone}", _gib(held.loading))
    table.add_row("all of a node, while weights load", _gib(held.node))
    if held.training:
        table.add_row("a process, by offload", _gib(held.training))
    return table


def _disk(plan: Plan) -> Table:
    table, disk = _table("Disk", "", ""), plan.storage
    if disk.written != 0:
        table.add_row("weights of a checkpoint", size(disk.weights))
        table.add_row("what a resume needs beside them", size(disk.resume))
        table.add_row("a checkpoint", size(disk.checkpoint))
        table.add_row(f"time to write it at {RATE // GB} GB a second", f"{disk.seconds:,.0f} s")
        table.add_row("checkpoints written", "as measured" if disk.written is None else f"{disk.written:,}")
        table.add_row("of them kept", "all" if disk.limit is None else f"{disk.kept:,}")
    table.add_row("final/", size(disk.final))
    table.add_row("at most at a time", size(disk.peak))
    table.add_row("free here", size(folders.room(Path(disk.output))))
    return table


def _doubts(planned: Storage) -> Iterator[str]:
    """Why a run would be refused on this machine, or what its first lines would say; and what is easily forgotten."""
    refused, doubtful = shortage(planned)
    if refused:
        yield f"on this machine a run would end at once: {refused}"
    if doubtful:
        yield doubtful
    if planned.limit is None and (planned.written or 0) > MANY:
        yield f"all {planned.written:,} checkpoints stay; training.save_total_limit=2 keeps the last two"
