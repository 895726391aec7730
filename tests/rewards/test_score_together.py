"""The reward `score` in several processes: whole groups, calls without rows, failures that all hear of."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoConfig
from transformers.integrations.deepspeed import HfDeepSpeedConfig

import rewards
from rewards.score.model.exchange import Exchange
from rewards.score.model.passes import passes
from rewards.score.reward.faults import attempt
from rewards.score.reward.score import Score
from rewards.score.sharded import PassFailed, Sharded
from rewards.score.training.planned import resident
from stage.parallel import agreement
from tests.support.completions import Logs, r1
from tests.support.processes.ranks import as_processes
from tests.support.scores.score_fakes import BLUE, RED, FakeScorer, batch
from tests.support.tiny_checkpoints import picture as noise
from vlm import families
from vlm.common.errors import RecipeError, UserError
from vlm.loading import load_processor
from vlm.sections import ImageSection, ModelSection

pytestmark = pytest.mark.versions

TABLE = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0, "ref": 0.0, "broken": math.nan}
NO_ROWS = {"prompts": [], "completions": [], "task": [], "answer": [], "images": [], "source": [], "id": []}


def scored(rows, **options):
    """A process that calls `score` on these rows, or on none."""
    reward = Score(scorer=FakeScorer(TABLE), probe_every=0, **options)
    return lambda: reward(**rows)


def part(*answers, colour=RED):
    """Rows of one prompt, which its picture tells from others."""
    return batch((colour, "?", "ref", [r1(answer) for answer in answers])) | {"id": [str(colour)] * len(answers)}


# groups that lie in two processes


def test_a_group_in_two_processes_is_ranked_whole(monkeypatch):
    first, second = as_processes(
        monkeypatch, scored(part("a", "d"), variant="rank"), scored(part("b", "c"), variant="rank")
    )
    assert first == [1.0, 0.0] and second == pytest.approx([2 / 3, 1 / 3])  # of three others, not of one
    assert scored(part("a", "d"), variant="rank")() == [1.0, 0.0] and scored(part("b"), variant="rank")() == [0.5]


def test_a_failed_row_masks_its_group_in_both_processes(monkeypatch):
    blue, red = part("a", colour=BLUE), part("a", "b")
    mixed = {name: blue[name] + red[name] for name in blue}
    first, second = as_processes(monkeypatch, scored(mixed), scored(part("broken", "c")))
    assert second == [None, None]
    assert first == [pytest.approx(1 - math.exp(-0.8)), None, None]  # the blue group is whole here


def test_the_smallest_spread_is_that_of_the_whole_group(monkeypatch):
    """a, a and d, d: no spread in either process, and 0.23 over both (n - 1 = 3)."""
    values = [1 - math.exp(-0.8), 1 - math.exp(-0.2)]
    spread = math.sqrt(4 * ((values[0] - values[1]) / 2) ** 2 / 3)
    for minimum, expected in ((0.9 * spread, values), (1.1 * spread, [sum(values) / 2] * 2)):
        works = [scored(part(said, said), min_group_std=minimum) for said in "ad"]
        assert as_processes(monkeypatch, *works) == [pytest.approx([value] * 2) for value in expected]


def test_only_neighbours_with_the_same_prompt_are_a_group(monkeypatch):
    """Across a process without rows, but not across another prompt."""
    blue = part("b", "c", colour=BLUE)
    works = [scored(rows, variant="rank") for rows in (part("a"), NO_ROWS, part("d"), blue, part("d"))]
    assert as_processes(monkeypatch, *works) == [[1.0], [], [0.0], [1.0, 0.0], [0.5]]


# calls without rows


def test_gated_calls_a_collective_reward_in_every_process(monkeypatch):
    """One process has nothing but questions of another task, whose plain reward is called as ever."""

    def gated(task):
        reward = rewards.resolve("gated", tasks={"open_ended": {"use": "score", "model": "unused"}})
        reward.task_rewards["open_ended"] = score = Score(scorer=FakeScorer(TABLE), variant="rank", probe_every=1)
        logs = Logs()

        def call():
            rows = part("a", "ref", "ref")
            values = reward(**rows | {"task": [task] * 3}, log_metric=logs.log_metric)
            return values, score.scorer.asked, dict(logs.metrics)

        return call

    (open_ended, asked, logged), (vqa, unasked, empty) = as_processes(monkeypatch, gated("open_ended"), gated("vqa"))
    assert open_ended == pytest.approx([1.0, 0.3 + 0.7 / 4, 0.3 + 0.7 / 4]) and vqa == [0.3, 1.0, 1.0]
    assert asked[:2] == ["a", "ref"] and unasked == []
    assert logged["score/scored"] == [1.0] * 3 and "score/scored" not in empty  # nothing that would count as a row
    assert empty["score/masked_count"] == [0.0]
    alone = gated("vqa")()
    assert not any(name.startswith("score/") for name in alone[2])  # a single process is not called without rows


def test_a_failure_in_one_process_is_heard_in_all(monkeypatch):
    def failing():
        return agreement.settled(lambda: 1 / 0, "dividing")

    def well():
        return agreement.settled(lambda: 7, "dividing")

    first, second, third = as_processes(monkeypatch, well, failing, well)
    assert isinstance(second, ZeroDivisionError)
    for heard in (first, third):
        assert type(heard) is UserError and "process 1 of this run failed at dividing" in str(heard)
        assert "ZeroDivisionError: division by zero" in str(heard)
    assert as_processes(monkeypatch, well, well) == [7, 7] and well() == 7


def test_an_unreadable_row_ends_every_process(monkeypatch):
    missing = part("a") | {"answer": [None]}
    first, second = as_processes(monkeypatch, scored(part("b")), scored(missing))
    assert "reading the rows of the reward 'score'" in str(first) and "'answer' is None" in str(first)
    assert "'answer' is None" in str(second)


# the option `sharded`


def test_sharded_is_refused_where_it_cannot_be():
    for options, message in [
        ({"urls": "http://127.0.0.1:1", "sharded": True}, "with `urls` none is there; leave one of the two out"),
        ({"scorer": FakeScorer({}), "sharded": True}, "leave out model, urls, cache and sharded"),
        ({"sharded": True}, "needs one of `model`"),
        ({"model": "m", "sharded": "yes"}, "'sharded' is 'yes'; expected bool"),
        ({"model": "m", "sharded": True, "service": {"patience": 3}}, "with `model` there are none"),
    ]:
        with pytest.raises(RecipeError, match=message):
            rewards.resolve("score", **options)
    reward = rewards.resolve("score", model="no/such/folder/at/all", sharded=True)  # nothing is loaded
    for stage in (0, 1, 2):
        with pytest.raises(RecipeError, match=rf"the recipe has sharding.zero: {stage}; set sharding.zero: 3"):
            reward.check(stage)
    reward.check(3)
    rewards.resolve("score", model="m").check(0)
    with pytest.raises(RecipeError, match="no folder no/such/folder/at/all"):
        reward.prepare()


def test_sharded_asks_for_zero_3_before_it_loads(tiny_model):
    exchange = Exchange.of("?", "a ship")
    with pytest.raises(RecipeError, match="here it is off; set sharding.zero: 3"):
        Sharded(tiny_model).score([exchange])
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}})
    with pytest.raises(RecipeError, match="dtype is 'float32', but ZeRO-3 keeps the weights of this run in bfloat16"):
        Sharded(tiny_model, dtype="float32").score([exchange])
    assert Sharded("demo/score", dtype="bfloat16")._checked() == "bfloat16"
    with pytest.raises(RecipeError, match="no folder nowhere/at/all"):
        Sharded("nowhere/at/all").score([exchange])
    del config


def test_a_pass_that_breaks_off_is_not_repeated(tiny_model):
    """The other processes are in the middle of it."""
    calls = []

    class Engine:
        class module:  # noqa: N801
            config = AutoConfig.from_pretrained(tiny_model)

            class scorer:  # noqa: N801
                processor = load_processor(tiny_model, ImageSection())
                config = AutoConfig.from_pretrained(tiny_model)

        def __call__(self, one, before):
            calls.append(one)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("tried to allocate 7 GiB")
            return torch.zeros(len(one.rows)), {}

    scorer = Sharded(tiny_model, batch_size=1)
    scorer._engine = Engine()
    with pytest.raises(PassFailed, match=r"pass 2 of 3 broke off in process 0: OutOfMemoryError.*lower `batch_size`"):
        attempt(scorer, [Exchange.of("?", said) for said in "abc"])
    assert len(calls) == 2


@pytest.mark.parametrize("share_prefix", [True, False])
def test_every_process_makes_the_same_passes(monkeypatch, tiny_model, share_prefix):
    """3 and 1 passes, of which one sees a picture: 3 in both, all with pixels; without any picture, none has."""
    processor = load_processor(tiny_model, ImageSection(min_pixels=112 * 112, max_pixels=112 * 112))
    config = AutoConfig.from_pretrained(tiny_model)

    def padded(*exchanges):
        scorer = Sharded(tiny_model, batch_size=1)
        scorer._shares = share_prefix
        return lambda: scorer._padded(list(passes(exchanges, processor, 1, share_prefix)), processor, config)

    texts = [Exchange.of("?", said) for said in ("one", "two", "three")]
    seen = Exchange.of("?", "one", [noise(112, 112, seed=1)])
    first, second = as_processes(monkeypatch, padded(*texts), padded(seen))
    assert [len(one.rows) for one in first] == [1, 1, 1] and [len(one.rows) for one in second] == [1, 0, 0]
    shape = families.of(config).blank(config)[0]["pixel_values"].shape
    assert [one.pixel_values.shape for one in first] == [shape] * 3
    assert second[0].pixel_values.shape[0] == int(second[0].grids.prod()) > second[1].pixel_values.shape[0] == 4
    for plan in as_processes(monkeypatch, padded(*texts[:1]), padded(*texts), padded()):
        assert len(plan) == 3 and all(one.pixel_values is None for one in plan)


def test_a_plan_counts_a_process_part():
    policy = ModelSection(path="Qwen/Qwen2-VL-7B-Instruct", dtype="bfloat16", attention="sdpa")
    path = "runs/score/Qwen2-VL-7B-stage3/final"
    whole, _ = resident([Score(model=path)], policy, 8)
    split, remarks = resident([Score(model=path, sharded=True)], policy, 8)
    assert split * 8 == whole and remarks == [f"score model {path}: sharded over 8 processes"]
    assert resident([Score(model=path, sharded=True)], policy, 3)[0] == math.ceil(whole / 3)
