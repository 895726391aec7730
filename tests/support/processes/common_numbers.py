"""Launchers whose sampling does not know how many processes share the rows:  accelerate launch common_numbers.py JOBS

JOBS: JSON, [["grpo", [recipe, override, …]], ["sft", […]]], run one after another as `launch/grpo.py` … would. The
largest object that a process has handed to all others in a job is noted in gathered-STAGE-RANK: its bytes, pickled.

Each token is drawn from the model's own probabilities as transformers draws it, but by a number of its own: of its
generation, its row among the rows of all processes, and its place. torch draws for the rows of a process at once, so
that other numbers fall to a row where others stand beside it.
"""

from __future__ import annotations

import json
import pickle
import random
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[3]


@contextmanager
def common_numbers(cls=None):
    """Within, rollouts of `rl.GRPOTrainer`, or of another class, are drawn so."""
    import torch

    from rl.trainer import GRPOTrainer
    from vlm.common.processes import processes

    cls = cls or GRPOTrainer
    draw, generate = torch.multinomial, cls._generate_single_turn
    state = {"generation": 0, "place": 0, "rank": 0}

    def drawn(probabilities, num_samples, *_, **__):
        assert num_samples == 1
        first, state["place"] = state["rank"] * len(probabilities), state["place"] + 1
        numbers = [
            random.Random(f"{state['generation']} {first + row} {state['place']}").random()
            for row in range(len(probabilities))
        ]
        sums = probabilities.double().cumsum(-1)
        return torch.searchsorted(sums, torch.tensor(numbers)[:, None].double() * sums[:, -1:])

    def generated(self, *given, **named):
        state.update(generation=state["generation"] + 1, place=0, rank=self.accelerator.process_index)
        torch.multinomial = drawn
        try:
            return generate(self, *given, **named)
        finally:
            torch.multinomial = draw

    assert processes() in (1, 2)
    with mock.patch.object(cls, "_generate_single_turn", generated):
        yield


@contextmanager
def gathered(stage: str):
    """Within, objects that are gathered are measured."""
    import torch.distributed

    from vlm.common.processes import processes, rank

    gather, sizes = torch.distributed.all_gather_object, [0]

    def measured(found, value, *given, **named):
        sizes.append(len(pickle.dumps(value)))
        return gather(found, value, *given, **named)

    try:
        with mock.patch.object(torch.distributed, "all_gather_object", measured):
            yield
    finally:  # a launcher ends by SystemExit
        if processes() > 1:
            Path(f"gathered-{stage}-{rank()}").write_text(str(max(sizes)))


def go(jobs: list) -> None:
    """Run the jobs in this process, or in this one of several."""
    before = sys.argv
    with common_numbers():
        for stage, argv in jobs:
            path = str(ROOT / f"launch/{stage}.py")
            sys.argv = [path, *argv]
            try:
                with gathered(stage):
                    runpy.run_path(path, run_name="__main__")
            except SystemExit as done:
                if done.code:
                    raise
            finally:
                sys.argv = before


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from vlm.common import telemetry

    telemetry.quiet()  # before what is imported here
    go(json.loads(sys.argv[1]))
