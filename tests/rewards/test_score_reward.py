"""The reward `score`: what it pays, what it asks the score model, and what it does when that does not answer."""

from __future__ import annotations

import math
import multiprocessing

import pytest

import rewards
from rewards.score.model.exchange import Exchange
from rewards.score.reward.faults import Failures, ScoringFailed, attempt
from rewards.score.reward.score import Score
from rewards.score.reward.shaping import flatten, shape
from rewards.score.scorer import ScorerRefused, ScorerUnavailable
from rewards.values import WrongValues
from tests.support.completions import r1
from tests.support.scores.score_fakes import BLUE, RED, FakeScorer, bare, batch, picture
from vlm.common.errors import DataError, RecipeError

pytestmark = pytest.mark.versions

TABLE = {"ref": 1.0, "good": 3.0, "better": 6.0, "bad": -1.0}


def made(table=None, **options):
    return Score(scorer=FakeScorer(TABLE | (table or {})), probe_every=0, **options)


# what it pays


def test_the_papers_formula_by_hand():
    reward = made()
    values = reward(**batch((RED, "?", "ref", [r1("good"), r1("better"), r1("bad"), r1("ref")])))
    # s - s_ref = 2, 5, -2, 0 and beta = 0.2: 1 - e^-0.4, 1 - e^-1, 0, 0
    assert values == pytest.approx([0.3296799540, 0.6321205588, 0.0, 0.0], abs=1e-9)
    assert made(beta=1.0)(**batch((RED, "?", "ref", [r1("good")]))) == pytest.approx([0.8646647168], abs=1e-9)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("raw", [3.0, -1.0, 3.0, -1.0]),  # the last fails the format: no better than the worst
        ("sigmoid", [0.9525741268, 0.2689414214, 0.9525741268, 0.0]),
        # of three others: "good" beats two and ties with one, "bad" beats the one that fails the format
        ("rank", [2.5 / 3, 1 / 3, 2.5 / 3, 0.0]),
    ],
)
def test_variants_by_hand(variant, expected):
    reward = made(variant=variant)
    values = reward(**batch((RED, "?", "ref", [r1("good"), r1("bad"), r1("good"), bare("good")])))
    assert values == pytest.approx(expected, abs=1e-9)
    assert reward.scorer.asked == ["good", "bad"]  # no reference, and equal answers once


def test_shapes_at_their_edges():
    assert shape("raw", [2.0, None]) == [2.0, 0.0]
    assert shape("rank", [5.0]) == [0.5] and shape("rank", [None]) == [0.0]
    assert shape("rank", [None, None, 7.0]) == [0.0, 0.0, 1.0]
    assert shape("reference", [1000.0, -1000.0], 0.0) == [1.0, 0.0]
    assert shape("sigmoid", [-1000.0, 1000.0]) == [0.0, 1.0]


def test_rows_of_other_tasks_get_none_and_are_not_scored():
    reward = made()
    rows = batch((RED, "?", "ref", [r1("good"), r1("unknown")]))
    rows["task"] = ["open_ended", "vqa"]
    assert reward(**rows) == [pytest.approx(0.3296799540), None]
    assert reward.scorer.asked == ["good", "ref"]
    assert made(applies_to="caption")(**rows) == [None, None]


def test_fault_3_the_answer_is_scored_over_several_lines_and_never_the_trace():
    reward = made({"one\ntwo": 2.0})
    values = reward(**batch((RED, "?", "ref", [r1("\none\ntwo\n", trace="better"), bare("better")])))
    assert values == [pytest.approx(1 - math.exp(-0.2)), 0.0]  # what fails the format gets 0 ...
    assert reward.scorer.asked == ["one\ntwo", "ref"]  # ... and is not scored
    assert made(inside="text")(**batch((RED, "?", "ref", [bare(" good\n"), bare(" ")]))) == [
        pytest.approx(0.3296799540),
        0.0,
    ]


# what the score model is asked


class Keeping(FakeScorer):
    def score(self, exchanges):
        self.seen = list(exchanges)
        return super().score(exchanges)


def test_the_exchange_has_picture_and_question_and_no_system_prompt():
    scorer = Keeping(TABLE)
    Score(scorer=scorer, probe_every=0)(**batch((RED, "What is here?", "ref", [r1("good")])))
    answer, reference = scorer.seen
    question = {"role": "user", "content": "What is here?"}
    assert answer.messages == (question, {"role": "assistant", "content": "good"})
    assert reference.messages == (question, {"role": "assistant", "content": "ref"})
    assert [image.getpixel((0, 0)) for image in (*answer.images, *reference.images)] == [RED, RED]


def test_captions_are_scored_without_the_question():
    scorer = Keeping(TABLE)
    rows = batch((RED, "Describe it.", "ref", [r1("good")])) | {"task": ["caption"]}
    Score(scorer=scorer, applies_to=["caption"], probe_every=0)(**rows)
    assert scorer.seen[0] == Exchange.of("", "good", rows["images"][0])
    Score(scorer=scorer, question=False, probe_every=0)(**rows | {"task": ["open_ended"]})
    assert scorer.seen[0] == Exchange.of("", "good", rows["images"][0])


def test_one_batch_per_call_equal_exchanges_once():
    reward = made(variant="rank")
    two = batch((RED, "?", "ref", [r1("good"), r1("good"), r1("bad")]), (BLUE, "?", "ref", [r1("good"), r1("bad")]))
    reward(**two)
    assert reward.scorer.batches == [["good", "bad", "good", "bad"]]  # the same words about another picture


def test_groups_are_runs_of_the_same_picture_question_and_row():
    two = batch((RED, "?", "ref", [r1("good"), r1("bad")]), (RED, "?", "ref", [r1("better"), r1("good")]))
    assert made(variant="rank")(**two) == [1.0, 0.0, 1.0, 0.0]  # two rows of the data, equal but for their id
    one = two | {"id": ["0"] * 4}
    # by hand, of three others: good beats one and ties with one, bad none, better all three
    assert made(variant="rank")(**one) == pytest.approx([0.5, 0.0, 1.0, 0.5])
    asked = batch((RED, "a?", "ref", [r1("bad")]), (RED, "b?", "ref", [r1("good")])) | {"id": ["0"] * 2}
    assert made(variant="rank")(**asked) == [0.5, 0.5]


def test_pictures_come_from_the_columns_or_from_the_prompts_blocks(tmp_path):
    rows = batch((RED, "?", "ref", [r1("good")]))
    picture(RED).save(tmp_path / "red.png")
    for column in (
        {"images": [[str(tmp_path / "red.png")]]},  # as a path
        {"images": None},  # the prompt's own block
        {"images": None, "image": [picture(RED)]},  # TRL's single-image column
    ):
        scorer = Keeping(TABLE)
        scorer._one = lambda exchange: 0.0
        Score(scorer=scorer, probe_every=0)(**rows | column)
        assert [len(exchange.images) for exchange in scorer.seen] == [1, 1]


@pytest.mark.parametrize("content", [[{"type": "image"}, {"type": "text", "text": "?"}], "?"])
def test_an_image_that_would_not_reach_the_model_is_refused(content):
    """TRL's own way with a Qwen2-VL as reward: text only, and nobody notices."""
    rows = batch((RED, "?", "ref", [r1("good")]))
    rows |= {"prompts": [[{"role": "user", "content": content}]], "images": [[]], "image_file": ["a.png"]}
    with pytest.raises(RecipeError, match=r"source 'scenes', id '0': the prompt has 1 image\(s\) \(a.png\), but 0"):
        made()(**rows)
    if content == "?":  # nothing says that there was a picture: a text-only row
        assert made()(**rows | {"image_file": [None]}) == [pytest.approx(0.3296799540)]


def test_a_row_without_its_reference_is_refused():
    rows = batch((RED, "?", " ", [r1("good")]))
    with pytest.raises(DataError, match="source 'scenes', id '0'.*'answer' is ' '"):
        made()(**rows)
    assert made(variant="sigmoid")(**rows) == [pytest.approx(0.9525741268)]
    assert made()(**{name: column for name, column in rows.items() if name != "task"}) == [None]


# noise


def test_a_group_whose_spread_is_noise_gets_its_mean():
    # sample deviation of 0.5, 0.6: 0.0707
    assert flatten([0.5, 0.6, 0.0], [True, True, False], 0.08) == ([pytest.approx(0.55)] * 2 + [0.0], True)
    assert flatten([0.5, 0.6, 0.0], [True, True, False], 0.07) == ([0.5, 0.6, 0.0], False)
    assert flatten([0.5, 0.5], [True, True], 0.07) == ([0.5, 0.5], False)  # nothing to flatten
    assert flatten([0.5, 0.0], [True, False], 1.0) == ([0.5, 0.0], False)
    reward = made({"good too": 3.001}, min_group_std=0.01)
    groups = batch((RED, "?", "ref", [r1("good"), r1("good too")]), (BLUE, "?", "ref", [r1("good"), r1("better")]))
    first, second, third, fourth = reward(**groups)
    assert first == second == pytest.approx((1 - math.exp(-0.4) + 1 - math.exp(-0.4002)) / 2)
    assert (third, fourth) == pytest.approx((0.3296799540, 0.6321205588))


# failures


def test_a_dead_service_is_none_and_never_0():
    reward = made({"good": ScorerUnavailable("gone")}, variant="sigmoid")
    reward.failures.watched = True  # it has not worked once: the run would end
    values = reward(**batch((RED, "?", "ref", [r1("bad"), bare("x")]), (BLUE, "?", "ref", [r1("good")])))
    assert values == [None, None, None]  # the client gave up on the whole call
    assert reward.failures.total == 2  # rows that were to be scored
    reward.scorer.table["good"] = 3.0
    assert reward(**batch((RED, "?", "ref", [r1("good")]))) == [pytest.approx(0.9525741268)]


def test_a_score_that_has_never_worked_ends_the_run():
    dead = batch((RED, "?", "ref", [r1("good")]), (BLUE, "?", "ref", [r1("good")]))
    with pytest.raises(ScoringFailed, match="failed on all 2 rows of a call, and has not worked once. Cause: gone"):
        made({"good": ScorerUnavailable("gone")})(**dead)
    reward = made({"good": ScorerUnavailable("gone")})
    assert reward(**batch((RED, "?", "ref", [r1("good")]))) == [None]  # of one prompt: it may be the row
    with pytest.raises(ScoringFailed, match="each row that it was asked for"):
        reward.failures.at_the_end()


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), math.nan, math.inf])
def test_one_bad_exchange_masks_its_group_alone(failure):
    """Beside other rewards TRL would book one missing value of a group as 0; a whole group without cancels."""
    reward = made({"good": failure})
    values = reward(**batch((RED, "?", "ref", [r1("bad"), r1("good")]), (BLUE, "?", "ref", [r1("better")])))
    assert values == [None, None, pytest.approx(0.6321205588)]
    assert reward.failures.total == 1


def test_a_missing_reference_score_masks_the_row():
    reward = made({"ref": math.nan})
    assert reward(**batch((RED, "?", "ref", [r1("good"), bare("x")]))) == [None, None]


def test_what_the_user_must_mend_is_raised_not_masked():
    with pytest.raises(DataError, match="cut short"):
        made({"good": DataError("image a.png: cut short")})(**batch((RED, "?", "ref", [r1("good")])))


def test_a_scorer_that_returns_too_few_scores_ends_the_run():
    class Short:
        def score(self, exchanges):
            return [1.0]

    with pytest.raises(WrongValues, match="the scorer of the reward 'score' returned 1 value for 2 completions"):
        attempt(Short(), [Exchange.of("", "a"), Exchange.of("", "b")])  # one by one it would be right


def test_the_run_stops_past_the_stated_share_and_says_why():
    failures = Failures(share=0.25, window=8)
    failures.add(2, 6, "time-out")  # 2 of 8: not more than a quarter
    failures.add(0, 2)  # two good rows push nothing out but the two bad ones
    failures.add(2, 0, "time-out")
    with pytest.raises(ScoringFailed, match=r"on 3 of its last 8 rows.*0\.25 · 8 rows.*Last cause: no route to host"):
        failures.add(1, 0, "no route to host")
    assert failures.total == 5
    with pytest.raises(ScoringFailed):
        Failures(share=0, window=8).add(1, 7, "once")
    few = Failures(share=0.1, window=256)
    few.add(10, 0, "at the start")  # absolute: 10 of the first 10 are not yet a tenth of 256
    assert not few.exceeded


def test_a_refusal_stops_at_once_unless_somebody_will_save_first():
    reward = made({"good": ScorerRefused("the model is another")})
    with pytest.raises(ScoringFailed, match="the service refuses them. Last cause: the model is another"):
        reward(**batch((RED, "?", "ref", [r1("good")])))
    watched = made({"good": ScorerRefused("the model is another")})
    watched.failures.watched = True
    assert watched(**batch((RED, "?", "ref", [r1("good")]))) == [None]
    assert watched.failures.exceeded


def _agree(rank, meeting_place, answers):
    import torch

    from stage.parallel.agreement import anywhere

    torch.distributed.init_process_group("gloo", f"file://{meeting_place}", rank=rank, world_size=2)
    answers.put([anywhere(step == 1 and rank == 1, torch.device("cpu")) for step in range(3)])


def test_processes_agree_to_stop(tmp_path):
    """The second of two has failures, the first none: both hear of it, at the same step."""
    import rewards.score.reward.stopping  # noqa: F401 (before the fork: torch takes long to import)

    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    running = [fork.Process(target=_agree, args=(rank, tmp_path / "meet", answers)) for rank in range(2)]
    for process in running:
        process.start()
    assert [answers.get(timeout=60) for _ in running] == [[False, True, False]] * 2
    for process in running:
        process.join(60)


# in a recipe


def test_options_are_checked_before_anything_loads():
    for options, message in [
        ({}, "needs one of `model`"),
        ({"model": "m", "urls": ["http://a"]}, "needs one of `model`"),
        ({"urls": "http://127.0.0.1:1", "positions": "mrope"}, "'positions' is the service's own option"),
        ({"urls": "http://127.0.0.1:1", "service": {"patence": 3}}, "no option 'patence'; did you mean 'patience'"),
        ({"model": "m", "service": {"patience": 3}}, "with `model` there are none"),
        ({"model": "m", "beta": 0.0}, "beta = 0.0"),
        ({"model": "m", "max_failures": 1.0}, "max_failures is 1.0"),
        ({"model": "m", "failure_window": 0}, "failure_window is 0"),
        ({"model": "m", "variant": "ranks"}, "expected 'reference' or 'raw'"),
        ({"model": "m", "probes": "nowhere.jsonl"}, "no file nowhere.jsonl"),
        ({"model": "m", "rules": ["exact_mach"]}, "unknown reward 'exact_mach'"),
        ({"scorer": FakeScorer({}), "model": "m"}, "leave out model"),
    ]:
        with pytest.raises(RecipeError, match=message):
            rewards.resolve("score", **options)
    unloaded = rewards.resolve("score", model="no/such/folder/at/all")  # a dry run loads nothing
    with pytest.raises(RecipeError, match="no folder no/such/folder/at/all"):
        unloaded.prepare()
