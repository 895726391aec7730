"""What the callbacks write and show during training."""

import io
from types import SimpleNamespace

import pytest

from stage.runs import Run, read_metrics


@pytest.fixture
def train():
    """train(folder, callbacks=(…), **arguments): a Trainer of one weight on y = 2x, returned untrained."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, labels):
            out = self.weight * x
            return {"loss": ((out - labels) ** 2).mean(), "logits": out}

    data = [{"x": torch.tensor(float(i)), "labels": torch.tensor(2.0 * i)} for i in range(8)]

    def make(folder, callbacks=(), **arguments):
        settings = {
            "max_steps": 6,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
        }
        args = TrainingArguments(str(folder), per_device_train_batch_size=2, **(settings | arguments))
        return Trainer(Line(), args, train_dataset=data, eval_dataset=data[:2], callbacks=list(callbacks))

    return make


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_attach_replaces_the_displays_and_logs_each_row(tmp_path, train, capfd, disable_tqdm):
    from stage.trainer.callbacks import attach

    run = Run.create(tmp_path / "run", {})
    trainer = train(tmp_path / "out", disable_tqdm=disable_tqdm, eval_strategy="steps", eval_steps=6)
    attach(trainer, run, "demo")
    names = [type(c).__name__ for c in trainer.callback_handler.callbacks]
    assert "ProgressCallback" not in names and "PrinterCallback" not in names
    trainer.train()
    rows = read_metrics(run.metrics)
    assert [r["step"] for r in rows if "loss" in r] == [2, 4, 6]
    # What stands in the file is what the trainer keeps in its own history.
    assert [r["loss"] for r in rows if "loss" in r] == [r["loss"] for r in trainer.state.log_history if "loss" in r]
    assert [r["step"] for r in rows if "eval_loss" in r] == [6]
    captured = capfd.readouterr()
    assert "demo: step 6/6" in captured.err and "loss" in captured.err
    assert "loss" not in captured.out, "transformers' own display printed too"


def test_resumed_training_leaves_one_clean_series(tmp_path, train):
    from stage.trainer.callbacks import attach

    first = train(tmp_path / "run", save_strategy="steps", save_steps=4, logging_steps=1)
    attach(first, Run.create(tmp_path / "run", {}))
    first.train()
    whole = [(r["step"], r["loss"]) for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    again = train(tmp_path / "run", save_strategy="steps", save_steps=4, logging_steps=1)
    attach(again, Run.create(tmp_path / "run", {}, resume=True))
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(r["step"], r["loss"]) for r in rows if "loss" in r] == whole
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal_shows_the_reward():
    from stage.trainer.callbacks import BarCallback

    screen = Terminal()
    bar = BarCallback("grpo", stream=screen)
    bar.on_train_begin(None, _state(0), None)
    bar.on_log(None, _state(1), None, logs={"reward": 0.66123, "kl": 0.01})
    bar.on_log(None, _state(2), None, logs={"reward": 0.7, "epoch": 1.0, "kl": None})
    bar.on_step_end(None, _state(3), None)
    bar.on_train_end(None, _state(3), None)
    shown = screen.getvalue()
    assert "grpo:" in shown and "3/10" in shown and "reward 0.7, kl 0.01" in shown


def test_lines_off_a_terminal_come_every_n_seconds_and_only_from_rank_0(monkeypatch):
    from stage.trainer import callbacks

    clock = iter([100.0, 100.0, 100.0, 110.0, 131.0, 131.0, 140.0])
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stream = io.StringIO()
    bar = callbacks.BarCallback("grpo", stream=stream, seconds=30)
    bar.on_train_begin(None, _state(0), None)  # 100
    bar.on_step_end(None, _state(1), None)  # looks at 100, says at 100
    bar.on_step_end(None, _state(2), None)  # looks at 110: too early
    bar.on_log(None, _state(2), None, logs={"reward": 0.5})
    bar.on_step_end(None, _state(5), None)  # looks and says at 131: 31 s for 5 steps, 5 more to go
    bar.on_train_end(None, _state(10), None)  # 140
    assert stream.getvalue().splitlines() == [
        "grpo: step 1/10, 0 s a step, 00:00 left",
        "grpo: step 5/10, 6.2 s a step, 00:31 left; reward 0.5",
        "grpo: step 10/10, 4 s a step; reward 0.5",
    ]
    silent = io.StringIO()
    other = callbacks.BarCallback(stream=silent)
    for call in (other.on_train_begin, other.on_step_end, other.on_train_end):
        call(None, _state(5, main=False), None)
    other.on_log(None, _state(5, main=False), None, logs={"loss": 1})
    assert silent.getvalue() == ""


def _state(step, main=True):
    from transformers import TrainerState

    return TrainerState(global_step=step, max_steps=10, is_world_process_zero=main)
