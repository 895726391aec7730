"""GRPO over completions of several turns: against TRL's plain path, and what TRL, rewards and the log are told."""

import random

import pytest
import torch
import trl
from PIL import Image

import rl
from rl.sharing import packed
from rl.turns import metrics
from rl.turns.rollout import Completion
from samples import Sample
from samples.rows import prompt_rows
from tests.rl.test_sharing import SETUPS, prepared
from tests.support import tiny_checkpoints as tiny
from tests.support.families import LISTED, listed
from tests.support.groups import batch, furthest, gradients, plain
from vlm import loading
from vlm.families import FAMILIES
from vlm.pictures.resizing import Resizing
from vlm.prefix import media
from vlm.sections import PromptSection, ToolSection, TurnSection
from vlm.tools import calls
from vlm.tools.tool import Result
from vlm.tools.toolbox import Toolbox

pytestmark = pytest.mark.xdist_group("turns")
SHARING = [kind for kind, family in FAMILIES.items() if family.unshared is None]
TRIED = ("qwen2_vl", "qwen3_vl")

# turns of a completion: the model's tokens, and between them (words, pictures by number of GRIDS) of a tool
BATCHES = [
    # 0 to 2 tool turns of 0 to 2 pictures, in groups of 2 and 3
    [(5, (0,), ([3, (4, (1,)), 7], [1])), (9, (1, 2), ([4, (2, ()), 2, (3, (0, 2)), 5], [4, (1, (1,)), 1], [6]))],
    # G 8, 3 tool turns
    [(12, (2,), ([2, (3, (0,)), 2, (1, (1,)), 2, (2, (2, 0)), 3], [9], [1, (5, ()), 1], [2, (3, (1,)), 8], [1], [4],
                 [7, (2, (0, 1)), 2, (2, (2,)), 1], [3, (1, (2,)), 3]))],
    # a prompt without pictures, to whose completions tools add some
    [(6, (), ([2, (3, (0,)), 6], [5], [1, (2, (1, 2)), 2]))],
]  # fmt: skip
CASES = [(kind, "all weights", number) for kind in TRIED for number in range(3)]
CASES += [(kind, setup, 1) for kind in TRIED for setup in SETUPS if setup != "all weights"]
OTHERS = [(kind, "all weights", number) for kind in SHARING if kind not in TRIED for number in (0, 1)]


@pytest.mark.parametrize(
    ("kind", "setup", "number"),
    [
        *CASES,
        *(case if case[0] in LISTED else pytest.param(*case, marks=pytest.mark.full) for case in OTHERS),
    ],
)
def test_log_probabilities_and_gradients(family_checkpoints, kind, setup, number):
    """|Δlogp| ≤ 1e-5 and relative gradient difference ≤ 1e-5 for every parameter, in float32."""
    model = prepared(family_checkpoints(kind), **SETUPS[setup])
    given = batch(model.config, BATCHES[number], seed=number)
    found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored)
    got = gradients(model, found.logps, found.entropies, given.there)
    logps, entropies = plain(model, given)
    expected = gradients(model, logps, entropies, given.there)
    assert (found.logps - logps)[given.there].abs().max() < 1e-5
    assert (found.entropies - entropies)[given.there].abs().max() < 1e-5
    assert found.logps[~given.there].eq(0).all()
    assert got.keys() == expected.keys() and len(got) > 10
    name, worst = furthest(got, expected)
    assert worst < 1e-5, name
    # each prompt's tokens but the last once, of each completion as many as it has; each picture once
    prompts = {
        owner: int(row.sum()) for owner, row in zip(given.rows.prompts, given.mask[:, : -given.keep], strict=True)
    }
    assert found.tokens == sum(length - 1 for length in prompts.values()) + int(given.mask[:, -given.keep :].sum())
    assert sorted(media.rows(found.shown)) == sorted(media.rows(given.stored))


def test_no_token_of_a_tool_reaches_the_head(tiny_model):
    model = prepared(tiny_model)
    given = batch(model.config, BATCHES[0])
    seen = []
    with model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-2])):
        found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored)
    learned = int(given.there.sum())
    assert (found.logps != 0).sum() == learned and (not seen or seen == [learned])


def test_rows_keep_what_tools_have_put_in():
    from rl.sharing.rows import Rows

    rows = Rows([0, 0, 1], [[0], [0], [1, 2]], crops=[[], [3, 4], [5]], tools=[[], [(2, 5)], [(1, 3), (4, 6)]])
    assert list(rows) == [1, 3, 3] and rows.shown == [[0], [0, 3, 4], [1, 2, 5]]
    # a unit that two rows show counts half for each; crops count whole
    assert rows.shares == [(0.5, 0.5), (0.5, 2.5), (1.0, 3.0)]
    part, stored = rows.select([2, 1])
    assert stored == [1, 2, 5, 0, 3, 4] and part.pictures == [[0, 1], [3]] and part.crops == [[2], [4, 5]]
    assert part.tools == [[(1, 3), (4, 6)], [(2, 5)]] and Rows(**part.plain()).plain() == part.plain()
    assert rows.learned(7).int().tolist() == [[1] * 7, [1, 1, 0, 0, 0, 1, 1], [1, 0, 0, 1, 0, 0, 1]]


def test_spans_of_a_completion():
    one = Completion(ids=[1] * 7, learned=[1, 0, 0, 1, 1, 0, 1])
    assert one.spans == [(1, 3), (5, 6)] and Completion(ids=[1], learned=[1]).spans == []


# whole runs


class Scripted(Toolbox):
    """Decides by the model's text what it has called, so that two runs of equal texts decide alike."""

    def answer(self, text, context, where):
        draw = random.Random(text)
        if draw.random() < 0.3:
            return None
        x = draw.randrange(50) * 10
        if draw.random() < 0.2:
            return super().answer(calls.write("image_zoom_in", {"bbox": [x]}), context, where)
        return super().answer(calls.write("image_zoom_in", {"bbox": [x, x, x + 200, x + 300]}), context, where)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("large"), []
    for number, size in enumerate(((600, 300), (300, 350))):
        path = str(folder / f"{number}.png")
        Image.effect_noise(size, 80).convert("RGB").save(path)
        asked = [{"role": "user", "content": "What is it?" + " Where?" * number}]
        regions = [[10.0, 10.0, 60.0, 50.0]]
        made.append(Sample([path], asked, "vqa", answer="a", size=size, regions=regions, source="q", id=str(number)))
    return made


def trained(path, samples, output, share, box=Scripted, steps=2, limit=3, **more):
    """Two steps; returns what the reward saw, the log, the weights, and each micro-batch's rows."""
    processor = loading.load_processor(path, tiny.pixels())
    model = loading.load_model(tiny.section(path))
    # rows end often, so that there are turns at all
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *range(40, 120)]
    toolbox = box.of([ToolSection(use="zoom", options={"least": 50})], TurnSection(limit=limit), processor.sight)
    seen, batches = [], []

    def reward(completions, completion_ids, turns, crops, **columns):
        seen.append((completions, completion_ids, turns, crops))
        return [float(sum(ids) % 7) for ids in completion_ids]

    class Recording(rl.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            batches.append(inputs)
            return super()._compute_loss(model, inputs)

    args = trl.GRPOConfig(
        str(output), **{
            "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 40, "max_steps": steps,
            "learning_rate": 0.1, "optim": "sgd", "beta": 0.04, "use_cpu": True, "bf16": False, "report_to": "none",
            "save_strategy": "no", "remove_unused_columns": False, "disable_tqdm": True, "seed": 3, "logging_steps": 1,
            "gradient_checkpointing": False, **more,
        },
    )  # fmt: skip
    rows = prompt_rows(samples, PromptSection(style="direct"), Resizing(processor.sight))
    trainer = Recording(
        model, reward, args, rows, processing_class=processor, share_prefix=share, toolbox=toolbox, notation="qwen2_vl"
    )
    trainer.train()
    weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    return seen, trainer.state.log_history, weights, batches


@pytest.mark.parametrize("kind", listed(SHARING, but=("qwen2_5_vl", "llava")))
def test_a_run_is_that_of_the_plain_path(family_checkpoints, questions, tmp_path, kind):
    """Same conversations, rewards, losses and weights; each prompt and each crop computed once."""
    path = family_checkpoints(kind)
    seen, log, weights, _ = trained(path, questions, tmp_path, True)
    others, plain_log, expected, _ = trained(path, questions, tmp_path, False)
    assert [one[:3] for one in seen] == [one[:3] for one in others]
    assert len({len(turns) for turns in seen[0][2]}) >= 3  # of unequal depth
    for shared, bare in zip(log[:2], plain_log[:2], strict=True):
        for name in ("loss", "kl", "grad_norm", "entropy", "completions/mean_length", "turns/mean", "zoom/share"):
            assert shared[name] == pytest.approx(bare[name], rel=1e-4, abs=1e-6), name
        assert shared["tokens/update"] == shared["tokens/update_ideal"]
        assert shared["tokens/rollout"] < bare["tokens/rollout"]
    moved = max((weights[name] - value).abs().max() for name, value in expected.items())
    assert moved < 1e-5 and len(weights) > 10


def test_what_rewards_and_the_loss_are_told(tiny_model, questions, tmp_path):
    seen, log, _, batches = trained(tiny_model, questions, tmp_path, True, steps=1)
    ((completions, ids, turns, crops),) = seen
    tokenizer = loading.load_processor(tiny_model, tiny.pixels()).tokenizer
    for row in range(8):
        assert completions[row] == [{"role": "assistant", "content": turns[row][-1]["content"]}]
        assert tokenizer.decode(ids[row], skip_special_tokens=True) == turns[row][-1]["content"]
        assert [turn["role"] for turn in turns[row]] == (["assistant", "tool"] * 4)[: len(turns[row])]
        shown = [number for number, turn in enumerate(turns[row]) if "<image>" in turn["content"]]
        assert [crop["turn"] for crop in crops[row]] == shown
    (inputs,) = batches
    mask, rows = inputs["completion_mask"] * inputs["tool_mask"], inputs["num_images"]
    image = loading.load_model(tiny.section(tiny_model)).config.image_token_id
    assert not (inputs["completion_ids"].eq(image) & mask.bool()).any()  # no placeholder is learned
    assert inputs["num_items_in_batch"] == mask.sum()
    # the log counts the model's tokens alone
    assert log[0]["completions/mean_length"] == pytest.approx(
        rows.learned(mask.shape[1]).mul(inputs["completion_mask"].cpu().bool()).sum(1).float().mean().item()
    )
    depth = [sum(turn["role"] == "tool" for turn in one) for one in turns]
    assert log[0]["turns/mean"] == pytest.approx(1 + sum(depth) / 8)
    assert log[0]["zoom/share"] == pytest.approx(sum(bool(one) for one in crops) / 8)


class Insisting(Toolbox):
    def answer(self, text, context, where):
        return Result("Again.")


def test_over_the_limit_nothing_is_learned(tiny_model, questions, tmp_path, monkeypatch):
    """Every completion calls in every turn: at the limit it is over, masked and counted."""
    monkeypatch.setattr("vlm.tools.dialogue.calls.BEGIN", "")  # whatever is said calls
    _, log, weights, batches = trained(tiny_model, questions, tmp_path, True, Insisting, steps=1, limit=2, beta=0.0)
    over = [row for row in range(8) if not batches[0]["tool_mask"][row].any()]
    assert len(over) / 8 == log[0]["turns/over"] > 0
    assert batches[0]["num_items_in_batch"] >= 1


@pytest.mark.parametrize("fault", ["raises", "hangs", "nonsense"])
def test_a_tool_that_fails_costs_its_row_a_turn(tiny_model, questions, tmp_path, fault, caplog, monkeypatch):
    from vlm.tools.zoom import Zoom

    release = __import__("threading").Event()
    plain = Zoom.__call__

    def failing(self, arguments, context):
        if context.columns["id"] == "0":
            if fault == "raises":
                raise ZeroDivisionError("no such thing")
            if fault == "hangs":
                release.wait(60)
            return {"not": "a picture"}
        return plain(self, arguments, context)

    monkeypatch.setattr(Zoom, "__call__", failing)
    monkeypatch.setattr(TurnSection, "model_post_init", lambda self, _: object.__setattr__(self, "timeout", 0.2))
    try:
        seen, log, _, _ = trained(tiny_model, questions, tmp_path, True, steps=1)
    finally:
        release.set()
    said = {"raises": "ZeroDivisionError: no such thing", "hangs": "Overdue", "nonsense": "gave back dict"}[fault]
    assert any(said in record.message and "q: row '0'" in record.message for record in caplog.records)
    told = [turn["content"] for one in seen[0][2] for turn in one if turn["role"] == "tool"]
    assert "The tool failed." in told and log[0]["turns/failed"] > 0 and any("<image>" in text for text in told)


# numbers


def test_entropy_of_depth():
    assert metrics.entropy([0, 0, 1, 1]) == pytest.approx(0.6931472) and metrics.entropy([2, 2]) == 0


def test_means_by_hand():
    row = metrics.Row
    rows = [row(1, 1, 0, False, True), row(0, 0, 0, False, None), row(2, 1, 1, True, False), row(1, 1, 0, False, None)]
    found = metrics.means(rows, [1.0, 0.25, 0.5, float("nan")], 4)
    assert found == {
        "turns/mean": 2.0, "turns/calls": 0.75, "turns/over": 0.25, "turns/failed": 0.25, "zoom/share": 0.75,
        "turns/depth_entropy": pytest.approx(1.0397208), "zoom/holds": 0.5, "zoom/gain": 0.5,
    }  # fmt: skip


def test_images_that_only_tools_give(tiny_model, questions, tmp_path):
    """Rows without pictures of their own, whose tool gives some back."""

    class Drawing(Toolbox):
        def answer(self, text, context, where):
            from vlm.tools.tool import Shown

            return (
                None
                if context.views or len(text) % 3
                else Result("Here.", [Shown(tiny.picture(60, 70, seed=len(text)))])
            )

    bare = [Sample([], one.messages, "vqa", answer="a", source="q", id=one.id) for one in questions]
    runs = [trained(tiny_model, bare, tmp_path, share, Drawing, steps=1, limit=1) for share in (True, False)]
    assert runs[0][0] == runs[1][0] and any(len(turns) > 1 for turns in runs[0][0][0][2])
    assert all(torch.allclose(runs[0][2][name], value, atol=1e-5) for name, value in runs[1][2].items())
