"""recipes/r1.yaml and recipes/sft.yaml as they are, in two processes without a GPU: bfloat16, FlashAttention-2 by its
stand-in, gradient checkpointing, DeepSpeed; what is small are the model, the rows and the lengths.

The processes have unequal work: pictures in one and text alone in the other, prompts and completions of unequal length.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import pytest
import yaml

from rewards.score.model.score_model import ScoreModel
from stage.runs import read_metrics
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, two_processes

SCRIPT = ROOT / "tests/support/processes/flash_cpu.py"
SMALL = ["images={min_pixels: 12544, max_pixels: 12544}", "tracking.report_to=[]", "gpus=null"]
GRPO = {
    "num_generations": 2,
    "per_device_train_batch_size": 2,  # two prompts a process in a generation, one in a micro-batch
    "max_completion_length": 12,
    "max_steps": 2,
    "learning_rate": 1e-3,
}
LETTERS = """
def letters(completions, **columns):
    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]
"""


@pytest.fixture(scope="module")
def prompts(demo_data, tmp_path_factory):
    """Of each generation two prompts with a picture, then two without; which process has which turns round."""
    folder = tmp_path_factory.mktemp("rehearsal")

    def shown(name, task):
        rows = [json.loads(line) for line in (demo_data / "grpo" / name).read_text().splitlines()]
        found = next(row for row in rows if row["task"] == task)
        return found | {"images": [str((demo_data / "grpo" / image).resolve()) for image in found["images"]]}

    def told(text, task="vqa", answer="4"):
        return {"images": [], "messages": [{"role": "user", "content": text}], "task": task, "answer": answer}

    pictures = [shown("captions.jsonl", "open_ended"), shown("prompts.jsonl", "grounding")]
    texts = [told("2 + 2?"), told("Describe a red truck on land, then another one. " * 3, "open_ended", "a red truck")]
    rows = [*pictures, *texts, *texts, *pictures]
    (folder / "letters.py").write_text(LETTERS)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ScoreModel.from_backbone(ROOT / "demo/base", dtype="bfloat16").save_pretrained(folder / "score")
    return folder


def calls(said: str) -> list[dict[str, int]]:
    """Of the stand-in, by process."""
    return [json.loads(found) for found in re.findall(r"flash_attn: (\{.*\})", said)]


def check(folder, said: str) -> list[dict[str, int]]:
    """Finite figures of two steps, all of attention in bfloat16, no unpadding for a token. The calls by process."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert [row["step"] for row in rows] == [1, 2] and all(map(math.isfinite, numbers))
    assert all(row["grad_norm"] > 0 for row in rows)
    found = calls(said)
    assert len(found) == 2
    for one in found:
        assert {name for name in one if name.startswith("torch.")} == {"torch.bfloat16"}
        assert one.get("unpadded decoding", 0) == one.get("unpad_input", 0) == 0
    return found


@pytest.mark.parametrize("zero", [2, 3])
def test_r1(prompts, zero):
    """With a reference model and a score model: whole in each process under ZeRO-2, split under ZeRO-3."""
    recipe, folder = ROOT / "recipes/r1.yaml", prompts / f"r1_zero{zero}"
    rewards = yaml.safe_load(recipe.read_text())["rewards"]
    # of what the tiny model says nothing passes the gate: the score model sees the text, and letters tell rows apart
    rewards[0]["options"]["tasks"]["open_ended"] |= {"model": str(prompts / "score"), "inside": "text"}
    rewards[0]["options"]["tasks"]["open_ended"]["sharded"] = zero == 3
    rewards.append({"use": f"{prompts}/letters.py:letters"})
    words = [f"training.{key}={value}" for key, value in GRPO.items()]
    words += [f"model.path={ROOT / 'demo/base'}", f"data.train=[{{path: {prompts}/rows.jsonl}}]", "data.shuffle=false"]
    words += [f"rewards={json.dumps(rewards)}", f"output={folder}", f"sharding.zero={zero}", *SMALL]
    done = forked.run([*two_processes(), SCRIPT, recipe, *words], cwd=prompts, LAUNCHER="grpo")
    for one in check(folder, done.stdout):
        assert one["flash_attn_with_kvcache"] > 0 and one["flash_attn_varlen_func"] > 0
    engines = {2: {"ZeRO-2": 1, "ZeRO-0": 1}, 3: {"ZeRO-3": 3}}[zero]
    assert Counter(re.findall(r"engine: (ZeRO-\d) on 2", done.stdout)) == {name: 2 * n for name, n in engines.items()}
    logged = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    print(logged)
