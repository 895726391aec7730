"""What training a score model logs (`rewards/score/training/trainer.py`, `rewards/score/training/metrics.py`)."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import BOTH, SCORE, Group, Metric, Range

logged = partial(Metric, stages=SCORE)
held_out = partial(logged, rows=("eval",))
SCALE = "scores of a Bradley-Terry model have no zero and no scale of their own"
CHANCE = "1/2 is chance"
NAMED = "Each dimension that some pair is about has a name of its own."
UNSEEN = (
    "Does a row show its picture (`data.train.images`, `data.train.text_only`)? Is the vision tower trained (`train`)? "
    "Do text-only tricks separate the pairs (length, one wording)? Then make pairs that only the picture decides."
)

TRAINED = Group(
    "Training of a score model",
    "Logged by `rewards/score/training/trainer.py` over everything trained on since the log before, in all processes. "
    "A record of n ranked candidates holds n(n - 1)/2 pairs of a better and a worse one.",
    (
        logged(
            "loss",
            "-log σ(s⁺ - s⁻ - margin), mean over a record's pairs, then over records; plus centring by "
            "`training.center_rewards_coefficient`; mean over steps. As `eval_loss` over all held-out records",
            "nats",
            None,
            "ln 2 = 0.693 is knowing nothing, without margins and centring, which raise it; `eval_nll` has neither",
            "Flat: larger `training.learning_rate`, or more trained parts (`train`). `eval_loss` rising while `loss` "
            "falls: fewer `training.num_train_epochs`, more pairs.",
            rows=BOTH,
            worse="higher",
        ),
        logged(
            "pair_accuracy",
            "share of pairs whose better candidate scores higher; a tie is wrong. As `eval_pair_accuracy` over the "
            "held-out pairs, `eval_pair_accuracy[<dimension>]` over those about one dimension",
            "share",
            Range(low=0.5, open=True),
            f"{CHANCE}. The published model has 0.93 on its held-out pairs (ScoreRS, arXiv 2503.00743), the demo's "
            "0.90 (demo/score/README.md)",
            "At chance: are better and worse mixed up in the data? Above it in training and not held out: fewer "
            "`training.num_train_epochs`, more pairs.",
            rows=BOTH,
            worse="lower",
        ),
        logged(
            "score/margin",
            "mean of s⁺ - s⁻ over the pairs",
            "score",
            None,
            f"{SCALE}; above 0 better candidates score higher on average",
            "Growing without `eval_pair_accuracy`: it grows sure, not right; fewer `training.num_train_epochs`. See "
            "`eval_calibration/ece`.",
            worse="lower",
        ),
        logged(
            "score/mean",
            "mean score of all candidates",
            "score",
            None,
            f"{SCALE}; where it is matters only to `score:variant` raw and sigmoid",
            "Wandering far off: `training.center_rewards_coefficient` 0.01 holds it near 0.",
        ),
        logged(
            "score/std",
            "standard deviation of the scores of all candidates (n)",
            "score",
            None,
            SCALE,
            "Near 0: nothing is distinguished yet; see `pair_accuracy`.",
        ),
    ),
)

HELD_OUT = Group(
    "Held-out preferences",
    "Logged by `rewards/score/training/trainer.py` after each evaluation, over all held-out pairs; those of the final "
    "weights are in metrics.json too, with the number of pairs.",
    (
        held_out(
            "pair_accuracy[<dimension>]",
            f"`eval_pair_accuracy` over the pairs about one quality dimension. {NAMED}",
            "share",
            Range(low=0.5, open=True),
            CHANCE,
            "More pairs that differ in this dimension alone (`data.train`).",
            worse="lower",
        ),
        held_out(
            "<source>/pair_accuracy",
            "`eval_pair_accuracy` over the pairs of one file, where several are held out",
            "share",
            Range(low=0.5, open=True),
            CHANCE,
            "A source at chance next to others that are not: its pairs are labelled differently, or on another topic.",
            worse="lower",
            when="pairs of several sources in `data.eval`",
        ),
        held_out(
            "nll",
            "mean of -log σ(s⁺ - s⁻) over pairs: what is trained, without margin or centring",
            "nats",
            Range(0, 0.693, open=True),
            "0.693 is ln 2, a score model that knows nothing; above it is one that is sure and wrong",
            "As `eval_calibration/ece` where `eval_pair_accuracy` is good; else as that.",
            worse="higher",
        ),
        held_out(
            "calibration/ece",
            "expected calibration error: confidence c = σ(|s⁺ - s⁻|) against the share that is right, over 10 equal "
            "bins of [0.5, 1] weighed by their pairs (Guo et al., arXiv 1706.04599); a tie is half right",
            "share",
            None,
            "no general range: 0.019 to 0.07 in the demo (the score models of LOG.md 13 and 14). Ranks and advantages "
            "do not depend on it; `score:beta` and `score:variant` sigmoid do",
            "Growing: fewer `training.num_train_epochs`, a lower `training.learning_rate`.",
            worse="higher",
        ),
        held_out(
            "calibration/brier",
            "mean of (1 - σ(s⁺ - s⁻))² over pairs",
            "",
            Range(0, 0.25, open=True),
            "a score model that knows nothing has 1/4",
            "As `eval_nll`.",
            worse="higher",
        ),
        held_out(
            "shuffled/pair_accuracy",
            "the control: the same pairs, each record with another record's pictures",
            "share",
            None,
            "1/2 only where nothing but the picture decides; what the text alone reveals stays (0.76 in the demo, "
            "demo/score/README.md)",
            f"As high as `eval_pair_accuracy`: it does not look. {UNSEEN}",
        ),
        held_out(
            "image_gain",
            "`eval_pair_accuracy` less `eval_shuffled/pair_accuracy`, over the control's pairs: what looking is worth",
            "share",
            Range(low=0, open=True),
            "at 0 the score model does not look (0.11 to 0.16 in the demo, the score models of LOG.md 13 and 14)",
            UNSEEN,
            worse="lower",
        ),
        held_out(
            "shuffled/pair_accuracy[<dimension>]",
            f"the control over the pairs about one dimension. {NAMED}",
            "share",
            None,
            "as `eval_shuffled/pair_accuracy`",
            "As `eval_image_gain[<dimension>]`.",
        ),
        held_out(
            "image_gain[<dimension>]",
            f"what looking is worth over the pairs about one dimension. {NAMED}",
            "share",
            None,
            "above 0 only where the picture decides: in the demo 0.24 in relevance, 0.37 in completeness, 0 in "
            "richness, which the text alone reveals",
            UNSEEN,
            worse="lower",
        ),
    ),
)
