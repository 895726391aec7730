"""Sampled tokens that depend on a row's own seed, and on nothing that the row is computed with.

transformers draws for all rows of a batch from one stream of random numbers, so that a completion changes with the size
of the batch, with the rows before it, and where a run is continued. Here each row has numbers u_1, u_2, … of its own in
[0, 1), and token t is the first whose cumulated probability exceeds u_t: the inverse of the distribution function, an
exact draw. The same completions come out of any batches, up to the rounding of logits.

Overridden while `drawing` holds, on the instance: `GenerationMixin._get_logits_processor`, whose list gets one more at
its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from vlm.common.errors import UserError
from vlm.prefix.rollout import processing, replaced, unwrapped

ROWS = 64
"""Rows drawn at a time: float64 sums over Qwen2-VL's vocabulary take 74 MiB."""


class Draws(LogitsProcessor):
    """Leaves each row the one token that its next number draws from the scores before it."""

    def __init__(self, seeds: Sequence[Sequence[int]], longest: int):
        """seeds: of each row, as numpy's generator takes them. longest: new tokens of a row."""
        self.numbers = torch.from_numpy(np.stack([np.random.default_rng(seed).random(longest) for seed in seeds]))
        self.start: int | None = None
        self.faulty: Tensor | None = None
        "(B,) bool, rows whose scores had no finite maximum: asked once, for each question waits for the GPU."

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: (B, tokens so far). scores: (B, V), logits with -inf at what may not be drawn."""
        if self.start is None:
            self.start, self.numbers = input_ids.shape[1], self.numbers.to(scores.device)
        numbers = self.numbers[:, input_ids.shape[1] - self.start]
        faulty = ~scores.amax(-1).isfinite()
        self.faulty = faulty if self.faulty is None else self.faulty | faulty
        chosen = torch.cat([drawn(*rows) for rows in zip(scores.split(ROWS), numbers.split(ROWS), strict=True)])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def check(self) -> None:
        """Raises: UserError where a token was drawn from scores that are no numbers."""
        if self.faulty is not None and (rows := self.faulty.nonzero().flatten().tolist()):
            raise UserError(
                f"the model's scores are NaN or infinite, or leave no token, in {len(rows)} of {len(self.faulty)} rows "
                f"of a batch (the first is row {rows[0]}), so nothing can be drawn; expected finite scores. float16 "
                "overflows in some models: write model.dtype=bfloat16; else the checkpoint's weights are damaged"
            )


def drawn(scores: Tensor, numbers: Tensor) -> Tensor:
    """(B, 1), the token of each row. scores: (B, V) logits. numbers: (B,) float64 in [0, 1)."""
    sums = scores.double().softmax(-1).cumsum(-1)
    # a token of probability 0 does not raise the sum, so it is never the first above; rounding may leave none above
    below = torch.minimum(numbers[:, None] * sums[:, -1:], sums[:, -1:].nextafter(torch.zeros_like(sums[:, -1:])))
    # NaN sorts behind all, and an index out of range would break the GPU before `check` can say what is wrong
    return torch.searchsorted(sums, below, right=True).clamp(max=scores.shape[1] - 1)


@contextmanager
def drawing(model: PreTrainedModel, seeds: Sequence[Sequence[int]], longest: int) -> Iterator[None]:
    """Within, `model.generate` samples as above. seeds, longest: as `Draws` takes them.

    Raises: UserError at the end, as `Draws.check`."""
    base = unwrapped(model)
    made: list[Draws] = []

    def drawn_last(found: LogitsProcessorList) -> list[LogitsProcessor]:
        made.append(Draws(seeds, longest))
        return [*found, made[-1]]

    with replaced(base, "_get_logits_processor", processing(base, drawn_last)):
        yield
    for draws in made:
        draws.check()
