"""The score model: golden scores, positions, what a score may depend on, gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from rewards.score import Exchange, ScoreModel, encode
from tests.support.tiny_checkpoints import picture, qwen2_5_vl
from vlm.common.errors import DataError, RecipeError

pytestmark = pytest.mark.versions

SCORERS = ["scorer", "scorer_2_5", "scorer_3"]
"""A fixture for each family: Qwen2-VL, Qwen2.5-VL, Qwen3-VL."""
GOLDEN = Path(__file__).parents[1] / "golden" / "scorers"


@pytest.fixture(scope="module")
def case():
    with np.load(GOLDEN / "case0.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module", params=["mrope", "sequential"])
def published(request):
    return ScoreModel.from_pretrained(GOLDEN / "checkpoint", positions=request.param).eval()


@pytest.fixture(scope="module")
def scorer(tiny_model):
    return ScoreModel.from_backbone(tiny_model, dtype="float32").eval()


@pytest.fixture(scope="module")
def scorer_2_5(tmp_path_factory, tiny_model):
    return ScoreModel.from_backbone(qwen2_5_vl(tmp_path_factory, tiny_model), dtype="float32").eval()


@pytest.fixture(scope="module")
def scorer_3(family_checkpoints):
    return ScoreModel.from_backbone(family_checkpoints("qwen3_vl"), dtype="float32").eval()


def inputs(case, rows=slice(None), patches=slice(None)):
    names = ("input_ids", "attention_mask", "image_grid_thw")
    return {name: case[name][rows] for name in names} | {"pixel_values": case["pixel_values"][patches]}


def exchanges():
    harbor, city = picture(100, 80, seed=1), picture(140, 150, seed=2)
    return [
        Exchange.of("How many ships are there?", "Two ships lie at the pier.", [harbor]),
        Exchange.of("", "A harbor.", [harbor]),
        Exchange.of("What is the capital of France?", "Paris."),
        Exchange.of(
            "What has changed between the two?", "The second one shows a city, and it is larger.", [harbor, city]
        ),
        Exchange.of("How many ships are there?", "", [city]),
        Exchange((*Exchange.of("Is it a port?", "Yes.").messages, *Exchange.of("Why?", "Piers.").messages), [harbor]),
    ]


def logits(model, found, **options):
    with torch.no_grad():
        return model(**encode(found, model.processor, **options)).logits[:, 0]


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=1e-5)


@torch.no_grad()
def test_golden_scores(published, case):
    golden = case[published.config.positions]
    torch.testing.assert_close(published(**inputs(case)).logits, golden[:, None], rtol=0, atol=1e-4)


@torch.no_grad()
def test_fault_11_first_and_later_calls_are_equal(published, case):
    """Published: M-RoPE in the first forward pass only; `rope_deltas` is kept, and later passes go 0 … L-1."""
    first = published(**inputs(case)).logits
    text = {name: case[name][1:, :5] for name in ("input_ids", "attention_mask")}
    alone = published(**inputs(case, slice(1, 2), slice(64, None))).logits  # another shape, another picture
    published(**text)
    later = published(**inputs(case)).logits
    assert torch.equal(first, later)
    close(alone, first[1:])
    torch.testing.assert_close(later[:, 0], case[published.config.positions], rtol=0, atol=1e-4)
    assert published.model.rope_deltas is None


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_golden_scores_do_not_depend_on_padding(published, case, side):
    golden, pad = case[published.config.positions], published.config.text_config.pad_token_id
    for row, length in enumerate(case["attention_mask"].sum(1).tolist()):
        ids = case["input_ids"][row, :length]
        batch = {"image_grid_thw": case["image_grid_thw"][row : row + 1]}
        batch["pixel_values"] = case["pixel_values"][64 * row : 64 * (row + 1)]
        for extra in (0, 1, 17):
            width = (extra, 0) if side == "left" else (0, extra)
            padded = torch.nn.functional.pad(ids, width, value=pad)[None]
            mask = torch.nn.functional.pad(torch.ones_like(ids), width)[None]
            close(published(input_ids=padded, attention_mask=mask, **batch).logits[0, 0], golden[row])


def test_positions_by_hand(scorer):
    """Two words, a picture of 4 × 6 patches (2 × 3 tokens), a word; then three words without a picture, padded."""
    image, word = scorer.config.image_token_id, 5
    ids = torch.tensor([[word, word, *[image] * 6, word], [word, word, word, *[0] * 6]])
    mask = (ids != 0).long()
    expected = [
        [[0, 1, 2, 2, 2, 2, 2, 2, 5], [0, 1, 2]],  # time
        [[0, 1, 2, 2, 2, 3, 3, 3, 5], [0, 1, 2]],  # height
        [[0, 1, 2, 3, 4, 2, 3, 4, 5], [0, 1, 2]],  # width
    ]
    found = scorer.position_ids(ids, mask, torch.tensor([[1, 4, 6]]))
    for axis, (first, second) in zip(found.tolist(), expected, strict=True):
        assert axis[0] == first and axis[1][:3] == second
    plain = scorer.position_ids(ids, mask, None)
    assert plain[:, 0].tolist() == [list(range(9))] * 3 and plain[:, 1, :3].tolist() == [[0, 1, 2]] * 3
    left = scorer.position_ids(ids[1:].flip(1), mask[1:].flip(1), None)
    assert left[0, 0, -3:].tolist() == [0, 1, 2]


@torch.no_grad()
@pytest.mark.parametrize("family", SCORERS)
def test_a_score_is_the_head_times_the_language_models_last_state(family, request):
    """Against transformers' own class with its processor: hidden state of the last token, times the head."""
    model = request.getfixturevalue(family)
    stock = AutoModelForImageTextToText.from_pretrained(model.config._name_or_path)
    for exchange in exchanges():
        first, *rest = exchange.messages
        blocks = [{"type": "image", "image": image} for image in exchange.images]
        chat = [{"role": "user", "content": [*blocks, {"type": "text", "text": first["content"]}]}, *rest]
        text = model.processor.apply_chat_template(chat, tokenize=False)
        batch = model.processor(text=[text], images=list(exchange.images) or None, return_tensors="pt")
        hidden = stock.float().eval()(**batch, output_hidden_states=True).hidden_states[-1]
        close(model.score([exchange]), (hidden[:, -1] @ model.reward_head.weight[0]))


@pytest.mark.parametrize("family", SCORERS)
def test_scores_do_not_depend_on_batch_or_order(family, request):
    model, found = request.getfixturevalue(family), exchanges()
    alone = [model.score([exchange])[0] for exchange in found]
    assert len({round(value, 3) for value in alone}) == len(found)
    for size in (1, 2, 4, 100):
        close(model.score(found, batch_size=size), alone)
        close(model.score(found[::-1], batch_size=size), alone[::-1])
    close(logits(model, found), alone)
    close(logits(model, found, share_images=True), alone)
    assert model.score(found, batch_size=4) == model.score(found, batch_size=4)
    assert model.score([]) == []


def test_the_image_matters(scorer):
    found = Exchange.of("How many ships are there?", "Two.", [picture(112, 112)])  # 8 × 8 patches, 16 tokens
    scores = scorer.score([found, replace(found, images=[picture(112, 112, seed=9)]), replace(found, images=[])])
    assert min(abs(scores[0] - scores[1]), abs(scores[0] - scores[2])) > 1e-3
    batch = encode([found], scorer.processor)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="16 image placeholders and 0 visual tokens: .* scored blind"):
        scorer(**text)
    with pytest.raises(ValueError, match="16 image placeholders and 32 visual tokens"):
        scorer(**encode([replace(found, images=found.images * 2)], scorer.processor) | text)
    with pytest.raises(ValueError, match="0 image placeholders and 16 visual tokens"):
        scorer(**batch | {"input_ids": torch.zeros_like(batch["input_ids"])})


@pytest.mark.parametrize(("batch_size", "family"), [(2, "scorer"), (3, "scorer"), (8, "scorer"), (3, "scorer_3")])
def test_each_picture_is_encoded_once(batch_size, family, request, tmp_path):
    scorer = request.getfixturevalue(family)
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, file in enumerate(files):
        picture(112, 112, seed=number).save(file)
    found = [Exchange.of("What?", "word " * (number + 1), [files[number % 3]]) for number in range(12)]
    seen = []
    hook = scorer.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    try:
        scores = scorer.score(found, batch_size=batch_size)
        assert sum(seen) == 3
        close(logits(scorer, found, share_images=True), scores)
        assert sum(seen) == 6
    finally:
        hook.remove()


def test_score_gives_every_module_its_mode_back(scorer):
    scorer.train()
    scorer.model.visual.eval()
    scorer.score(exchanges()[:1])
    assert scorer.training and scorer.model.language_model.training and not scorer.model.visual.training
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        scorer.score([Exchange.of("", "A pier.", ["/nowhere/gone.png"])])
    assert scorer.training
    scorer.eval()


def test_no_processor_no_scores():
    model = ScoreModel.from_pretrained(GOLDEN / "checkpoint")
    assert model.processor is None
    with pytest.raises(RecipeError, match=r"no processor; set `\.processor`"):
        model.score([Exchange.of("", "A pier.")])


def gradients(model, **options):
    batch = encode([exchange for exchange in exchanges() if exchange.images], model.processor, **options)
    model.zero_grad()
    found = model(**batch).logits[:, 0]
    torch.nn.functional.softplus(-(found[0] - found[1:])).mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", SCORERS)
def test_gradients(family, request):
    """They reach every tensor; sharing pictures and checkpointing change nothing about them."""
    model = request.getfixturevalue(family).train()
    try:
        plain = gradients(model)
        assert all(gradient.abs().max() > 0 for name, gradient in plain.items() if "k_proj.bias" not in name)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert model.is_gradient_checkpointing
        for found in (gradients(model), gradients(model, share_images=True)):
            for name, gradient in plain.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    finally:
        model.gradient_checkpointing_disable()
        model.zero_grad()
        model.eval()


def softplus_of_the_first(found):
    return torch.nn.functional.softplus(-(found[0] - found[1:])).mean()


@pytest.mark.parametrize("side", ["right", "left"])
def test_deepstack(scorer_3, side):
    """Scores and each gradient are those of transformers' own forward pass, from pixels; without what the deepstack
    mergers see, the scores are others."""
    stock = AutoModel.from_pretrained(scorer_3.config._name_or_path).eval()
    batch = encode(exchanges(), scorer_3.processor)
    if side == "left":
        mask = batch["attention_mask"]
        batch |= {"input_ids": rolled(batch["input_ids"], mask), "attention_mask": rolled(mask, mask)}
    types = (batch["input_ids"] == stock.config.image_token_id).int()
    hidden = stock(**batch, mm_token_type_ids=types).last_hidden_state
    ends = [int(row.nonzero()[-1]) for row in batch["attention_mask"]]
    head = scorer_3.reward_head.weight.detach().clone().requires_grad_()
    expected = hidden[range(len(ends)), ends] @ head[0]
    softplus_of_the_first(expected).backward()
    scorer_3.zero_grad()
    found = scorer_3(**batch).logits[:, 0]
    close(found, expected)
    softplus_of_the_first(found).backward()
    gradients = {f"model.{name}": parameter.grad for name, parameter in stock.named_parameters()}
    assert sum("deepstack_merger_list" in name for name in gradients) == 12
    for name, parameter in scorer_3.named_parameters():
        gradient = gradients.get(name, head.grad)
        assert (parameter.grad - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name
        assert gradient.norm() > 0 or "k_proj" in name, name
    scorer_3.zero_grad()
    with torch.no_grad():
        media = {name: batch[name] for name in ("pixel_values", "image_grid_thw")}
        seen = scorer_3.image_features(**media)
        width = scorer_3.config.text_config.hidden_size
        assert {one.shape[1] for one in seen} == {3 * width}
        merged = stock.get_image_features(**media, return_dict=True).pooler_output
        for one, expected in zip(seen, merged, strict=True):
            close(one[:, :width], expected)
        for dropped in (1,), (2,), (1, 2):  # the deepstack layers
            less = [[x * (n not in dropped) for n, x in enumerate(one.split(width, 1))] for one in seen]
            without = scorer_3(**batch | {"image_features": [torch.cat(parts, 1) for parts in less]}).logits[:, 0]
            for change, exchange in zip((without - found).abs().tolist(), exchanges(), strict=True):
                assert change > (5e-2 if len(dropped) == 2 else 5e-3) if exchange.images else change == 0


def rolled(rows, mask):
    """Padding moved from the end of each row to its beginning."""
    return torch.stack([row.roll(int((1 - there).sum())) for row, there in zip(rows, mask, strict=True)])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_lora(family, tiny_model, family_checkpoints):
    from peft import LoraConfig, get_peft_model

    path = tiny_model if family == "qwen2_vl" else family_checkpoints(family)
    model = ScoreModel.from_backbone(path, dtype="float32")
    before = model.score(exchanges())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "qkv"], modules_to_save=["reward_head"]))
    close(adapted.score(exchanges()), before)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("visual" in name for name in trained) and any("reward_head.modules_to_save" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    adapted(**encode(exchanges(), model.processor)).logits.sum().backward()
    optimizer.step()
    after = adapted.score(exchanges())
    assert min(abs(x - y) for x, y in zip(before, after, strict=True)) > 1e-3
    assert adapted.merge_and_unload().score(exchanges()) == pytest.approx(after, rel=1e-5, abs=1e-5)


def test_the_head_multiplies_in_float32(tiny_model):
    model = ScoreModel.from_backbone(tiny_model, dtype="bfloat16")
    assert model.dtype == model.reward_head.weight.dtype == torch.bfloat16
    hidden = torch.randn(3, 192).bfloat16()
    exact = (hidden.double() @ model.reward_head.weight[0].double()).tolist()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model.reward_head(hidden)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == pytest.approx(exact, rel=1e-5, abs=1e-6)
