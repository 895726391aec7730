"""Bradley-Terry training of the score model on transformers' Trainer.

For a record with ranked candidates, scores s_1 … s_n (best first) and margin m ≥ 0:

    loss = 2/(n(n-1)) Σ_{i<j} -log σ(s_i - s_j - m)   +   c · 2/(n(n-1)) Σ_{i<j} (s_i + s_j)²

The mean over all ordered pairs of a record (InstructGPT, arXiv 2203.02155, eq. 1) is Bradley-Terry for two candidates;
a long list counts as much as a short one. m: Llama 2, arXiv 2307.09288, eq. 2. c = `center_rewards_coefficient` keeps
scores around 0, as in TRL (arXiv 2312.09244, eq. 2): only differences are learned otherwise. A batch is the mean over
its records. All candidates of a record stand in one forward pass, and a picture goes through the vision tower once.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from rewards.score.model.exchange import encode
from rewards.score.training import metrics
from rewards.score.training.preferences import Preference
from stage.checkpoints.resumable import Resumable
from stage.guards.finite import FiniteSteps
from stage.replay.dumps import ROWS
from stage.trainer.orders import FlatOrder
from vlm.pictures.unreadable import row_name
from vlm.prefix.media import shown_in_all


def ordered_pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n,) of ranked candidates → those of the better and of the worse one of each pair, (n(n-1)/2,) each."""
    better, worse = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
    return scores[better], scores[worse]


def preference_loss(scores: Tensor, candidates: Sequence[int], margins: Tensor, center: float = 0.0) -> Tensor:
    """The loss above, a scalar in float32.

    Args:
        scores: (sum of candidates,), the records one after another, each best first.
        candidates: how many of them each record has, 2 or more.
        margins: (records,), 0 for none.
        center: c, the weight of the centring term.
    """
    terms = []
    for group, margin in zip(scores.float().split(list(candidates)), margins.float(), strict=True):
        better, worse = ordered_pairs(group)
        # never log of a ratio of exponentials, which overflows at differences of 89
        term = -logsigmoid(better - worse - margin).mean()
        terms.append(term + center * ((better + worse) ** 2).mean() if center else term)
    return torch.stack(terms).mean()


@dataclasses.dataclass
class Collator:
    """Records of `Rows` → one batch: `index`, `candidates`, `margin` (records,), the inputs of `ScoreModel`, `ROWS`.

    Among several processes a batch of text alone shows a blank picture (`shown_in_all`). config: the model's.
    """

    processor: Any
    config: Any

    def __call__(self, rows: Sequence[tuple[int, Preference]]) -> dict[str, Any]:
        records = [record for _, record in rows]
        exchanges = [exchange for record in records for exchange in record.exchanges()]
        return {
            "index": torch.tensor([index for index, _ in rows]),  # first: accelerate takes the batch's size from it
            "candidates": torch.tensor([len(record.ranked) for record in records]),
            "margin": torch.tensor([record.margin or 0.0 for record in records]),
            **shown_in_all(encode(exchanges, self.processor, share_images=True), self.config),
            ROWS: [row_name({"source": record.source, "id": record.id}) for record in records],
        }


class Rows(torch.utils.data.Dataset):
    """Records with their places: (place, record). `places` keeps those of a larger list for a part of it."""

    def __init__(self, records: Sequence[Preference], places: Sequence[int] | None = None):
        self.records = records
        self.places = range(len(records)) if places is None else places

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int) -> tuple[int, Preference]:
        return self.places[item], self.records[item]


class PreferenceLoss(Trainer):
    """The loss of a batch of `Collator`, beneath what guards and keeps the steps of `PreferenceTrainer`."""

    def __init__(self, *positional: Any, **named: Any):
        self._logged: dict[str, list[float]] = defaultdict(list)
        super().__init__(*positional, **named)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        inputs.pop("index")
        candidates, margins = inputs.pop("candidates").tolist(), inputs.pop("margin")
        scores = model(**inputs).logits.squeeze(-1)
        loss = preference_loss(scores, candidates, margins, self.args.center_rewards_coefficient or 0.0)
        if model.training:
            self._note(scores.detach().float(), candidates)
        return (loss, scores) if return_outputs else loss

    def _note(self, scores: Tensor, candidates: Sequence[int]) -> None:
        """Sums over this micro-batch, of all processes, for the next log."""
        groups = [ordered_pairs(group) for group in scores.split(list(candidates))]
        gaps = torch.cat([better - worse for better, worse in groups])
        sums = [len(gaps), (gaps > 0).sum(), gaps.sum(), len(scores), scores.sum(), (scores**2).sum()]
        own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=scores.device) for value in sums])
        total = self.accelerator.reduce(own, reduction="sum")
        for name, value in zip(("pairs", "right", "gap", "scores", "sum", "squares"), total.tolist(), strict=True):
            self._logged[name].append(value)


class PreferenceTrainer(FiniteSteps, Resumable, FlatOrder, PreferenceLoss):
    """Trains and measures a score model; its arguments are a TRL `RewardConfig`.

    Overridden: `compute_loss` (`PreferenceLoss`), `prediction_step`, `evaluate`, `log`, and what `FiniteSteps` and
    `Resumable` say.

    Logged while training: `loss`, `pair_accuracy`, `score/margin` (mean s⁺ - s⁻), `score/mean`, `score/std`. By an
    evaluation: every metric of `rewards.score.training.metrics` behind `eval_`, and `eval_loss`.
    """

    def __init__(self, model, args, processor, train: Sequence[Preference], held_out: Sequence[Preference] = ()):
        self.held_out = list(held_out)
        self.measured: dict[str, metrics.Metric] = {}
        "The last evaluation, by metric."
        self.measured_at: int | None = None
        "The optimiser step after which it was."
        super().__init__(
            model,
            args,
            data_collator=Collator(processor, model.config),
            train_dataset=Rows(train),
            eval_dataset=Rows(self.held_out) if self.held_out else None,
            processing_class=processor,
        )
        # The loss is a mean over records, whatever the micro-batch holds: Trainer divides by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._logged and "loss" in logs:
            pairs, right, gap, count, total, squares = (sum(values) for values in self._logged.values())
            self._logged.clear()
            mean = total / count
            logs |= {"pair_accuracy": right / pairs, "score/margin": gap / pairs, "score/mean": mean}
            logs["score/std"] = max(0.0, squares / count - mean**2) ** 0.5
        super().log(logs, start_time)

    def kept_state(self) -> dict[str, Any]:
        return super().kept_state() | {"logged": dict(self._logged)}

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        self._logged.clear()
        self._logged.update(state["logged"])

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, scores (records, most candidates) filled up with NaN, places (records,))."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, inputs, return_outputs=True)
        groups = scores.float().split(inputs["candidates"].tolist())
        return loss.detach(), pad_sequence(groups, batch_first=True, padding_value=torch.nan), inputs["index"]

    def scores(self, records: Sequence[Preference], places: Sequence[int] | None = None) -> dict[int, list[float]]:
        """{place: scores of its candidates, best first} of records; collective, the same on every process."""
        loader = self.get_test_dataloader(Rows(records, places))
        output = self.evaluation_loop(loader, "Evaluation", prediction_loss_only=False)
        found = dict(zip(output.label_ids.tolist(), output.predictions.tolist(), strict=True))
        places = range(len(records)) if places is None else places
        return {place: found[place][: len(record.ranked)] for place, record in zip(places, records, strict=True)}

    def loss_of(self, scores: Sequence[Sequence[float]]) -> float:
        """The loss of the held-out records by their scores. Trainer's own `eval_loss` weighs a rest batch wrongly."""
        margins = torch.tensor([record.margin or 0.0 for record in self.held_out])
        flat = torch.tensor([score for found in scores for score in found])
        return preference_loss(
            flat, list(map(len, scores)), margins, self.args.center_rewards_coefficient or 0.0
        ).item()

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Measure the held-out preferences, with their own images and with each other's; logged and returned.

        Raises: DataError where a score is not finite.
        """
        found = list(self.scores(self.held_out).values())
        control = metrics.derange(self.held_out, self.args.seed)
        blind = self.scores(list(control.values()), list(control)) if control else None
        self.measured = metrics.evaluate(self.held_out, found, blind)
        self.measured_at = self.state.global_step
        values = {"loss": self.loss_of(found)} | {name: metric.value for name, metric in self.measured.items()}
        logs = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs
