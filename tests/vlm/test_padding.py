"""Padded rows under FlashAttention-2, with the stand-in for flash-attn: the stand-in against SDPA, then ours against
transformers' own unpadding, and how often each waits for the device."""

import inspect
from collections import Counter

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from rewards.score.model.score_model import ScoreModel
from tests.support import tiny_checkpoints as tiny
from vlm import loading
from vlm.adapters import apply_lora
from vlm.prefix import attention, padding, rollout

pytestmark = pytest.mark.versions

HALF = torch.bfloat16
LEFT = [0, 9, 31]
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_p": 0.99, "top_k": 0, "suppress_tokens": [300, 301]}
WAYS = {
    "greedy": {"do_sample": False},
    "sampled": SAMPLED,
    "beams": {"do_sample": False, "num_beams": 2},
    "static": {"do_sample": False, "cache_implementation": "static"},
}


@pytest.fixture(autouse=True)
def forget():
    """Each test chooses its kernel again."""
    padding.decoder.cache_clear()


def load(path, own: bool = True):
    """In bfloat16; own: as we load it, else with transformers' own FlashAttention-2."""
    model = loading.load_model(tiny.section(path, dtype="bfloat16", attention="flash_attention_2")).eval()
    assert model.model.language_model.config._attn_implementation == attention.NAMES["flash_attention_2"]
    if not own:
        model.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    model.generation_config.eos_token_id = None
    return model


def prompts(left=LEFT, length=40):
    """Text alone, padded on the left."""
    ids = torch.randint(20, 300, (len(left), length), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "attention_mask": (torch.arange(length) >= torch.tensor(left)[:, None]).long()}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: numbers read from a tensor, and sizes that depend on its values."""

    NAMES = ("item", "is_nonzero", "nonzero", "_local_scalar_dense")

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.found[name] += name in self.NAMES
        return func(*args, **(kwargs or {}))


# the stand-in


def states(*shapes, grad=False):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=draw).to(HALF).requires_grad_(grad) for shape in shapes]


def reference(q, k, v, seen):
    """(L, H, D) each → (Lq, H, D) in float32."""
    q, k, v = (x.float().transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1)


@pytest.mark.parametrize(("causal", "window"), [(True, (-1, -1)), (False, (-1, -1)), (True, (2, 2)), (False, (1, 3))])
def test_stand_in_is_attention(flash_attn, causal, window):
    """Unequal rows, more keys than queries, grouped heads; the mask ends at the bottom right. Gradients too."""
    q, k, v = states((9, 4, 8), (15, 2, 8), (15, 2, 8), grad=True)
    bounds = [torch.tensor(x, dtype=torch.int32) for x in ([0, 3, 9], [0, 7, 15])]
    found = flash_attn.flash_attn_varlen_func(q, k, v, *bounds, 6, 8, causal=causal, window_size=window)
    expected = []
    for rows, keys in ((slice(0, 3), slice(0, 7)), (slice(3, 9), slice(7, 15))):
        a, b = q[rows], k[keys]
        behind = torch.arange(len(a))[:, None] + len(b) - len(a) - torch.arange(len(b))
        seen = (behind >= 0) | (not causal)
        seen = seen & ((behind <= window[0]) | (window[0] < 0)) & ((behind >= -window[1]) | (window[1] < 0))
        expected.append(reference(a, b, v[keys], seen))
    expected = torch.cat(expected)
    assert (found - expected).abs().max() < 2**-7
    got, wanted = (torch.autograd.grad(x.float().sin().sum(), (q, k, v)) for x in (found, expected))
    assert max((a.float() - b.float()).abs().max() for a, b in zip(got, wanted, strict=True)) < 2**-5
    one = flash_attn.flash_attn_func(q[None, :3], k[None, :7], v[None, :7], causal=causal, window_size=window)
    assert one[0].equal(found[:3])


def test_stand_in_checks_what_the_real_one_checks(flash_attn):
    q, k, v = states((6, 4, 8), (6, 2, 8), (6, 2, 8))
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)

    def call(q=q, k=k, v=v, a=bounds, b=bounds, longest=4, **more):
        return flash_attn.flash_attn_varlen_func(q, k, v, a, b, longest, longest, **more)

    assert call().shape == q.shape
    faults = {
        "only fp16 and bf16": {"q": q.float()},
        "query, key and value are": {"k": k.half()},
        "key and value differ": {"v": v[:5]},
        "do not divide": {"k": k[:, :1].expand(-1, 3, -1), "v": v[:, :1].expand(-1, 3, -1)},
        "must have dtype int32": {"a": bounds.long()},
        "of 6 rows": {"b": bounds - 1},
        "do not rise": {"a": torch.tensor([0, 7, 6], dtype=torch.int32)},
        "the longest row 4": {"longest": 3},
        "does not know softcap": {"softcap": 1.0},
    }
    for message, given in faults.items():
        with pytest.raises(RuntimeError, match=message):
            call(**given)
    with pytest.raises(TypeError):
        call(attention_mask=None)
    cache = torch.zeros(2, 3, 2, 8, dtype=HALF)
    ends = torch.tensor([3, 3], dtype=torch.int32)
    for message, given in {
        "contiguous last": {"k_cache": cache.transpose(2, 3)},
        "leftpad: torch.int64": {"cache_leftpad": ends.long()},
        "from 0 to 4": {"cache_seqlens": ends + 1},
        "no backward": {"q": torch.zeros(2, 1, 4, 8, dtype=HALF, requires_grad=True)},
    }.items():
        whole = {"q": torch.zeros(2, 1, 4, 8, dtype=HALF), "k_cache": cache, "v_cache": cache, "cache_seqlens": ends}
        with pytest.raises(RuntimeError, match=message):
            flash_attn.flash_attn_with_kvcache(**(whole | given))


# ours


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_transformers_unpadding(flash_attn, tiny_model, way):
    how = {"max_new_tokens": 6, **WAYS[way]}
    found = []
    for own in (False, True):
        model = load(tiny_model, own)
        flash_attn.calls.clear()
        torch.manual_seed(5)
        found.append(model.generate(**prompts(), **how))
        # a static cache may be compiled, and stays with transformers
        decoded = "flash_attn_with_kvcache" if own and way != "static" else "unpadded decoding"
        assert flash_attn.calls[decoded] >= 5 * len(model.model.language_model.layers)
        assert flash_attn.calls["unpadded decoding"] == 0 or decoded == "unpadded decoding"
        assert flash_attn.calls["torch.float32"] == 0
    assert found[0].equal(found[1])


@pytest.mark.parametrize(("left", "lora"), [(LEFT, False), (LEFT, True), ([0, 0, 0], False), ([7], False)], ids=str)
def test_a_shared_rollout(flash_attn, tiny_model, left, lora):
    """Prompts prefilled once, rows in any number; adapters that matter."""
    index, found = torch.tensor([0, len(left) - 1, 0, 0, len(left) - 1]), []
    for own in (False, True):
        model = load(tiny_model, own)
        if lora:
            asked = tiny.SimpleNamespace(r=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj"])
            torch.manual_seed(2)
            model = apply_lora(model, asked).eval()
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.5)
        flash_attn.calls.clear()
        torch.manual_seed(5)
        found.append(rollout.generate(model, prompts(left), index, max_new_tokens=6, **WAYS["sampled"]))
    assert found[0].equal(found[1]) and flash_attn.calls["unpadded decoding"] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_training_pass(flash_attn, tiny_model, side):
    """Outputs and gradients of padded rows, on either side; the indices are found once, not once a layer."""
    inputs = prompts()
    if side == "right":
        inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    there, found = inputs["attention_mask"].bool(), []
    for own in (False, True):
        model = load(tiny_model, own)
        with Waits() as waits:
            logits = model(**inputs).logits
        loss = logits[there].float().logsumexp(-1).sum()
        loss.backward()
        found.append((logits[there], {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        layers = len(model.model.language_model.layers)
        assert waits.found["nonzero"] == (1 if own else layers)
    assert found[0][0].equal(found[1][0])
    assert all(gradient.equal(found[1][1][name]) for name, gradient in found[0][1].items()) and found[0][1]


def per_token(model, **how) -> dict[str, int]:
    """What one more token of a rollout costs in waits, by kind."""
    counts = []
    for new in (3, 4):
        with torch.inference_mode(), Waits() as waits:
            model.generate(**prompts(), max_new_tokens=new, **how)
        counts.append(waits.found)
    return {name: counts[1][name] - counts[0][name] for name in counts[1] if counts[1][name] > counts[0][name]}


@pytest.mark.parametrize("how", [{"do_sample": False}, SAMPLED], ids=["greedy", "sampled"])
def test_a_token_waits_for_nothing_of_ours(flash_attn, tiny_model, how):
    """transformers' loop asks once whether rows are unfinished, whatever the model. Its own unpadding waits twice in
    each layer, and its mask function once more."""
    model = load(tiny_model, own=False)
    layers = len(model.model.language_model.layers)
    assert per_token(model, **how) == {"is_nonzero": 2, "nonzero": layers, "item": layers}
    assert per_token(load(tiny_model), **how) == {"is_nonzero": 1}


def test_a_score_model_unpads_once_a_pass(flash_attn, tiny_model):
    """Padded exchanges, as `share_prefix: false` scores them."""
    model = ScoreModel.from_backbone(tiny_model, dtype="bfloat16", attention="flash_attention_2").eval()
    inputs, found, waited = prompts(), [], []
    for name in (attention.NAMES["flash_attention_2"], "flash_attention_2"):
        model.model.language_model.config._attn_implementation_internal = name
        with torch.no_grad(), Waits() as waits:
            found.append(model(**inputs).logits)
        waited.append(waits.found["nonzero"])
    assert found[0].equal(found[1]) and waited == [1, len(model.model.language_model.layers)]


@pytest.mark.parametrize("fault", ["older", "wrong"])
def test_a_kernel_that_cannot_is_not_used(flash_attn, tiny_model, monkeypatch, caplog, fault):
    """Said once; the tokens are right all the same."""
    expected = load(tiny_model, own=False).generate(**prompts(), max_new_tokens=4, do_sample=False)
    real = flash_attn.flash_attn_with_kvcache
    kernels = {
        "older": lambda q, k_cache, v_cache, cache_seqlens=None, softmax_scale=None: None,
        # a key before the row's first one
        "wrong": lambda *given, cache_leftpad, **named: real(*given, cache_leftpad=(cache_leftpad - 1).relu(), **named),
    }
    kernels["wrong"].__signature__ = inspect.signature(real)
    monkeypatch.setattr(flash_attn, "flash_attn_with_kvcache", kernels[fault])
    model = load(tiny_model)
    for _ in range(2):
        assert model.generate(**prompts(), max_new_tokens=4, do_sample=False).equal(expected)
    said = [record.message for record in caplog.records if "unpads in every layer" in record.message]
    wanted = {"older": "flash-attn 2.8.3 has no cache_leftpad, 2.6 has", "wrong": "from the same attention by SDPA"}
    assert len(said) == 1 and wanted[fault] in said[0]


def test_rows_padded_on_the_right_are_not_continued(flash_attn, tiny_model):
    inputs = prompts()
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    with pytest.raises(RuntimeError, match="must be padded on the left"):
        load(tiny_model).generate(**inputs, max_new_tokens=4, do_sample=False)


def test_sliding_windows_stay_with_transformers(flash_attn, tiny_model, caplog):
    model = load(tiny_model, own=False)
    model.model.language_model.config.layer_types[-1] = "sliding_attention"
    attention.pad_once(model)
    assert model.model.language_model.config._attn_implementation == "flash_attention_2"
    assert "it has layers of sliding-window attention" in caplog.text


def test_sdpa_is_left_alone(tiny_model):
    model = loading.load_model(tiny.section(tiny_model))
    assert model.model.language_model.config._attn_implementation == "sdpa"
