"""The answers that selectors choose from: drawn once, one JSONL row per question.

    {"source": "vg_test", "id": "3", "prompt": "the red ship", "completions": ["<think>…</think><answer>…", …]}

A run draws them into parts (`stage.parallel.journal`), a record each, and puts these together as `completions.jsonl`;
another run, or another program, may bring such a file (`completions:` in the recipe). Read are source, id, completions,
and "refused": why a server gave no answer, where it refused the question for good and completions are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samples import Sample
from samples.fingerprints import of_pictures, of_rows
from samples.readers.rows import RowFault, Rows, show
from stage.endpoint.kept import why
from stage.parallel.journal import Part, encoded, fingerprint, records
from stage.parallel.team import Team
from vlm.common.errors import DataError
from vlm.common.files import replacing

Row = tuple[Sample, int]
"""A question and the number of a draw, from 0."""
Draw = Callable[[Sequence[Row]], Iterable[tuple[Row, str]]]
"""`draw(rows)` → each with its completion, as they come and in any order. A completion must depend on nothing but its
row, so that a continued run and one with more processes draw the same (`evals.asking.answering`)."""


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


def undrawn(samples: Sequence[Sample], many: int, folder: Path, name: str) -> list[list[Row]]:
    """Of each question of whose `many` draws some are missing: these."""
    have = {(record["key"], record["draw"]) for record in records(folder, name)}
    named = ((sample, mark(sample)) for sample in samples)
    rows = ([(one, number) for number in range(many) if (key, number) not in have] for one, key in named)
    return [missing for missing in rows if missing]


def draw_all(draw: Callable[[], Draw], todo: Sequence[Sequence[Row]], folder: Path, name: str, team: Team) -> None:
    """Draw this process's share of `todo`, which is the same in all; each completion is kept as it comes. `draw()`
    loads the model, and only if there is work."""
    from tqdm.auto import tqdm

    mine = [row for rows in todo[team.rank :: team.size] for row in rows]
    if not mine:
        return
    marks = {id(sample): mark(sample) for sample in {id(sample): sample for sample, _ in mine}.values()}
    with Part(folder, name, team.rank) as part:
        for (sample, number), text in tqdm(
            draw()(mine), total=len(mine), desc="draw", disable=not team.main, mininterval=2.0
        ):
            reason = why(text)
            refused = {} if reason is None else {"refused": reason}
            part.add({"key": marks[id(sample)], "draw": number, "completion": text} | refused)


def check_complete(samples: Sequence[Sample], found: Mapping[str, Any], folder: Path) -> None:
    """Raises: DataError where what another process wrote is not here."""
    missing = [key(sample) for sample in samples if mark(sample) not in found]
    if missing:
        raise DataError(
            f"{folder}: nothing of {len(missing)} questions, such as {missing[0]}; every process must see the same "
            "output folder: on several machines it must be on a shared disk"
        )


def put_together(samples: Sequence[Sample], many: int, folder: Path, name: str, path: Path) -> None:
    """Write `path` from the parts, in the order of the questions; it appears whole or not at all."""
    drawn: dict[str, dict[int, str]] = {}
    refused: dict[str, str] = {}
    for record in records(folder, name):
        if record["draw"] < many:
            drawn.setdefault(record["key"], {})[record["draw"]] = record["completion"]
            if "refused" in record:
                refused[record["key"]] = record["refused"]
    check_complete(samples, {key: texts for key, texts in drawn.items() if len(texts) == many}, folder)
    with replacing(path) as file:
        for sample in samples:
            asked = [turn["content"] for turn in sample.messages if turn["role"] == "user"]
            marked = mark(sample)
            texts = [drawn[marked][number] for number in range(many)]
            row = {"source": sample.source, "id": sample.id, "prompt": asked[-1], "completions": texts}
            file.write(encoded(row | ({"refused": refused[marked]} if marked in refused else {})) + b"\n")


def read(path: Path, samples: Sequence[Sample]) -> tuple[list[list[str]], dict[str, str]]:
    """Completions of each sample, as many for each; and of the questions that a server refused, why.

    Raises: DataError naming the line, or the question that has none or another number than the others.
    """
    rows = Rows(path)
    found, refused = dict[str, list[str]](), dict[str, str]()
    for number, row in rows:
        name, texts, reason = _row(row, f"{path}, {rows.unit} {number}")
        found[name] = texts
        if reason is not None:
            refused[name] = reason
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
    return out, {key(sample): refused[key(sample)] for sample in samples if key(sample) in refused}


def _row(row: dict[str, Any] | RowFault, where: str) -> tuple[str, list[str], str | None]:
    if isinstance(row, RowFault):
        raise DataError(f"{where}, {row}") from row
    for name in ("source", "id"):
        if not isinstance(row.get(name), str):
            raise DataError(f"{where}, field '{name}': found {show(row.get(name))}, expected text")
    texts = row.get("completions")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}, field 'completions': found {show(texts)}, expected a list of texts")
    reason = row.get("refused")
    if reason is not None and not isinstance(reason, str):
        raise DataError(f"{where}, field 'refused': found {show(reason)}, expected text")
    return f"{row['source']}/{row['id']}", texts, reason
