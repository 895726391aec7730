"""Nothing outside of vlm/families and the box notations asks for a model's type."""

from __future__ import annotations

import ast

from tests.support.processes.commands import ROOT
from vlm.boxes import FALLBACK
from vlm.families import FAMILIES

FREE = ("vlm/families/", "vlm/boxes/", "evals/benchmarks/catalogue.py", "tests/", "demo/", "benchmarks/", ".", "build/")
"""Where families are told apart; the catalogue's wordings go by box notation, some of which are called as families are.
The demo and the benchmarks build a Qwen2-VL, and nothing else."""
WORDS = {"model_type", *FAMILIES} | {
    name.split(":")[-1] for one in FAMILIES.values() for name in (one.model, one.backbone, one.processor) if name
}
EXCEPTIONS = {
    ("vlm/export.py", "model_type"): "Qwen2-VL's published layout repeats it in the vision section",
    ("vlm/loading.py", "model_type"): "a message shows what was found",
}


def asked(code: str) -> list[str]:
    """Words of a program's names and whole texts that ask for a family; what longer texts say does not."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = [node.attr] if isinstance(node, ast.Attribute) else [node.id] if isinstance(node, ast.Name) else []
        names += [node.name] if isinstance(node, ast.alias) else []
        names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
        found += [name for name in names if name.split(":")[-1] in WORDS]
    return found


def test_what_counts():
    assert sorted(asked('if config.model_type == "qwen2_vl": pass')) == ["model_type", "qwen2_vl"]
    assert asked("from transformers import Qwen3VLModel") == ["Qwen3VLModel"]
    assert asked('"""model_type of a Qwen2VLModel"""\nx = "a model of the kind qwen2_vl"  # llava') == []
    assert asked('f(\n    "llava",\n)') == ["llava"]
    assert FALLBACK == "qwen2_vl"  # of the notations


def test_nothing_else_asks_for_a_model_s_type():
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(FREE):
            found |= {(name, word) for word in asked(path.read_text(encoding="utf-8"))}
    assert found == set(EXCEPTIONS)
