"""Tables of a `stage.planning.plan.Plan` for the terminal."""

from __future__ import annotations

from stage.planning.memory import GIB, OVERHEAD
from stage.planning.plan import Plan
from vlm.adapters import PARTS


def render(plan: Plan, console=None) -> None:
    """Print parameters, batches, visual tokens, memory and the verdict to a `rich.console.Console`."""
    from rich.console import Console

    console = console or Console()
    for table in (_parameters(plan), _batch(plan), _visual(plan), _memory(plan), _stages(plan)):
        console.print(table)
    if plan.host:
        console.print(f"host memory for offload: {_gib(plan.host)} GiB a process")
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(plan.verdict(), markup=False, style={True: "green", False: "bold red", None: ""}[plan.fits()])


def _table(title: str, *columns: str):
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _parameters(plan: Plan):
    table = _table("Parameters", "part", "total", "trainable")
    for part in PARTS:
        table.add_row(part, f"{plan.shape.parameters[part]:,}", f"{plan.shape.trainable[part]:,}")
    table.add_row("all", f"{plan.shape.total:,}", f"{plan.shape.total_trainable:,}")
    return table


def _batch(plan: Plan):
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


def _visual(plan: Plan):
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


def _memory(plan: Plan):
    names = list(dict.fromkeys(name for parts in plan.phases.values() for name in parts))
    title = f"GiB per GPU, ZeRO-{plan.job.sharding.zero} over {plan.batch.processes}"
    table = _table(title + (" with offload" if plan.host else ""), "", *plan.phases)
    for name in names:
        table.add_row(name, *(_gib(parts[name]) if name in parts else "" for parts in plan.phases.values()))
    table.add_row("CUDA, NCCL, fragmentation", *([_gib(OVERHEAD)] * len(plan.phases)))
    table.add_row("sum", *(_gib(sum(parts.values()) + OVERHEAD) for parts in plan.phases.values()))
    return table


def _stages(plan: Plan):
    table = _table("Peak by ZeRO stage", "stage", "GiB per GPU", *(["fits"] if plan.fleet else []))
    for stage, peak in plan.by_zero.items():
        mark = [] if plan.fleet is None else ["yes" if peak <= plan.fleet.gib * GIB else "no"]
        table.add_row(f"{stage}{' ←' if stage == plan.job.sharding.zero else ''}", _gib(peak), *mark)
    return table
