"""recipes/r1.yaml as it is, in two processes without a GPU: bfloat16, FlashAttention-2 by its stand-in, gradient
checkpointing, DeepSpeed; what is small are the model, the rows and the lengths. sft.yaml and an evaluation in one.

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
from tests.support.processes.commands import LETTERS, ROOT, evaluation, two_processes
from tests.support.processes.flash_cpu import allow_bf16

SCRIPT = ROOT / "tests/support/processes/flash_cpu.py"
SMALL = ["images={min_pixels: 12544, max_pixels: 12544}", "tracking.report_to=[]", "gpus=null"]
GRPO = {
    "num_generations": 2,
    "per_device_train_batch_size": 2,  # two prompts a process in a generation, one in a micro-batch
    "max_completion_length": 12,
    "max_steps": 2,
    "learning_rate": 1e-3,
}


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


def steps(folder) -> list[dict]:
    """The logged rows of both, whose figures are finite."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert [row["step"] for row in rows] == [1, 2] and all(map(math.isfinite, numbers))
    assert all(row["grad_norm"] > 0 for row in rows)
    return rows


def check(found: dict[str, int]) -> None:
    """All of attention in bfloat16, and no unpadding for a token."""
    assert {name for name in found if name.startswith("torch.")} == {"torch.bfloat16"}
    assert found["flash_attn_varlen_func"] > 0 and not {"unpad_input", "pad_input"} & set(found)
    assert found["unpadded decoding"] == 0


@pytest.mark.versions
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
    found = calls(done.stdout)
    assert len(found) == 2
    for one in found:
        check(one)
        assert one["flash_attn_with_kvcache"] > 0
    engines = {2: {"ZeRO-2": 1, "ZeRO-0": 1}, 3: {"ZeRO-3": 3}}[
        zero
    ]  # policy, reference, and a score model that is split
    assert Counter(re.findall(r"engine: (ZeRO-\d) on 2", done.stdout)) == {name: 2 * n for name, n in engines.items()}
    first, second = steps(folder)
    assert first["completions/min_length"] < first["completions/max_length"] and first["padding/rollout"] > 0
    assert first["kl"] == 0 < second["kl"]
    for row in (first, second):
        assert row["score/scored"] == 1 and row["score/failed"] == 0 and row["reward_raw/open_ended_count"] == 2


def test_sft(demo_data, tmp_path, started, flash_attn, monkeypatch):
    """recipes/sft.yaml in one process without DeepSpeed: LoRA, rows padded on the right."""
    allow_bf16(monkeypatch.setattr)
    words = [f"model.path={ROOT / 'demo/base'}", f"data.train.0.path={demo_data}/sft/traces.json", f"output={tmp_path}"]
    words += ["training.max_steps=2", "training.logging_steps=1", "training.save_strategy=no", "sharding.zero=0"]
    started("launch/sft.py", ROOT / "recipes/sft.yaml", *words, *SMALL)
    steps(tmp_path)
    check(flash_attn.calls)


def test_evaluation(demo_data, tmp_path, started, flash_attn):
    """Batches of unequal prompts."""
    words = evaluation(ROOT / "demo/base", demo_data, tmp_path, "generation.max_new_tokens=4")
    started("launch/eval.py", *words, "model.dtype=bfloat16", "model.attention=flash_attention_2")
    check(flash_attn.calls)
    assert flash_attn.calls["flash_attn_with_kvcache"] > 0
