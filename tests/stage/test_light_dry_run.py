"""A dry run imports neither torch nor what builds on it: it is to answer at once, on a machine without any."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.processes.commands import ROOT, run

CHECKED = ROOT / "tests/support/processes/light.py"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text(json.dumps({"question": "Q", "chosen": "yes", "rejected": "no", "images": []}) + "\n")
    return file


@pytest.mark.parametrize(
    ("stage", "data"),
    [
        ("grpo", "grpo/prompts.jsonl"),
        ("grpo_score", "grpo/captions.jsonl"),
        ("sft", "sft/traces.json"),
        ("score", None),
        ("eval", "test/vqa_test.jsonl"),
        ("bon", "test/vqa_test.jsonl"),
    ],
)
def test_no_heavy_library_is_imported(stage, data, demo_data, pairs, tmp_path):
    """With rule rewards, a learned one in the process, the recipe of the score model itself; what asks questions."""
    sources = pairs if data is None else demo_data / data
    role = "eval" if stage in ("eval", "bon") else "train"
    changes = [f"data.{role}=[{{path: {sources}}}]", f"model.path={ROOT / 'demo/base'}", f"output={tmp_path / 'out'}"]
    more = {
        "score": ["data.eval=null"],
        "eval": ["gold=null"],
        "bon": ["gold=null"],
        "grpo": ["rewards=[{use: gated}, {use: exact_match, weight: 0.1}]"],
    }
    script = ROOT / f"launch/{stage.removesuffix('_score')}.py"
    command = [
        sys.executable,
        CHECKED,
        script,
        ROOT / f"recipes/demo/{stage}.yaml",
        *changes,
        *more.get(stage, []),
        "--dry-run",
    ]
    done = run(command)
    assert ("Peak by ZeRO stage" if role == "train" else "rows at a time") in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "heavy:"
