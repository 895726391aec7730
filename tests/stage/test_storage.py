"""Planned bytes of checkpoints: by hand, in the directions they must move, and against the disk before a run begins."""

from __future__ import annotations

from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage.checkpoints import folders
from stage.planning import estimate, storage
from stage.planning.job import Saving
from stage.planning.optimisers import STATES, state_bytes
from stage.planning.storage import Storage
from stage.recipe.sections import ShardingSection
from tests.support.runs.plan_jobs import SEVEN_B, job, model_section
from vlm import loading
from vlm.common.errors import RecipeError
from vlm.sections import LoraSection

GB = 10**9
STEPS = Saving(save_strategy="steps", save_steps=100)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


def planned(saving=STEPS, **changes) -> Storage:
    return estimate.training(job(saving=saving, **changes)).storage


@pytest.mark.parametrize(
    ("changes", "weights", "resume"),
    [
        ({}, 2, 12),  # 116 GB: bf16 weights gathered; float32 master, m, v
        ({"sharding": ShardingSection(zero=2)}, 2, 2 + 12),  # and the weights once more
        ({"sharding": ShardingSection(zero=0), "model": model_section(dtype="float32", attention="sdpa")}, 4, 8),
        ({"optimiser": "sgd"}, 2, 4),
        ({"optimiser": "adafactor"}, 2, 4 + 4),  # DeepSpeed hands it vectors, which have no rows and columns
        ({"optimiser": "lion_32bit"}, 2, 4 + 4),
        ({"optimiser": "adamw_8bit"}, 2, 4 + 2 * (1 + 4 / 256)),
        ({"saving": Saving(save_strategy="steps", save_only_model=True)}, 2, 0),
    ],
)
def test_bytes_a_parameter(changes, weights, resume):
    found = planned(**changes)
    assert (found.weights, found.resume) == (weights * SEVEN_B, pytest.approx(resume * SEVEN_B, abs=1))
    assert found.final == found.weights and found.checkpoint == found.weights + found.resume
    assert found.seconds == found.checkpoint / 1e9


def test_an_adapter_is_all_that_lora_writes():
    lora = model_section(lora=LoraSection(r=128, alpha=256))
    sharded = planned(model=lora)
    adapter = 2 * estimate.training(job(model=lora)).shape.total_trainable
    assert (sharded.weights, sharded.resume, sharded.final) == (adapter, 6 * adapter, adapter)
    plain = planned(model=lora, sharding=ShardingSection(zero=0))  # float32, and AdamW's moments with it
    assert (plain.weights, plain.resume) == (2 * adapter, 4 * adapter)


def test_frozen_weights_are_stored_once_more_from_zero_2_on():
    frozen = model_section(freeze=["vision_tower"])
    total, trained = (
        getattr(estimate.training(job(model=frozen)).shape, name) for name in ("total", "total_trainable")
    )
    assert planned(model=frozen).resume == 12 * trained + 2 * (total - trained)
    assert planned(model=frozen, sharding=ShardingSection(zero=1)).resume == 12 * trained + 2 * total


@pytest.mark.parametrize(
    ("saving", "written", "kept", "at_most"),
    [
        (STEPS, 5, 5, 5 * 14 + 2),  # 500 steps
        (Saving(save_strategy="steps", save_steps=0.15), 7, 7, 7 * 14 + 2),  # every 75: the last one at 500
        (Saving(save_strategy="steps", save_steps=100, save_total_limit=2), 5, 2, 3 * 14),
        (Saving(save_strategy="steps", save_steps=100, save_total_limit=2, best=True), 5, 3, 4 * 14),
        (Saving(save_strategy="steps", save_steps=500, save_total_limit=2), 1, 1, 14 + 2),
        (Saving(save_strategy="epoch"), 2, 2, 2 * 14 + 2),
        (Saving(save_strategy="no"), 0, 0, 2),
        (Saving(save_strategy="best", save_total_limit=1), None, 1, 2 * 14),
    ],
)
def test_how_many_lie_there_at_a_time(saving, written, kept, at_most):
    """In units of 2P bytes … of P: a checkpoint takes 14, final/ 2. The oldest goes when the new one is whole."""
    found = planned(saving)
    assert (found.written, found.kept, found.peak) == (written, kept, at_most * SEVEN_B)


@given(
    st.sampled_from([0, 1, 2, 3]), st.sampled_from([*STATES, "adafactor", "lomo"]), st.integers(1, 6),
    st.sampled_from(["bfloat16", "float32"]), st.booleans(), st.sampled_from([None, LoraSection(r=8)]),
)  # fmt: skip
def test_never_negative_and_more_of_what_is_kept(zero, optimiser, limit, dtype, best, lora):
    section = model_section(dtype=dtype, attention="sdpa", lora=lora)
    given = {"model": section, "sharding": ShardingSection(zero=zero), "optimiser": optimiser}
    plans = [
        estimate.training(
            job(saving=Saving(save_strategy="steps", save_steps=50, save_total_limit=n, best=best), **given)
        )
        for n in (limit, limit + 1)
    ]
    for plan in plans:
        numbers = [*vars(plan.storage).values(), *vars(plan.host).values(), *plan.by_zero.values()]
        numbers += [size for parts in plan.phases.values() for size in parts.values()]
        assert all(number >= 0 for number in numbers if isinstance(number, int))
        assert plan.storage.checkpoint <= plan.storage.peak and plan.storage.final <= plan.storage.peak
    assert plans[0].storage.peak <= plans[1].storage.peak
    less = estimate.training(job(**{**given, "optimiser": "sgd"}))
    assert less.phases["update"]["optimiser states"] <= plans[0].phases["update"]["optimiser states"]
    assert state_bytes(optimiser, 4, flat=True) >= state_bytes(optimiser, 4, flat=False)


# --- the disk

NEEDS = {"weights": 20 * GB, "resume": 80 * GB, "final": 20 * GB, "written": 5, "limit": 2}


@pytest.fixture
def room(monkeypatch):
    """Sets the bytes that the disk has."""

    def has(count: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("Usage", "free")(count))

    return has


def test_a_run_that_cannot_keep_its_first_checkpoint_is_refused(tmp_path, room, capsys):
    needs = Storage(output=str(tmp_path / "no/such/run"), **NEEDS)
    room(94 * GB)
    with pytest.raises(
        RecipeError, match=r"run has 94\.0 GB free, and a checkpoint takes 100\.0 GB; make room, or.*save_only"
    ):
        storage.check_room(needs)
    room(96 * GB)  # planned sizes are not exact
    storage.check_room(needs)
    told = capsys.readouterr().err
    assert "has 96.0 GB free" in told and "up to 300.0 GB at a time" in told and "save_total_limit" in told
    room(300 * GB)
    storage.check_room(needs)
    assert not capsys.readouterr().err
    without = Storage(output=str(tmp_path), **{**NEEDS, "written": 0})
    room(18 * GB)
    with pytest.raises(RecipeError, match=r"final/ takes 20\.0 GB; make room, or choose an output on another disk$"):
        storage.check_room(without)
    unknown = Storage(output=str(tmp_path), **NEEDS, certain=False)
    room(30 * GB)
    storage.check_room(unknown)  # an optimiser that no table knows may keep nothing


def test_what_an_overwritten_run_holds_is_room_and_what_a_resumed_one_holds_is_kept(tmp_path, room, capsys):
    """A resumed one may only have to write `final/`: where there is no room for a checkpoint, it is told."""
    (tmp_path / "checkpoint-7").mkdir()
    with (tmp_path / "checkpoint-7/model.safetensors").open("wb") as file:
        file.truncate(200 * GB)  # a hole
    needs = Storage(output=str(tmp_path), **NEEDS)
    room(50 * GB)
    storage.check_room(needs, overwrite=True)
    capsys.readouterr()
    storage.check_room(needs)
    assert "50.0 GB free" in capsys.readouterr().err
    room(100 * GB)
    storage.check_room(needs)
    assert not capsys.readouterr().err


def test_each_process_flushes_what_it_has_written(tmp_path, monkeypatch):
    """Every file once, by the process that its name tells, and those that tell none by the main one."""
    inside = tmp_path / "global_step7"
    inside.mkdir()
    own = ["run_state_{}.pt", "rng_state_{}.pth", "optimizer_{}.pt"]
    for rank in (0, 1, 11):
        for name in own:
            (tmp_path / name.format(rank)).touch()
        (inside / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    common = ["model-00001-of-00002.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"]
    for path in [*(tmp_path / name for name in common), inside / "mp_rank_00_model_states.pt"]:
        path.touch()
    flushed: list[str] = []
    monkeypatch.setattr(folders, "_flush", lambda path: flushed.append(path.name))
    folders.flush_own(tmp_path, 11)
    mine = [name.format(11) for name in own] + ["bf16_zero_pp_rank_11_mp_rank_00_optim_states.pt"]
    assert sorted(flushed) == sorted(mine)
    folders.flush_own(tmp_path, 0)
    folders.flush_own(tmp_path, 1)
    assert sorted(flushed) == sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
