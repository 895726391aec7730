"""An OpenAI-compatible endpoint on this machine that answers by script, and rows for it to judge.

Unless the script says otherwise, a candidate is rated by the digits that begin it: "54321 a pier" gets relevance 5,
specificity 4, completeness 3, clarity 2, richness 1.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from rewards.prefer.recipe import JudgeSection

NAMES = ("relevance", "specificity", "completeness", "clarity", "richness")
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


def completion(text: str | None, usage: dict | None = USAGE) -> tuple[int, dict, dict]:
    """(status, headers, body) of a chat completion that says `text`."""
    return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def error(status: int, message: str = "no", **headers: str) -> tuple[int, dict, dict]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": {"message": message}}


def asked(body: dict) -> str:
    """The text beside the images of a request's first user turn."""
    return body["messages"][1]["content"][-1]["text"]


def quoted(body: dict) -> dict[str, str]:
    """Label → candidate of a request; the label is "" where one is rated alone."""
    alone = re.search(r"^The text to rate: (.*)$", asked(body), re.MULTILINE)
    lines = [("", alone[1])] if alone else re.findall(r'^([A-Z]): (".*")$', asked(body), re.MULTILINE)
    return {label: json.loads(text) for label, text in lines}


def right(body: dict) -> tuple[int, dict, dict]:
    """Ratings by the candidates' leading digits."""
    rated = {label: dict(zip(NAMES, map(int, text[:5]), strict=True)) for label, text in quoted(body).items()}
    return completion(json.dumps(rated.get("", rated)))


class FakeJudge:
    """Use in `with`. script: answers to the first requests, each a (status, headers, body) or a function of the
    request's body; then `default` answers. None as an answer hangs up without one."""

    def __init__(self, *script, default: Callable = right):
        self.script, self.default = list(script), default
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with judge.lock:
                    judge.bodies.append(body)
                    judge.headers.append({k.lower(): v for k, v in self.headers.items()} | {"path": self.path})
                    answer = judge.script.pop(0) if judge.script else judge.default
                answer = answer(body) if callable(answer) else answer
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, payload = answer
                content = json.dumps(payload).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def __enter__(self) -> FakeJudge:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def section(self, **changes) -> JudgeSection:
        return JudgeSection(**({"address": self.address, "model": "fake", "concurrency": 1} | changes))


def put_rows(folder, candidates: list[list[str]], **changes):
    """candidates.jsonl with one caption row for each list, all about one 56 × 28 picture."""
    Image.new("RGB", (56, 28), (200, 40, 40)).save(folder / "a.png")
    rows = [
        {"images": ["a.png"], "task": "caption", "question": "", "candidates": texts, "id": str(number)} | changes
        for number, texts in enumerate(candidates)
    ]
    path = folder / "candidates.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
