"""Ours and stock TRL in the same two processes, pair by pair:  accelerate launch stock_pairs.py MODEL FOLDER CASES

CASES: JSON, {name: training keys}. Both train from the same drawn numbers (`common_numbers`) on 12 completions of 3
prompts a generation, 6 in each process, so that one group's stand in both; two updates of each generation. The main
process prints a line of JSON for each pair: how far weights are apart, how far they moved, and both logs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMMON = {
    "per_device_train_batch_size": 6, "num_generations": 4, "num_iterations": 2, "max_steps": 2, "optim": "sgd",
    "learning_rate": 0.5, "lr_scheduler_type": "constant", "warmup_steps": 0, "max_completion_length": 8,
    "use_cpu": True,
}  # fmt: skip
LOGGED = ("loss", "grad_norm", "kl", "reward")


def letters(completions, **_):
    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]


def go(model: str, folder: Path, cases: dict[str, dict]) -> None:
    import trl

    import rl
    from rl.arguments import handed_over
    from stage.trainer.arguments import arguments
    from tests.rl.test_grpo import LIMITS, dataset, recipe
    from tests.support.processes.common_numbers import common_numbers
    from tests.support.tiny_checkpoints import section
    from vlm.common.processes import rank
    from vlm.loading import load_model, load_processor

    own = folder / str(rank())
    own.mkdir(parents=True)
    rows = dataset(own, 3)
    start = {name: value.clone() for name, value in load_model(section(model)).state_dict().items()}

    def train(cls, name, keys):
        args = arguments(trl.GRPOConfig, recipe(model, folder / name / cls.__module__, **COMMON | keys))
        policy, processor = load_model(section(model)), load_processor(model, LIMITS)
        args, processor = handed_over(policy, [letters], args, processor)
        processor.tokenizer.padding_side = "left"
        trainer = cls(policy, [letters], args, rows, processing_class=processor)
        with common_numbers(trl.GRPOTrainer):
            trainer.train()
        logs = trainer.state.log_history[: COMMON["max_steps"]]
        return trainer.model.state_dict(), [{key: log.get(key) for key in LOGGED} for log in logs], trainer

    for name, keys in cases.items():
        ours, found, trainer = train(rl.GRPOTrainer, name, keys)
        theirs, expected, _ = train(trl.GRPOTrainer, name, keys)
        assert trainer.share_prefix
        told = {
            "name": name,
            "apart": max((ours[key] - theirs[key]).abs().max().item() for key in start),
            "moved": max((theirs[key] - start[key]).abs().max().item() for key in start),
            "logs": [found, expected],
        }
        if rank() == 0:
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from vlm.common import telemetry

    telemetry.quiet()  # before what is imported here
    go(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
