"""GRPO over completions of several turns through vLLM's real engine. `make test-vllm`."""

import pytest
import torch

from tests.engine import world
from vlm.families.sight import Grid
from vlm.sections import ToolSection, TurnSection
from vlm.tools.calls import write
from vlm.tools.toolbox import Toolbox
from vlm.tools.zoom import NAME

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("engines")]


class Looking(Toolbox):
    """Each turn of the model calls, whatever it says: the text decides where to."""

    def answer(self, text, context, where):
        x = len(text) % 50
        bbox = [100 + x, 100, 500 + x, 600] if len(text) % 4 else [1, 2]
        return super().answer(write(NAME, {"bbox": bbox}), context, where)


def test_turns_go_through_the_engine(tmp_path, monkeypatch):
    """What the engine read in every turn is what the trainer trains on: crops too. Its log-probabilities of the model's
    tokens are the trainer's, and tools' tokens have none."""
    samples = world.questions(tmp_path / "data", 1)
    sight = Grid(28, 112 * 112, 112 * 112)
    toolbox = Looking.of([ToolSection(use="zoom", options={"least": 20})], TurnSection(limit=2), sight)
    made = world.trainer(samples, tmp_path / "run", toolbox=toolbox, use_vllm=True, max_completion_length=160)
    heard, batches = world.Heard(monkeypatch), []
    plain = made._compute_loss
    monkeypatch.setattr(made, "_compute_loss", lambda model, inputs: batches.append(inputs) or plain(model, inputs))
    made.train()
    shown = [{len(row or ()) for row in told["images"]} for told, _ in heard.calls]
    assert shown[0] == {1} and 2 in shown[1] and 3 in shown[2] and len(shown) == 3
    log = made.state.log_history[0]
    assert log["vllm/logp_gap/images"] < 1e-3 and log["turns/mean"] > 2 and log["turns/failed"] > 0
    (inputs,) = batches
    tools = inputs["completion_mask"].bool() & ~inputs["tool_mask"].bool()
    assert tools.any() and inputs["sampling_per_token_logps"][tools].eq(0).all()
    assert torch.isfinite(torch.tensor(log["loss"]))
