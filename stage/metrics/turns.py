"""What GRPO logs of completions of several turns (`rl/turns/metrics.py`): how often tools are called, to what end."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import BOTH, GRPO, Group, Metric, Range

COUNTED = ("turns/mean", "turns/depth_entropy", "detection/boxes_said", "detection/boxes_true")
"""Those that are no shares, and never shown in percent."""


def scale(name: str) -> tuple[int, int]:
    """What an evaluation's number is multiplied by to be shown, and its digits: shares are shown in percent."""
    return (1, 2) if name in COUNTED else (100, 1)


logged = partial(Metric, stages=GRPO, rows=BOTH)
TURNS = Group(
    "Turns and zooms",
    "Logged by `rl/turns/metrics.py` where the model has `tools`, for each generation batch over all processes' "
    "completions. A turn is what the model says in one go; a call is answered by a tool's turn, a refusal included. "
    "Lengths, `entropy` and `kl` are of the model's tokens in all turns; tools' do not count.",
    (
        logged(
            "turns/mean",
            "turns of the model in a completion, mean: one, and one more for each call that was answered",
            "turns",
            None,
            "depends on the questions; it lies between 1 and 1 + `turns.limit`",
            "Falling to 1: the policy gives its tools up; see `zoom/gain` and `turns/failed`. Rising to the most that "
            "there are: calls may be paid for as such; see `zoom/gain` and `zoom/holds`.",
        ),
        logged(
            "turns/calls",
            "share of completions in which a call was answered, whatever the tool",
            "share",
            None,
            "depends on the questions: what can be told without a tool needs none",
            "Near 0 from the start: teach the call first, by SFT on conversations with calls, or ask for it "
            "(`turns.ask`); a model that never saw one does not find it by chance. Falling to 0: see `turns/mean`.",
        ),
        logged(
            "turns/over",
            "share of completions that called once more than `turns.limit`, or whose last token "
            "(`training.max_completion_length`, all turns together) was the end of a call. They are masked in the "
            "loss; their reward counts in their group's mean",
            "share",
            Range(0, 0.1),
            "each is computed and teaches nothing, as a completion that is cut (`completions/clipped_ratio`)",
            "Raise `turns.limit` if calls are useful (`zoom/gain`), else see that the last turn is told to answer: "
            "`turns.ask`, or SFT with as many calls as the limit allows.",
            worse="higher",
        ),
        logged(
            "turns/depth_entropy",
            "entropy of the distribution of the number of answered calls over the completions, natural logarithm; at "
            "most ln(1 + `turns.limit`)",
            "nats",
            None,
            "0 where all call equally often, which is right where all questions need it and wrong where none does",
            "Falling to 0 early: whether and how often to call is no longer explored, and groups differ by answers "
            "alone; raise `training.temperature`, or let SFT show questions with and without calls.",
            worse="lower",
        ),
        logged(
            "turns/failed",
            "share of calls that were answered by an error: unreadable, unknown, refused by the tool, or of a tool "
            "that raised or took longer than `turns.timeout`, which the run's output names",
            "share",
            Range(0, 0.1),
            "an error uses up a call and shows nothing. After SFT on written calls few are left",
            "High from the start: the prompt and SFT state another form or frame than `prompt.notation` does. Rising: "
            "read the turns in `completions/`; regions run out of the picture, or a tool of yours fails.",
            worse="higher",
            when="some call",
        ),
        logged(
            "zoom/share",
            "share of completions that were shown a region, by `image_zoom_in` or by a tool of yours that says what "
            "its picture shows",
            "share",
            None,
            "as `turns/calls`",
            "Well below `turns/calls`: calls fail (`turns/failed`), or go to other tools.",
        ),
        logged(
            "zoom/holds",
            "share of completions with a region in which at least 99% of the area of a true region (the rows' column "
            "`regions`) lies, of those that were shown one of the first picture and whose row has true regions",
            "share",
            None,
            "depends on how large true regions are, and on how large a region is that still shows enough",
            "Not rising: the reward does not feel where the model looks; add the reward `zoom`. At 1 and large "
            "regions: it zooms into nearly everything, which shows no more than the picture itself.",
            worse="lower",
            when="true regions in the data, and some completion that zooms",
        ),
        logged(
            "zoom/gain",
            "mean reward of the completions of a prompt that were shown a region less that of those that were not; "
            "mean over the groups that have both; masked rewards are left out",
            "reward",
            Range(low=0),
            "below it, those that look closer earn less than those of the same prompt that do not. No experiment: the "
            "policy chooses itself when to look; the evaluation's control `no_zoom` is one",
            "Below 0 for long: crops miss (`zoom/holds`), show too little (the option max_pixels of the zoom), or the "
            "questions do not need them. The policy will unlearn the call, and should.",
            worse="lower",
            when="some group with both",
        ),
    ),
)
