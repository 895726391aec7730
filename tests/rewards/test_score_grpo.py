"""The learned reward in real GRPO steps: a tiny Qwen2-VL score model rewards a tiny Qwen2-VL policy."""

from __future__ import annotations

import json
import math
import threading

import pandas
import pytest
import torch
import trl
from transformers import TrainerCallback

import rewards
from rewards.guarded import Limits, guard
from rewards.score.model.exchange import Exchange
from rewards.score.model.fingerprint import fingerprint
from rewards.score.model.score_model import ScoreModel
from rewards.score.placement import InProcess, random_state_kept, unsharded
from rewards.score.reward.faults import ScoringFailed
from rewards.score.reward.score import Score, learned
from rewards.score.reward.stopping import StopOnFailures
from rewards.score.scorer import ScorerUnavailable
from rewards.score.service import client
from samples import Sample
from samples.rows import prompt_rows
from tests.support.completions import Logs, r1
from tests.support.runs.scripted import Scripted
from tests.support.scores.score_fakes import RED, FakeScorer, batch
from tests.support.scores.score_servers import LIMIT, Running, Warned
from tests.support.tiny_checkpoints import picture, section
from vlm.loading import load_model, load_processor
from vlm.sections import ImageSection, PromptSection

pytestmark = [pytest.mark.versions, pytest.mark.xdist_group("score_grpo")]
LIMITS = ImageSection(min_pixels=112 * 112, max_pixels=112 * 112)
REFERENCE = "three planes on the apron"
R1 = "<think>a</think><answer>{}</answer>"


@pytest.fixture(scope="module")
def score_model(tiny_model, tmp_path_factory) -> str:
    """A folder with a score model of random weights."""
    folder = tmp_path_factory.mktemp("score_model")
    ScoreModel.from_backbone(tiny_model, dtype="float32").save_pretrained(folder)
    return str(folder)


def samples(tmp_path):
    found = []
    for n, question in enumerate(["Describe the harbor.", "What lies at the pier?"]):
        path = tmp_path / f"{n}.png"
        picture(112, 112, seed=n).save(path)
        turns = [{"role": "user", "content": question}]
        found.append(Sample([str(path)], turns, "open_ended", answer=REFERENCE, source="scenes", id=str(n)))
    return found


@pytest.fixture
def build(tiny_model, tmp_path):
    def make(functions, script, callbacks=(), **changes):
        settings = {"per_device_train_batch_size": len(script), "num_generations": 4, "max_steps": 1}
        settings |= {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
        settings |= {"max_completion_length": 48, "gradient_checkpointing": False, "learning_rate": 1e-3, "beta": 0.0}
        settings |= {"log_completions": True, "num_completions_to_print": 0, "remove_unused_columns": False}
        settings |= {"shuffle_dataset": False}
        args = trl.GRPOConfig(str(tmp_path / "run"), **settings | changes)
        trainer = Scripted(
            load_model(section(tiny_model)),
            functions,
            args,
            prompt_rows(samples(tmp_path), PromptSection()),
            processing_class=load_processor(tiny_model, LIMITS),
            callbacks=list(callbacks),
        )
        trainer.script = script
        return trainer

    return make


def logged(trainer):
    return next(row for row in trainer.state.log_history if "reward" in row)


def test_gated_with_a_real_score_model_moves_the_policy_as_the_formula_says(build, score_model, tmp_path):
    """Rewards and advantages against scores that the model gives each exchange alone."""
    reward = rewards.resolve("gated", tasks={"open_ended": {"use": "score", "model": score_model, "beta": 2.0}})
    said = ["a ship", "two tanks", "a ship at the pier"]
    script = [*map(R1.format, said), "x"] * 2
    trainer = build([reward], script)
    trainer.train()
    model, expected = ScoreModel.from_pretrained(score_model), []
    for sample in samples(tmp_path):
        alone = [model.score([Exchange.from_sample(sample, answer)])[0] for answer in (*said, REFERENCE)]
        gains = [1 - math.exp(-2.0 * max(0.0, score - alone[3])) for score in alone[:3]]
        expected += [*(0.3 + 0.7 * gain for gain in gains), 0.0]
    (table,) = (pandas.read_parquet(path) for path in (tmp_path / "run/completions").glob("*.parquet"))
    assert table["gated"].tolist() == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected if value > 0.3}) >= 2  # some above the reference, and not alike
    groups = torch.tensor(expected).view(2, 4)
    advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    assert table["advantage"].tolist() == pytest.approx(advantages.flatten().tolist(), abs=1e-4)
    log = logged(trainer)
    assert log["reward_raw/open_ended_count"] == 8 and log["score/scored"] == 0.75  # through gated, too


def test_the_metrics_reach_the_log_through_trl(build, score_model):
    trainer = build([Score(model=score_model, probe_every=1, variant="rank")], [R1.format("a ship"), "x", "y", "z"] * 2)
    trainer.train()
    log = logged(trainer)
    assert log["score/scored"] == 0.25 and log["score/failed"] == 0.0 and log["rewards/score/mean"] == 0.25
    assert log["score/probe_drift"] == pytest.approx(0.0, abs=1e-5)
    assert abs(log["score/shuffled_gap"]) > 0 and log["score/corr_length"] is None  # one scored row in each group


class Flaky(FakeScorer):
    """Dead for the answers whose number of the call is in `dead`."""

    def __init__(self, dead):
        super().__init__({"good": 3.0, "bad": 1.5, REFERENCE: 1.0})
        self.dead, self.calls = dead, 0

    def score(self, exchanges):
        self.calls += 1
        if self.calls in self.dead:
            raise ScorerUnavailable("no route to host")
        return super().score(exchanges)


GOOD_AND_BAD = [R1.format("good"), R1.format("bad"), R1.format("bad"), "no format"]


@pytest.mark.parametrize("beside", [False, True])
def test_rows_without_a_score_are_no_zeros_in_trl(build, beside):
    """A dead service in the first step: no advantage from it, also where TRL sums it with another reward."""
    functions = [Score(scorer=Flaky({1}), probe_every=0)]
    if beside:
        functions.append(lambda completions, **_: [float(n % 4 == 3) for n in range(len(completions))])
    trainer = build(functions, GOOD_AND_BAD)
    trainer.train()
    log = logged(trainer)
    assert log["rewards/score/mean"] is None and log["score/failed"] == 0.75
    # beside: 0, 0, 0, 1, mean 1/4, deviation 1/2, with no trace of the missing score
    expected = [value / (1 + 2e-4) for value in (-0.5, -0.5, -0.5, 1.5)] if beside else [0.0] * 4
    assert list(trainer._logs["advantages"]) == pytest.approx(expected, abs=1e-6)
    assert log["reward"] == (pytest.approx(0.25) if beside else None)


class Steps(TrainerCallback):
    def __init__(self):
        self.begun = 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun += 1


def test_a_service_that_comes_back_costs_its_rows_and_no_more(build):
    reward = Score(scorer=Flaky({1}), probe_every=0)
    trainer = build([reward], GOOD_AND_BAD, [StopOnFailures([reward])], max_steps=2)
    trainer.train()
    first, second = (row for row in trainer.state.log_history if "reward" in row)
    assert first["reward"] is None
    gains = [1 - math.exp(-0.4), *[1 - math.exp(-0.1)] * 2, 0.0]
    assert second["reward"] == pytest.approx(sum(gains) / 4)
    assert reward.failures.total == 3


def test_a_service_that_stays_dead_ends_the_run_with_a_checkpoint_and_the_cause(build, tmp_path):
    gated = rewards.resolve("gated", tasks={"open_ended": {"use": "score", "model": "unused"}})
    gated.task_rewards["open_ended"] = reward = Score(
        scorer=Flaky(range(2, 99)), max_failures=0.5, failure_window=10, probe_every=0
    )
    assert learned([gated, lambda completions, **_: []]) == [reward]
    steps = Steps()
    trainer = build([gated], GOOD_AND_BAD, [StopOnFailures(learned([gated])), steps], max_steps=9)
    # 3 rows a step are scored: more than 5 of the last 10 have failed after the third step
    with pytest.raises(ScoringFailed, match=r"on 6 of its last 9 rows.*Last cause: no route to host"):
        trainer.train()
    assert steps.begun == trainer.state.global_step == 3
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    assert (tmp_path / "run/checkpoint-3/trainer_state.json").is_file()
    booked = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert booked[0] is not None and booked[1:] == [None, None]


def test_without_a_watch_it_ends_at_once(build):
    reward = Score(scorer=Flaky(range(1, 99)), max_failures=0.1, failure_window=20, probe_every=0)
    with pytest.raises(ScoringFailed, match="no route to host"):
        build([reward], GOOD_AND_BAD).train()


def test_tensors_and_rows_without_a_reward_reach_trl(build, caplog, capsys):
    """Arrow refuses a column of tensors; TRL would show the whole row, with pictures, where none has a reward."""

    def graded(completions, log_extra, **_):
        log_extra("seen", [torch.tensor(n) for n in range(4)])
        return [torch.tensor(0.5), torch.tensor(True), torch.tensor(0.25, dtype=torch.bfloat16), None]

    gated = guard(rewards.resolve("gated", tasks={"open_ended": "format"}), Limits())
    gated.task_rewards["open_ended"].reward = graded
    trainer = build([gated], GOOD_AND_BAD)
    trainer.log_completions = trainer.args.log_completions = True
    trainer.train()
    assert logged(trainer)["reward"] == pytest.approx((0.65 + 1.0 + 0.475) / 3)
    assert "All reward functions returned None" not in caplog.text + capsys.readouterr().out
    assert (
        "1 of 4 completions have no reward: none applies to their row, or it failed; they train nothing" in caplog.text
    )
    assert "(scenes: row '0'; batch 1 of this kind)" in caplog.text


# in the training process


def test_loading_takes_no_random_number_from_the_rollouts_and_no_shard(score_model):
    """It happens at the first call: at another step in a resumed run, and maybe under ZeRO-3."""
    from transformers.integrations import deepspeed

    config = deepspeed.HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    assert deepspeed.is_deepspeed_zero3_enabled()
    placed = InProcess(score_model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert len(placed.score([Exchange.of("?", "a ship")])) == 1
    assert torch.equal(torch.rand(3), expected)
    assert deepspeed.is_deepspeed_zero3_enabled()  # as it was
    with unsharded(), random_state_kept():
        torch.rand(1)
        assert not deepspeed.is_deepspeed_zero3_enabled()
    del config
    assert all(parameter.numel() for parameter in placed._model.parameters())


def test_a_cache_file_serves_the_next_run_of_the_same_model(score_model, tmp_path):
    columns = batch((RED, "?", "a ship", [r1("two tanks")]))
    known, values = [], []
    for positions in ("mrope", "mrope", "sequential"):
        path, logs = str(tmp_path / "references.jsonl"), Logs()
        reward = Score(model=score_model, cache=path, positions=positions, beta=5.0, probe_every=0)
        values += reward(**columns, log_metric=logs.log_metric)
        known.append(logs.mean("score/reference_known"))
    assert known == [0.0, 1.0, 0.0]  # other positions, other scores
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "references.jsonl").read_text().splitlines()]
    models = [fingerprint(ScoreModel.from_pretrained(score_model, positions)) for positions in ("mrope", "sequential")]
    assert [row["model"] for row in rows] == models


# served


class KilledInMidRun(TrainerCallback):
    """Kills the service before the second step, and starts it again once the client has said that it waits."""

    def __init__(self, server, warned):
        self.servers, self.warned = [server], warned

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.servers[0].kill()
            self.thread = threading.Thread(target=self._again, daemon=True)
            self.thread.start()

    def _again(self):
        assert self.warned.event.wait(LIMIT)
        self.servers.append(Running(Fixed(), port=self.servers[0].port))


class Fixed(FakeScorer):
    def __init__(self):
        super().__init__({"good": 3.0, "bad": 1.5, REFERENCE: 1.0})


def test_training_waits_for_a_killed_service_and_books_no_zero(build, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    warned = Warned()
    monkeypatch.setattr(client.logger, "handlers", [warned])
    killer = KilledInMidRun(Running(Fixed()), warned)
    reward = Score(urls=[killer.servers[0].url], service={"patience": LIMIT, "timeout": LIMIT}, probe_every=0)
    trainer = build([reward], GOOD_AND_BAD, [killer], max_steps=2)
    try:
        trainer.train()
    finally:
        killer.thread.join(LIMIT)
        for server in killer.servers:
            server.kill()
    assert len(warned.messages) == 1  # it did wait
    gains = [1 - math.exp(-0.4), *[1 - math.exp(-0.1)] * 2, 0.0]
    steps = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["reward"] for row in steps] == pytest.approx([sum(gains) / 4] * 2)
    assert [row["score/failed"] for row in steps] == [0.0, 0.0] and reward.failures.total == 0
    assert [server.scorer.asked for server in killer.servers] == [["good", "bad", REFERENCE]] * 2
