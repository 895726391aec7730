"""Secrets stay out of run folders, logs and messages: tokens of the environment, of command lines, of URLs."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from rewards.prefer.recipe import JudgeSection
from rewards.score.service import token
from rewards.score.service.client import ScoreClient
from sft.recipe import SFTRecipe
from stage import cli
from stage.endpoint.client import Endpoint
from stage.recipe import config
from stage.runs import Run
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from vlm.common import redaction
from vlm.common.redaction import redact, redact_command

ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "Q7x" * 11,
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
    "DB_PASSWORD": 'p"w\\with-json-signs',
}
ARGUMENTS = ["--hub-token", "typed-token-1", "--api-key=typed-token-2", "judge.password=typed-token-3"]
TYPED = ["typed-token-1", "typed-token-2", "typed-token-3", "url-password-4", "hf_" + "Zk9" * 10]
URL = "https://user:url-password-4@hub.example/data"


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    """A process with secrets in its environment and, against all advice, on its command line; the list of them."""
    monkeypatch.setattr(redaction, "_kept", set())
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["launch/sft.py", "r.yaml", *ARGUMENTS, f"data={URL}", f"x={TYPED[4]}"])
    return [*ENVIRONMENT.values(), *TYPED]


def forms(secret: str) -> set[bytes]:
    return {secret.encode(), json.dumps(secret)[1:-1].encode()}


def test_nothing_under_a_run_folder_holds_a_secret(tiny_model, tmp_path, secrets, capfd, log_levels):
    """A whole SFT run of one step by the launcher's own way, checkpoints and trainer's files included."""
    from sft import stage

    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "<answer>2</answer>"}]
    rows = dump(tmp_path / "rows.jsonl", [{"images": [], "messages": turns, "task": "vqa", "answer": "2"}])
    changes = {
        "model.path": tiny_model,
        "data.train": f"[{{path: {rows}, format: nadir}}]",
        "output": tmp_path / "run",
        "training.max_steps": 1,
        "training.per_device_train_batch_size": 1,
        "training.save_strategy": "steps",
        "training.save_steps": 1,
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    assert cli.launch(SFTRecipe, stage.train, stage.plan, [str(ROOT / "recipes/demo/sft.yaml"), *overrides]) == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"environment.json", "recipe.yaml", "metrics.jsonl", "training_args.bin", "model.safetensors"} <= names
    command = json.loads((tmp_path / "run/environment.json").read_text())["command"]
    assert command[1:3] == ["launch/sft.py", "r.yaml"] and command[-1] == "x=[secret]"
    said = "".join(capfd.readouterr()).encode()
    for secret in secrets:
        for form in forms(secret):
            assert form not in said
            assert not [path for path in files if form in path.read_bytes()], "a run record holds a secret"


def test_a_run_that_is_given_secrets_strikes_them_out(tmp_path, secrets):
    """Without a launcher nobody refuses them in the recipe; the files hold the rest unchanged."""
    Run.create(tmp_path / "run", {"seed": 3, "model": {"path": URL}, "note": secrets[:4]})
    for path in (tmp_path / "run").iterdir():
        assert not [secret for secret in secrets for form in forms(secret) if form in path.read_bytes()]
    assert "seed: 3\n" in (tmp_path / "run/recipe.yaml").read_text()
    assert "https://[secret]@hub.example/data" in (tmp_path / "run/recipe.yaml").read_text()


def test_logs_and_tracebacks(secrets):
    formatter = redaction.Formatter("%(name)s: %(message)s")
    try:
        raise OSError(f"cannot open {URL}")
    except OSError:
        entry = logging.LogRecord("vlm", 40, "f", 1, "sent %s to %s", (secrets[1], URL), sys.exc_info())
    said = formatter.format(entry)
    assert said.startswith("vlm: sent [secret] to https://[secret]@hub.example/data\nTraceback")
    assert not [secret for secret in secrets if secret in said]


def test_the_launchers_message_of_an_error(tmp_path, capfd, log_levels):
    def train(recipe):
        raise config.RecipeError(f"no data at {URL}")

    recipe = str(ROOT / "recipes/demo/sft.yaml")
    assert cli.launch(SFTRecipe, train, train, [recipe, f"output={tmp_path}/run"]) == 2
    assert "error: no data at https://[secret]@hub.example/data" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--token", "abc", "--seed", "3"], ["--token", "[secret]", "--seed", "3"]),
        (["--token=abc"], ["--token=[secret]"]),
        (["--wandb-api-key=abc", "a=b"], ["--wandb-api-key=[secret]", "a=b"]),
        (["training.hub_token=abc"], ["training.hub_token=[secret]"]),
        (["token_variable=NADIR_SCORE_TOKEN"], ["token_variable=NADIR_SCORE_TOKEN"]),
        (["training.eos_token=<|im_end|>"], ["training.eos_token=<|im_end|>"]),
        (["training.max_tokens=512", "--tokens", "9"], ["training.max_tokens=512", "--tokens", "9"]),
        (["--password", "--dry-run"], ["--password", "--dry-run"]),
    ],
)
def test_command_lines(given, shown):
    assert redact_command(given) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git+https://tok3n@github.com/a/b.git", "git+https://[secret]@github.com/a/b.git"),
        ("https://a.example/x?user=1&api_key=v3ry&n=2", "https://a.example/x?user=1&api_key=[secret]&n=2"),
        ("Authorization: Bearer abcdefgh12", "Authorization: Bearer [secret]"),
        ("ghp_" + "a1" * 15, "[secret]"),
        ("sk-proj-" + "a1" * 15, "[secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN", "[secret]"),
        ("https://a.example/@me, mail b@c.example, hf_hub, disk-of-a-very-long-name-indeed", None),
        ("the bearer of news: 3 tokens, password, task-sk-1", None),
    ],
)
def test_shapes(text, shown):
    assert redact(text) == (text if shown is None else shown)


def test_tokens_read_by_name_are_secrets_whatever_the_name(monkeypatch):
    monkeypatch.setenv("NADIR_SCORER", "w0rd-of-the-service")
    monkeypatch.setenv("JUDGE", "w0rd-of-the-judge")
    assert redact("w0rd-of-the-service w0rd-of-the-judge") == "w0rd-of-the-service w0rd-of-the-judge"
    token.read("NADIR_SCORER")
    Endpoint(JudgeSection(address="https://judge.example/v1", model="m", key="JUDGE"))
    assert redact("w0rd-of-the-service w0rd-of-the-judge") == "[secret] [secret]"


@pytest.mark.parametrize(
    ("url", "warned"),
    [("http://gpu7:8100", True), ("http://10.0.0.7:8100", True), ("https://gpu7", False), ("http://[::1]:80", False)],
)
def test_a_token_over_plain_http_to_another_machine_is_warned_of(monkeypatch, caplog, url, warned):
    monkeypatch.setenv("NADIR_SCORE_TOKEN", "w0rd-of-the-service")
    ScoreClient([url], "NADIR_SCORE_TOKEN").close()
    Endpoint(JudgeSection(address=f"{url}/v1", model="m", key="NADIR_SCORE_TOKEN"))
    ScoreClient([url]).close()  # images alone are no secret
    said = [entry.getMessage() for entry in caplog.records if "travels there unencrypted" in entry.getMessage()]
    assert len(said) == 2 * warned and "w0rd-of" not in caplog.text
