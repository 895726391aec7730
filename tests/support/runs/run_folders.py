"""Run folders as the stages leave them, small: of training with curves and samples, and of evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stage.runs import Run

GROUP = 4


def recipe(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A resolved recipe of GRPO, as far as a report reads it."""
    plain = {
        "stage": "grpo",
        "seed": seed,
        "model": {"path": "demo/base"},
        "prompt": {"style": "r1", "notation": "qwen2_vl"},
        "training": {"learning_rate": 1e-4, "max_steps": 10},
        "rewards": [{"use": "gated", "weight": 1.0}],
    }
    return plain | changes


def training(folder: Path, rows: Sequence[Mapping[str, Any]], finished: bool = True, **changes: Any) -> Path:
    """A run that logged `rows`, each {"step": …, **values}. changes: of the recipe."""
    run = Run.create(folder, recipe(**{"output": str(folder)} | changes))
    for row in rows:
        run.log(row["step"], {key: value for key, value in row.items() if key != "step"})
    if finished:
        run.finish(steps=rows[-1]["step"])
    return folder


def curve(values: Sequence[float], key: str = "reward") -> list[dict[str, float]]:
    """Rows of one metric, from step 1."""
    return [{"step": step, key: value} for step, value in enumerate(values, 1)]


def picture(path: Path, colour: tuple[int, int, int] = (90, 120, 60), size: tuple[int, int] = (40, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def completions(folder: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of completions as TRL writes it (`log_completions`)."""
    import pyarrow
    import pyarrow.parquet

    path = folder / "completions" / f"completions_{step:05d}.parquet"
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"step": step, **row} for row in rows]), path)


def group(prompt: str, answers: Sequence[str], **columns: Any) -> list[dict[str, Any]]:
    """Rows of TRL's table: completions of one prompt, paid 1, 1/2, 1/3, …"""
    return [
        {
            "prompt": prompt,
            "completion": f"<think>because</think><answer>{answer}</answer>",
            "gated": 1 / place,
            "advantage": 1.0 - place,
            **columns,
        }
        for place, answer in enumerate(answers, 1)
    ]


def conversation(box: Sequence[int]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Turns and crops, as a chain is logged: a call, a region in pixels of the first picture, the answer "red"."""
    call = '<tool_call>\n{"name": "image_zoom_in", "arguments": {"bbox": [1, 2, 3, 4]}}\n</tool_call>'
    turns = [
        {"role": "assistant", "content": f"<think>closer</think>\n{call}"},
        {"role": "tool", "content": "<image>This is that region. Go on."},
        {"role": "assistant", "content": "<think>red</think><answer>red</answer>"},
    ]
    return turns, [{"turn": 1, "image": 0, "box": list(box), "size": [112, 112]}]


def samples(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """samples.jsonl."""
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sample(step: int, group: int, answer: str, **changes: Any) -> dict[str, Any]:
    """A row of samples.jsonl, as GRPO keeps it."""
    row = {
        "step": step, "row": 0, "group": group, "task": "grounding", "source": "prompts", "id": f"g-{group}",
        "prompt": "user: <image>Where is the ship?", "completion": f"<think>there</think><answer>{answer}</answer>",
        "trace": "there", "answer": answer, "read": [[1.0, 2.0, 10.0, 9.0]], "read_quads": None,
        "truth": {"answer": None, "boxes": [[1.0, 2.0, 11.0, 9.0]], "quads": None, "size": [40, 20]},
        "rewards": {"gated": 0.9}, "advantage": 0.5, "image": None, "image_size": None, "further": [],
    }  # fmt: skip
    return row | changes


def evaluation(folder: Path, values: Mapping[str, float], model: str = "demo/base", **changes: Any) -> Path:
    """An evaluation that found `values` (shares), with one prediction."""
    run = Run.create(folder, recipe(**{"stage": "eval", "model": {"path": model}, "output": str(folder)} | changes))
    found = {
        name: {"value": value, "low": value - 0.1, "high": value + 0.1, "level": 0.95, "n": 50, "convention": "exact"}
        for name, value in values.items()
    }
    (folder / "metrics.json").write_text(json.dumps(found))
    asked = {"id": "1", "source": "vg", "task": "grounding", "prompt": "the ship", "size": [40, 20]}
    said = {"completion": "<think>x</think><answer>(100,200),(500,900)</answer>", "boxes": [[4, 4, 20, 18]]}
    (folder / "predictions.jsonl").write_text(json.dumps(asked | said) + "\n")
    run.finish(**values)
    return folder
