"""What once went wrong without a word, or ended in a traceback, with vLLM's real engine. `make test-vllm`."""

import pytest
from PIL import Image
from trl.generation import vllm_generation

from samples import Sample
from tests.engine import world
from vlm.common.errors import RecipeError, UserError

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("engines")]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return world.questions(tmp_path_factory.mktemp("questions"), 1)


class Asked(Exception):
    """Thrown in place of an engine's start."""


def test_an_engine_draws_by_the_seed_of_the_run(samples, tmp_path, monkeypatch):
    """It seeds the process anew, and TRL gives it 0, whatever the recipe says."""

    def llm(**given):
        raise Asked(given["seed"])

    monkeypatch.setattr(vllm_generation, "LLM", llm)
    for seed in (3, 4):
        with pytest.raises(Asked, match=f"^{seed}$"):
            world.trainer(samples, tmp_path, use_vllm=True, seed=seed)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"temperature": 3.0}, r"temperature must be in \[0, 2\]"),
        ({"generation_kwargs": {"min_tokens": 99}}, "min_tokens must be less than or equal to max_tokens=32"),
        ({"generation_kwargs": {"logit_bias": {"9999999": 1.0}}}, "logit_bias of token 9999999; the model has"),
    ],
    ids=str,
)
def test_sampling_that_vllm_refuses_is_told_of_before_an_engine_starts(samples, tmp_path, training, words, monkeypatch):
    monkeypatch.setattr(vllm_generation, "LLM", lambda **given: pytest.fail("an engine"))
    with pytest.raises(RecipeError, match=words):
        world.trainer(samples, tmp_path, use_vllm=True, **training)


def test_settings_that_vllm_refuses_are_a_message(samples, tmp_path):
    with pytest.raises(RecipeError, match="vLLM refuses its settings .*Sleep mode is not supported"):
        world.trainer(samples, tmp_path, use_vllm=True, vllm_enable_sleep_mode=True)


def test_completions_are_not_cut_at_the_end_of_the_context(samples, tmp_path):
    """vLLM would cut them silently; and the least length is one that fits into the completion, not into vLLM's 16."""
    kwargs = {"generation_kwargs": {"min_tokens": 20, "stop_token_ids": [5]}}
    made = world.trainer(samples, tmp_path, use_vllm=True, **kwargs)
    assert min(map(len, world.greedy(made, samples)[0])) >= 20
    assert made.vllm_generation.generation_kwargs["stop_token_ids"] == sorted({5, *made.eos_token_ids})
    made.vllm_generation.max_completion_length = 500
    with pytest.raises(UserError, match=r"row 0 of a batch has a prompt of \d+ tokens, and its answer may have 500"):
        world.greedy(made, samples)


def test_a_picture_that_lies_on_its_side_is_turned_once(tmp_path):
    """vLLM turns pictures by the EXIF orientation that Pillow hands on with them, which nobody's token count shows."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.effect_noise((120, 60), 90).convert("RGB")
    lying.paste("red", (0, 0, 60, 60))
    lying.save(tmp_path / "lying.jpg", exif=exif)
    asked = [{"role": "user", "content": "Describe it."}]
    samples = [Sample([str(tmp_path / "lying.jpg")], asked, "vqa", answer="2", source="odd", id="0")]
    made = world.trainer(samples, tmp_path, use_vllm=True)
    assert world.texts(made, world.greedy(made, samples)[0]) == world.by_transformers(made, samples)
