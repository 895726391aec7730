"""Runs of seconds, in this process, that together log every name of the registry (`stage.metrics`)."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import rl
from stage.recipe import config
from stage.runs import read_metrics
from tests.support.processes.commands import ROOT, grpo, sft

COUNTED = ("training.include_num_input_tokens_seen=all", "training.skip_memory_metrics=false")
"""Keys that make transformers log more."""
ONCE = ("training.max_steps=1", "training.eval_strategy=steps", "training.eval_steps=1", "training.warmup_steps=0")
REFERENCE = "a red ship on water in the upper left, a blue tank"
"""Of all captions: one that the demo's score model thinks little of, so that others earn something."""
SAID = [
    "<think>a</think><answer>no</answer>",
    f"<think>a</think><answer>{REFERENCE}</answer>",
    "<think>a</think><answer>a house</answer>",
    "a house",
]
PLUGIN = """
def letters(completions, **columns):
    return [min(1.0, sum(c.isalpha() for c in turns[0]["content"]) / 200) for turns in completions]
"""


def supervised(model: str, data: Path, out: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl of SFT with an evaluation."""
    from sft import stage
    from sft.recipe import SFTRecipe

    held_out = f"data.eval=[{{path: {data}/sft/traces.json, limit: 2}}]"
    path, *changes = sft(model, data, out, held_out, *ONCE, *COUNTED)
    return _rows(config.load(path, SFTRecipe, changes), stage.train)


def preferences(model: str, out: Path) -> list[dict[str, Any]]:
    """Rows of the training of a score model; held out are two files, one of which names a dimension."""
    from rewards.score.training import stage
    from rewards.score.training.preferences import Preference, write
    from rewards.score.training.recipe import ScoreRecipe

    out.mkdir()
    for name, about in (("plain", []), ("colours", ["relevance"])):
        records = []
        for number, colour in enumerate(("red", "blue", "green")):
            Image.new("RGB", (112, 112), colour).save(out / f"{name}{number}.png")
            pictures = [str(out / f"{name}{number}.png")]
            records.append(Preference(pictures, "What color?", [colour, "black"], about, source=name, id=str(number)))
        write(out / f"{name}.jsonl", records)
    files = [{"path": str(out / f"{name}.jsonl")} for name in ("plain", "colours")]
    changes = (
        f"model.path={model}", f"output={out}/run", f"data={json.dumps({'train': files, 'eval': files})}",
        "training.per_device_train_batch_size=3", "training.logging_steps=1", *ONCE, *COUNTED,
    )  # fmt: skip
    return _rows(config.load(ROOT / "recipes/demo/score.yaml", ScoreRecipe, changes), stage.train)


def rewarded(model: str, data: Path, out: Path) -> list[dict[str, Any]]:
    """Rows of GRPO with a reference model, `gated` with a kind and the demo's score model, a plugin and an evaluation,
    on written completions (SAID), so that each metric of the score has a value."""
    out.mkdir()
    (out / "mine.py").write_text(PLUGIN)
    captions = [json.loads(line) for line in (data / "grpo/captions.jsonl").read_text().splitlines()]
    for row in captions:
        row |= {"answer": REFERENCE, "images": [str(data / "grpo" / name) for name in row["images"]]}
    (out / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    files = [{"path": str(out / "captions.jsonl"), "limit": 2}, {"path": str(data / "grpo/prompts.jsonl"), "limit": 2}]
    score = {"use": "score", "model": str(ROOT / "demo/score"), "rules": ["exact_match"], "dtype": "float32"}
    gated = {"use": "gated", "options": {"tasks": {"vqa/count": "count", "open_ended": score}}}
    rewards = [gated, {"use": f"{out}/mine.py:letters", "weight": 0.1}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.trainer.GRPOTrainer", Scripted)
        return grpo_rows(
            model, data, out / "run", "training.beta=0.05", "training.num_generations=4",
            "training.per_device_train_batch_size=16", "training.per_device_eval_batch_size=16",
            f"data={json.dumps({'train': files, 'eval': files})}", f"rewards={json.dumps(rewards)}", *COUNTED,
        )  # fmt: skip


LOOK = '<tool_call>\n{"name": "image_zoom_in", "arguments": {"bbox": %s}}\n</tool_call>'
TALKS = [
    [LOOK % [0, 0, 500, 500], SAID[0]],
    [SAID[0]],
    [LOOK % [2000, 2000, 3000, 3000], SAID[0]],
    [LOOK % [500, 500, 1000, 1000], LOOK % [0, 0, 500, 500]],
]
"""Turns of completions, per mille of the picture, where one call is answered: a region that holds the truth, none, one
that is refused, and another with a call too many."""


def conversed(model: str, data: Path, out: Path) -> list[dict[str, Any]]:
    """Rows of GRPO on two prompts with the zoom and an evaluation, on written completions (TALKS); pictures have
    224 x 224 pixels."""
    out.mkdir()
    rows = [json.loads(line) for line in (data / "grpo/prompts.jsonl").read_text().splitlines()]
    prompts = [row for row in rows if row["task"] == "grounding"][:2]
    for row in prompts:
        row |= {"regions": [[10, 10, 20, 20]], "images": [str(data / "grpo" / name) for name in row["images"]]}
    (out / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    files = [{"path": str(out / "prompts.jsonl")}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.trainer.GRPOTrainer", Talking)
        return grpo_rows(
            model, data, out / "run", "training.num_generations=4", "training.per_device_train_batch_size=8",
            "training.per_device_eval_batch_size=8", "training.max_completion_length=200",
            f"data={json.dumps({'train': files, 'eval': files})}", "tools=[{use: zoom, options: {least: 28}}]",
        )  # fmt: skip


class Talking(rl.GRPOTrainer):
    """Says TALKS, in turn."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        rows = range(len(prompt_ids))
        first, second = ({row: self._said(TALKS[row % len(TALKS)], turn) for row in rows} for turn in (0, 1))
        self._conversations.run(first, lambda following: {row: second[row] for row in following})
        return list(first.values()), None

    def _said(self, turns: list[str], turn: int) -> list[int]:
        return self._tokenizer(f"{turns[turn]}<|im_end|>").input_ids if turn < len(turns) else []


class Scripted(rl.GRPOTrainer):
    """Says SAID, in turn."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        said = [SAID[row % len(SAID)] for row in range(len(prompt_ids))]
        return self._tokenizer([f"{text}<|im_end|>" for text in said]).input_ids, None


def grpo_rows(model: str, data: Path, out: Path, *changes: str) -> list[dict[str, Any]]:
    """Rows of one step of GRPO and an evaluation, started as the launcher does."""
    from rl.recipe import GRPORecipe

    launcher = runpy.run_path(str(ROOT / "launch/grpo.py"), run_name="launcher")
    held_out = f"data.eval=[{{path: {data}/grpo/prompts.jsonl, limit: 2}}]"
    common = ("training.per_device_eval_batch_size=4", "check_sharing=false", *ONCE)
    path, *common = grpo(model, data, out, held_out, *common, *changes)
    return _rows(config.load(path, GRPORecipe, common), launcher["train"])


def _rows(recipe: Any, train: Callable[[Any], Any]) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stage.curves.draw", lambda *_, **__: None)
        train(recipe)
    return read_metrics(Path(recipe.output) / "metrics.jsonl")
