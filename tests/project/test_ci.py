""".ci/run with stand-ins for make and apt-get, and the settings of GitHub and pre-commit."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PARTS = [
    "make test",
    "make test-oldest",
    "make test-vllm",
    "make demo DEMO_ARGS=--quick --out runs/ci",
    "make demo-zoom DEMO_ARGS=--quick --out runs/ci_zoom",
    "make demo-detect DEMO_ARGS=--quick --out runs/ci_detect",
    "make demo-change DEMO_ARGS=--quick --out runs/ci_change",
]
SUDO = '#!/bin/bash\necho "sudo $*" >> {log}\n"$@"\n'
MAKE = '#!/bin/bash\necho "make $*" >> {log}\n[ -n "$NADIR_CI" ] && [ "$1" != "{fails}" ]\n'
APT = """#!/bin/bash
echo "apt-get $*" >> {log}
for name in {brings}; do echo '#!/bin/bash' > {bin}/$name; chmod +x {bin}/$name; done
"""


@pytest.fixture
def ci(tmp_path):
    """(programs there, what apt-get brings or None, target that fails, user) → exit code, calls, standard error.

    Runs a copy of .ci/run, which sees no other programs than these.
    """
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")

    def program(name: str, text: str) -> None:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def go(there: str, brings: str | None = None, fails: str = "none", user: int = 0) -> tuple[int, list[str], str]:
        for name in ("bash", "chmod", "dirname", "env"):
            (programs / name).symlink_to(shutil.which(name))
        program("id", f"#!/bin/bash\necho {user}\n")
        program("sudo", SUDO.format(log=log))
        program("make", MAKE.format(log=log, fails=fails))
        for name in there.split():
            program(name, "#!/bin/bash\n")
        if brings is not None:
            program("apt-get", APT.format(log=log, bin=programs, brings=brings))
        done = subprocess.run([script], env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
        return done.returncode, log.read_text().splitlines() if log.exists() else [], done.stderr

    return go


def test_it_runs_the_tests_and_then_the_demo(ci):
    assert ci("java google-chrome", "") == (0, PARTS, "")


def test_it_installs_what_is_missing_first(ci):
    code, called, _ = ci("", "chromium java")
    install = "apt-get -qq -y install --no-install-recommends chromium default-jre-headless"
    assert (code, called) == (0, ["apt-get -qq update", install, *PARTS])


def test_who_is_not_root_needs_sudo(ci):
    _, called, _ = ci("java", "chromium", user=1000)
    assert [line for line in called if line.startswith("sudo")] == [
        "sudo apt-get -qq update",
        "sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends chromium",
    ]


def test_it_installs_nothing_that_is_there(ci):
    code, called, _ = ci("chromium-browser", "java")
    assert (code, called[1]) == (0, "apt-get -qq -y install --no-install-recommends default-jre-headless")


@pytest.mark.parametrize("brings", [None, "java"], ids=["no apt-get", "it brings too little"])
def test_what_it_cannot_install_is_named_before_any_test(ci, brings):
    code, called, said = ci("java", brings)
    assert code == 2 and not [line for line in called if line.startswith("make")]
    assert "error: tests need these programs, which apt-get did not bring: chromium." in said


def test_the_first_part_that_fails_ends_it(ci):
    assert ci("java chromium", fails="test")[:2] == (1, PARTS[:1])


def test_the_browsers_are_those_that_the_tests_know():
    from tests.support.browser import NAMES

    assert all(f"has {name} " in (ROOT / ".ci" / "run").read_text() for name in NAMES)


def test_every_target_of_tests_runs_in_ci_but_the_long_one():
    targets = set(re.findall(r"^(test[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bmake (test[\w-]*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert targets - {"test-full"} == called


def test_github_runs_the_same():
    found = yaml.load((ROOT / ".github/workflows/test.yml").read_text(), yaml.BaseLoader)  # `on` is no truth value here
    assert found["on"].keys() == {"push", "pull_request"} and found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["runs-on"] == "ubuntu-latest" and 30 <= int(job["timeout-minutes"]) <= 90
    versions = job["strategy"]["matrix"]["python"]
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert "3.11" in versions and len(versions) > 1 and all(supported.contains(version) for version in versions)
    (setup,) = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
    assert setup == {"python-version": "${{ matrix.python }}"}


def test_pre_commit_has_the_ruff_of_the_project():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"].endswith("/ruff-pre-commit")
    assert [hook["id"] for hook in repo["hooks"]] == ["ruff-check", "ruff-format"]
    ranges = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["optional-dependencies"]["dev"])}
    assert ranges["ruff"].contains(repo["rev"].removeprefix("v"))
