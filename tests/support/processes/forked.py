"""`tests.support.processes.commands.run` without the imports: the same commands in processes forked from a server.

The server has imported what is slow (`forked_imports`) and computed nothing, so a process starts in a moment instead of
ten seconds. `accelerate launch` is the real one, and so is torch's elastic agent below it: only the starting of the
workers is replaced by a fork. The real start of every launcher is what `tests/project/test_launch.py` tests.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.processes.commands import ACCELERATE, LIMIT, ROOT, environment
from vlm.common import telemetry

QUIET = {name: telemetry.DEFAULTS[name] for name in telemetry.READ_AT_IMPORT}
"""What the server's imports have read already."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def context():
    """Processes forked from the server."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.support.processes.forked_imports"])
    return made


def run(command: list, cwd: Path = ROOT, expect: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """As `commands.run`. command: `[sys.executable, SCRIPT, …]`, or what begins with `commands.ACCELERATE`."""
    words = [str(word) for word in command]
    assert words[0] == sys.executable, "only Python can be forked"
    with tempfile.TemporaryDirectory() as folder:
        said = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = context().Process(target=_begin, args=(words[1:], str(cwd), environment(**QUIET, **more), *said))
        process.start()
        process.join(LIMIT)
        hangs = process.exitcode is None
        if hangs:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        out, err = (Path(path).read_text() for path in said)
    assert not hangs, f"no end in {LIMIT} s\n{out}\n{err}"
    assert process.exitcode == expect, f"exit code {process.exitcode}\n{out}\n{err}"
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


class Forked:
    """What the elastic agent needs of `subprocess.Popen`: a worker forked from the agent, in a session of its own."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_begin, args=(words[1:], os.getcwd(), env))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout)
        return self._process.exitcode


def _begin(words: list[str], cwd: str, env: dict[str, str], *said: str) -> None:
    """What `python WORDS` does: a session, signals as at a start, folder, environment, outputs; then the program."""
    os.setsid()
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    try:
        program(words)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def program(words: list[str]) -> None:
    """The script, or `accelerate launch`, that `python WORDS` would run, in this process."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    words = [word for word in words if word != "-u"]
    if words[: len(ACCELERATE) - 1] == ACCELERATE[1:]:
        _accelerate(words[len(ACCELERATE) - 1 :])
        return
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")


def _accelerate(words: list[str]) -> None:
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    SubprocessHandler._popen = lambda _, words, env: Forked(list(words), env)
    sys.argv = ["accelerate", *words]
    launch.main()
