"""Out of memory, and pictures that can no longer be read: the messages, and what the run does then."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from rl import stage as grpo
from rl.recipe import GRPORecipe
from samples import Sample, rows
from sft import stage as sft
from sft.recipe import SFTRecipe
from stage.cli import launch
from stage.guards import out_of_memory
from stage.planning.memory import GIB
from stage.recipe import config
from stage.runs import Run
from tests.support.processes.commands import ROOT
from tests.support.processes.commands import sft as sft_arguments
from tests.support.sights import resizing
from vlm.common.console import EXIT_USER_ERROR
from vlm.common.errors import DataError, UserError
from vlm.pictures import unreadable
from vlm.sections import ImageSection, PromptSection

pytestmark = pytest.mark.xdist_group("sft")


# --- memory ---


def r1(*overrides) -> GRPORecipe:
    return config.load(ROOT / "recipes/r1.yaml", GRPORecipe, overrides)


@pytest.fixture
def eight(monkeypatch, tiny_model):
    """Plans for 8 processes, on the real shape of a 7B model, which needs no weights."""
    monkeypatch.setenv("WORLD_SIZE", "8")


def test_the_three_largest_savings_are_what_the_plan_says(eight, monkeypatch):
    recipe = r1("model.path=Qwen/Qwen2-VL-7B-Instruct", "sharding.zero=2")
    plan = lambda changed: grpo.planned(changed, 2**30)  # noqa: E731
    base = plan(recipe)
    found = out_of_memory.savings(recipe, plan, base)
    assert len(found) == 3 and [saved for saved, _ in found] == sorted((s for s, _ in found), reverse=True)
    for saved, changes in found:
        by_hand = plan(r1("model.path=Qwen/Qwen2-VL-7B-Instruct", "sharding.zero=2", *changes))
        assert saved == base.peak - by_hand.peak > GIB / 10
    for changes in out_of_memory.candidates(recipe, base):  # no other single change saves more than the third
        peak = out_of_memory._peak(plan, recipe, changes)
        if peak is not None and not any(set(changes) & set(named) for _, named in found):
            keys = {change.partition("=")[0] for change in changes}
            taken = any(keys & {change.partition("=")[0] for change in named} for _, named in found)
            assert taken or base.peak - peak <= found[2][0]


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …", "DefaultCPUAllocator"])
def test_out_of_memory_in_a_run(tiny_model, demo_data, tmp_path, monkeypatch, capsys, said, log_levels):
    """A tiny run whose third micro-batch does not fit: exit code 2, advice, and a run folder that is whole."""
    from sft.trainer import SFTTrainer

    error = torch.OutOfMemoryError(said) if said.startswith("CUDA") else RuntimeError(f"[enforce fail] {said}: can't")
    observed = SFTTrainer.observed

    def full(self, loss):
        if self.state.global_step == 1:
            raise error
        return observed(self, loss)

    monkeypatch.setattr(SFTTrainer, "observed", full)
    argv = sft_arguments(
        tiny_model, demo_data, tmp_path / "run", "training.save_strategy=steps", "training.save_steps=1"
    )
    assert launch(SFTRecipe, sft.train, sft.plan, argv) == EXIT_USER_ERROR
    told = capsys.readouterr().err
    message = told[told.index("error: ") :]
    assert message.startswith("error: out of memory in update, step 2: ") and (
        "Tried to" in message or "DefaultCPUAllocator" in message
    )
    lines = [line for line in message.splitlines() if " saves " in line]
    assert 1 <= len(lines) <= 3 and any("per_device_train_batch_size=" in line for line in lines)
    assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / "run/metrics.jsonl").exists() and not (tmp_path / "run/finished.json").exists()
    with pytest.raises(ZeroDivisionError):  # nothing else is taken for it
        out_of_memory.advised(lambda recipe: None)(lambda recipe: 1 / 0)(None)


# --- pictures that could be read before ---


@pytest.fixture
def table(tmp_path):
    """(rows, policy) → a table of that many rows with a picture each, of which no. 1 is damaged after the checks."""

    def make(count=4, on_fault="error", sizes=None, make=rows.prompt_rows):
        rows.decoded.clear()
        samples = []
        for n in range(count):
            Image.new("RGB", (56, 56), (n, 0, 0)).save(tmp_path / f"{n}.png")
            turns = [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]
            samples.append(Sample([str(tmp_path / f"{n}.png")], turns, "vqa", answer="a", source="s.jsonl", id=str(n)))
        found = make(samples, PromptSection(), sizes, on_fault)
        buffer = io.BytesIO()
        Image.effect_noise((56, 56), 60).save(buffer, "PNG")
        (tmp_path / "1.png").write_bytes(buffer.getvalue()[:200])
        return found

    return make


@pytest.mark.parametrize("make", [rows.prompt_rows, rows.chat_rows])
def test_row_and_file_are_named(table, tmp_path, make):
    found = table(make=make)
    with pytest.raises(DataError, match=rf"s.jsonl: row '1': image {tmp_path}/1.png: cannot be read"):
        found.__getitems__([0, 1, 2])
    assert found[2]["images"][0].getpixel((0, 0)) == (2, 0, 0)


@pytest.mark.parametrize("sizes", [None, resizing(ImageSection(min_pixels=56 * 56, max_pixels=56 * 56))])
@pytest.mark.parametrize("make", [rows.prompt_rows, rows.chat_rows])
def test_the_next_row_stands_in(table, caplog, sizes, make):
    found = table(on_fault="skip", sizes=sizes, make=make)
    got = found.__getitems__([0, 1, 1, 3])
    assert [row["id"] for row in got] == ["0", "2", "2", "3"]
    assert [row["images"][0].getpixel((0, 0))[0] for row in got] == [0, 2, 2, 3]
    assert found[1]["id"] == "2" and set(found[1]) == set(found[0])
    if make is rows.prompt_rows:
        assert [row["copy"] for row in got] == [0, unreadable.STANDS_IN, unreadable.STANDS_IN, 0]
        assert found[1]["prompt"] == found[2]["prompt"]
    assert caplog.text.count("s.jsonl: row '1': image") == 1


def test_a_disk_that_has_gone_ends_the_run(table, tmp_path):
    found = table(on_fault="skip")
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="100 rows one after another cannot be read; the last: s.jsonl: row"):
        found[0]


def test_an_image_that_is_damaged_while_training(tiny_model, demo_data, tmp_path, monkeypatch):
    """By policy: the run ends and names it, or goes on to its end without it."""
    import shutil

    for policy in ("error", "skip"):
        data = tmp_path / policy
        shutil.copytree(demo_data, data)
        pictures = sorted(path for path in (data / "sft").rglob("*") if path.suffix in (".png", ".jpg"))
        begun = Run.note_mixtures

        def damage(run, found, pictures=pictures, begun=begun):
            begun(run, found)
            rows.decoded.clear()
            pictures[0].write_bytes(b"gone")

        monkeypatch.setattr(Run, "note_mixtures", damage)
        steps = ("training.max_steps=4", f"data.on_fault={policy}")
        recipe = config.load(*_recipe(sft_arguments(tiny_model, data, tmp_path / f"run-{policy}", *steps)))
        if policy == "error":
            with pytest.raises(DataError, match=rf"traces: row .*image {pictures[0]}: cannot be read"):
                sft.train(recipe)
        else:
            sft.train(recipe)
            assert (tmp_path / "run-skip/finished.json").exists()


def _recipe(argv):
    return argv[0], SFTRecipe, argv[1:]


# --- /dev/shm is too small for the data loader's workers ---


def test_a_batch_beyond_shared_memory_is_named(monkeypatch, capsys):
    """In a real worker, with 8 MB: torch itself waits without end. One line, without the worker's traceback."""
    from collections import namedtuple

    from torch.utils.data import DataLoader

    from stage.guards import shared_memory
    from vlm.common.console import report

    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda place: usage(8 * 2**20))
    collate = shared_memory.Fitting(lambda rows: {"pixel_values": torch.zeros(len(rows), 2**18), "rows": ["a"]})

    def loaded(batch, workers):
        return DataLoader(range(24), batch_size=batch, num_workers=workers, collate_fn=collate)

    assert len(list(loaded(8, 1))) == 3  # 8 MiB
    assert len(list(loaded(12, 0))) == 2  # nothing is handed over
    with pytest.raises(UserError) as told:
        list(loaded(12, 1))
    report(told.value)
    said = capsys.readouterr().err
    assert said.startswith(
        "error: a batch of 12 MiB from each of 1 data-loader workers does not fit into the 8 MiB that"
    )
    assert "--shm-size" in said and "dataloader_num_workers: 0" in said and said.count("\n") == 1
    with pytest.raises(UserError, match="a batch of 5 MiB from each of 2"):
        list(loaded(5, 2))
