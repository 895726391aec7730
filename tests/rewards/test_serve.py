"""`launch/serve.py`: the command with a real score model, its errors, and what its fingerprint tells apart."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rewards.score import Exchange, ScoreModel
from rewards.score.model.fingerprint import fingerprint
from rewards.score.reward.faults import attempt
from rewards.score.service import ScoreClient, client, stage
from rewards.score.service.recipe import ServeRecipe
from stage import cli
from tests.support.processes.commands import LIMIT, ROOT, environment, errors
from tests.support.processes.forked import run
from tests.support.scores.score_servers import Warned, exchanges, png, until
from tests.support.tiny_checkpoints import picture

RECIPE = str(ROOT / "recipes/score/serve.yaml")
TOKEN = {"NADIR_TEST_TOKEN": "open-sesame-4711"}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory, tiny_model) -> Path:
    """Folder of a tiny score model with random weights."""
    folder = tmp_path_factory.mktemp("scorer")
    ScoreModel.from_backbone(tiny_model, dtype="float32").save_pretrained(folder)
    return folder


class Command:
    """The running command; `url` once it listens."""

    def __init__(self, scorer: Path, log: Path, *more: str):
        changes = [f"model.path={scorer}", "model.dtype=float32", "model.positions=null", *more]
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "launch/serve.py"), RECIPE, *changes],
                cwd=log.parent,
                env=environment(**TOKEN),
                stdout=file,
                stderr=subprocess.STDOUT,
                # a shell that runs the tests in the background makes them ignore Ctrl-C; children inherit that
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        until(lambda: self.process.poll() is not None or "score service on" in self.text, LIMIT)
        assert self.process.poll() is None, self.text
        self.url = re.search(r"http://127\.0\.0\.1:\d+", self.text)[0]

    @property
    def text(self) -> str:
        return self.log.read_text()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT)


@pytest.mark.slow
def test_the_command_is_killed_in_mid_run_and_started_again(scorer, tmp_path, monkeypatch):
    """Its scores are the model's own, before and after; the token stands in no log."""
    monkeypatch.setenv("NADIR_TEST_TOKEN", TOKEN["NADIR_TEST_TOKEN"])
    options = ["token_variable=NADIR_TEST_TOKEN", "batching.max_batch=3"]
    model = ScoreModel.from_pretrained(scorer)
    asked = [Exchange.of("How many?", answer, [picture(80, 60)]) for answer in ("One.", "Two or three.", "")]
    asked += [Exchange.of("", "A harbor.", [png(90, 50)]), Exchange.of("Where?", "In Rome.")]
    expected = pytest.approx(model.score(asked), abs=1e-5)
    first = Command(scorer, tmp_path / "first.log", "port=0", *options)
    warned = Warned()
    logging.getLogger(client.__name__).addHandler(warned)
    try:
        with ScoreClient([first.url], "NADIR_TEST_TOKEN", patience=LIMIT, timeout=LIMIT) as served:
            assert served.fingerprint() == fingerprint(model)
            assert served.score(asked) == expected
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
            warned.event.clear()
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(served.score, asked)
                assert warned.event.wait(LIMIT)
                second = Command(scorer, tmp_path / "second.log", f"port={first.url.rpartition(':')[2]}", *options)
                try:
                    assert call.result(LIMIT) == expected
                finally:
                    assert second.end(signal.SIGINT) == 130
    finally:
        first.process.kill()
        logging.getLogger(client.__name__).removeHandler(warned)
    assert "ready: " in second.text and fingerprint(model) in second.text and "interrupted" in second.text
    assert "Traceback" not in first.text + second.text and "4711" not in first.text + second.text


@pytest.fixture
def launch(capfd, monkeypatch, log_levels):
    """Run the launcher's functions here: overrides → (exit code, its error lines)."""
    monkeypatch.delenv("NADIR_TEST_TOKEN", raising=False)

    def call(*changes: str) -> tuple[int, list[str]]:
        code = cli.launch(ServeRecipe, stage.serve, stage.plan, [RECIPE, "port=0", *changes])
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, errors(said)

    return call


def test_errors_are_one_line(launch, scorer, tiny_model, tmp_path):
    """Found before the model is loaded, or while it is: the process then ends, it does not stay unready for ever."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    (tmp_path / "empty").mkdir()
    with taken:
        for changes, words in (
            ([f"port={port}"], f"cannot listen on 127.0.0.1:{port} (Address already in use)"),
            (["host=203.0.113.1", "token_variable=PATH"], "cannot listen on 203.0.113.1"),
            (["token_variable=NADIR_TEST_TOKEN"], "the environment variable NADIR_TEST_TOKEN is empty or not set"),
            ([f"model.path={tmp_path}/empty"], "has no config.json"),
            ([f"model.path={tiny_model}"], "it is a plain vision-language model"),
        ):
            code, found = launch("model.path=x/y", *changes)
            assert code == 2 and len(found) == 1 and words in found[0]


class Broken:
    """A scorer on a GPU that computes no more."""

    def fingerprint(self):
        return "m1"

    def fit(self, exchange):
        return exchange, 1, False

    def score(self, exchanges):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_a_broken_gpu_ends_the_command(monkeypatch, capfd, log_levels):
    """So that whoever keeps it running starts it again; the request is answered as one to be made elsewhere."""
    bound, answers = [], []

    def ask():
        until(lambda: bound)
        one = ScoreClient([stage.address(bound[0])], patience=2.0, timeout=2.0)
        answers.append(attempt(one, exchanges("a", "b")).cause)
        one.close()

    listen = stage.listen
    monkeypatch.setattr(stage, "listen", lambda *where: bound.append(listen(*where)) or bound[0])
    monkeypatch.setattr(stage, "loaded", lambda recipe: Broken())
    asking = threading.Thread(target=ask)
    asking.start()
    assert cli.launch(ServeRecipe, stage.serve, stage.plan, [RECIPE, "port=0", "model.path=x/y"]) == 2
    asking.join()
    told = capfd.readouterr().err
    assert "error: the GPU of rank 0 computes no more: CUDA error: device-side assert triggered, in scoring" in told
    assert len(answers) == 1 and "no score" in answers[0]


def test_a_score_model_without_a_processor_is_refused(launch):
    code, found = launch(f"model.path={ROOT}/tests/golden/scorers/checkpoint", "model.dtype=float32")
    assert code == 2 and len(found) == 1 and "has no tokenizer" in found[0]


def test_several_processes_are_refused(launch, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, found = launch()
    assert code == 2 and "a score service is one process, and 2 were launched" in found[0]


def test_plan_from_another_directory(tmp_path):
    changes = ["model.path=/no/such/model", "token_variable=NADIR_TEST_TOKEN"]
    done = run([sys.executable, ROOT / "launch/serve.py", RECIPE, *changes, "--dry-run"], cwd=tmp_path)
    assert "score model /no/such/model: it is not here, and is not checked" in done.stdout
    assert "listening on 127.0.0.1, port 8100" in done.stdout
    assert "note: token_variable: the environment variable NADIR_TEST_TOKEN is empty" in done.stdout
    assert "batches of up to 16 exchanges, gathered for 10 ms" in done.stdout and not list(tmp_path.iterdir())


def test_a_fingerprint_is_of_what_scores_depend_on(scorer):
    """The same for the same model loaded twice; another one for one changed weight, positions or pixel limits."""
    model = ScoreModel.from_pretrained(scorer)
    first = fingerprint(model)
    assert re.fullmatch("[0-9a-f]{16}", first) and fingerprint(ScoreModel.from_pretrained(scorer)) == first
    others = [
        ScoreModel.from_pretrained(scorer, "sequential"),
        ScoreModel.from_pretrained(scorer, max_pixels=50_000),
        ScoreModel.from_pretrained(scorer, dtype="bfloat16"),
    ]
    with torch.no_grad():
        list(model.parameters())[5].view(-1)[-1] += 1e-3
    assert len({first, fingerprint(model), *map(fingerprint, others)}) == 5
