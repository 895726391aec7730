"""vLLM's own server on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from tests.engine import world
from tests.support.processes.commands import environment

LIMIT = 240
"""Seconds in which a server has to start; it takes 25 on two free cores."""


class Server:
    """vLLM's own, of the demo's base. flags: more of its command; more: of its environment."""

    def __init__(self, log, *flags: str, **more: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", world.BASE, "--served-model-name",
            "base", "--dtype", "float32", "--generation-config", "vllm", "--max-model-len", "512", "--host",
            "127.0.0.1", "--port", self.port, "--uvicorn-log-level", "warning", *flags,
        ]  # fmt: skip
        with log.open("ab") as file:
            command = [str(part) for part in command]
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True, env=environment(**more)
            )

    def wait(self) -> Server:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2)
                return self
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def keys(self, **more) -> list[str]:
        where = {"address": f"http://127.0.0.1:{self.port}/v1", "model": "base", "concurrency": 8, "retries": 0} | more
        return ["generation.backend=endpoint", f"endpoint={json.dumps(where)}"]
