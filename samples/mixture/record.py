"""What a mixture holds, by source and task, as a record and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samples import Sample
from samples.mixture.marks import Marks
from samples.sections import Role
from vlm.common.processes import is_main_process

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """The rows of one task in one source."""

    task: str
    read: int
    "Good rows that were read."
    kept: int
    "Different rows of them that the mixture uses."
    rows: int
    "Rows of the mixture, repetitions included."
    blind: int = 0
    "Rows left out because a model answers them without their picture (`data.drop_blind`)."


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a mixture."""

    path: str
    lines: list[Line]
    faulty: int = 0
    "Rows left out because they are faulty."
    left_out: int = 0
    "Rows that ask nothing (`samples.Faults`)."
    bytes: int | None = None
    "Of the file, where the source is one."
    digest: str | None = None
    "Of the rows that were read and passed, in their order (`samples.fingerprints`)."
    used: str | None = None
    "Of which of them the mixture uses, in its order."

    @property
    def rows(self) -> int:
        return sum(line.rows for line in self.lines)


def short(path: str) -> str:
    """A path as tables show it: from the current folder on, or its last two names."""
    found = Path(path)
    if not found.is_absolute() or len(found.parts) <= 3:
        return path
    return str(found.relative_to(Path.cwd())) if found.is_relative_to(Path.cwd()) else str(Path("…", *found.parts[-2:]))


@dataclass(slots=True)
class Mixture:
    """The rows of a recipe's `data.train` or `data.eval`."""

    role: Role
    parts: list[Part]
    samples: Sequence[Sample] = ()
    "In order, read from the tables of `samples.store` one by one. Empty where the rows were only counted."
    marks: Marks | None = None
    "By which rows were left out."

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def blind(self) -> int:
        """Rows that were left out by marks."""
        return sum(line.blind for part in self.parts for line in part.lines)

    @property
    def tasks(self) -> set[str]:
        """Of its rows, as far as they could be read."""
        return {line.task for part in self.parts for line in part.lines if line.rows} - {"?"}

    @property
    def absent(self) -> bool:
        """Whether some of its rows are not here, and were only counted."""
        return any(line.task == "?" and line.rows for part in self.parts for line in part.lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: {"rows": 4, "sources": [{"path", "rows", "faulty", "tasks": {"vqa": {"read", "kept", …}}}]}"""
        sources = []
        for part in self.parts:
            tasks = {
                line.task: {
                    "read": line.read,
                    "kept": line.kept,
                    "repeated": line.rows - line.kept,
                    "rows": line.rows,
                    "share": round(line.rows / self.rows, 6) if self.rows else 0.0,
                    **({} if self.marks is None else {"blind": line.blind}),
                }
                for line in part.lines
            }
            counts = {"rows": part.rows, "faulty": part.faulty, "left_out": part.left_out}
            sources.append({"path": part.path, **counts, "tasks": tasks})
        found = {"rows": self.rows, "sources": sources}
        if self.marks is not None:
            told = {"models": list(self.marks.models), "prompts": list(self.marks.prompts)}
            found["drop_blind"] = {"path": self.marks.path, "rows": self.blind, **told}
        return found

    def record(self) -> dict[str, Any]:
        """`to_dict`, and of each source what tells its content apart: "bytes", "sha256" and "used_sha256"."""
        found = self.to_dict()
        for source, part in zip(found["sources"], self.parts, strict=True):
            source |= {"bytes": part.bytes, "sha256": part.digest, "used_sha256": part.used}
        return found

    def table(self) -> Table:
        """A line for each source and task."""
        from rich.table import Table

        table = Table(title=f"Rows of data.{self.role}", title_justify="left")
        marked = self.marks is not None
        for name in ("source", "task", "read", *(["blind"] if marked else []), "kept", "repeated", "rows", "share"):
            right = name not in ("source", "task")
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for part in self.parts:
            name = short(part.path)
            for line in part.lines:
                share = f"{line.rows / self.rows:.1%}" if self.rows else ""
                counts = (line.read, *([line.blind] if marked else []), line.kept, line.rows - line.kept, line.rows)
                table.add_row(name, line.task, *(f"{count:,}" for count in counts), share)
                name = ""
            if part.faulty:
                table.add_row(name, f"faulty: {part.faulty:,}")
                name = ""
            if part.left_out:
                table.add_row(name, f"no question: {part.left_out:,}")
        table.add_section()
        lines = [line for part in self.parts for line in part.lines]
        kept = sum(line.kept for line in lines)
        sums = (sum(line.read for line in lines), *([self.blind] if marked else []), kept, self.rows - kept, self.rows)
        table.add_row("all", "", *(f"{count:,}" for count in sums))
        return table

    def show(self) -> None:
        """Print the table, in the main process only."""
        from rich.console import Console

        if is_main_process():
            Console().print(self.table())
