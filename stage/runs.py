"""The run folder: what was asked, where it ran, what was measured; readable while it runs and after it dies.

    runs/r1/
      recipe.yaml        the resolved recipe
      environment.json   versions, git revision, hardware, command line
      changes.diff       what differs from that revision, if anything does
      record.json        seeds, determinism, the checkpoint it began with (stage.origins.provenance)
      data.json          the mixture: rows read, kept and repeated, by source and task
      metrics.jsonl      one row per log: {"step": 10, "time": 1760000000.0, "loss": 0.41, "reward": 0.55}
      samples.jsonl      rows of the table of completions, their pictures in samples/ (stage.tracking.table)
      alerts.jsonl       signs of collapse (stage.tracking.alerts)
      tracking.json      under which id wandb knows the run
      finished.json      written last, by `finish`
      interrupted.json   a signal has stopped it: to be resumed
      checkpoint-*/      whole ones (stage.checkpoints)
      dumps/             single steps, and those that were skipped, to be computed again (stage.replay.dumps)
      heartbeats/        what each process does, while it runs (stage.guards.watchdog)
      .lock-*            which run writes here now (stage.guards.lock)

Only the main process writes; in every other process the same calls do nothing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stage.guards import disk, lock
from stage.origins import revision
from stage.origins.comparing import of_mixtures
from stage.origins.environment import describe
from vlm.common.errors import UserError
from vlm.common.files import replace
from vlm.common.processes import is_main_process
from vlm.common.redaction import redact

if TYPE_CHECKING:
    from samples.mixture import Mixture

RECIPE, ENVIRONMENT, METRICS, FINISHED = "recipe.yaml", "environment.json", "metrics.jsonl", "finished.json"
DATA, INTERRUPTED, RECORD, CHANGES = "data.json", "interrupted.json", "record.json", revision.CHANGES

TRACKED = ("samples.jsonl", "alerts.jsonl", "tracking.json")
"""Files of `stage.tracking`."""
SUMMARY = "train_loss"
"""What the trainer's last row alone has, which sums up the run; others may have a train_runtime, too."""
FOLDERS = ("completions", "heartbeats", "dumps", "samples")
"""What a run writes beside its checkpoints."""


@dataclass
class Run:
    """A run folder opened for writing; `Run.create` makes one."""

    folder: Path
    main: bool = True
    origins: dict[str, Any] = field(default_factory=dict)
    "Parts of record.json that a resume compares (`stage.origins.comparing`)."
    data: dict[str, Any] = field(default_factory=dict)
    "data.json, once it is known."
    checkpoint_bytes: int = 0
    "The least that a checkpoint takes, by the plan."

    @classmethod
    def create(
        cls,
        folder: str | Path,
        recipe: dict | str,
        *,
        overwrite: bool = False,
        resume: bool = False,
        main: bool | None = None,
    ) -> Run:
        """Makes `folder` and writes recipe and environment into it.

        recipe: the resolved recipe, as a dict or as YAML text.
        A folder in which a run has finished or has measured something is refused with UserError, unless
          resume: metrics.jsonl is continued; a recipe.yaml or environment.json that differs is kept under a
                  number (recipe.1.yaml, …);
          overwrite: the earlier run's records, its completions and checkpoint-* folders are deleted; other files stay.
        main: whether this process writes; by default rank 0.
        So is one that another run holds (`stage.guards.lock`); this one's from here to `finish`, or the process's end.
        """
        if overwrite and resume:
            raise UserError(f"{folder}: a run is either resumed or overwritten; asked for both, choose one")
        run = cls(Path(folder).absolute(), is_main_process() if main is None else main)
        if not run.main:
            return run
        lock.hold(run.folder, main=True)
        if overwrite:
            _delete_records(run.folder)
        elif not resume:
            _refuse_to_overwrite(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        for name in (FINISHED, INTERRUPTED):
            (run.folder / name).unlink(missing_ok=True)
        text = recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        _write_keeping(run.folder / RECIPE, redact(text))
        git, patch = revision.describe(revision.own_checkout())
        _write_keeping(run.folder / CHANGES, patch)
        _write_keeping(run.folder / ENVIRONMENT, redact(json.dumps(describe(git), indent=2, ensure_ascii=False)) + "\n")
        _mend_tail(run.metrics)
        return run

    @property
    def metrics(self) -> Path:
        """Where the rows of `log` go."""
        return self.folder / METRICS

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Appends one row {"step", "time" (Unix seconds), **values}, in one write: a kill loses no earlier
        row.

        Numbers may be Python's, numpy's or one-element tensors. NaN and infinities, for which JSON has no
        word, are written as the strings "nan", "inf", "-inf"; `read_metrics` turns them back.
        """
        if not self.main:
            return
        row = {"step": step, "time": round(time.time(), 3)} | {k: _plain(v) for k, v in values.items()}
        append(self.metrics, [row])

    def note_mixtures(self, mixtures: Mapping[str, Mixture]) -> None:
        """Prints the mixtures by role, and writes data.json of them, unless it is written already."""
        for mixture in mixtures.values():
            mixture.show()
        if self.main and not self.data:
            self.note_data(of_mixtures(mixtures))

    def note_data(self, roles: Mapping[str, Any]) -> None:
        """Writes data.json (`stage.origins.comparing`); one that differs is kept under a number."""
        self.data = dict(roles)
        if self.main:
            _write_keeping(self.folder / DATA, json.dumps(roles, indent=2, ensure_ascii=False) + "\n")

    def note_record(self, record: dict[str, Any]) -> None:
        """Writes record.json (`stage.origins.provenance`); one that differs is kept under a number."""
        if self.main:
            _write_keeping(self.folder / RECORD, redact(json.dumps(record, indent=2, ensure_ascii=False)) + "\n")

    def rewind(self, step: int) -> None:
        """Drops the rows after `step`, which a resumed training will measure again; at the step itself the summary of a
        training that had come to its end."""
        if not self.main or not self.metrics.exists():
            return
        rows = [(row.get("step", 0), SUMMARY in row, line) for row, line in _rows(self.metrics)]
        kept = [line for at, summary, line in rows if at < step or (at == step and not summary)]
        replace(self.metrics, "".join(line + "\n" for line in kept))

    def finish(self, **summary: Any) -> None:
        """Marks the run as finished; `summary` (numbers, texts) goes into finished.json."""
        self._mark(FINISHED, summary)

    def interrupt(self, **summary: Any) -> None:
        """Marks the run as stopped by a signal, to be resumed; interrupted.json goes when it is."""
        with disk.spared(self.folder / INTERRUPTED):
            self._mark(INTERRUPTED, summary)

    def _mark(self, name: str, summary: dict[str, Any]) -> None:
        if self.main:
            content = {"time": round(time.time(), 3)} | {k: _plain(v) for k, v in summary.items()}
            replace(self.folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
            lock.release(self.folder)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order, also of a run that is being written or was killed.

    A last line that is torn is left out; a torn line anywhere else is UserError, for then the file was
    edited.
    """
    return [{k: _number(v) for k, v in row.items()} for row, _ in _rows(Path(path))]


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows to a JSON lines file, in one write; on a full disk they are lost, with a warning."""
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    disk.append(path, lines.encode())


def drop_after(path: Path, step: int) -> None:
    """Drops the rows of a JSON lines file after `step`, and a torn last line; no file, nothing to do."""
    if path.exists():
        replace(path, "".join(line + "\n" for row, line in _rows(path) if row["step"] <= step))


def _rows(path: Path) -> list[tuple[dict, str]]:
    """(row, its line) for each whole line."""
    # Split on "\n" alone: splitlines() would also cut at characters such as U+2028 inside a text.
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append((json.loads(line), line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: expected a JSON row, found {line[:60]!r} ({error.msg})") from None
    return rows


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _refuse_to_overwrite(folder: Path) -> None:
    if (folder / FINISHED).exists():
        state = "holds a finished run"
    elif (folder / METRICS).exists() and (folder / METRICS).stat().st_size:
        state = "holds a run that has begun and not finished"
    else:
        return
    instead = "Choose another output, or write overwrite=true to replace it; training goes on with resume=auto, too"
    raise UserError(f"{folder}: {state}; expected a new folder. {instead}")


def _delete_records(folder: Path) -> None:
    numbered = ("recipe*.yaml", "environment*.json", "record*.json", "data*.json", "changes*.diff")
    for pattern in (*numbered, METRICS, FINISHED, INTERRUPTED, *TRACKED):
        for path in folder.glob(pattern):
            path.unlink()
    for path in (*folder.glob("checkpoint-*"), folder / ".unfinished", *map(folder.joinpath, FOLDERS)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _write_keeping(path: Path, text: str) -> None:
    """Writes `text`, if there is any; an earlier, different file is kept as name.1.suffix, name.2.suffix, …"""
    if path.exists() and path.read_text(encoding="utf-8") != text:
        number = 1
        while (kept := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        path.rename(kept)
    if text:
        replace(path, text)


def _mend_tail(path: Path) -> None:
    """Cuts off a torn last line, onto which the next row would otherwise be written."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
