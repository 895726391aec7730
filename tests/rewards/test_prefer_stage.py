"""rewards.prefer.stage: what lies in the run folder, what is asked again, and what stops a run."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import yaml

from rewards.prefer import stage
from rewards.prefer.recipe import PreferRecipe
from rewards.score.training import preferences
from stage.endpoint.client import EndpointError
from stage.recipe import config
from stage.runs import FINISHED
from tests.support.processes.commands import ROOT, environment, errors, run
from tests.support.scores.fake_judge import NAMES, FakeJudge, completion, error, put_rows, right
from vlm.common.errors import DataError, RecipeError, UserError

OPEN = [
    ["11111 poor", "55555 good", "33333 fair"],
    ["44444 x", "22222 y"],
    ["12345 p", "54321 q"],
    ["31111 u", "21111 v"],
]
"""Means 1, 5, 3 · 4, 2 · 3, 3 · 1.4, 1.2: with a gap of 0.4 the last two rows prefer nothing."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder, endpoint, **changes):
    """A recipe file over `candidates.jsonl`, judged by the endpoint."""
    section = {"address": endpoint.address, "model": "fake", "concurrency": 1}
    content = {"stage": "prefer", "data": [{"path": str(folder / "candidates.jsonl")}], "judge": section}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | {"output": str(folder / "run")} | changes))
    return path


def made(folder, endpoint, *overrides, **changes):
    return stage.run(config.load(write(folder, endpoint, **changes), PreferRecipe, overrides))


def test_open_and_closed_rows_become_preferences(tmp_path, capsys):
    put_rows(tmp_path, OPEN)
    closed = {"images": ["a.png"], "task": "vqa", "question": "How many?", "answer": "4", "candidates": ["3", "4"]}
    rows = [
        *jsonl(tmp_path / "candidates.jsonl"),
        closed | {"id": "c"},
        closed | {"id": "one", "candidates": ["4", "4"]},
    ]
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FakeJudge() as judge:
        report = made(tmp_path, judge)
    assert judge.calls == 4  # none for the closed rows
    folder = tmp_path / "run"
    found = list(preferences.read(folder / "preferences.jsonl"))
    assert [(one.id, one.ranked) for one in found] == [
        ("c", ["4", "3"]),
        ("0", ["55555 good", "33333 fair", "11111 poor"]),
        ("1", ["44444 x", "22222 y"]),
    ]
    assert found[0].ratings is None and found[0].question == "How many?"
    assert [one["clarity"] for one in found[1].ratings] == [5, 3, 1] and list(found[1].ratings[0]) == list(NAMES)
    assert {one.source for one in found} == {"candidates"}
    assert {image for one in found for image in one.images} == {str(tmp_path / "a.png")}
    expected = {"rows": 6, "rows_of_one_text": 1, "closed": 1, "judged": 4, "failed": 0, "preferences": 3}
    expected |= {"rows_without_preference": 2, "calls": 4, "input_tokens": 400, "output_tokens": 40, "cost": 0}
    assert expected.items() <= report.items() and report == json.loads((folder / "report.json").read_text())
    assert report["preferences"] == json.loads((folder / FINISHED).read_text())["preferences"]
    said = capsys.readouterr().out
    assert said.index("4 rows to be judged in 4 calls") < said.index("preferences: 3")


def test_other_lists_of_the_same_ratings_ask_nobody(tmp_path):
    put_rows(tmp_path, OPEN)
    with FakeJudge() as judge:
        made(tmp_path, judge)
        first = (tmp_path / "run/judged.jsonl").read_bytes()
        report = made(tmp_path, judge, "lists=pairs", "min_gap=0.2", "judge.concurrency=3")
        assert judge.calls == 4 and report["calls"] == 0
    found = jsonl(tmp_path / "run/preferences.jsonl")
    assert [one["id"] for one in found] == ["0/1", "0/2", "0/3", "1", "3"]
    assert (tmp_path / "run/judged.jsonl").read_bytes() == first


def test_finished_rows_are_not_asked_again(tmp_path):
    """Stopped by a used-up quota after two rows, with half a line at the end; then only the other two are asked."""
    put_rows(tmp_path, OPEN)
    with FakeJudge(right, right, error(429, retry_after="9999")) as judge:
        with pytest.raises(EndpointError, match="start the same command again"):
            made(tmp_path, judge)
        journal = tmp_path / "run/judged.jsonl"
        kept = journal.read_bytes()
        assert [row["key"] for row in jsonl(journal)] == ["candidates/0", "candidates/1"]
        assert not (tmp_path / "run/preferences.jsonl").exists() and not (tmp_path / "run" / FINISHED).exists()
        journal.write_bytes(kept + b'{"key": "candidates/2", "ra')
        judge.bodies.clear()
        report = made(tmp_path, judge)
        assert judge.calls == 2 and report["judged"] == 4
        assert journal.read_bytes().startswith(kept) and len(jsonl(journal)) == 4
        # a row whose text has changed is another row
        put_rows(tmp_path, [["55555 new", "11111 poor"], *OPEN[1:]])
        assert made(tmp_path, judge)["judged"] == 4 and judge.calls == 3


def test_failed_rows_are_listed_and_asked_again(tmp_path, caplog):
    put_rows(tmp_path, OPEN[:3])
    bad = completion('{"A": 5}')
    with FakeJudge(right, bad, bad, right) as judge:
        report = made(tmp_path, judge)
        assert (report["judged"], report["failed"], report["preferences"]) == (2, 1, 1) and judge.calls == 4
        (failure,) = jsonl(tmp_path / "run/failures.jsonl")
        assert failure == {"key": "candidates/1", "error": "it lacks B"}
        assert not (tmp_path / "run" / FINISHED).exists() and "1 rows failed" in caplog.text
        report = made(tmp_path, judge)
        assert judge.calls == 5 and (report["judged"], report["failed"]) == (3, 0)
        assert not jsonl(tmp_path / "run/failures.jsonl") and (tmp_path / "run" / FINISHED).exists()


def test_failures_in_succession_stop_the_run(tmp_path):
    put_rows(tmp_path, OPEN * 3)
    with FakeJudge(right, error(400), right, default=lambda body: error(400, "no images here")) as judge:
        with pytest.raises(EndpointError, match="3 rows in succession failed, .*no images here"):
            made(tmp_path, judge, "judge.stop_after=3")
        assert judge.calls == 6
    assert len(jsonl(tmp_path / "run/judged.jsonl")) == 2 and len(jsonl(tmp_path / "run/failures.jsonl")) == 4


def test_ctrl_c_keeps_what_was_done(tmp_path, monkeypatch):
    put_rows(tmp_path, OPEN)
    release = threading.Event()

    def interrupt(body):
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)

    # a shell that runs the tests in the background makes them ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with FakeJudge(right, right, right, interrupt) as judge:
            with pytest.raises(KeyboardInterrupt):
                made(tmp_path, judge)
            release.set()
            assert [row["key"] for row in jsonl(tmp_path / "run/judged.jsonl")] == [f"candidates/{n}" for n in range(3)]
            assert made(tmp_path, judge)["judged"] == 4 and judge.calls == 5
    finally:
        signal.signal(signal.SIGINT, before)


def test_ratings_of_two_kinds_are_not_mixed(tmp_path):
    put_rows(tmp_path, OPEN)
    with FakeJudge() as judge:
        made(tmp_path, judge)
        for override in ("judge.model=other", "judge.rating=alone", "seed=1", "judge.request={temperature: 1}"):
            with pytest.raises(UserError, match="ratings of another kind .*overwrite=true"):
                made(tmp_path, judge, override)
        assert judge.calls == 4
        made(tmp_path, judge, "judge.rating=alone", "overwrite=true")
        assert judge.calls == 4 + 9 and len(jsonl(tmp_path / "run/judged.jsonl")) == 4
        journal = tmp_path / "run/judged.jsonl"
        journal.write_text(journal.read_text().replace('"clarity": 5', '"clarity": 9'))
        with pytest.raises(DataError, match="judged.jsonl, line 1: .*remove the line"):
            made(tmp_path, judge, "judge.rating=alone")


def test_money(tmp_path):
    """Each reply reports 100 tokens in, 10 out: at 1000 and 0 a million, 0.1 a row."""
    put_rows(tmp_path, OPEN)
    with FakeJudge() as judge:
        with pytest.raises(UserError, match="nothing was sent"):
            made(tmp_path, judge, cost={"input": 1000.0, "max_cost": 0.15})
        assert judge.calls == 0 and not (tmp_path / "run").exists()
        cheap = {"input": 1000.0, "max_cost": 0.15, "characters_per_token": 1e6}  # estimated at 3 tokens a row
        with pytest.raises(EndpointError, match="0.20 are spent .* cost.max_cost is 0.15"):
            made(tmp_path, judge, cost=cheap)
        assert judge.calls == len(jsonl(tmp_path / "run/judged.jsonl")) == 2
        assert made(tmp_path, judge, cost=cheap | {"max_cost": 5.0})["cost"] == pytest.approx(0.2)


def test_what_is_refused_before_anything_is_sent(tmp_path, monkeypatch):
    put_rows(tmp_path, OPEN)
    with FakeJudge() as judge:
        with pytest.raises(RecipeError, match="judge is missing, and 4 rows are open questions"):
            made(tmp_path, judge, judge=None)
        with pytest.raises(RecipeError, match="NO_SUCH_KEY is not set"):
            made(tmp_path, judge, "judge.key=NO_SUCH_KEY")
        with pytest.raises(RecipeError, match="clip needs a threshold"):
            made(tmp_path, judge, "dedup.images={clip: some/clip}")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UserError, match="one process, and 2 were launched"):
            made(tmp_path, judge)
        assert judge.calls == 0 and not (tmp_path / "run").exists()


def test_closed_questions_need_no_judge(tmp_path):
    put_rows(tmp_path, [["3", "4"]], task="vqa", question="How many?", answer="4")
    with FakeJudge() as judge:
        report = made(tmp_path, judge, judge=None)
    assert report["preferences"] == 1 and report["judged"] == 0


def test_the_key_is_nowhere_in_the_run_folder(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    put_rows(tmp_path, OPEN)
    caplog.set_level("DEBUG")
    with FakeJudge(error(400, "wrong key sk-very-secret")) as judge:
        made(tmp_path, judge, "judge.key=JUDGE_KEY")
        assert judge.headers[0]["authorization"] == "Bearer sk-very-secret"
    said = capsys.readouterr()
    written = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert "JUDGE_KEY" in written and "very-secret" not in written + said.out + said.err + caplog.text


def test_dry_run_sends_and_writes_nothing(tmp_path):
    put_rows(tmp_path, [*OPEN, OPEN[0]])
    with FakeJudge() as judge:
        changes = {"cost": {"input": 1.0, "output": 2.0}, "dedup": {"texts": {}}}
        recipe = write(tmp_path, judge, **changes)
        command = [sys.executable, "launch/prefer.py", recipe, "--dry-run"]
        done = run(command)
        assert "5 rows; duplicates by image 0, by text 1; 0 with one text only" in done.stdout
        assert "4 rows to be judged in 4 calls" in done.stdout and "cost about 0.0" in done.stdout
        assert judge.calls == 0 and not (tmp_path / "run").exists()
        refused = run([*command, "cost.max_cost=0.000001"], expect=2)
        assert "4 calls may cost" in errors(refused.stderr)[0]
        absent = run([*command, f"data.0.path={tmp_path}/none.jsonl"])
        assert "none.jsonl not here" in absent.stdout


def test_command_and_ctrl_c(tmp_path):
    """The launcher, interrupted in its third row, and again."""
    put_rows(tmp_path, OPEN)
    reached, release = threading.Event(), threading.Event()

    def hang(body):
        reached.set()
        release.wait(60)

    with FakeJudge(right, right, hang) as judge:
        command = [sys.executable, ROOT / "launch/prefer.py", write(tmp_path, judge)]
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environment(NO_PROXY="127.0.0.1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not reached.wait(0.05):
            assert process.poll() is None, process.communicate()[0].decode()
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=120)[0].decode()
        release.set()
        assert process.returncode == 130 and "interrupted" in output and "Traceback" not in output
        assert len(jsonl(tmp_path / "run/judged.jsonl")) == 2
        done = run(command, cwd=tmp_path, NO_PROXY="127.0.0.1")
        assert judge.calls == 5 and "continuing: 2 of 4" in done.stderr and "judged: 4" in done.stdout
