"""The shape of the code: who may import whom, and how much a folder may hold."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each name may import of ours what stands beside it, and itself. launch/, benchmarks/ and tests/ may import anything.
FLOORS = {"vlm": set(), "samples": {"vlm"}, "stage": {"vlm", "samples"}}
BRANCHES = ("sft", "rl", "rewards", "evals", "studies")
# demo/road.py joins the stages by running their commands
ALLOWED = FLOORS | {branch: set(FLOORS) for branch in (*BRANCHES, "demo")}
SHIPPED = (*ALLOWED, "launch", "benchmarks")
OURS = {*SHIPPED, "tests"}
MOST_ENTRIES = 16
LIKE = {
    "launch": "launchers",
    "samples/readers": "readers",
    **{f"tests/{room}": "tests" for room in ("vlm", "samples", "stage", "rewards", "evals")},
}
"""Folders of like files, which may hold more."""
LIGHT = ["stage/recipe/config.py", "vlm/boxes", "vlm/answers.py", "samples/reading.py", "vlm/prompts.py", "rewards"]
HEAVY = {"torch", "transformers", "trl", "accelerate", "peft", "deepspeed"}


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
        if (wrong := imported(path) & OURS - ALLOWED[package] - {package})
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


def modules(folders: tuple[str, ...] = SHIPPED) -> dict[str, Path]:
    """Dotted name → file; a package's name is that of its __init__.py."""
    files = sources(*folders)
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def edges(files: dict[str, Path]) -> dict[str, set[str]]:
    """Which of our files each imports, in functions and under `if TYPE_CHECKING` too.

    `import a.b.c` runs a/__init__.py and a/b/__init__.py first, so they count, but for packages that the file is in.
    """
    found = {}
    for name, path in files.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                base = ".".join(part for part in (package, node.module) if part) if node.level else node.module
                named |= {f"{base}.{alias.name}" for alias in node.names}
        parts = [one.split(".") for one in named]
        reached = {".".join(one[:end]) for one in parts for end in range(1, len(one) + 1)} & files.keys()
        found[name] = {one for one in reached if one != name and not name.startswith(one + ".")}
        found[name] |= {one for one in named & files.keys() if one != name}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other."""
    import networkx

    groups = networkx.strongly_connected_components(networkx.DiGraph(graph))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_no_files_import_each_other_in_a_circle():
    assert circles(edges(modules())) == []


def test_circles_are_seen(tmp_path, monkeypatch):
    """At the top, in functions, under TYPE_CHECKING, by way of an __init__.py; not a package that re-exports."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for name, text in {
        "vlm/a.py": "def f():\n    from vlm import b\n",
        "vlm/b.py": "if TYPE_CHECKING:\n    from vlm.a import x\n",
        "vlm/c/__init__.py": "from vlm.d import x\n",
        "vlm/c/e.py": "",
        "vlm/d.py": "import vlm.c.e\n",
        "vlm/f/__init__.py": "from vlm.f.g import x\n",
        "vlm/f/g.py": "from vlm.f.h import y\n",
        "vlm/f/h.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert circles(edges(modules(("vlm",)))) == [["vlm.a", "vlm.b"], ["vlm.c", "vlm.d"]]


def test_no_folder_is_crowded():
    """A folder of more than 16 entries has no idea of its own. What git ignores does not count."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *SHIPPED, "docs", "recipes", "tests"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    entries: dict[str, set[str]] = {}
    for name in listed.stdout.split("\n"):
        parts = name.split("/")
        if (ROOT / name).is_file():
            for depth in range(1, len(parts)):
                entries.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    data = ("tests/data", "tests/golden")  # published layouts
    crowded = {
        folder: len(names)
        for folder, names in entries.items()
        if len(names) > MOST_ENTRIES and not folder.startswith(data)
    }
    assert crowded.keys() <= LIKE.keys(), crowded
    assert {"vlm", "samples", "stage"} <= entries.keys()


def test_no_part_is_the_whole():
    """No top-level folder holds more than 30% of the lines."""
    lines = {top: sum(p.read_text(encoding="utf-8").count("\n") for p in sources(top)) for top in SHIPPED}
    assert max(lines.values()) <= 0.3 * sum(lines.values()), lines


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
