"""A user's own `rewards.py` beside a notebook: what Python then imports, and what is said about it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

from vlm.common import names

ROOT = Path(__file__).resolve().parents[2]
SITE = sysconfig.get_path("purelib")
"""Of the libraries; with -S the editable install that is there is not set up."""
OWN = "def short(completions, **columns):\n    return [1.0 for _ in completions]\n"


EDITABLE = f"""import sys
from importlib.machinery import PathFinder
class Finder:  # as setuptools' for an editable install: asked last, and only for our packages
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if "." not in name else None
sys.meta_path.append(Finder)
"""


def python(folder: Path, *words: str, path: str = str(ROOT)) -> subprocess.CompletedProcess:
    """Python as a notebook's kernel runs it: the current folder comes first, Nadir's later."""
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("first", ["import vlm", "import samples", "from rl.recipe import GRPORecipe"])
def test_a_notebook_is_told_which_file_hides_which_package(tmp_path, first):
    (tmp_path / "rewards.py").write_text(OWN)
    done = python(tmp_path, "-c", f"{first}; import rewards; print(rewards.short([1, 2]))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.0, 1.0]"  # their file works on
    assert done.stderr.count("hides Nadir's package") == 1
    assert f"{tmp_path}/rewards.py hides Nadir's package `rewards`" in done.stderr
    assert f"put {ROOT} at sys.path[0]" in done.stderr


def test_what_it_advises_works(tmp_path):
    (tmp_path / "rewards.py").write_text(OWN)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import vlm, rewards; rewards.resolve('iou')"
    ahead = python(tmp_path, "-c", code)
    (tmp_path / "rewards.py").rename(tmp_path / "my_rewards.py")
    renamed = python(tmp_path, "-c", "import vlm, rewards, my_rewards; rewards.resolve('my_rewards:short')")
    for done in (ahead, renamed):
        assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_was_imported_before_is_seen(tmp_path):
    (tmp_path / "stage.py").write_text("")
    done = python(tmp_path, "-c", "import stage, vlm")
    assert f"{tmp_path}/stage.py hides Nadir's package `stage`" in done.stderr


def test_a_folder_of_data_hides_nothing(tmp_path):
    """A folder without __init__.py that is called like a package of ours gives way to it."""
    (tmp_path / "samples").mkdir()
    done = python(tmp_path, "-c", "import vlm, samples; print(samples.__file__)")
    assert (done.stdout.strip(), done.stderr) == (str(ROOT / "samples/__init__.py"), "")


@pytest.mark.parametrize("name", ["samples", "rl", "stage"])
def test_nor_under_an_editable_install(tmp_path, name):
    """There Python finds our packages only after every folder on its path; run folders have a folder `samples`."""
    (tmp_path / name).mkdir()
    code = f"{EDITABLE}sys.path = [''] + [p for p in sys.path if p != {str(ROOT)!r}]\nimport vlm, {name}, rewards\n"
    done = python(tmp_path, "-S", "-c", code + f"print({name}.__file__)", path=SITE)
    assert (done.stdout.strip(), done.stderr) == (str(ROOT / name / "__init__.py"), "")


def test_a_folder_that_was_imported_before_is_named(tmp_path):
    (tmp_path / "stage").mkdir()
    done = python(tmp_path, "-S", "-c", f"import stage\n{EDITABLE}import vlm", path=SITE)
    assert f"{tmp_path}/stage hides Nadir's package `stage`" in done.stderr


def test_a_launcher_is_safe(tmp_path):
    (tmp_path / "rewards.py").write_text("raise SystemExit('the wrong file')\n")
    done = python(tmp_path, str(ROOT / "launch/grpo.py"), "--keys")
    assert done.returncode == 0, done.stderr
    assert "rewards" in done.stdout and "hides" not in done.stderr


def test_nothing_is_said_where_nothing_is_hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names.claim_names()
    assert names.shadowed() == {}
