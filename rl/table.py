"""The table of completions: text that can be read, and what each row's question was; what ours takes from TRL's."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from stage.guards.disk import spared
from stage.tracking.pictures import opened
from stage.tracking.samples import Samples
from stage.tracking.section import SampleSection
from stage.tracking.table import Batch, reduced
from vlm.pictures.places import spelled

LOGGED_COLUMNS = ("image_file", "task", "answer")
"""Of the data set, that the table shows."""
CHAIN = ("turns", "crops")
"""Columns of the table, as JSON, where the model has tools (`rl.turns.conversing`)."""
TRACKERS = {"wandb", "trackio"}
"""Those that TRL's table of completions goes to with its pictures."""


class Table:
    """The table names each row's picture, task and true answer, so that a parquet file of completions can be read
    without the data set. Its prompts and completions are text: wandb refuses a column of conversations in which one
    turn is a string and another a list with an image, and training would end at the first log. A completion of several
    turns has a line for each, and columns say where each turn ends and which regions it shows.

    After `show_samples` (`stage.tracking.attach`) trackers get a table of a few rows with small pictures instead of
    TRL's, which has every row and picture of a batch; TRL's parquet file stays.

    TRL gathers prompts with the decoded pictures in them, and these once more for its table, from all processes through
    the GPU: 1.5 GB for 32 pictures of 4,000². What is gathered here is text, and pictures as small as a table shows
    them, where a tracker shows any.

    Overridden: `_calculate_rewards` (adds columns; then prompts and completions become text, in the lists that TRL
    gathers next), `_generate_and_score_completions` (pictures from all processes: TRL gathers them from those that have
    some, and waits without end where one has none), `log` (a full disk costs TRL's table), `kept_state`,
    `take_state` (TRL's table of the last generation batch, which the next log writes).
    """

    samples: Samples | None = None
    _noted: Set[str] = frozenset()
    "Columns that rewards have added to the table of the latest batch."

    def show_samples(self, samples: Samples) -> None:
        """This table from now on. TRL asks the arguments where its own goes (and a log of each call that it times), and
        finds none of these trackers there; their callbacks, which log the numbers, are made already."""
        self.samples = samples
        self.args.report_to = [name for name in self.args.report_to or () if name not in TRACKERS]

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        for column in LOGGED_COLUMNS:
            if column in inputs[0]:
                self._log_completion_extra(column, [row[column] for row in inputs])
        # a reward may keep the lists that it gets
        found = super()._calculate_rewards(inputs, list(prompts), list(completions), completion_ids_list)
        for column in CHAIN if self.toolbox is not None else ():
            self._log_completion_extra(column, [json.dumps(row[column], ensure_ascii=False) for row in inputs])
        self._noted = set(self._pending_extra_logs)
        prompts[:], completions[:] = map(as_text, prompts), map(as_text, completions)
        return found

    def _generate_and_score_completions(self, inputs):
        asked = self.log_multimodal and self.samples is None and bool(TRACKERS & set(self.args.report_to or ()))
        theirs = asked and bool(self.tools or self.environment_factories)  # whose pictures TRL alone has
        kept, self.log_multimodal = self.log_multimodal, theirs
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.log_multimodal = kept
        if self.samples is not None:
            if self.model.training:
                told = lambda: logged(self, len(inputs))  # noqa: E731
                self.samples.take(batch_of(self), inputs, told, gather_object, self.toolbox is not None)
        elif asked and not theirs and {"image", "images"} & inputs[0].keys():
            shown = gather_object(reduced(inputs, SampleSection().pixels))
            self._logs["images"].extend([opened(picture) for picture in pictures] for pictures in shown)
        return output

    def log(self, logs, start_time=None):
        table = Path(self.args.output_dir, "completions", f"completions_{self.state.global_step:05d}.parquet")
        mode = "train" if self.model.training else "eval"
        with spared(table):  # its last act in a log; what it has averaged is then forgotten already
            try:
                super().log(logs, start_time)
            finally:
                self._metrics[mode].clear()

    def kept_state(self) -> dict[str, Any]:
        return super().kept_state() | {"table": self._logs if self.accelerator.is_main_process else None}

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        for name, rows in (state["table"] or {}).items():
            if isinstance(rows, dict):
                for column, values in rows.items():
                    self._logs[name][column].extend(values)
            else:
                self._logs[name].extend(rows)


def as_text(messages: str | list[dict[str, Any]]) -> str:
    """A conversation to be read: `role: text` by turn, `<image>` where one is; a lone turn without its role."""
    if isinstance(messages, str):
        return messages
    turns = []
    for turn in messages:
        content = str(spelled(turn["content"]))  # blocks that are no text and no picture, as Python shows them
        turns.append(content if len(messages) == 1 else f"{turn['role']}: {content}")
    return "\n".join(turns)


def batch_of(trainer: Any) -> Batch:
    """The generation batch that a trainer has just made."""
    args, accelerator = trainer.args, trainer.accelerator
    micro = args.steps_per_generation * trainer.num_iterations
    return Batch(
        step=trainer.state.global_step + 1,
        covers=max(1, micro // args.gradient_accumulation_steps),
        last=trainer.state.max_steps,
        group=trainer.num_generations,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )


def logged(trainer: Any, rows: int) -> Callable[[int], tuple[tuple[str, str], dict[str, Any], float]]:
    """What TRL has noted of the batch, `rows` of it on each process: place in it → texts, rewards, advantage.

    Beside the rewards are the numbers that they have noted of each row (`log_extra`), such as `reward_raw/format`.
    """
    logs, total = trainer._logs, rows * trainer.accelerator.num_processes

    def at(place: int) -> tuple[tuple[str, str], dict[str, Any], float]:
        place -= total  # from the end: the newest are last
        # a column that this batch lacks still holds an earlier one's
        extra = {name: logs["extra"][name][place] for name in logs["extra"] if name in trainer._noted}
        numbers = {name: value for name, value in extra.items() if isinstance(value, float | int)}
        rewards = {name: values[place] for name, values in logs["rewards"].items()}
        texts = (logs["prompt"][place], logs["completion"][place])
        return texts, {**rewards, **numbers}, logs["advantages"][place]

    return at
