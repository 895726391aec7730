"""GRPO with vLLM's server (`vllm_mode: server`) on loopback. NCCL, by which weights travel to it, needs a GPU: they
stay the checkpoint's, which the trainer has, too. `make test-vllm`."""

import shlex

import pytest
from trl.generation.vllm_client import VLLMClient

from rl import engine
from rl.engine import pixels
from tests.engine import world
from tests.engine.server import Server
from vlm.common.errors import RecipeError, UserError
from vlm.loading import load_processor
from vlm.pictures.engine import arguments
from vlm.sections import ImageSection

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    limits = arguments(load_processor(world.BASE, world.LIMITS))["mm_processor_kwargs"]
    flags = (
        "--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1",
        "--weight-transfer-config", '{"backend": "nccl"}', *shlex.split(pixels(limits)),
    )  # fmt: skip
    made = Server(tmp_path_factory.mktemp("server") / "log", *flags, VLLM_SERVER_DEV_MODE="1")
    yield made
    made.kill()


@pytest.fixture(scope="module")
def sent(server):
    """Names of the weights that left, of each time."""
    times = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLLMClient, "init_communicator", lambda client, device: None)
        patch.setattr(
            VLLMClient, "update_named_params", lambda client, told, weights: times.append([name for name, _ in weights])
        )
        yield times


@pytest.fixture(scope="module")
def samples(server, tmp_path_factory):
    """20 demo questions, with one picture each, and odd ones: two pictures, a strip, none."""
    folder = tmp_path_factory.mktemp("questions")
    return world.questions(folder / "data", 5) + world.odd_ones(folder / "odd")


@pytest.fixture(scope="module")
def trainer(samples, server, sent, tmp_path_factory):
    return made(samples, server, tmp_path_factory.mktemp("trainer"))


def made(samples, server, output, **more):
    where = {"vllm_mode": "server", "vllm_server_base_url": f"http://127.0.0.1:{server.wait().port}"}
    return world.trainer(samples, output, use_vllm=True, **where, **more)


def test_greedy_completions_and_their_log_probabilities_are_transformers(trainer, samples, sent):
    """Texts equal and log-probabilities to 1e-4 nats with one, two and no pictures; and again, from the caches."""
    for part in (samples, samples[-1:], samples):
        ids, logps = world.greedy(trainer, part)
        assert world.texts(trainer, ids) == world.by_transformers(trainer, part)
        for sample, row, said in list(zip(part, ids, logps, strict=True))[::-5]:
            assert world.log_probabilities(trainer, sample, row) == pytest.approx(said, abs=1e-4)
    assert sent[-1] == [name for name, _ in trainer.model.named_parameters()]


def test_a_step_trains(samples, server, sent, tmp_path):
    """Groups of four from one prompt each; the weights move, and are sent before the first token."""
    before = len(sent)
    one = made(samples, server, tmp_path)
    was = {name: weight.clone() for name, weight in one.model.state_dict().items()}
    one.train()
    logged = one.state.log_history[0]
    assert 0 < logged["vllm/logp_gap/images"] < 1e-3 and logged["grad_norm"] > 0
    assert any((weight != was[name]).any() for name, weight in one.model.state_dict().items())
    assert len(sent) == before + 1


def test_the_server_forgets_pictures(trainer, monkeypatch):
    """After weights have been sent."""
    answers = []
    post = trainer.vllm_generation.vllm_client.session.post

    def heard(url, **named):
        answers.append((url.rpartition("/")[2], post(url, **named)))
        return answers[-1][1]

    monkeypatch.setattr(trainer.vllm_generation.vllm_client.session, "post", heard)
    trainer.vllm_generation.sync_weights()
    assert [(path, answer.status_code) for path, answer in answers] == [
        ("reset_prefix_cache", 200), ("reset_encoder_cache", 200)
    ]  # fmt: skip


def test_other_pixels_are_caught(trainer, samples, monkeypatch):
    """Pictures that the server makes other tokens of than the trainer."""
    monkeypatch.setattr(engine, "as_seen", lambda picture, processor: picture.resize((56, 56)))
    with pytest.raises(UserError, match=r"makes \[4\] tokens .* the trainer \[16\]: .* --mm-processor-kwargs '{"):
        world.greedy(trainer, samples[:2])


def test_a_picture_without_its_place_is_caught(trainer, samples):
    """The server takes the ids as they are: tokens of a picture that is not there would be read as words."""
    ids, _ = world.asked(samples[:1], trainer.processing_class)
    with pytest.raises(UserError, match="1 runs of picture tokens and 0 pictures"):
        trainer.vllm_generation.generate(ids, None, 1)


def test_a_prompt_too_long_for_its_completion_is_caught(trainer, samples, monkeypatch):
    """With pictures vLLM would end the completion early."""
    monkeypatch.setattr(trainer.vllm_generation, "max_completion_length", 480)
    with pytest.raises(UserError, match=r"may have 480, .* context of 512. Raise --max-model-len"):
        world.greedy(trainer, samples[:1])


def test_a_server_that_was_started_otherwise_is_refused(samples, server, tmp_path, monkeypatch):
    """For other limits and longer prompts, or without `--enable-scale-out`, which a first picture shows; and keywords
    that nobody knows."""
    with pytest.raises(UserError, match="it has max_model_len 512, mm_processor_kwargs .*Start it with --max-model-len "
                       "600 --mm-processor-kwargs '{"):  # fmt: skip
        made(samples, server, tmp_path, vllm_max_model_length=600, limits=ImageSection(max_pixels=10**6))
    monkeypatch.setattr(VLLMClient, "image_features", lambda client, pictures: pytest.fail(f"asked of {pictures[0]}"))
    with pytest.raises(pytest.fail.Exception, match=r"asked of .*PIL.Image.Image .*RGB size=112x112"):
        made(samples, server, tmp_path)
    with pytest.raises(RecipeError, match="generation_kwargs: .*no_repeat_ngram_size"):
        made(samples, server, tmp_path, generation_kwargs={"no_repeat_ngram_size": 3})
