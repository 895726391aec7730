"""GRPO with vLLM's server (`vllm_mode: server`) on loopback. What its weights travel by, NCCL, needs a GPU: they stay the
checkpoint's, which the trainer has too. `make test-vllm`."""

import pytest
import torch
from trl.generation.vllm_client import VLLMClient

from rl.engine import _json
from tests.engine import world
from tests.engine.server import Server
from vlm.common.errors import RecipeError, UserError
from vlm.engine import arguments
from vlm.loading import load_processor

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    limits = arguments(load_processor(world.BASE, world.LIMITS))["mm_processor_kwargs"]
    flags = (
        "--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1",
        "--weight-transfer-config", '{"backend": "nccl"}', "--mm-processor-kwargs", _json(limits),
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
    """32 demo questions, with one picture each, and odd ones: two pictures, a strip, none."""
    folder = tmp_path_factory.mktemp("questions")
    return world.questions(folder / "data", 8) + world.odd_ones(folder / "odd")


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
