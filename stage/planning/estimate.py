"""`--dry-run`: what a recipe will do and need, from the real architecture and without weights or a GPU.

A launcher fills a `Job` from its recipe and calls `training(job).render()`. The numbers are arithmetic on
shapes: parameters as config.json implies them (`vlm.families`), batches as TRL's samplers count them, visual tokens by
the family's resizing, memory by the formulas of `stage.planning.memory`. Peaks are estimates; measure one step before a
long run.

Example:
    job = Job(stage="grpo", model=recipe.model, images=recipe.images, sharding=recipe.sharding, samples=8000,
              per_device_batch=10, accumulation=2, epochs=2, group=5, beta=0.01, completion_tokens=4096,
              gpus="8xA100-80G")
    plan = training(job)
    plan.render()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from stage.planning import memory
from stage.planning.gpus import Fleet, parse_gpus
from stage.planning.job import Batch, Job, batches, prompts_of
from stage.planning.plan import Outline, Plan
from stage.planning.storage import storage
from vlm.families import UnknownSizes
from vlm.shapes import Shape, shape, sight

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def training(job: Job) -> Outline:
    """Plan a training job; without memory and disk, where the model's sizes are not known.

    Raises: RecipeError for impossible batches, freezing, LoRA, or checkpoints.
    """
    fleet = parse_gpus(job.gpus) if job.gpus else None
    processes = fleet.count if fleet else job.processes or 1
    batch = batches(job, processes)
    sees = sight(job.model, job.images)
    each = sees.among(job.images_per_sample)
    visual = {size: each.tokens(size) for size in job.image_sizes}
    bounds = each.bounds()
    planned = job.images_per_sample * (max(visual.values()) if visual else bounds[1])
    outline = Outline(
        job=job,
        fleet=fleet,
        batch=batch,
        sees=sees.text(),
        visual_limits=bounds,
        visual=visual,
        visual_planned=planned,
        notes=tuple(_notes(job, None, batch)),
    )
    try:
        sizes = shape(job.model)
    except UnknownSizes as error:
        return dataclasses.replace(outline, unplanned=str(error))
    setups = memory_setups(job, processes)
    by_zero = {}
    for stage, setup in setups.items():
        peak = max(sum(parts.values()) for parts in _phases(job, sizes, setup, planned, fleet).values())
        by_zero[stage] = peak + memory.OVERHEAD
    chosen = setups[job.sharding.zero]
    return Plan(
        **{key: value for key, value in vars(outline).items() if key not in ("notes", "storage")},
        notes=(*_notes(job, sizes, batch), widest(sizes, chosen, **_pieces(job, chosen, planned))),
        shape=sizes,
        phases=_phases(job, sizes, chosen, planned, fleet),
        host=memory.host(sizes, chosen, reference=job.stage == "grpo" and job.beta > 0),
        storage=storage(job, sizes, chosen, batch),
        by_zero=by_zero,
    )


def memory_setups(job: Job, processes: int) -> dict[int, memory.Setup]:
    """By ZeRO stage; the third does not split what is in 4 bits, and is refused."""
    stages = (0, 1, 2, 3) if job.model.quantization is None else (0, 1, 2)
    return {stage: memory_setup(job, stage, processes) for stage in stages}


def memory_setup(job: Job, stage: int, processes: int) -> memory.Setup:
    attention = job.model.attention
    if attention == "auto":  # the target is what counts, not the machine that plans
        attention = "sdpa" if job.model.dtype == "float32" else "flash_attention_2"
    return memory.Setup(
        zero=stage,
        processes=processes,
        offload=job.sharding.offload and stage > 0,
        weight_bytes=DTYPE_BYTES[job.model.dtype],
        lora=job.model.lora is not None,
        checkpointing=job.checkpointing,
        attention=attention,
        lora_dropout=job.model.lora is not None and job.model.lora.dropout > 0,
        optimiser=job.optimiser,
        quantized=job.model.quantization is not None,
        deterministic=job.deterministic,
    )


def _phases(job: Job, sizes: Shape, setup: memory.Setup, visual: int, fleet: Fleet | None) -> dict[str, dict[str, int]]:
    held = memory.states(sizes, setup)
    rows = job.per_device_batch
    base = {"weights": held.weights, "optimiser states": held.optimiser}
    if job.stage == "grpo" and job.beta > 0:
        base["reference model"] = memory.reference(sizes, setup)
    base |= {"score model": job.resident} if job.resident else {}
    width = _pieces(job, setup, visual)
    update = {
        **base,
        "gradients": held.gradients,
        "communication buffers": held.buffers,
        "activations": memory.activations(sizes, setup, **_widths(job, setup, visual)),
        "backward working set": memory.working_set(sizes, setup, **width),
        "loss head": memory.head(sizes, setup, rows * job.completion_tokens, job.fused_head),
    }
    if job.stage == "sft" or job.external_rollout:
        return {"update": update}
    # DeepSpeed keeps its gradients allocated; plain torch frees them (`zero_grad(set_to_none=True)`)
    kept = {"gradients": held.gradients, "communication buffers": held.buffers} if setup.zero else {}
    if job.engine:  # its weights, keys and values, by its share of the GPU
        engine = {"vLLM": int(job.engine * fleet.gib * memory.GIB)} if fleet else {}
        return {"rollout": {**base, **kept, **engine}, "update": update if job.engine_sleeps else {**update, **engine}}
    sequences = rows * (job.steps_per_generation or job.accumulation)
    prompts = prompts_of(sequences, job.group) if _shares(job, setup) else sequences
    generating = memory.rollout(
        sizes, setup, sequences, job.prompt_tokens + visual, job.completion_tokens, prefilled=prompts
    )
    return {"rollout": {**base, **kept, **generating}, "update": update}


def _shares(job: Job, setup: memory.Setup) -> bool:
    return job.share_prefix and setup.attention != "eager"


def _widths(job: Job, setup: memory.Setup, visual: int) -> dict[str, int]:
    """Arguments of `memory.activations`: sequences and their tokens, or the one row that they are packed into."""
    rows, prompt, completion = job.per_device_batch, job.prompt_tokens, job.completion_tokens
    if not _shares(job, setup):
        return {"rows": rows, "text_tokens": prompt + completion, "visual_tokens": visual}
    prompts = prompts_of(rows, job.group)
    gathered = rows * (prompt + visual + completion)
    if setup.attention == "flash_attention_2":  # one kernel for all, so that prompts' own keys are copied, too
        gathered += prompts * (prompt + visual)
    return {
        "rows": 1,
        "text_tokens": prompts * prompt + rows * completion,
        "visual_tokens": prompts * visual,
        "gathered": gathered,
    }


def _pieces(job: Job, setup: memory.Setup, visual: int) -> dict[str, int]:
    """Arguments of `memory.working_set`: attention sees each row, and where prompts are shared each of these, too."""
    rows = job.per_device_batch
    shared = prompts_of(rows, job.group) if _shares(job, setup) else 0
    return {**_widths(job, setup, visual), "sequences": rows + shared}


def widest(sizes: Shape, setup: memory.Setup, **widths: int) -> str:
    """What the backward working set is, beside what comes next to it."""
    found = sorted(memory.moments(sizes, setup, **widths).items(), key=lambda moment: -moment[1])
    said = ", ".join(f"{name} {size / memory.GIB:.2f} GiB" for name, size in found if size)
    return f"backward working set, the widest of: {said}"


def _notes(job: Job, sizes: Shape | None, batch: Batch) -> Iterator[str]:
    if sizes is not None:
        yield f"architecture: {sizes.source}"
    yield from job.remarks
    if job.model.attention == "auto":
        yield "attention: auto is planned as flash_attention_2; the run falls back to sdpa without it"
    if job.stage == "grpo":
        if job.per_device_batch % job.group:
            yield f"groups of {job.group} are split over micro-batches of {job.per_device_batch}"
        if batch.left_over:
            yield f"each epoch leaves out {batch.left_over} prompts that do not fill a batch"
        if job.engine and not job.gpus:
            yield f"vLLM takes {job.engine:.0%} of a GPU, which is not counted: name the target (gpus=8xA100-80G)"
        if job.external_rollout:
            yield "completions come from a separate server, whose memory is not counted"
    if job.sharding.zero == 0 and job.model.lora is None and job.model.dtype != "float32":
        yield (
            f"without DeepSpeed, AdamW works on {job.model.dtype} weights with no float32 copy: small "
            "updates are rounded away; sharding.zero=1 or more keeps one"
        )
