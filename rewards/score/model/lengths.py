"""How long an exchange is to the score model, and what becomes of one that is longer than it can read.

The model reads `max_position_embeddings` tokens. Beyond them an answer is cut, at its end: the turn's end, at which
the score is read, stays. What does not fit without any answer cannot be scored.
"""

from __future__ import annotations

from rewards.score.model.exchange import Exchange, render
from rewards.score.model.passes import CHARACTERS_PER_TOKEN, visual_tokens
from rewards.score.scorer import Fitted
from vlm.common.errors import DataError

CHAT_TOKENS = 16
"""What a chat template puts around a turn or an image, at most."""


def fit(exchange: Exchange, processor, most: int) -> Fitted:
    """The exchange, with as much of its answer as fits into `most` tokens.

    Raises: DataError where none of it does, or for an image that is missing or cannot be read.
    """
    visual = sum(visual_tokens(image, processor, len(exchange.images)) for image in exchange.images)
    texts = [turn["content"] for turn in exchange.messages]
    around = CHAT_TOKENS * (len(texts) + len(exchange.images) + 1)
    if (
        visual + around + sum(len(text.encode("utf-8", "replace")) for text in texts) <= most
    ):  # a byte is a token at most
        return Fitted(exchange, visual + around + sum(map(len, texts)) // CHARACTERS_PER_TOKEN)
    if visual >= most:
        raise DataError(
            f"exchange: found {len(exchange.images)} images of {visual} tokens; the score model reads {most} in all; "
            "show fewer images, or lower images.max_pixels"
        )

    def length(exchange: Exchange) -> int:
        return visual - len(exchange.images) + len(processor.tokenizer(render(exchange, processor)).input_ids)

    if (tokens := length(exchange)) <= most:
        return Fitted(exchange, tokens)
    answer = exchange.messages[-1]["content"]
    ends = [end for _, end in processor.tokenizer(answer, return_offsets_mapping=True).offset_mapping]
    kept = len(ends)
    while (excess := tokens - most) > 0:  # a second time where the cut made other tokens of what is before it
        kept -= excess
        if kept < 0:
            raise DataError(
                f"exchange: found {length(_answered(exchange, ''))} tokens without its answer; the score model reads "
                f"{most}; shorten the question, or show fewer or smaller images"
            )
        exchange = _answered(exchange, answer[: ends[kept - 1]] if kept else "")
        tokens = length(exchange)
    return Fitted(exchange, tokens, True)


def _answered(exchange: Exchange, answer: str) -> Exchange:
    *before, last = exchange.messages
    return Exchange((*before, {**last, "content": answer}), exchange.images)
