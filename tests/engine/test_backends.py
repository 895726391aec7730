"""Evaluation and best-of-N through transformers, through vLLM, and over HTTP from vLLM's own server, which dies once.
`make test-vllm`."""

import json
import runpy
import threading
import time

import pytest

from evals import stage as evaluation
from evals.recipe import EvalRecipe
from rewards.select.recipe import BonRecipe
from stage.recipe import config
from tests.engine import world
from tests.engine.server import LIMIT, Server
from tests.support.processes.commands import ROOT
from vlm.common.errors import UserError

pytestmark = pytest.mark.vllm
EACH = 5
"""Questions of each of the demo's four tasks."""
GREEDY = "generation.top_p=0.000001"
"""The likeliest token alone, for best-of-N, which samples."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("backends")
    world.questions(found / "data", EACH)
    return found


@pytest.fixture(scope="module")
def start(folder):
    """Servers that end with the tests."""
    servers = []

    def started() -> Server:
        servers.append(Server(folder / f"server{len(servers)}.log"))
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def server(start):
    return start()


@pytest.fixture(scope="module", autouse=True)
def engines(server):
    """In this process, one engine for both stages; the server starts meanwhile."""
    import vllm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "LLM", world.Engines())
        yield


def common(folder, name, *files: int) -> list[str]:
    sources = ", ".join(
        f"{{path: {folder}/data/{world.FILES[n][0]}, format: {world.FILES[n][1] or 'null'}}}" for n in files
    )
    return [f"model.path={world.BASE}", f"output={folder / name}", f"data.eval=[{sources}]", "gold=null",
            "generation.max_new_tokens=48"]  # fmt: skip


def evaluated(folder, name, *more) -> tuple[dict[str, str], str]:
    """({question: text}, metrics)."""
    keys = [*common(folder, name, 0, 1, 2, 3), "pictures=0", *more]
    evaluation.run(config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, keys))
    rows = [json.loads(line) for line in (folder / name / "predictions.jsonl").read_text().splitlines()]
    return {f"{row['source']}/{row['id']}": row["completion"] for row in rows}, (
        folder / name / "metrics.json"
    ).read_text()


def chosen(folder, name, *more) -> tuple[dict[str, list[str]], str]:
    """({question: its four draws}, curve)."""
    keys = [*common(folder, name, 1, 2), "selectors=[majority, random]", "generation.samples=4", *more]
    runpy.run_path(str(ROOT / "launch/bon.py"), run_name="launcher")["run"](
        config.load(ROOT / "recipes/demo/bon.yaml", BonRecipe, keys)
    )
    rows = [json.loads(line) for line in (folder / name / "completions.jsonl").read_text().splitlines()]
    texts = {f"{row['source']}/{row['id']}": row["completions"] for row in rows}
    return texts, (folder / name / "curve.csv").read_text()


def test_evaluation_is_the_same_through_all(folder, server):
    expected = evaluated(folder, "hf")
    assert len(expected[0]) == 4 * EACH and len(set(expected[0].values())) > EACH
    assert evaluated(folder, "vllm", "generation.backend=vllm") == expected
    assert evaluated(folder, "endpoint", *server.wait().keys()) == expected


def test_best_of_n_is_the_same_through_all(folder, server):
    expected = chosen(folder, "bon-hf", GREEDY)
    assert len(expected[0]) == 2 * EACH
    assert chosen(folder, "bon-vllm", GREEDY, "generation.backend=vllm") == expected
    assert chosen(folder, "bon-endpoint", GREEDY, *server.wait().keys()) == expected


def test_a_server_that_dies_loses_nothing(folder, server, start):
    """At temperature 1, by seeds of each draw: killed after a third of the draws, then continued with another server;
    as if nothing had been, and as vLLM in this process draws."""
    other = start()  # by the time that the first one dies it is up
    expected = chosen(folder, "drawn-vllm", "generation.backend=vllm")
    assert any(len(set(texts)) > 1 for texts in expected[0].values())
    parts = folder / "drawn/parts"

    def kept() -> int:
        return sum(len(part.read_bytes().splitlines()) for part in parts.glob("draws-*.jsonl"))

    def execution() -> None:
        while kept() < 2 * EACH * 4 // 3:
            time.sleep(0.01)
        server.kill()

    server.wait()
    executioner = threading.Thread(target=execution, daemon=True)
    executioner.start()
    with pytest.raises(UserError, match="in succession failed|got no answer|answers nothing"):
        chosen(folder, "drawn", *server.keys(concurrency=2, stop_after=3))
    executioner.join(LIMIT)
    assert 0 < kept() < 2 * EACH * 4
    assert chosen(folder, "drawn", *other.wait().keys(concurrency=2)) == expected
    calls = json.loads((folder / "drawn/finished.json").read_text())["usage"]["calls"]
    assert calls == 2 * EACH * 4  # each answer was paid for once
