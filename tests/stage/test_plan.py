"""The dry-run plan: batches by hand and against TRL's sampler, verdicts, and what is shown."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from stage.planning import estimate
from stage.planning.job import Saving
from stage.planning.memory import GIB
from stage.recipe.sections import ShardingSection
from tests.support.runs.plan_jobs import SEVEN_B, job, model_section
from vlm import loading
from vlm.common.errors import RecipeError
from vlm.sections import LoraSection


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


# --- batches


def test_batches_of_the_paper():
    batch = estimate.batches(job(), 8)
    assert (batch.per_step, batch.prompts_per_step, batch.generation) == (160, 32, 160)
    assert (batch.steps_per_epoch, batch.steps, batch.left_over) == (250, 500, 0)
    assert estimate.batches(job(max_steps=30), 8).steps == 30


def test_sft_batches_by_hand():
    # 2000 rows in batches of 4: 500; over 8 processes 62.5 → 63 each; by 2 accumulated: 31.5 → 32 steps
    batch = estimate.batches(job(stage="sft", samples=2000, per_device_batch=4, epochs=1.5), 8)
    assert (batch.per_step, batch.steps_per_epoch, batch.steps) == (64, 32, 48)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 300),
)  # fmt: skip
def test_batches_equal_trls_sampler(rows, accumulation, processes, group, per_generation, iterations, samples):
    from trl.trainer.utils import RepeatSampler

    work = job(
        per_device_batch=rows, accumulation=accumulation, group=group, steps_per_generation=per_generation,
        iterations=iterations, samples=samples, epochs=1,
    )  # fmt: skip
    generation = rows * processes * per_generation
    if generation % group or samples < generation // group:
        with pytest.raises(RecipeError):
            estimate.batches(work, processes)
        return
    sampler = RepeatSampler(
        list(range(samples)), group, batch_size=generation // group, repeat_count=iterations * per_generation
    )
    loader = len(list(sampler)) // (rows * per_generation) // processes
    batch = estimate.batches(work, processes)
    assert batch.steps_per_epoch == math.ceil(loader / accumulation)
    assert batch.prompts_per_generation * group == generation


def test_g_must_divide_the_generation_batch():
    with pytest.raises(RecipeError, match=r"5 does not divide the generation batch of 128 .* of 5 or 10 does"):
        estimate.training(job(per_device_batch=8))
    with pytest.raises(RecipeError, match="of 5 does$"):
        estimate.batches(job(per_device_batch=1, accumulation=1), 1)
    with pytest.raises(RecipeError, match="needs 2 or more"):
        estimate.batches(job(group=1), 8)
    with pytest.raises(RecipeError, match="31 prompts, less than the 32"):
        estimate.batches(job(samples=31), 8)


# --- the whole


def test_the_papers_run_fits_8_a100():
    result = estimate.training(job())
    assert result.phases["update"]["optimiser states"] == 12 * SEVEN_B // 8
    assert result.phases["rollout"]["gathered weights"] == 2 * SEVEN_B
    assert result.visual_planned == 1337
    assert result.fits() and result.fits(79.1) and not result.fits(40)
    assert result.by_zero[3] == result.peak < result.by_zero[2] < result.by_zero[1] < result.by_zero[0]
    assert result.by_zero[0] > 80 * GIB  # 7B with AdamW never fits one card unsharded
    assert result.verdict().startswith("fits:")


def test_verdicts():
    small = estimate.training(job(gpus="8x24G"))
    assert not small.fits() and "no ZeRO stage does alone" in small.verdict() and "model.lora" in small.verdict()
    unsharded = estimate.training(job(gpus="8xA100-80G", sharding=ShardingSection(zero=0)))
    assert not unsharded.fits() and "sharding.zero=" in unsharded.verdict()
    assert any("small updates" in note for note in unsharded.notes)
    untold = estimate.training(job(gpus=None, processes=8))
    assert untold.fits() is None and "name the target" in untold.verdict()
    sizes = estimate.training(job(image_sizes=((800, 800), (400, 400)), images_per_sample=2))
    assert sizes.visual == {(800, 800): 841, (400, 400): 361} and sizes.visual_planned == 1682


def test_smaller_choices_need_less():
    base = estimate.training(job()).peak
    assert estimate.training(job(per_device_batch=5, accumulation=4)).peak < base
    assert estimate.training(job(completion_tokens=1024)).peak < base
    assert estimate.training(job(model=model_section(lora=LoraSection()))).peak < base
    assert estimate.training(job(checkpointing=False)).peak > base
    served = estimate.training(job(external_rollout=True))
    assert list(served.phases) == ["update"]


def test_vllm_in_the_training_process_takes_its_share():
    """Of the 79.1 GiB of an A100: in both phases, or where it sleeps while the update runs, in the rollout alone."""
    plain = estimate.training(job())
    awake, asleep = (estimate.training(job(engine=0.3, engine_sleeps=sleeps)) for sleeps in (False, True))
    share = int(0.3 * 79.1 * 2**30)
    assert awake.phases["update"] == {**plain.phases["update"], "vLLM": share}
    assert asleep.phases["update"] == plain.phases["update"]
    for plan in (awake, asleep):
        assert plan.phases["rollout"]["vLLM"] == share and "KV cache" not in plan.phases["rollout"]
    assert not awake.fits() and "vllm_enable_sleep_mode" in awake.verdict()
    untold = estimate.training(job(engine=0.3, gpus=None, processes=8))
    assert any("30% of a GPU, which is not counted" in note for note in untold.notes)


def test_render():
    out = io.StringIO()
    saving = Saving(save_strategy="steps", save_steps=100)
    plan = estimate.training(job(image_sizes=((800, 800),), workers="3", saving=saving))
    plan.render(Console(file=out, width=120))
    text = out.getvalue()
    for expected in (
        "8,291,375,616", "10 a GPU × 2 accumulation × 8 processes = 160", "160 / G=5 = 32", "250", "500",
        "1,337", "841",
        "11.58", "ZeRO-3 over 8", "is used instead", "fits: the peak",
        "data-loader workers of a process", "reduce_bucket_size", "12,845,056", "while weights load", "116.1 GB",
        "116 s", "597.0 GB",
        "all 5 checkpoints stay; training.save_total_limit=2", "free here",
    ):  # fmt: skip
        assert expected in text
