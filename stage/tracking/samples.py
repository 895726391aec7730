"""The table of completions from all processes to the run folder and to the trackers.

TRL gathers every picture of every generation batch, and sends the whole table at each log. Here a process reduces the
pictures of those of its rows that are shown, and tells these alone: as much is sent on one GPU as on sixty-four.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stage.guards.disk import spared
from stage.runs import Run, append, drop_after
from stage.tracking import overlays
from stage.tracking.section import SampleSection
from stage.tracking.table import FOLDER, Asked, Batch, Reading, asked, due, pictured, row
from stage.tracking.trackers import running
from vlm.common.files import replace

FILE = "samples.jsonl"
NAME = "completions"
"""Of the table, where trackers show it; TRL calls it so."""
Gather = Callable[[list], list]
"""A list of each process → one list, in the order of their ranks."""


class Samples:
    """section: None for no table. report_to: the recipe's; of these wandb and trackio get tables."""

    def __init__(
        self, run: Run, section: SampleSection | None, reading: Reading | None = None, report_to: Sequence[str] = ()
    ):
        self.run, self.section, self.reading = run, section, reading or Reading()
        self.trackers = [name for name in ("wandb", "trackio") if name in report_to]

    def due(self, batch: Batch) -> bool:
        return self.section is not None and due(batch, self.section.every)

    def take(
        self,
        batch: Batch,
        inputs: Sequence[Mapping[str, Any]],
        told: Callable[[], Logged],
        gather: Gather,
        tools: bool = False,
    ) -> None:
        """Shows a batch, if it is due. Collective: every process calls it for every generation batch.

        inputs: this process's rows of the data set, one for each completion. told: what is known of all completions.
        tools: the model has some; rows then have the columns `turns` and `crops`.
        """
        if self.section is None or not self.due(batch):
            return
        found: list[Asked] = gather(asked(inputs, batch, self.section.rows, self.section.pixels, tools))
        if self.run.main:
            logged = told()
            self.write([row(one, batch, self.reading, *logged(one.place)) for one in found], found)

    def write(self, rows: list[dict[str, Any]], found: Sequence[Asked]) -> None:
        """To the run folder: pictures first, then all lines at once, so that no line lacks its picture; then to the
        trackers."""
        folder = self.run.folder
        for picture in {picture.name: picture for one in found for picture in one.files}.values():
            if not (folder / FOLDER / picture.name).exists():
                with spared(folder / FOLDER / picture.name):
                    (folder / FOLDER).mkdir(exist_ok=True)
                    replace(folder / FOLDER / picture.name, picture.content)
        if not all((folder / name).exists() for line in rows for name in pictured(line)):
            return  # a full disk, which is said
        append(folder / FILE, rows)
        for name in self.trackers:
            send(name, rows, folder)

    def rewind(self, step: int) -> None:
        """Drops the rows of steps after this one, which a resumed run will make again."""
        if self.run.main:
            drop_after(self.run.folder / FILE, step)


Logged = Callable[[int], tuple[tuple[str, str], dict[str, Any], float]]
"""Place in the batch → (prompt, completion), rewards by name, advantage."""


def send(name: str, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """The rows as a table of the tracker's run, where it has one: `mode: disabled` gives none."""
    if (run := running(name)) is not None:
        made = overlays.table(rows, importlib.import_module(name), folder, overlaid=name == "wandb")
        run.log({NAME: made, "train/global_step": rows[0]["step"]})
