"""What is longer than the score model reads: an answer loses its end, a question has none to lose."""

from __future__ import annotations

import pytest

from rewards.score import Exchange, encode, render
from rewards.score.model.lengths import fit
from rewards.score.model.passes import visual_tokens
from rewards.score.placement import InProcess
from rewards.score.reward.faults import attempt
from tests.support.processes.commands import ROOT
from tests.support.tiny_checkpoints import picture, pixels
from vlm.common.errors import DataError
from vlm.loading import load_processor

pytestmark = pytest.mark.versions

SHIPS = "Ships lie in the harbor. "


@pytest.fixture(scope="module")
def processor():
    return load_processor(str(ROOT / "demo/score"), pixels(56 * 56, 1024 * 1024))


def tokens(exchange: Exchange, processor) -> int:
    """As the processor counts them, pictures included."""
    shown = list(exchange.images) or None
    return processor(text=[render(exchange, processor)], images=shown, return_tensors="pt").input_ids.shape[1]


@pytest.mark.parametrize("images", [(), (picture(84, 56), picture(56, 56))], ids=["text", "pictures"])
@pytest.mark.parametrize("answer", [SHIPS * 200, "é😀" * 300, " " * 66_000, "x"], ids=["words", "bytes", "blanks", "x"])
def test_an_answer_is_cut_at_the_last_token_that_fits(processor, images, answer):
    exchange = Exchange.of("What is there?", answer, images)
    found = fit(exchange, processor, 200)
    whole, kept = tokens(exchange, processor), found.exchange.messages[-1]["content"]
    assert found.cut == (whole > 200) and answer.startswith(kept) and found.exchange.images == images
    if found.cut:
        longer = Exchange.of("What is there?", answer[: len(kept) + 32], images)
        assert found.tokens == tokens(found.exchange, processor) <= 200 < tokens(longer, processor)
    else:
        assert found.exchange is exchange and found.tokens >= whole


def test_what_does_not_fit_without_an_answer_is_refused(processor):
    with pytest.raises(DataError, match=r"found \d+ tokens without its answer; the score model reads 50"):
        fit(Exchange.of(SHIPS * 50, "Yes."), processor, 50)
    with pytest.raises(DataError, match="found 1 images of 100 tokens; the score model reads 50 in all"):
        fit(Exchange.of("", "Yes.", [picture(280, 280)]), processor, 50)


def test_a_visual_token_of_qwen3_vl_is_32_pixels_wide(family_checkpoints):
    """160 × 96 pixels are 5 × 3 of them, where those of 28 would be 6 × 3. 290 × 230 are reduced to 16,384 pixels, by
    √(290 · 230 / 16384) = 2.02: 143.7 × 114.0, in which there is room for 4 × 3."""
    processor = load_processor(family_checkpoints("qwen3_vl"), pixels(64 * 64, 128 * 128))
    for size, expected in (((160, 96), 15), ((290, 230), 12)):
        exchange = Exchange.of("", "Yes.", [picture(*size)])
        assert visual_tokens(exchange.images[0], processor) == expected
        placeholders = encode([exchange], processor)["input_ids"] == processor.image_token_id
        assert placeholders.sum() == expected
        with pytest.raises(DataError, match=f"found 1 images of {expected} tokens; the score model reads 5 in all"):
            fit(exchange, processor, 5)


def test_in_the_training_process_it_is_cut_and_counted_too(caplog):
    """The same score as of the answer that was cut by hand; the row beside it is scored as ever."""
    scorer = InProcess(str(ROOT / "demo/score"), dtype="float32")
    model = scorer.load()
    model.config.text_config.max_position_embeddings = 200
    long, short = Exchange.of("What?", SHIPS * 200), Exchange.of("What?", "A ship.")
    by_hand = fit(long, model.processor, 200).exchange
    tried = attempt(scorer, [long, short])
    assert tried.scores == pytest.approx(model.score([by_hand, short]), abs=1e-5)
    assert scorer.cut == 1 and "1 answers were longer than the score model" in caplog.text
