"""The pages of docs/reproduce/: each command, word for word, on small files in the layouts named there, to its table.

Each is run by its launcher, in this process, on the tiny model instead of the page's: what is put behind a command
(`TINY`) makes it one that a CPU does in seconds, and names no data.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.processes.commands import ROOT
from tests.support.runs import reproduced

PAGES = {name: (ROOT / f"docs/reproduce/{name}.md").read_text() for name in ("rscovlm", "rscovlm-zoom")}
ON_CPU = ["model.dtype=float32", "model.attention=sdpa"]
SMALL = ["images.min_pixels=784", "images.max_pixels=401408"]
TRAINING = [
    *ON_CPU, "training.max_steps=1", "sharding.zero=0", "tracking.report_to=[]", "training.save_strategy=no",
    "training.gradient_accumulation_steps=1",
]  # fmt: skip
ASKED = [*ON_CPU, *SMALL, "generation.max_new_tokens=8"]
TINY = {
    "sft": [*TRAINING, "model.liger=false", "training.per_device_train_batch_size=2"],
    "grpo": [*TRAINING, *SMALL, "training.num_generations=2", "training.per_device_train_batch_size=4",
             "training.beta=0", "training.max_completion_length=12", "training.logging_steps=1"],
    "eval": ASKED,
    "detect": ASKED,
    "data": [],
    "compare": [],
}  # fmt: skip
HUB = "Qwen/Qwen2.5-VL-7B-Instruct"


def commands(page: str) -> list[list[str]]:
    """Those of its code blocks: launcher and arguments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    found = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    for words in found:
        assert words[:1] == ["python"] or words[:2] == ["accelerate", "launch"], words
    return [words[1 if words[0] == "python" else 2 :] for words in found if words]


def model_of(words: list[str], tiny: str) -> list[str]:
    """What replaces the hub's model in a recipe that names it."""
    recipes = [word for word in words if word.endswith(".yaml")]
    named = any(HUB in Path(name).read_text() for name in recipes)
    return [f"model.path={tiny}"] if named else []


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_the_page(page, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    reproduced.build(tmp_path)
    ran = commands(page)
    assert len(ran) >= 6
    for words in ran:
        kind = Path(words[0]).stem
        more = TINY[kind] if words[1] not in ("cut", "merge") else []
        argv = [str(ROOT / words[0]), *words[1:], *model_of(words, tiny_model), *([] if "--dry-run" in words else more)]
        if "--dry-run" in words:
            argv += ["model.liger=false", *ON_CPU]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(argv[0], run_name="__main__")
        said = capsys.readouterr()
        assert ended.value.code in (0, None), f"{argv}\n{said.out}\n{said.err}"
    compared = [Path(words[words.index("--out") + 1]) / "table.md" for words in ran if "launch/compare.py" in words]
    assert compared and "RSCoVLM" in compared[0].read_text()  # published beside ours
    assert all(table.read_text().count("\n") > 3 for table in compared)


def test_the_pages_name_no_file_that_the_recipes_do_not(tmp_path):
    """Every path below data/ that a recipe of these pages reads is one that the page says where to put."""
    for page, folder in (("rscovlm", "."), ("rscovlm", "dates"), ("rscovlm-zoom", "zoom")):
        for recipe in (ROOT / "recipes/rscovlm" / folder).glob("*.yaml"):
            for place in re.findall(r"path: (data/[\w.-]+)/", recipe.read_text()):
                assert f"`{place}/" in PAGES[page], (recipe.name, place)
