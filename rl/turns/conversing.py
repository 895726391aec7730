"""The mixin that has `rl.GRPOTrainer` carry on conversations with tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import gather_object

from rl.turns import metrics
from rl.turns.rollout import Conversations, conversing
from vlm.pictures.unreadable import row_name
from vlm.prefix import media
from vlm.prefix.rollout import replaced
from vlm.tools.dialogue import Dialogue, Turn
from vlm.tools.rendered import Rendered, Renderer
from vlm.tools.tool import views_of
from vlm.tools.toolbox import Toolbox

FILES = "image_names"
"""Column of the data set: names of each row's pictures, which tools read again (`samples.rows`)."""


class Turns:
    """Completions of several turns: the model's, which are learned, and between them those of tools, which are not, and
    which count neither in lengths nor in entropy or KL.

    toolbox: the tools; None: completions have one turn, and all is as without this class. notation: how boxes are
    written, which says the frame of what the model states.

    Rewards get a completion's last turn as `completion`, and the columns `turns` and `crops`; the table of completions
    shows all turns. A completion that calls a tool once more than it may is masked in the loss and counted
    (`turns/over`); its reward is part of its group's baseline.

    Overridden: `__init__` (the arguments), `_generate` (the rollout is TRL's rollout function for its time, which may
    state a mask of what is learned), `_calculate_rewards` (rewards see the last turn),
    `_generate_and_score_completions` (completions over the limit are masked); of `SharedPrompts` `_rolling`. TRL's own
    `tools` stay empty: they encode all pictures anew in each turn, and drop those of a whole batch where one row's
    placeholders do not fit.
    """

    _conversations: Conversations | None = None
    _rows: Sequence[Mapping[str, Any]] = ()
    _rewarded: Sequence[float] = ()
    "Of the rows of all processes."

    def __init__(self, *positional: Any, toolbox: Toolbox | None = None, notation: str = "pixel", **named: Any):
        self.toolbox, self.notation = toolbox, notation
        super().__init__(*positional, **named)
        self._renderer = None if toolbox is None else Renderer(self.processing_class)

    def _generate_and_score_completions(self, inputs):
        if self.toolbox is None:
            return super()._generate_and_score_completions(inputs)
        self._rows = inputs
        try:
            output = super()._generate_and_score_completions(inputs)
            over = [dialogue.over for dialogue in self._conversations.dialogues]
            self._note(metrics.of_batch(self._conversations.dialogues, inputs))
        finally:
            self._rows, self._conversations = (), None
        output["tool_mask"][over] = 0
        learned = (output["completion_mask"] * output["tool_mask"]).sum()
        output["num_items_in_batch"] = self.accelerator.gather(learned).sum().clamp(min=1)
        return output

    def _note(self, rows: Sequence[metrics.Row]) -> None:
        mode = "train" if self.model.training else "eval"
        group = self.num_generations if self.model.training else self.num_generations_eval
        for name, value in metrics.means(gather_object(list(rows)), self._rewarded, group).items():
            self._metrics[mode][name].append(value)

    # the rollout

    def _generate(self, prompts):
        if self.toolbox is None:
            return super()._generate(prompts)
        with replaced(self, "rollout_func", self._converse):
            ids, said, mask, _, logps, extra, images, _ = super()._generate(prompts)
        talks = self._conversations.dialogues
        completions = [[message(turn) for turn in talk.turns] for talk in talks]
        return ids, said, mask, completions, logps, extra, images, []

    def _converse(self, prompts, trainer) -> dict[str, Any]:
        """TRL's rollout function: prompts to completions of any number of turns."""
        ids, images, fields = self._tokenize_prompts(prompts)
        dialogues = [self._dialogue(row) for row in self._rows]
        found = Conversations(dialogues, self._renderer, self.eos_token_ids, self.args.max_completion_length)
        self._conversations = found
        group = self.num_generations if self.model.training else self.num_generations_eval
        said, logps = self._generate_single_turn(ids, images, fields, group)
        if self.use_vllm:
            self._through_engine(found, ids, images, said, logps)
        done = found.completions
        if self._generation is not None:
            self._generation.added = [one.media for one in done]
            self._generation.tools = [one.spans for one in done]
        return {
            "prompt_ids": ids,
            "completion_ids": [one.ids for one in done],
            "logprobs": [one.logps for one in done] if self.use_vllm else None,
            "env_mask": [one.learned for one in done],
            "turns": [dialogue.written for dialogue in dialogues],
            "crops": [dialogue.crops for dialogue in dialogues],
        }

    def _dialogue(self, row: Mapping[str, Any]) -> Dialogue:
        names = row.get(FILES) or ()
        # sizes may be drawn; other people's rows may not say what their pictures are called
        handed = [picture.size for picture, _ in zip(row.get("images") or (), names, strict=False)]
        views = views_of(names, self.processing_class.sight, self.notation, handed)
        columns = {name: value for name, value in row.items() if name not in ("prompt", "images", "answer")}
        return Dialogue(self.toolbox, views, columns, row_name(row))

    def _rolling(self, model) -> AbstractContextManager[None]:
        if self._conversations is None:
            return super()._rolling(model)
        rows = self._generation.prompts if self._generation else list(range(len(self._rows)))
        return conversing(model, rows, self._conversations, not self.share_prefix, self._count)

    def _count(self, session, following: Mapping[int, Rendered], said: Mapping[int, Sequence[int]]) -> None:
        """Tokens and pictures of a further turn, for the log."""
        if not self.model.training:
            return
        new = [len(said[number]) - 1 for number in following]
        if session.whole:
            lengths = [len(session.rows[number]) - len(said[number]) for number in following]
            shown = [one for number in following for one in session.shown[number]]
        else:
            lengths = [len(turn.ids) + 1 for turn in following.values()]
            shown = [turn.media for turn in following.values() if turn.media]
        units = {name: torch.cat([one[name].cpu() for one in shown]) for name in media.of(shown[0])} if shown else {}
        places = len(lengths) * (max(lengths) + max(new))
        self.counters.passed("rollout", places, sum(lengths) + sum(new), units)
        if not session.whole:
            self.counters.ideal("rollout", sum(lengths) + sum(new), len(media.rows(units)))

    def _through_engine(self, found: Conversations, ids, images, said, logps) -> None:
        """The turns after the first, through this process's vLLM, which keeps what it has computed of a prompt."""
        following = found.heard(dict(enumerate(said)), dict(enumerate(logps)))
        while following:
            rows = list(following)
            told = [ids[row] + found.completions[row].ids for row in rows]
            shown = [[*((images and images[row]) or ()), *found.completions[row].pictures] or None for row in rows]
            more, values = self._generate_single_turn(told, shown if any(shown) else None, {}, 1)
            room = [found.limit - sum(found.completions[row].learned) for row in rows]
            new = {row: one[:most] for row, one, most in zip(rows, more, room, strict=True)}
            following = found.heard(new, {row: one[:most] for row, one, most in zip(rows, values, room, strict=True)})

    # rewards

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self.toolbox is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        last = [completion[-1:] for completion in completions]
        done = self._conversations.completions
        ids = [one.ids[one.turn :] for one in done]
        found = super()._calculate_rewards(inputs, prompts, last, ids)
        whole = (found * self.reward_weights.to(found.device)).nansum(1)
        self._rewarded = whole.masked_fill(found.isnan().all(1), torch.nan).tolist()
        return found


def message(turn: Turn) -> dict[str, Any]:
    """A turn as TRL has messages: the model's as text, which rewards read."""
    return {"role": turn.role, "content": turn.text if turn.role == "assistant" else turn.content}
