"""The shape of the code: who may import whom, and how long things may get."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"vlm", "rewards", "sft", "rl", "evals", "studies", "demo", "launch", "benchmarks", "tests"}
# Only what is listed may be imported of ours. launch/, benchmarks/ and tests/ may import anything.
ALLOWED = {
    "vlm": {"vlm"},
    "rewards": {"rewards", "vlm"},
    "sft": {"sft", "vlm"},
    "rl": {"rl", "vlm"},
    "evals": {"evals", "vlm"},
    "studies": {"studies", "vlm"},
    "demo": {"demo", "vlm"},  # demo/road.py joins the stages by running their commands
}
LIGHT = ["stage/recipe/config.py", "vlm/boxes", "vlm/answers.py", "samples/reading.py", "vlm/prompts.py", "rewards"]
HEAVY = {"torch", "transformers", "trl", "accelerate", "peft", "deepspeed"}
LONGEST_FILE, LONGEST_TEST, LONGEST_LAUNCHER, LONGEST_FUNCTION = 300, 300, 60, 60  # lines


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path, tree: ast.AST | None = None) -> set[str]:
    """Top-level names of the modules imported anywhere in the file; relative imports mean its own package."""
    names = set()
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(path.relative_to(ROOT).parts[0] if node.level else node.module.split(".")[0])
        elif (  # importlib.import_module("rl.trainer") and __import__("rl"), where the name stands there
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(node.args[0].value.split(".")[0])
    return names


def top_level_imports(path: Path) -> set[str]:
    """What importing the file imports at once: outside functions, and not under `if TYPE_CHECKING`."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kept = [n for n in body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    kept = [n for n in kept if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))]
    return imported(path, ast.Module(kept, []))


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_they_may(package):
    faults = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for path in sources(package)
        if (wrong := imported(path) & OURS - ALLOWED[package])
    }
    assert not faults, f"{package} may import of ours only {sorted(ALLOWED[package])}"


def test_the_import_reader_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "sft" / "a.py"
    path.parent.mkdir()
    path.write_text(
        "import os.path, rl.trainer as t\nfrom evals import x\nfrom . import y\n"
        "def f():\n    from rewards.iou import z\n    importlib.import_module('demo.world.scene')\n"
    )
    assert imported(path) == {"os", "rl", "evals", "sft", "rewards", "demo"}
    assert top_level_imports(path) == {"os", "rl", "evals", "sft"}


@pytest.mark.parametrize("place", LIGHT)
def test_light_modules_import_no_heavy_library(place):
    found = [ROOT / place] if place.endswith(".py") else sources(place)
    # rewards/score/ is the learned score model: it is what needs torch, and nothing in rewards imports it at
    # once.
    light = [path for path in found if "score" not in path.relative_to(ROOT).parts]
    faults = {str(p.relative_to(ROOT)): sorted(heavy) for p in light if (heavy := top_level_imports(p) & HEAVY)}
    assert not faults


def test_files_functions_and_launchers_are_short():
    faults = []
    for path in sources(*ALLOWED, "launch", "benchmarks", "tests"):
        text = path.read_text(encoding="utf-8")
        name, lines = path.relative_to(ROOT), text.count("\n")
        limit = {"launch": LONGEST_LAUNCHER, "tests": LONGEST_TEST}.get(name.parts[0], LONGEST_FILE)
        if lines > limit:
            faults.append(f"{name}: {lines} lines, at most {limit}")
        if name.parts[0] == "tests":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length >= LONGEST_FUNCTION:
                    faults.append(f"{name}:{node.lineno} {node.name}: {length} lines, fewer than {LONGEST_FUNCTION}")
    assert not faults


def test_no_launcher_shadows_a_package_unprotected():
    """Python puts launch/ first on sys.path, so launch/sft.py would stand for the package `sft`.

    A launcher therefore puts the repository root there before its first import of ours.
    """
    for path in sources("launch"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        ours = [i for i, n in enumerate(body) if imported(path, ast.Module([n], [])) & OURS]
        inserted = [i for i, n in enumerate(body) if "sys.path" in ast.unparse(n)]
        if ours:
            assert inserted and inserted[0] < ours[0], f"{path.name} imports ours before it sets sys.path[0]"
