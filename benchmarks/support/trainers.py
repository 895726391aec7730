"""Two GRPO trainers with the same inputs, TRL's and ours, driven step by step so that they can take turns.

- stock: `trl.GRPOTrainer` 1.16 itself; the learned reward scores each completion with its own picture and prompt.
- ours: `rl.GRPOTrainer` with `share_prefix`, and the learned reward as `ScoreModel.score` computes it.

Both roll out R tokens (none may end a row), and continue with the same completions, drawn beforehand: what follows the
rollout then has equal inputs also where half precision samples other tokens. The optimiser's learning rate is 0, so
every repetition starts from the same weights.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
import trl
from datasets import Dataset
from transformers import Qwen2VLForConditionalGeneration

import rewards
import rl
from benchmarks.score import Ours, Plain, score_model
from benchmarks.support import worlds
from benchmarks.support.common import Clock


def vowels(completions, **_: Any) -> list[float]:
    """The rule reward: the share of vowels. (`format` is 0 for noise, and rewards without spread give no gradient.)"""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in texts]


class Scripted:
    """Before a trainer class: rolls out (or not), keeps what was sampled, and answers with `script`."""

    script: list[list[int]]
    sampled: list[list[int]] | None = None
    rolls = True

    def _generate_single_turn(self, *given: Any, **named: Any):
        if self.rolls:
            self.sampled = super()._generate_single_turn(*given, **named)[0]
        return [list(ids) for ids in self.script], None


class Stock(Scripted, trl.GRPOTrainer):
    pass


class Sharing(Scripted, rl.GRPOTrainer):
    pass


def arguments(options, folder: str) -> trl.GRPOConfig:
    """A micro-batch is one group; the prompts of a step are as many micro-batches."""
    return trl.GRPOConfig(
        folder, per_device_train_batch_size=options.group, gradient_accumulation_steps=options.prompts,
        num_generations=options.group, max_completion_length=options.answer, beta=0.04, temperature=1.0,
        generation_kwargs={"min_new_tokens": options.answer}, learning_rate=0.0, max_steps=1, report_to="none",
        save_strategy="no", use_cpu=options.device == "cpu", bf16=options.dtype == "bfloat16", seed=0,
        gradient_checkpointing=options.checkpointing, remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip


class Side:
    """One trainer and what a step of it needs."""

    def __init__(self, cls, world: worlds.World, model, reference, scorer):
        options = world.options
        self.options, self.clock = options, Clock()
        functions: list[Any] = [vowels]
        if scorer is not None:
            learned = {"scorer": scorer, "inside": "text", "applies_to": ["open_ended"], "probe_every": 0}
            functions.insert(0, rewards.resolve("score", **learned))
        asked = zip(world.prompts(), world.pictures, world.questions, strict=True)
        rows = [
            {"prompt": turns, "images": [picture], "task": "open_ended", "answer": question, "id": str(number)}
            for number, (turns, picture, question) in enumerate(asked)
        ]
        args = arguments(options, f"{options.out}/trainer")
        args.generation_kwargs["suppress_tokens"] = [world.config.image_token_id, world.config.video_token_id]
        extra = {"check_sharing": False} if issubclass(cls, rl.GRPOTrainer) else {}
        data = Dataset.from_list([{"prompt": "", "images": []}])  # the rows are handed over, step by step
        with mock.patch("trl.trainer.grpo_trainer.create_model_from_path", lambda *_, **__: reference):
            self.trainer = cls(model, functions, args, data, processing_class=copy.deepcopy(world.processor), **extra)
        self.trainer.rolls = options.rollout == "sampled"
        self.trainer.script = [world.texts.ids(options.answer) for _ in range(options.prompts * options.group)]
        self.trainer.current_gradient_accumulation_steps = options.prompts
        self.rows = [row for row in rows for _ in range(options.group)]
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.0) if options.optimizer == "adamw" else None
        self.losses: list[float] = []
        self._watch()

    def _watch(self) -> None:
        """Each method of the trainer that is a phase of its own adds to the clock of the current repetition."""
        for method, phase in (
            ("_prepare_inputs", "inputs"),
            ("_generate_single_turn", "rollout"),
            ("_calculate_rewards", "rewards"),
            ("_get_per_token_logps_and_entropies", "reference"),
        ):
            setattr(self.trainer, method, self._timed(getattr(self.trainer, method), phase))

    def _timed(self, method, phase: str):
        def timed(*given: Any, **named: Any):
            if phase == "reference" and torch.is_grad_enabled():
                return method(*given, **named)  # the policy's, part of the update
            with self.clock.phase(phase):
                return method(*given, **named)

        return timed

    def step(self, clock: Clock) -> None:
        """One GRPO step, from prompts to the optimiser's step."""
        self.clock, trainer = clock, self.trainer
        torch.manual_seed(0)
        trainer._step, trainer._buffered_inputs = 0, None
        trainer.model.zero_grad()
        self.losses = []
        for _ in range(self.options.prompts):
            with clock.phase("steps"):
                self.losses.append(float(trainer.training_step(trainer.model, self.rows, None)))
        with clock.phase("optimizer"):
            if self.optimizer is not None:
                self.optimizer.step()
        clock.derive("update", ["steps"], ["inputs"])
        clock.derive("reference + update", ["reference", "update"])
        clock.derive("preparation", ["inputs"], ["rollout", "rewards", "reference"])

    def references(self) -> dict[tuple[int, ...], torch.Tensor]:
        """The reference's log-probabilities in the last step, by completion: the two shuffle differently."""
        found = {}
        for part in self.trainer._buffered_inputs:
            rows = zip(part["completion_ids"], part["ref_per_token_logps"], part["advantages"], strict=True)
            for ids, logps, advantage in rows:
                found[tuple(ids.tolist())] = torch.cat([logps.float().cpu(), advantage.reshape(1).float().cpu()])
        return found

    def gradients(self) -> dict[str, torch.Tensor]:
        """On the CPU; of large models those of each first layer, the norms and the head alone."""
        named = [(name, p) for name, p in self.trainer.model.named_parameters() if p.grad is not None]
        small = sum(p.numel() for _, p in named) < 1e8
        return {n: p.grad.float().cpu() for n, p in named if small or ".0." in n or "norm" in n or "lm_head" in n}


def sides(world: worlds.World, others: Mapping[str, type] = MappingProxyType({})) -> dict[str, Side]:
    """`stock` and `ours`: each has its own models, or (`--one-model`) both the same, which is its own reference.

    others: further trainers by name; their scorers share nothing. Where one is asked for by `--only`, no other is
    built.
    """
    options = world.options
    shared = None
    made: dict[str, Side] = {}
    scorer = score_model(world) if options.rewards == "learned" else None
    further = [(name, cls, Plain) for name, cls in others.items()]
    for name, cls, way in (("stock", Stock, Plain), ("ours", Sharing, Ours), *further):
        if options.only not in (None, name):
            continue
        policy = shared or worlds.build(Qwen2VLForConditionalGeneration, world.config, options)
        if options.one_model:
            shared = policy
            policy, reference = copy.copy(shared), copy.copy(shared)  # same weights; each gets a head of its own
        else:
            reference = worlds.build(Qwen2VLForConditionalGeneration, world.config, options)
            disturb(reference)
        made[name] = Side(cls, world, policy, reference, way(scorer) if scorer is not None else None)
    for side in made.values():
        side.trainer.script = next(iter(made.values())).trainer.script
    return made


@torch.no_grad()
def disturb(model) -> None:
    """Move the weights a little, so that the KL between policy and reference is not 0."""
    generator = torch.Generator(device=model.device).manual_seed(5)
    for parameter in model.parameters():
        change = torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype)
        parameter.add_(change * parameter.std() if parameter.ndim > 1 else change, alpha=0.02)


@contextmanager
def quiet():
    """Without the warnings that transformers and TRL give for settings which are meant here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
