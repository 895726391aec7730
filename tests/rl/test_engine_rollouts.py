"""vLLM in GRPO, without vLLM: what of TRL is overridden, the gap of two log-probabilities. With it: tests/engine."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from trl.generation import vllm_generation

from rl.engine import Engine, Sampler, engine, gap

NAN = float("nan")


def test_what_is_overridden_has_trls_signature():
    own = {name: value for name, value in vars(Engine).items() if inspect.isfunction(value)}
    upstream = vllm_generation.VLLMGeneration
    theirs = {name: value for name, value in own.items() if hasattr(upstream, name)}
    assert set(theirs) == {"_init_vllm", "sync_weights", "_iter_named_params", "generate", "_place_features"}
    for name, value in theirs.items():
        assert [*inspect.signature(value).parameters] == [*inspect.signature(getattr(upstream, name)).parameters]
        assert f"`{name}`" in Engine.__doc__


def test_trls_trainer_makes_ours():
    import trl

    module = inspect.getmodule(trl.GRPOTrainer)
    before = module.VLLMGeneration
    with engine():
        assert module.VLLMGeneration is Engine
    assert module.VLLMGeneration is before is vllm_generation.VLLMGeneration


def test_gap_by_hand():
    """Two rows of three tokens: one is masked, of one vLLM has no log-probability."""
    trainer = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])
    sampler = torch.tensor([[-1.5, -2.0, -9.0], [NAN, -1.25, -0.5]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert gap(trainer, sampler, mask).tolist() == [[0.5, 2.0], [0.75, 2.0]]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([1, 0], {"vllm/logp_gap/images": [0.25], "vllm/logp_gap/text": [0.375]}),
        ([2, 1], {"vllm/logp_gap/images": [0.3125]}),
        (None, {"vllm/logp_gap/text": [0.3125]}),
    ],
)
def test_gaps_are_logged_by_kind_of_prompt(shown, expected):
    """Means over tokens: .5 over two of the first row, .75 over two of the second."""
    output = {
        "old_per_token_logps": torch.tensor([[-1.0, -2.0], [-1.0, -1.0]]),
        "sampling_per_token_logps": torch.tensor([[-1.5, -2.0], [-1.25, -0.5]]),
        "completion_mask": torch.ones(2, 2),
    } | ({} if shown is None else {"num_images": shown})

    class Base:
        def _generate_and_score_completions(self, inputs):
            return output

    class Trainer(Sampler, Base):
        use_vllm = vllm_importance_sampling_correction = True
        accelerator = SimpleNamespace(gather=lambda value: value)
        model = SimpleNamespace(training=True)

        def __init__(self):
            from collections import defaultdict

            self._metrics = {"train": defaultdict(list)}

    trainer = Trainer()
    assert trainer._generate_and_score_completions([]) is output
    assert trainer._metrics["train"] == expected


def test_the_correction_is_on_by_default():
    import trl

    assert trl.GRPOConfig(".", use_vllm=True, use_cpu=True).vllm_importance_sampling_correction
