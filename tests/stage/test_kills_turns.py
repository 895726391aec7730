"""kill -9 of a GRPO run whose completions have several turns: the end is that of the run nobody killed."""

from __future__ import annotations

import json
import shutil
import signal

import pyarrow.parquet
import pytest

from stage.checkpoints import manifest
from tests.stage.test_kills import BLOCK, SAVING, check_same
from tests.support.processes import commands
from tests.support.processes.commands import LETTERS
from tests.support.processes.dying import run

pytestmark = pytest.mark.xdist_group("kills")

TOOL = '''
import random
from PIL import Image
from vlm.tools import calls

def read(text):
    """A random model writes no calls: what it says decides whether it has called."""
    draw = random.Random(text)
    return None if draw.random() < 0.3 else calls.Call("drawn", {"seed": draw.randrange(100)})

calls.read = read

def drawn(seed: int) -> list:
    """Draw something.

    Args:
        seed: Which.
    """
    return [Image.frombytes("RGB", (56, 84), random.Random(seed).randbytes(56 * 84 * 3)), "Here."]
'''
ENDS = list(range(40, 160))
"""Tokens that end a turn, beside the model's own: it would seldom end one."""


def test_killed_everywhere(tiny_model, demo_data, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    stated = (
        json.loads((model / "generation_config.json").read_text())
        if (model / "generation_config.json").exists()
        else {}
    )
    own = stated.get("eos_token_id") or []
    (model / "generation_config.json").write_text(
        json.dumps(stated | {"eos_token_id": [*(own if isinstance(own, list) else [own]), *ENDS]})
    )
    (tmp_path / "letters.py").write_text(LETTERS)
    (tmp_path / "drawing.py").write_text(TOOL)
    more = [
        *SAVING, *(f"training.{key}" for key in BLOCK), f"rewards=[{{use: {tmp_path}/letters.py:letters}}]",
        f"tools=[{{use: {tmp_path}/drawing.py:drawn}}]", "turns.limit=2",
    ]  # fmt: skip
    plain, killed = (
        commands.grpo(model, demo_data, tmp_path / name, *more, "resume=auto") for name in ("plain", "killed")
    )
    assert run("grpo", plain) == 0
    for place, call in [("rewards", 1), ("backward", 3), ("writing", 2), ("rollout", 1), ("final", 1)]:
        assert run("grpo", killed, place, call) == -signal.SIGKILL, place
        assert all(manifest.read(path) for path in manifest.folders(tmp_path / "killed")), place
    assert run("grpo", killed) == 0
    check_same(tmp_path / "killed", tmp_path / "plain")
    tables = sorted((tmp_path / "plain/completions").glob("*.parquet"))
    said = [text for path in tables for text in pyarrow.parquet.read_table(path)["completion"].to_pylist()]
    assert sum("tool: <image>Here." in text for text in said) > len(said) / 3
