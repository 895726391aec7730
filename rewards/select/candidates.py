"""The answers that selectors choose from: drawn once, one JSONL row per question.

    {"source": "vg_test", "id": "3", "prompt": "the red ship", "completions": ["<think>…</think><answer>…", …]}

A run draws them into parts (`stage.parallel.journal`) and puts these together as `completions.jsonl`; another run, or
another program, may bring such a file (`completions:` in the recipe). Only source, id and completions are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samples import Sample
from samples.fingerprints import of_pictures, of_rows
from samples.readers.rows import RowFault, Rows, show
from stage.parallel.journal import Part, encoded, fingerprint, records
from stage.parallel.team import Team
from vlm.common.errors import DataError
from vlm.common.files import replacing

Draw = Callable[[Sequence[Sample]], Iterable[list[str]]]
"""`draw(samples)` → completions of each question, in order and as they come. They must depend on nothing but the
question, so that a continued run and one with more processes draw the same (`evals.draws`)."""


def key(sample: Sample) -> str:
    """Names a question."""
    return f"{sample.source}/{sample.id}"


def mark(sample: Sample) -> str:
    """Its name in a journal; another one where row or picture have another content, so that it is drawn again."""
    pictures = of_pictures(sample.images)
    return f"{key(sample)}#{fingerprint(of_rows([sample], Path('/')), pictures)}"


def check_unique(samples: Sequence[Sample]) -> None:
    """Raises: DataError where two questions have one name."""
    names: set[str] = set()
    for sample in samples:
        refuse_namesake(sample, names)


def refuse_namesake(sample: Sample, names: set[str]) -> None:
    """Add the question's name to `names`. Raises: DataError where it is there."""
    if (name := key(sample)) in names:
        raise DataError(f"data.eval: two questions are called {name}; give rows distinct ids, or each source a `name:`")
    names.add(name)


def undrawn(samples: Sequence[Sample], folder: Path, name: str) -> list[Sample]:
    """Those of which no process has drawn anything yet."""
    have = {record["key"] for record in records(folder, name)}
    return [sample for sample in samples if mark(sample) not in have]


def draw_all(draw: Callable[[], Draw], todo: Sequence[Sample], folder: Path, name: str, team: Team) -> None:
    """Draw this process's share of `todo`, which is the same in all. `draw()` loads the model, and only if there is
    work."""
    from tqdm.auto import tqdm

    mine = todo[team.rank :: team.size]
    if not mine:
        return
    with Part(folder, name, team.rank) as part:
        each = zip(mine, draw()(mine), strict=True)
        for sample, texts in tqdm(each, total=len(mine), desc="draw", disable=not team.main, mininterval=2.0):
            part.add({"key": mark(sample), "completions": texts})


def check_complete(samples: Sequence[Sample], found: Mapping[str, Any], folder: Path) -> None:
    """Raises: DataError where what another process wrote is not here."""
    missing = [key(sample) for sample in samples if mark(sample) not in found]
    if missing:
        raise DataError(
            f"{folder}: nothing of {len(missing)} questions, such as {missing[0]}; every process must see the same "
            "output folder: on several machines it must be on a shared disk"
        )


def put_together(samples: Sequence[Sample], folder: Path, name: str, path: Path) -> None:
    """Write `path` from the parts, in the order of the questions; it appears whole or not at all."""
    drawn = {record["key"]: record["completions"] for record in records(folder, name)}
    check_complete(samples, drawn, folder)
    with replacing(path) as file:
        for sample in samples:
            asked = [turn["content"] for turn in sample.messages if turn["role"] == "user"]
            row = {"source": sample.source, "id": sample.id, "prompt": asked[-1], "completions": drawn[mark(sample)]}
            file.write(encoded(row) + b"\n")


def read(path: Path, samples: Sequence[Sample]) -> list[list[str]]:
    """Completions of each sample, as many for each.

    Raises: DataError naming the line, or the question that has none or another number than the others.
    """
    rows = Rows(path)
    found = dict(_row(row, f"{path}, {rows.unit} {number}") for number, row in rows)
    out = []
    for sample in samples:
        if key(sample) not in found:
            raise DataError(f"{path}: no completions for the question {key(sample)}; expected a row for each question")
        out.append(found[key(sample)])
        if len(out[-1]) != len(out[0]):
            raise DataError(
                f"{path}: {len(out[-1])} completions for {key(sample)}, {len(out[0])} for {key(samples[0])}; expected "
                "as many for each question"
            )
    return out


def _row(row: dict[str, Any] | RowFault, where: str) -> tuple[str, list[str]]:
    if isinstance(row, RowFault):
        raise DataError(f"{where}, {row}") from row
    for name in ("source", "id"):
        if not isinstance(row.get(name), str):
            raise DataError(f"{where}, field '{name}': found {show(row.get(name))}, expected text")
    texts = row.get("completions")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}, field 'completions': found {show(texts)}, expected a list of texts")
    return f"{row['source']}/{row['id']}", texts
