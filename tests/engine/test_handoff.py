"""GRPO with vLLM's real engine: the prompts it reads, its log-probabilities, the weights that come of them, the weights
it is sent. `make test-vllm`."""

import pytest
import torch

import rl
from rl import engine
from tests.engine import world
from vlm.common.errors import RecipeError, UserError

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("engines")]


@pytest.fixture(scope="module")
def demo_questions(tmp_path_factory):
    """200: 50 of each task."""
    return world.questions(tmp_path_factory.mktemp("questions"), 50)


@pytest.fixture(scope="module")
def few(demo_questions, tmp_path_factory):
    """Two of each task, one with two pictures, one with a strip, one with none."""
    return demo_questions[::25] + world.odd_ones(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def untrained(few, tmp_path_factory):
    return world.trainer(few, tmp_path_factory.mktemp("untrained"), use_vllm=True)


def test_the_engine_reads_the_prompts_of_the_trainer(untrained, demo_questions, few, monkeypatch):
    """Of all tasks, with one, several and no pictures: one placeholder a picture goes out, the trainer's ids return."""
    heard = world.Heard(monkeypatch)
    samples = demo_questions + few
    world.greedy(untrained, samples)
    ids, pictures = world.asked(samples, untrained.processing_class)
    told, (read, *_) = heard.calls[0]
    assert [list(row) for row in read] == ids
    token = untrained.processing_class.image_token_id
    assert [row.count(token) for row in told["prompts"]] == [len(row or ()) for row in pictures]
    assert {len(row or ()) for row in pictures} == {0, 1, 2}
    assert max(row.count(token) for row in ids) > 2


def test_a_second_expansion_is_caught(untrained, few, monkeypatch):
    """What TRL 1.16 does by itself."""
    monkeypatch.setattr(engine, "one_placeholder", lambda ids, token, pictures, frame=(): ids)
    with pytest.raises(UserError, match=r"reads another prompt than the trainer: row 0 .* images.min_pixels"):
        world.greedy(untrained, few)


def test_other_pixel_limits_are_caught(untrained, few, monkeypatch):
    """An engine that reduces pictures to a quarter of what the trainer's model sees."""
    llm = untrained.vllm_generation.llm
    real = llm.generate

    def smaller(prompts, **named):
        limits = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
        return real([{**prompt, "mm_processor_kwargs": limits} for prompt in prompts], **named)

    monkeypatch.setattr(llm, "generate", smaller)
    with pytest.raises(UserError, match="reads another prompt than the trainer"):
        world.greedy(untrained, few)


def test_greedy_completions_and_their_log_probabilities_are_transformers(untrained, demo_questions):
    """200 demo questions, float32: texts equal, log-probabilities to 1e-4 nats (1e-3 is asked for)."""
    ids, logps = world.greedy(untrained, demo_questions)
    assert world.texts(untrained, ids) == world.by_transformers(untrained, demo_questions)
    for sample, row, said in list(zip(demo_questions, ids, logps, strict=True))[::4]:
        assert world.log_probabilities(untrained, sample, row) == pytest.approx(said, abs=1e-4)
    assert sum(map(len, ids)) > 1000


def test_a_step_is_the_same_without_the_engine(few, tmp_path, monkeypatch):
    """Plain gradient descent from the same completions, with shared prompts: weights equal to 1e-5."""
    heard = world.Heard(monkeypatch)
    few = few[:1] + few[-3:]  # one step has them all: one picture, two, a strip, none
    plain = {"optim": "sgd", "learning_rate": 0.003, "max_grad_norm": 1e9, "lr_scheduler_type": "constant"}
    with_engine = world.trainer(few, tmp_path / "with", use_vllm=True, **plain)
    before = {name: weight.clone() for name, weight in with_engine.model.state_dict().items()}
    with_engine.train()
    assert len(heard.calls) == 1 and with_engine.share_prefix
    completions = heard.calls[0][1][1]

    class Repeating(rl.GRPOTrainer):
        def _generate_single_turn(self, prompt_ids, *rest, **named):
            assert [list(ids) for ids in prompt_ids] == [list(ids) for ids in heard.calls[0][1][0]]
            return [list(ids) for ids in completions], None

    without = world.trainer(few, tmp_path / "without", cls=Repeating, use_vllm=False, **plain)
    without.train()
    found, other = with_engine.model.state_dict(), without.model.state_dict()
    moved = max((found[name] - weight).abs().max().item() for name, weight in before.items())
    apart = max((found[name] - weight).abs().max().item() for name, weight in other.items())
    assert apart < 1e-5 and moved > 100 * apart
    logged = with_engine.state.log_history[0]
    # what is logged includes the share of tokens that are never sampled, which the trainer's probabilities have
    assert 0 < logged["vllm/logp_gap/images"] < 1e-3 and 0 < logged["vllm/logp_gap/text"] < 1e-3


@pytest.mark.parametrize("lora", [None, world.LORA])
def test_the_engine_follows_the_weights(demo_questions, tmp_path, lora):
    """After five steps its greedy texts are the trainer's, and others than before; merged adapters too."""
    made = world.trainer(demo_questions, tmp_path, use_vllm=True, max_steps=5, lora=lora, learning_rate=2e-3)
    before = world.by_transformers(made, demo_questions)
    made.train()
    after = world.texts(made, world.greedy(made, demo_questions)[0])
    assert after == world.by_transformers(made, demo_questions)
    assert sum(one != other for one, other in zip(before, after, strict=True)) >= 20


def test_pictures_are_encoded_by_the_weights_of_today(untrained, few):
    """vLLM keeps encoded pictures across requests; TRL has it forget its prefixes alone when weights change."""
    tower = untrained.model.model.visual.patch_embed.proj.weight
    first = world.greedy(untrained, few)[0]
    before = tower.detach().clone()
    with torch.no_grad():
        tower.zero_()
    try:
        blind = world.greedy(untrained, few)[0]
        assert world.texts(untrained, blind) == world.by_transformers(untrained, few)
    finally:
        with torch.no_grad():
            tower.copy_(before)
    assert blind != first and world.greedy(untrained, few)[0] == first


def test_keywords_that_vllm_does_not_know_are_refused(few, tmp_path):
    with pytest.raises(RecipeError, match="generation_kwargs: .*no_repeat_ngram_size"):
        world.trainer(few, tmp_path, use_vllm=True, generation_kwargs={"no_repeat_ngram_size": 3})


def test_a_completion_ends_where_the_trainer_says(untrained):
    """The tokens that end a text are TRL's, whatever the checkpoint's generation config says."""
    assert untrained.vllm_generation.generation_kwargs["stop_token_ids"] == sorted(untrained.eos_token_ids)
    assert torch.isin(torch.tensor(untrained.eos_token_ids), torch.arange(len(untrained._tokenizer))).all()
