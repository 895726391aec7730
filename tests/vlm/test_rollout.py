"""`vlm.prefix.rollout` against transformers' own `generate` on repeated rows; float32, tiny models of both families."""

import inspect
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import DynamicCache, GenerationConfig, GenerationMixin, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer

from tests.support import tiny_checkpoints as tiny
from vlm import loading
from vlm.adapters import apply_lora
from vlm.prefix import cache, media, rollout

NEW = 6
INDEX = {1: [0, 1, 2, 3], 4: [2, 0, 3, 0, 2, 1, 2, 2, 3]}  # neither sorted nor equally many
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 40, "top_p": 0.95}
WAYS = {
    "greedy": {"do_sample": False},
    "sampled": SAMPLED,
    "penalised": {**SAMPLED, "repetition_penalty": 1.3, "suppress_tokens": list(range(100, 300))},
    "static": {**SAMPLED, "cache_implementation": "static"},
    "beams": {"do_sample": False, "num_beams": 2},
    "several": {**SAMPLED, "num_return_sequences": 2},
}


pytestmark = [pytest.mark.versions, pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")]


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    return {"qwen2_vl": tiny_model, "qwen2_5_vl": str(tiny.qwen2_5_vl(tmp_path_factory, tiny_model))}


@pytest.fixture(scope="module")
def models(folders):
    """(family, attention) → model, made once."""
    made = {}

    def get(family, attention="sdpa"):
        if (family, attention) not in made:
            model = loading.load_model(tiny.section(folders[family], attention=attention)).eval()
            model.generation_config.eos_token_id = None  # random weights would end some rows at once
            made[family, attention] = model
        return made[family, attention]

    return get


@pytest.fixture(scope="module")
def prompts(tiny_model):
    """Four prompts of unequal length with 1, 0, 2 and 1 pictures of unequal size; or those named."""
    processor = loading.load_processor(tiny_model, tiny.pixels())
    shapes = [[(112, 112)], [], [(56, 112), (112, 56)], [(100, 60)]]

    def make(rows=(0, 1, 2, 3)):
        texts, pictures = [], []
        for row in rows:
            content = [{"type": "image"} for _ in shapes[row]] + [{"type": "text", "text": "Where is it? " * (row + 1)}]
            turn = [{"role": "user", "content": content}]
            texts.append(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
            pictures += [tiny.picture(*shape, seed=10 * row + n) for n, shape in enumerate(shapes[row])]
        inputs = processor(text=texts, images=pictures or None, padding=True, padding_side="left", return_tensors="pt")
        return dict(inputs)

    return make


def plain(model, inputs, index, **how):
    """The rows repeated by hand and independent of `rollout.select`: pictures by the number of vision starts."""
    start = model.config.vision_start_token_id
    ends = [0, *(inputs["input_ids"] == start).sum(-1).cumsum(0).tolist()]
    rows = {key: inputs[key][index] for key in rollout.PER_ROW}
    pictures = [picture for row in index for picture in range(ends[row], ends[row + 1])]
    if pictures:
        patches = inputs["pixel_values"].split(inputs["image_grid_thw"].prod(-1).tolist())
        rows["pixel_values"] = torch.cat([patches[picture] for picture in pictures])
        rows["image_grid_thw"] = inputs["image_grid_thw"][pictures]
    torch.manual_seed(7)
    return model.generate(**rows, **how)


@pytest.fixture(params=["shared", "grown"])
def kept(request, monkeypatch):
    """How prompts' keys are kept: once, however short they are, or for each row; `calls` of attention to the former."""
    once, calls, plain = request.param == "shared", [], cache.attend
    monkeypatch.setattr(cache, "LEAST", 1 if once else 1 << 40)
    monkeypatch.setattr(cache, "attend", lambda *given: calls.append(None) or plain(*given))
    return SimpleNamespace(once=once, calls=calls)


def shared(model, inputs, index, **how):
    torch.manual_seed(7)
    return rollout.generate(model, inputs, torch.tensor(index), **how)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("repeats", INDEX)
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_tokens_are_those_of_plain_generate(models, prompts, family, repeats, way, kept):
    model, inputs, index = models(family), prompts(), INDEX[repeats]
    how = {"max_new_tokens": NEW, **WAYS[way]}
    expected = plain(model, inputs, index, **how)
    assert shared(model, inputs, index, **how).equal(expected)
    once = kept.once and repeats == 4 and way not in ("static", "beams")
    assert len(kept.calls) == (model.config.text_config.num_hidden_layers * (NEW - 1) if once else 0)
    assert expected.shape[1] == inputs["input_ids"].shape[1] + NEW
    if "suppress_tokens" in how:
        assert not set(how["suppress_tokens"]) & set(expected[:, -NEW:].flatten().tolist())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [(0,), (1,), (1, 1), (0, 0), (2, 1)], ids=str)
def test_any_prompts(models, prompts, rows, attention, kept):
    """One prompt, no picture at all, no padding, and the mask that is dropped then."""
    model, inputs, index = models("qwen2_vl", attention), prompts(rows), [len(rows) - 1, *range(len(rows)), 0]
    how = {"generation_config": GenerationConfig(max_new_tokens=NEW, **SAMPLED, pad_token_id=0)}
    assert shared(model, inputs, index, **how).equal(plain(model, inputs, index, **how))


@pytest.mark.parametrize("how", ["return_dict_in_generate", "past_key_values"])
def test_a_cache_that_somebody_sees_is_what_transformers_makes(models, prompts, monkeypatch, how):
    monkeypatch.setattr(cache, "LEAST", 1)
    mine = DynamicCache()
    told = {how: True if how == "return_dict_in_generate" else mine}
    found = shared(models("qwen2_vl"), prompts(), INDEX[4], max_new_tokens=2, do_sample=False, **told)
    kept = mine if how == "past_key_values" else found.past_key_values
    length = prompts()["input_ids"].shape[1] + 1
    assert {type(layer) for layer in kept.layers} == {DynamicLayer}
    assert {tuple(layer.keys.shape[::2]) for layer in kept.layers} == {(9, length)}


def test_attention_is_switched_only_meanwhile(models, prompts, monkeypatch):
    """And not at all where a kind of attention has no sums to merge by."""
    monkeypatch.setattr(cache, "LEAST", 1)
    seen = []
    for name in ("sdpa", "eager"):
        model = models("qwen2_vl", name)
        config = model.model.language_model.config
        with model.lm_head.register_forward_hook(lambda *_, config=config: seen.append(config._attn_implementation)):
            shared(model, prompts(), INDEX[4], max_new_tokens=1)
        assert config._attn_implementation == name
    assert seen == ["shared_prefix_sdpa", "eager"]


@pytest.mark.parametrize("batch", [1, 3])
def test_prompts_prefilled_some_at_a_time(models, prompts, batch):
    model, inputs, seen = models("qwen2_5_vl"), prompts(), []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    with hook:
        tokens = shared(model, inputs, [0, 1, 2, 3], prefill_batch=batch, max_new_tokens=NEW)
    assert [rows for rows, length in seen if length > 1] == ([1] * 4 if batch == 1 else [3, 1])
    assert tokens.equal(plain(model, inputs, [0, 1, 2, 3], max_new_tokens=NEW))


def test_rows_end_where_they_would(models, prompts, kept):
    """Early stop: two tokens that rows sample are made ends, one row after another falls silent, and all before NEW."""
    model, inputs, index = models("qwen2_vl"), prompts(), INDEX[4]
    free = plain(model, inputs, index, max_new_tokens=24, **SAMPLED)[:, -24:]
    ends = sorted({int(row[3 + n % 5]) for n, row in enumerate(free)})
    how = {"max_new_tokens": 24, "eos_token_id": ends, "pad_token_id": 0, **SAMPLED}
    expected = plain(model, inputs, index, **how)
    stops = [(row == 0).int().argmax().item() for row in expected[:, inputs["input_ids"].shape[1] :]]
    assert len(set(stops)) > 2 and expected.shape[1] < inputs["input_ids"].shape[1] + 24
    assert shared(model, inputs, index, **how).equal(expected)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_lora(folders, prompts, family, kept):
    """A PEFT model with adapters that matter."""
    lora = tiny.SimpleNamespace(r=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj"])
    model = apply_lora(loading.load_model(tiny.section(folders[family])), lora).eval()
    inputs, index, how = prompts(), INDEX[4], {"max_new_tokens": NEW, **SAMPLED}
    without = shared(model, inputs, index, **how)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    expected = plain(model, inputs, index, **how)
    assert not expected.equal(without)
    assert shared(model, inputs, index, **how).equal(expected)
    assert "_prefill" not in vars(model.get_base_model())


def test_each_prompt_is_computed_once(models, prompts):
    """Hooks: patches through the vision tower, and tokens through the language model, prefill and then decoding."""
    model, inputs, patches, tokens = models("qwen2_vl"), prompts(), [], []
    tower = model.model.visual.register_forward_pre_hook(lambda module, args: patches.append(args[0].shape[0]))
    words = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    with tower, words:
        shared(model, inputs, INDEX[4], max_new_tokens=3, do_sample=False)
    assert patches == [len(inputs["pixel_values"])]
    assert tokens == [(4, inputs["input_ids"].shape[1]), (9, 1), (9, 1)]


def test_what_cannot_share_says_so_once_and_is_computed_plainly(models, prompts, caplog):
    model, inputs, index = models("qwen2_vl"), prompts(), INDEX[4]
    how = {"max_new_tokens": 2, "do_sample": False}
    expected = plain(model, inputs, index, **how)
    rollout._say_once.cache_clear()
    for _ in range(2):
        assert shared(model, inputs, index, use_cache=False, **how).equal(expected)
    assert sum("without a cache" in record.message for record in caplog.records) == 1
    model.train().gradient_checkpointing_enable()
    try:
        assert shared(model, inputs, index, **how).equal(plain(model, inputs, index, **how))
    finally:
        model.eval().gradient_checkpointing_disable()


def test_the_model_is_left_as_it_was(models, prompts, monkeypatch):
    model, inputs = models("qwen2_vl"), prompts()
    monkeypatch.setattr(model.model, "rope_deltas", torch.tensor([[5]]))
    for index in ([0, 0, 1], [0, 1, 2, 3]):
        shared(model, inputs, index, max_new_tokens=2)
        assert model.model.rope_deltas.tolist() == [[5]] and "_prefill" not in vars(model)
    with pytest.raises(ZeroDivisionError):
        shared(model, inputs, [0, 0], max_new_tokens=2, logits_processor=[lambda ids, scores: 1 / 0])
    assert model.model.rope_deltas.tolist() == [[5]] and "_prefill" not in vars(model)


def test_other_inputs_are_refused(models, prompts):
    model, inputs = models("qwen2_vl"), prompts()
    for index in ([0, 4], [-1], []):
        with pytest.raises(ValueError, match="prompt_index"):
            shared(model, inputs, index)
    with pytest.raises(ValueError, match=r"found \['pixel_values_videos'\]"):
        shared(model, {**inputs, "pixel_values_videos": inputs["pixel_values"]}, [0, 0])
    with pytest.raises(ValueError, match=r"\['attention_mask'\] missing"):
        shared(model, {"input_ids": inputs["input_ids"]}, [0, 0])
    grids = inputs["image_grid_thw"]
    with pytest.raises(ValueError, match="4 pictures, and image tokens for 3|do not fit"):
        media.counts(inputs["input_ids"][:3], {"image_grid_thw": grids}, model.config)
    with pytest.raises(ValueError, match="row 3: image tokens do not fit"):
        media.counts(inputs["input_ids"], {"image_grid_thw": grids[:3]}, model.config)
    assert media.counts(inputs["input_ids"], {"image_grid_thw": grids}, model.config) == [1, 0, 2, 1]


def test_the_upstream_methods_are_as_they_were():
    """What is overridden or called for as long as `generate` runs."""
    prefill = list(inspect.signature(GenerationMixin._prefill).parameters)
    assert prefill == ["self", "input_ids", "generation_config", "model_kwargs", "is_first_iteration"]
    for family in (transformers.Qwen2VLForConditionalGeneration, transformers.Qwen2_5_VLForConditionalGeneration):
        signature = inspect.signature(family._prepare_position_ids_for_generation)
        assert list(signature.parameters) == ["self", "inputs_tensor", "model_kwargs"]
    source = inspect.getsource(GenerationMixin)
    assert source.count("self._prefill(") == 2  # sampling (and greedy), and beams


def test_ids_without_a_text_are_unsayable():
    """Of an embedding of 12 rows and a tokenizer of 10 texts, one of them left out; by hand."""
    words = SimpleNamespace(get_vocab=lambda: {str(number): number for number in range(10) if number != 4})
    text = SimpleNamespace(vocab_size=12)
    config = SimpleNamespace(model_type="qwen2_vl", image_token_id=7, video_token_id=8, get_text_config=lambda: text)
    assert rollout.unsayable(config, words) == [4, 7, 8, 10, 11]


def test_top_p_of_whole_numbers_keeps_what_floats_keep():
    """By hand, and against transformers' own in float64."""
    shares = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.97, 0.01, 0.01, 0.01]])
    kept = rollout.FixedTopP(0.75)(None, shares.log()).isfinite()
    assert kept.tolist() == [[True, False, True, False], [True, False, False, False]]
    torch.manual_seed(0)
    scores = 4 * torch.randn(64, 500)
    scores[:, ::7] = -torch.inf  # as suppressed tokens are
    for p, least in ((0.9, 1), (0.3, 3), (1e-6, 1), (0.999, 1)):
        expected = TopPLogitsWarper(p, min_tokens_to_keep=least)(None, scores.double()).isfinite()
        found = rollout.FixedTopP(p, min_tokens_to_keep=least)(None, scores)
        assert torch.equal(found.isfinite(), expected) and torch.equal(found[expected], scores[expected])


def test_fixed_top_p_samples_as_transformers_does(models, prompts):
    """The same tokens from the same random numbers; only this warper is exchanged."""
    model = models("qwen2_vl", "sdpa")
    how = {"do_sample": True, "top_p": 0.8, "temperature": 0.7, "max_new_tokens": 6, "min_new_tokens": 6}
    torch.manual_seed(0)
    expected = model.generate(**prompts((0,)), **how)
    plain = model._get_logits_processor
    rollout.fix_top_p(model)
    try:
        torch.manual_seed(0)
        assert torch.equal(model.generate(**prompts((0,)), **how), expected)
        used = model._get_logits_processor(GenerationConfig(do_sample=True, top_p=0.8, temperature=0.7))
        assert [type(one).__name__ for one in used] == ["TemperatureLogitsWarper", "FixedTopP"]
    finally:
        del model._get_logits_processor
    assert model._get_logits_processor.__func__ is plain.__func__
