"""What tests/conftest.py makes of a test that is skipped, and which tests it leaves out: sessions of a tiny folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WANTED = """import pytest
def test_passes(): pass
@pytest.mark.gpu
def test_gpu(): pass
@pytest.mark.full
def test_full(): pass
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.xfail(strict=True, reason="known")
def test_known(): raise ValueError
"""
SKIPPED = """import pytest
@pytest.mark.skipif(True, reason="no cheese")
def test_marked(): pass
def test_said(): pytest.skip("no cheese")
@pytest.fixture
def larder(): pytest.skip("no cheese")
def test_fixture(larder): pass
"""
MODULES = {
    "test_module.py": "import pytest\npytest.skip('no cheese', allow_module_level=True)\n",
    "test_package.py": "import pytest\npytest.importorskip('no_cheese')\n",
}
# torch takes seconds to import, and what it finds depends on the machine
TORCH = """class cuda:
    is_available = staticmethod(lambda: {there})
def manual_seed(seed): pass
def set_num_threads(count): pass
"""
TITLE = "skipped in CI, where only GPU tests may be"


@pytest.fixture
def session(tmp_path):
    """(more test files, pytest's words, ci, gpu) → exit code and output, under the project's own settings."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    fixed = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NADIR_CI", "PYTEST_"))}

    def go(more: dict[str, str], *words: str, ci: bool = True, gpu: bool = False) -> tuple[int, str]:
        files = {"test_fine.py": WANTED, "torch.py": TORCH.format(there=gpu), **more}
        for name, source in files.items():
            (tmp_path / name).write_text(source)
        command = [sys.executable, "-m", "pytest", *fixed, *words, str(tmp_path)]
        variables = {**kept, "PYTHONPATH": str(tmp_path), **({"NADIR_CI": "1"} if ci else {})}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return go


def test_gpu_tests_may_be_skipped_and_are_told(session):
    code, said = session({})
    assert code == 0 and "2 passed, 1 skipped, 1 deselected, 1 xfailed" in said
    assert "no CUDA GPU here" in said and TITLE not in said


def test_gpu_tests_run_where_there_is_one(session):
    code, said = session({}, gpu=True)
    assert code == 0 and "3 passed, 1 deselected, 1 xfailed" in said


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_any_other_skip_fails_ci_by_name_and_reason(session, workers):
    code, said = session({"test_skipped.py": SKIPPED, **MODULES}, *workers)
    assert code == 1 and "2 passed, 6 skipped" in said
    told = said.partition(TITLE)[2].partition("short test summary")[0]
    listed = [line for line in told.splitlines() if "cheese" in line]
    assert sorted(line.partition(": ")[0] for line in listed) == [
        "test_module.py",
        "test_package.py",
        "test_skipped.py::test_fixture",
        "test_skipped.py::test_marked",
        "test_skipped.py::test_said",
    ]
    assert "test_skipped.py::test_said: Skipped: no cheese" in listed and "test_gpu" not in told


def test_elsewhere_it_does_not(session):
    code, said = session({"test_skipped.py": SKIPPED, **MODULES}, ci=False)
    assert code == 0 and "6 skipped" in said and "no cheese" in said and TITLE not in said


def test_a_failure_stays_one(session):
    code, said = session({"test_skipped.py": SKIPPED, "test_broken.py": "def test_it(): raise AssertionError\n"})
    assert code == 1 and "1 failed" in said and TITLE in said


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], {"test_passes", "test_known", "test_gpu", "test_slow"}),
        (["-m", "full"], {"test_full"}),
        (["-m", "not slow"], {"test_passes", "test_known", "test_gpu"}),
    ],
)
def test_full_runs_only_where_it_is_named(session, words, left):
    code, said = session({}, "--collect-only", "-q", *words)
    assert code == 0 and {line.partition("::")[2] for line in said.splitlines() if "::" in line} == left
