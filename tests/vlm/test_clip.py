"""CLIP-score, with a tiny random CLIP: against transformers' own forward pass, and what it does with long texts."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from rewards.score.model.exchange import Exchange
from rewards.select import scorers
from rewards.select.clip import ClipScorer
from tests.support.scores import tiny_clip
from vlm.common.errors import DataError, RecipeError

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip.build(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return ClipScorer(str(folder), batch_size=3)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8))


def plain(clip, image, text):
    """The cosine by the model's own forward pass, whose logits are exp(logit_scale) times it."""
    inputs = clip.processor(text=[text], images=[image], return_tensors="pt", truncation=True, max_length=77)
    with torch.inference_mode():
        out = clip.model(**inputs)
        return float(out.logits_per_image / clip.model.logit_scale.exp())


def test_scores_are_the_cosines_of_the_model_itself(clip):
    pairs = [(picture(n), text) for n, text in enumerate(["a dam", "two ships at a pier", "b", "a dam", "road"])]
    given = clip.score([Exchange.of("ignored", text, images=[image]) for image, text in pairs])
    assert given == pytest.approx([plain(clip, *pair) for pair in pairs], abs=1e-5)
    assert np.std(given) > 0.01 and all(-1 <= score <= 1 for score in given)


def test_neither_batch_nor_order_nor_neighbours_matter(clip):
    shared = picture(9)
    exchanges = [Exchange.of("", "word " * n + "end", images=[shared if n % 2 else picture(n)]) for n in range(7)]
    together = clip.score(exchanges)
    assert clip.score(exchanges[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    assert [clip.score([exchange])[0] for exchange in exchanges] == pytest.approx(together, abs=1e-5)
    assert clip.score([]) == []


def test_an_image_is_encoded_once_for_all_its_answers(clip, monkeypatch):
    seen = []
    encode = clip.model.get_image_features
    monkeypatch.setattr(
        clip.model, "get_image_features", lambda pixel_values: seen.append(len(pixel_values)) or encode(pixel_values)
    )
    image = picture(1)
    clip.score([Exchange.of("", text, images=[image]) for text in ("a", "b", "c")])
    assert seen == [1]


def test_long_texts_are_cut_at_77_tokens_and_counted(folder, caplog):
    """A letter is a token; with start and end 75 letters just fit."""
    clip, image = ClipScorer(str(folder)), picture(2)
    fits, longer, longest = ("a" * n for n in (75, 76, 300))
    scores = clip.score([Exchange.of("", text, images=[image]) for text in (fits, longer, longest, "a")])
    assert (clip.texts, clip.truncated) == (4, 2)
    assert scores[1] == pytest.approx(scores[2], abs=1e-5), "what differs lies behind the cut"
    assert abs(scores[3] - scores[2]) > 1e-3
    with caplog.at_level(logging.WARNING):
        scorers.note_truncation(clip)
    assert "2 of 4 texts were longer than 77 tokens" in caplog.text


def test_answer_or_whole_exchange(folder, clip):
    image = picture(3)
    talk = Exchange(
        (
            {"role": "user", "content": "how many ships"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "where"},
            {"role": "assistant", "content": "at the pier"},
        ),
        (image,),
    )
    whole = ClipScorer(str(folder), text="exchange")
    assert clip.score([talk])[0] == pytest.approx(plain(clip, image, "at the pier"), abs=1e-5)
    expected = plain(clip, image, "how many ships 2 where at the pier")
    assert whole.score([talk])[0] == pytest.approx(expected, abs=1e-5)
    assert whole.score([Exchange.of("", "a dam", images=[image])])[0] == pytest.approx(
        plain(clip, image, "a dam"), abs=1e-5
    )


def test_several_images_are_averaged(clip):
    a, b = picture(4), picture(5)
    both = clip.score([Exchange.of("", "a dam", images=[a, b])])[0]
    assert both == pytest.approx((plain(clip, a, "a dam") + plain(clip, b, "a dam")) / 2, abs=1e-5)


def test_files_and_what_cannot_be_seen(clip, tmp_path):
    image = picture(6)
    image.save(tmp_path / "a.png")
    given = clip.score([Exchange.of("", "a dam", images=[str(tmp_path / "a.png")])])[0]
    assert given == pytest.approx(plain(clip, image, "a dam"), abs=1e-5)
    with pytest.raises(DataError, match="found no image with 'a dam'"):
        clip.score([Exchange.of("", "a dam")])
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(DataError, match="broken.png"):
        clip.score([Exchange.of("", "a dam", images=[str(tmp_path / "broken.png")])])


def test_no_clip_checkpoint(tmp_path, tiny_model):
    with pytest.raises(RecipeError, match="clip.path: no CLIP checkpoint can be read from"):
        ClipScorer(str(tmp_path))
    with pytest.raises(RecipeError, match="clip.path: .* (lacks|no CLIP)"):
        ClipScorer(tiny_model)
