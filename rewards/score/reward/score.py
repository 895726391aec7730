"""The reward `score`: how much better than the reference a score model that sees the image finds the answer.

    r = 1 - exp(-beta · max(0, s(y) - s(y_ref)))        ScoreRS, arXiv 2503.00743, section 3.3; beta = 0.2

    rewards:
      - use: gated
        options: {tasks: {open_ended: {use: score, model: runs/score/final}}}

Scored is the *answer*, not the trace. A completion that fails the format is worth 0 and is not scored. One call of the
score model takes the completions of a batch, equal ones once, and the reference answers that it has not seen before,
so s(y_ref) is computed once in a run, and every image is encoded once.

The model runs in each training process, split over them (`sharded`), or elsewhere (`urls`): `rewards.score.placement`.
With several processes every one of them must make each call, also without rows: groups may lie in two
(`rewards.score.reward.shaping`), and a pass of a sharded model needs all.

A score that could not be computed is no reward of 0: see `rewards.score.reward.faults`. What is logged:
`rewards.score.reward.health`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from rewards.gated import ungated
from rewards.registry import Reward, collective, options_of, register, resolve
from rewards.rules import Inside
from rewards.score.model.exchange import Exchange
from rewards.score.placement import InProcess, Loaded, Served
from rewards.score.reward.candidates import Candidate, Reader
from rewards.score.reward.faults import Attempt, Failures, attempt
from rewards.score.reward.health import Health
from rewards.score.reward.probes import Probes
from rewards.score.reward.reference import ReferenceScores
from rewards.score.reward.shaping import Judged, Variant, flatten, shape, whole_groups
from rewards.score.scorer import Scorer, ScorerUnavailable
from rewards.score.sharded import Sharded, needs_zero3
from stage.checkpoints.stateful import Stateful
from stage.parallel import agreement
from vlm.common.errors import RecipeError


@register("score")
class Score:
    """Built once; called by TRL like any reward function. Nothing is loaded or asked before `prepare` or a call.

    model: a score model's folder or hub id, for the training process; or urls: of services (`launch/serve.py`).
    sharded: split the model over the processes instead of a whole copy in each; needs ZeRO-3 (`sharding.zero: 3`), and
        its weights then have training's type: `dtype` can be no other.
    variant: reference, raw, sigmoid, rank (rewards/score/reward/shaping.py). beta: of the variant reference.
    applies_to: tasks of the rows that are scored; others get None. inside: "answer", or "text" for prompts that ask
        for no tags. question: whether the score model reads the question; captions are always scored without.
    min_group_std: groups whose rewards spread less (standard deviation) get their mean: no push. 0: all are kept.
    cache: a file for the scores of reference answers, to share and to outlive the run; without it, in memory.
    max_failures, failure_window: the run ends when more than this share of the last N rows failed.
    probes, probe_every: a file, or how many of the first answers to score again every N calls; see probes.py.
    rules: rule rewards to compute on the same rows for their correlation with the score; they pay nothing.
    positions, dtype, attention, min_pixels, max_pixels, revision: of `ScoreModel.from_pretrained`, with `batch_size`
        and `share_prefix` of its `score`. service: options of `ScoreClient` (token_variable, timeout, patience, …).
    scorer: in Python, an object with `score(exchanges) -> list[float]` instead of model and urls.
    """

    def __init__(
        self,
        model: str | None = None,
        urls: Sequence[str] = (),
        sharded: bool = False,
        variant: Variant = "reference",
        beta: float = 0.2,
        applies_to: Sequence[str] = ("open_ended",),
        inside: Inside = "answer",
        question: bool = True,
        min_group_std: float = 0.0,
        cache: str | None = None,
        max_failures: float = 0.1,
        failure_window: int = 256,
        probes: int | str = 8,
        probe_every: int = 50,
        rules: Sequence[str] = (),
        batch_size: int = 16,
        share_prefix: bool = True,
        positions: Literal["mrope", "sequential"] | None = None,
        dtype: Literal["bfloat16", "float16", "float32"] | None = None,
        attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str | None = None,
        service: Mapping[str, Any] | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        if not beta > 0 or min_group_std < 0 or batch_size < 1:
            raise RecipeError(
                f"reward 'score': beta = {beta}, min_group_std = {min_group_std}, batch_size = {batch_size}; expected "
                "beta > 0, min_group_std ≥ 0 and batch_size ≥ 1"
            )
        if scorer is not None and (model or urls or cache or sharded):
            raise RecipeError("reward 'score': with a `scorer`, leave out model, urls, cache and sharded")
        self.__name__ = "score"  # TRL's metrics: rewards/score/mean
        self.variant, self.beta, self.min_group_std = variant, beta, min_group_std
        tasks = (applies_to,) if isinstance(applies_to, str) else tuple(applies_to)
        local = {"positions": positions, "dtype": dtype, "attention": attention, "revision": revision}
        local |= {"min_pixels": min_pixels, "max_pixels": max_pixels}
        passes = {"batch_size": batch_size, "share_prefix": share_prefix}
        self.scorer = scorer or place(model, urls, sharded, passes, local, dict(service or {}))
        self.reader = Reader(tasks, inside, question, variant == "reference")
        self.references = ReferenceScores(cache, None if scorer else self.scorer.fingerprint)
        self.failures = Failures(max_failures, failure_window)
        self.rules = dict(_rule(spec, tasks) for spec in ([rules] if isinstance(rules, str) else rules))
        self.health = Health(tuple(self.rules), variant == "reference")
        self.probes = Probes(probes, probe_every)

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        candidates = agreement.settled(
            lambda: self.reader.read(prompts, completions, columns), "reading the rows of the reward 'score'"
        )
        begun = time.monotonic()
        scores, known = self._scores(candidates, columns.get("trainer_state"))
        seconds = time.monotonic() - begun
        judged, flattened = self._judge(candidates, scores)
        rewards, raw = [None] * len(completions), [None] * len(completions)
        for candidate, row in zip(candidates, judged, strict=True):
            rewards[candidate.row], raw[candidate.row] = row.reward, row.score
        if log_extra is not None:
            log_extra("score/raw", raw)
        if log_metric is not None:
            for name, rule in self.rules.items() if candidates else ():
                values = rule(prompts=prompts, completions=completions, **columns)
                for candidate, row in zip(candidates, judged, strict=True):
                    row.rules[name] = values[candidate.row]
            self.health.log(log_metric, judged, flattened, known, seconds)
            self.probes.after(candidates, scores, self.scorer, log_metric)
        return rewards

    @property
    def collective(self) -> bool:
        """See `rewards.registry.collective`."""
        return agreement.size() > 1

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs to continue exactly (`stage.checkpoints.stateful`): scores of references, whose batch
        decides their last digits, and what the metrics are over."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Stateful]:
        return {
            "references": self.references, "failures": self.failures, "health": self.health, "probes": self.probes,
        }  # fmt: skip

    def check(self, zero: int) -> None:
        """For the start of a run or a plan. zero: the recipe's ZeRO stage. Raises RecipeError where it does not do."""
        if isinstance(self.scorer, Sharded) and zero != 3:
            raise RecipeError(needs_zero3(f"the recipe has sharding.zero: {zero}"))

    def prepare(self) -> None:
        """For the start of a run: is the checkpoint there, and a score model's? Do the services answer?"""
        if isinstance(self.scorer, Loaded | Served):
            self.scorer.prepare()

    def load(self) -> None:
        """For the start of a run, once its devices are set: before the policy's weights, and not at the first answer,
        for which a run may wait long. (A sharded one loads at its first answer: it needs the trainer's ZeRO-3.)"""
        if isinstance(self.scorer, InProcess):
            self.scorer.load()

    def ready(self) -> str:
        """For a dry run: what `prepare` would find now, in words. Raises: UserError where it is wrong."""
        return self.scorer.ready() if isinstance(self.scorer, Loaded | Served) else "a scorer of your own; not asked"

    def _scores(self, candidates: Sequence[Candidate], state: Any = None) -> tuple[dict[str, float], list[bool]]:
        """(scores by key, failed ones absent; for each reference that is needed, whether it was remembered).

        Rows that failed are counted. Raises ScoringFailed past the stated share.
        """
        wanted = {c.key: c.exchange for c in candidates if c.exchange is not None}
        needed: dict[str, Exchange] = {}
        if collective(self.scorer):
            self.references.identify()
        if self.variant == "reference":
            needed = {c.reference_key: c.reference for c in candidates if c.exchange is not None}
        try:
            scores = self.references.find(needed)
        except ScorerUnavailable as cause:  # a shared cache asks the service which model it has
            scores, known = {}, []
            tried = Attempt([None] * len(wanted), str(cause))
        else:
            known = [key in scores for key in needed]
            ask = {key: e for key, e in {**wanted, **needed}.items() if key not in scores}
            tried = attempt(self.scorer, list(ask.values()))
            fresh = {key: score for key, score in zip(ask, tried.scores, strict=True) if score is not None}
            self.references.add({key: score for key, score in fresh.items() if key in needed})
            scores |= fresh
        rows = [(c.group, self._failed(c, scores)) for c in candidates if c.exchange is not None]
        everywhere = [row for part in agreement.gather(rows) for row in part]
        lost = [group for group, failed in everywhere if failed]
        self.failures.of_batch(len(everywhere), len(lost), len(set(lost)), state)
        failed = sum(failed for _, failed in rows)
        self.failures.add(failed, len(rows) - failed, tried.cause, tried.refused)
        return scores, known

    def _failed(self, candidate: Candidate, scores: Mapping[str, float]) -> bool:
        """Whether a score that the row's reward needs is missing."""
        if candidate.exchange is None:
            return False
        needs = [candidate.key] + [candidate.reference_key] * (self.variant == "reference")
        return any(key not in scores for key in needs)

    def _judge(self, candidates: Sequence[Candidate], scores: Mapping[str, float]) -> tuple[list[Judged], int]:
        """(rows in order, their groups that were flattened). A group with a failed row has no rewards at all."""

        def judge(group: list[Judged]) -> bool:
            if any(row.failed for row in group):
                return False
            reference = next((row.reference for row in group if row.reference is not None), None)
            shaped = shape(self.variant, [row.score for row in group], reference, self.beta)
            rewards, changed = flatten(shaped, [row.well_formed for row in group], self.min_group_std)
            for row, reward in zip(group, rewards, strict=True):
                row.reward = reward
            return changed

        return whole_groups([(candidate.group, self._row(candidate, scores)) for candidate in candidates], judge)

    def _row(self, candidate: Candidate, scores: Mapping[str, float]) -> Judged:
        if candidate.exchange is None:
            return Judged()
        return Judged(
            length=len(candidate.exchange.messages[-1]["content"]),
            well_formed=True,
            failed=self._failed(candidate, scores),
            score=scores.get(candidate.key),
            reference=scores.get(candidate.reference_key),
        )


def place(
    model: str | None, urls: Sequence[str], sharded: bool, passes: dict, local: dict, service: dict
) -> InProcess | Sharded | Served:
    """The scorer of a recipe, from `model` (a checkpoint) or `urls` (services), one of which must be given.

    passes: `batch_size` and `share_prefix`. local: options of `ScoreModel.from_pretrained`. service: of `ScoreClient`.
    """
    if bool(model) == bool(urls):
        raise RecipeError(
            "reward 'score' needs one of `model` (a score model's folder or hub id, loaded into the training process) "
            f"and `urls` (of running score services); found model = {model!r}, urls = {list(urls)!r}"
        )
    if not urls:
        if service:
            raise RecipeError("reward 'score': `service` says how services are asked; with `model` there are none")
        if not sharded:
            return InProcess(model, **passes, **local)
        return Sharded(model, **passes, **local)
    if sharded:
        raise RecipeError(
            "reward 'score': `sharded` splits a score model over the training processes, and with `urls` none is "
            "there; leave one of the two out"
        )
    stated = [name for name, value in local.items() if value is not None]
    stated += [] if passes["share_prefix"] else ["share_prefix"]
    if stated:
        raise RecipeError(f"reward 'score': with `urls`, {stated[0]!r} is the service's own option; state it there")
    return Served([urls] if isinstance(urls, str) else urls, **service)


def _rule(spec: str, tasks: Sequence[str]) -> tuple[str, Reward]:
    """(name of a rule reward in the metrics, the reward), for rows of these tasks."""
    reward = resolve(spec, **({"applies_to": tasks} if "applies_to" in options_of(spec) else {}))
    return spec.rpartition(":")[2], reward


def learned(rewards: Iterable[Any]) -> list[Score]:
    """The `score` rewards among `rewards`, those inside `gated` included."""
    return [reward for reward in ungated(rewards) if isinstance(reward, Score)]
