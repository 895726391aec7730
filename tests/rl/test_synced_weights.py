"""What vLLM is sent of an adapter's model, what that leaves of the frozen weights, and a server's settings. No vLLM."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from trl.generation.vllm_generation import VLLMGeneration

from rl.engine import Engine, unlike
from vlm.adapters import apply_lora
from vlm.loading import load_model
from vlm.sections import LoraSection, ModelSection

WIDE = {"mm_processor_kwargs": {"min_pixels": 1, "max_pixels": 60000}}
LIMITS = {"min_pixels": 784, "max_pixels": 57900}
STARTED = {
    "dtype": "torch.bfloat16", "logprobs_mode": "processed_logprobs", "generation_config": "vllm",
    "override_generation_config": {}, "max_model_len": 512, "multimodal_config": {"mm_processor_kwargs": LIMITS},
}  # fmt: skip


def adapted(path: str, dtype: str):
    """A model with an adapter that changes its weights."""
    torch.manual_seed(0)
    model = apply_lora(load_model(ModelSection(path=path, dtype=dtype, attention="sdpa")), LoraSection(r=4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    return model


@contextmanager
def nothing(parameters):
    yield


def pairs(cls, model, fsdp=None, gather=nothing):
    """(name, weight) as an engine of this class walks through them."""
    engine = cls.__new__(cls)
    engine.model, engine.accelerator = model, SimpleNamespace(device=torch.device("cpu"))
    engine._dist = SimpleNamespace(is_fsdp=fsdp is not None, fsdp_version=fsdp, gather_params=gather)
    return engine._iter_named_params()


def copied(walk) -> dict[str, torch.Tensor]:
    """Copies of what each step of the walk shows, for TRL then takes adapters off again."""
    return {name: weight.clone() for name, weight in walk}


def frozen(model) -> dict[str, torch.Tensor]:
    return copied(one for one in model.state_dict().items() if "lora_" not in one[0])


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Names, order, kinds and every bit."""
    return list(found) == list(expected) and all(
        weight.dtype == expected[name].dtype and torch.equal(weight, expected[name]) for name, weight in found.items()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_copies_are_sent_and_the_base_stays(tiny_model, dtype):
    """TRL's pairs to the bit, of use when all have been asked for: who sends them packs many into one message. The
    frozen weights to the bit, which TRL's way changes."""
    model = adapted(tiny_model, dtype)
    before = frozen(model)
    for _ in range(2):
        sent = dict(pairs(Engine, model))
    assert same(frozen(model), before)
    assert not any(layer.merged for layer in model.modules() if isinstance(layer, LoraLayer))
    assert same(sent, copied(pairs(VLLMGeneration, model)))
    assert not same(frozen(model), before)


def test_adapters_are_merged_while_weights_are_gathered(tiny_model):
    """As ZeRO-3 needs it: TRL's gathering, of the parameters themselves, around every pair; each keeps its storage."""
    model = adapted(tiny_model, "float32")
    places = [one.data_ptr() for one in model.parameters()]
    gathered = []

    @contextmanager
    def gather(parameters):
        gathered.append([id(one) for one in parameters])
        yield
        gathered.append([])

    steps = [(name, weight, len(gathered)) for name, weight in pairs(Engine, model, gather=gather)]
    assert gathered == [[id(one) for one in model.parameters()], []]
    assert {step for _, _, step in steps} == {1}
    assert [one.data_ptr() for one in model.parameters()] == places


def test_under_fsdp_each_part_is_put_back(tiny_model, tmp_path):
    expected = copied(pairs(VLLMGeneration, adapted(tiny_model, "bfloat16")))
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = adapted(tiny_model, "bfloat16")
        before = frozen(model)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        assert same(copied(pairs(Engine, model, fsdp=2)), expected)
        assert same({name: weight.full_tensor() for name, weight in frozen(model).items()}, before)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ({}, {}),
        (
            {"max_model_len": 600, "multimodal_config": {"mm_processor_kwargs": {"min_pixels": 1, "max_pixels": 1e9}}},
            {},
        ),
        ({"dtype": "torch.float16"}, {"--dtype bfloat16": "dtype float16"}),
        ({"logprobs_mode": "raw_logprobs"}, {"--logprobs-mode processed_logprobs": "logprobs_mode raw_logprobs"}),
        ({"generation_config": "auto"}, {"--generation-config vllm": "generation_config auto"}),
        (
            {"override_generation_config": {"max_new_tokens": 9}},
            {"--generation-config vllm": "generation_config {'max_new_tokens': 9}"},
        ),
        ({"max_model_len": 511}, {"--max-model-len 512": "max_model_len 511"}),
        (
            {"multimodal_config": {"mm_processor_kwargs": None}},
            {"""--mm-processor-kwargs '{"min_pixels": 784, "max_pixels": 57900}'""": "mm_processor_kwargs {}"},
        ),
    ],
)
def test_what_a_server_was_started_with(started, expected):
    assert unlike(STARTED | started, "bfloat16", LIMITS, 512) == expected
