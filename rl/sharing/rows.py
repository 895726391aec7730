"""GRPO on shared prefixes: which completions share a prompt, and log-probabilities with each prompt computed once.

A micro-batch becomes one packed row (`vlm.prefix`): of each unique prompt all tokens but the last, then for each of its
completions a segment of the prompt's last token and the completion's tokens but the last. So the hidden state of each
segment token predicts the completion token of the same number, and nothing but completion tokens reaches the LM head.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from vlm.common.errors import UserError
from vlm.common.processes import processes
from vlm.prefix import Packed, multimodal, pack, rope_positions
from vlm.prefix.pictures import Contents, ImageMemo, blank_picture
from vlm.rollout import PICTURES, choose, first_places, row_numbers

TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
"""Of the parity check, in nats. float32: of the largest difference of any token; summing in another order gives some
1e-6. Half precision: of the mean over tokens, because rounding alone moves single tokens by tenths. On the demo's base,
mean over tokens: shared against plain 0.010 in bfloat16 and 0.0019 in float16 (plain bfloat16 is 0.05 from its own
float32), and with wrong pixels 0.28."""


class Rows(list):
    """Pictures per row, as TRL's `num_images`, and with it what travels with the rows wherever TRL slices them not.

    prompts: which unique prompt each row has. pictures: which of the stored pictures each row shows, in order; of a
    picture that several rows show, `pixel_values` and `image_grid_thw` hold one. shares: each row's part in its prompt
    and in its pictures, so that over the rows of a generation batch they add up to the unique ones.
    """

    def __init__(
        self,
        prompts: Sequence[int],
        pictures: Sequence[Sequence[int]],
        shares: Sequence[tuple[float, float]] | None = None,
    ):
        super().__init__(map(len, pictures))
        self.prompts, self.pictures = list(prompts), [list(shown) for shown in pictures]
        askers, viewers = Counter(self.prompts), Counter(n for shown in self.pictures for n in shown)
        self.shares = list(shares or ()) or [
            (1 / askers[prompt], sum(1 / viewers[n] for n in shown))
            for prompt, shown in zip(self.prompts, self.pictures, strict=True)
        ]

    def select(self, index: Sequence[int]) -> tuple[Rows, list[int]]:
        """The rows of these numbers, and the numbers of the stored pictures that they show."""
        stored = list(dict.fromkeys(n for row in index for n in self.pictures[row]))
        place = {n: i for i, n in enumerate(stored)}
        shown = [[place[n] for n in self.pictures[row]] for row in index]
        prompts, shares = ([kept[row] for row in index] for kept in (self.prompts, self.shares))
        return Rows(prompts, shown, shares), stored


def picture_rows(counts: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    """Stored pictures by row, from the pictures per row and the stored number of each picture in turn."""
    numbers = iter(order)
    return [[next(numbers) for _ in range(count)] for count in counts]


def take(batch: dict[str, Any], index: Sequence[int]) -> dict[str, Any]:
    """The rows of these numbers of a generation batch, with the pictures that they show."""
    rows, stored = batch["num_images"].select(index)
    part: dict[str, Any] = {}
    for name, value in batch.items():
        if name in PICTURES:
            continue
        if isinstance(value, torch.Tensor) and value.ndim:
            part[name] = value[torch.as_tensor(index, device=value.device)]
        else:
            part[name] = [value[n] for n in index] if isinstance(value, list) else value
    return {**part, **choose(batch.get("pixel_values"), batch.get("image_grid_thw"), stored), "num_images": rows}


def split(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Shuffle a generation batch by prompt and cut it into equal micro-batches, so that groups stay whole.

    One permutation of the rows is drawn, as in TRL, so that the random numbers that follow are TRL's; prompts come in
    the order in which their first row does. A group is cut only where the micro-batch is no multiple of it.
    """
    prompts = batch["num_images"].prompts
    turn: dict[int, int] = {}
    for row in torch.randperm(len(prompts)).tolist():
        turn.setdefault(prompts[row], len(turn))
    order = sorted(range(len(prompts)), key=lambda row: turn[prompts[row]])
    size = len(order) // parts
    return [take(batch, order[start : start + size]) for start in range(0, size * parts, size)]


@dataclasses.dataclass
class Generation:
    """What is known while one generation batch is made: the prompts of its rows, and the pictures prepared for it."""

    prompts: list[int]
    memo: ImageMemo

    def rows(self, counts: Sequence[int] | None, grid: torch.Tensor | None) -> tuple[Rows, torch.Tensor | None]:
        """The rows of the batch, and `image_grid_thw` of each stored picture once.

        counts: pictures per row; grid: (pictures, 3) of all pictures of all rows, repetitions included.
        """
        if grid is None:
            return Rows(self.prompts, [[]] * len(self.prompts)), None
        order = self.memo.order
        return Rows(self.prompts, picture_rows(counts, order)), grid[first_places(order)]

    def of_prompts(self, images: Sequence[Sequence[Any] | None] | None, fields: dict[str, Any]) -> dict[str, Any]:
        """A processor's fields for all rows, with `pixel_values` and `image_grid_thw` of the unique prompts only.

        images: of each row.
        """
        if "image_grid_thw" not in fields:
            return fields
        pixels, grid = (torch.as_tensor(fields[name]) for name in PICTURES)
        rows, grid = self.rows([len(shown or ()) for shown in images], grid)
        return fields | choose(pixels, grid, [n for row in first_places(self.prompts) for n in rows.pictures[row]])


def prompts_of(inputs: Sequence[dict[str, Any]], contents: Contents) -> list[int]:
    """Rows of the data set numbered by prompt: the same question about the same pictures. Answers do not count."""
    return row_numbers([tuple(contents.key(row.get(name)) for name in ("prompt", "images", "image")) for row in inputs])


class Found(NamedTuple):
    """Of one micro-batch of B rows and K completion places."""

    logps: torch.Tensor
    """(B, K); 0 where there is no token, as TRL has it."""
    entropies: torch.Tensor | None
    """(B, K) likewise."""
    tokens: int
    """Tokens that went through the language model."""
    grids: torch.Tensor | None
    """(pictures, 3) in patches, of what went through the vision tower."""


def log_probabilities(
    model, rows: Rows, input_ids, attention_mask, logits_to_keep: int, pixel_values=None, image_grid_thw=None
) -> Found:
    """Of (B, P + K) left-padded prompts and right-padded completions; pictures are those that `rows` numbers.

    The model has a fused LM head (`trl.trainer.utils.add_fused_lm_head`), which applies the temperature, and
    `vlm.prefix.enable` was called on it.
    """
    ids, there = input_ids.cpu(), attention_mask.cpu().bool()
    blank = not there[:, -logits_to_keep:].any()
    if blank:  # all truncated completions masked: one token keeps the result connected to the model
        there[0, -logits_to_keep] = True
    cut = ids.shape[1] - logits_to_keep
    prompts = [row[:cut][seen[:cut]] for row, seen in zip(ids, there, strict=True)]
    completions = [row[cut:][seen[cut:]] for row, seen in zip(ids, there, strict=True)]
    # of one data row, and yet not of one text where a rollout function writes its own prompts
    members: dict[Any, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if len(completions[row]):
            members.setdefault((rows.prompts[row], tuple(prompt.tolist())), []).append(row)
    groups = list(members.values())
    shown = [rows.pictures[group[0]] for group in groups]
    media = choose(pixel_values, image_grid_thw, [number for numbers in shown for number in numbers])
    blank_alone = not media and processes() > 1
    if blank_alone:
        media = {name: value.to(input_ids.device) for name, value in blank_picture(multimodal(model).config).items()}
    packed = packed_groups(model, groups, prompts, completions, shown, image_grid_thw, input_ids.device, blank_alone)
    order = [row for group in groups for row in group]
    outputs = model(
        **packed.inputs,
        **media,
        shift_labels=torch.cat([completions[row] for row in order])[None].to(input_ids.device),
        fused_lm_head=True,
    )
    spread = places([] if blank else completions, order, ids.shape[0], logits_to_keep).to(input_ids.device)
    logps, entropies = (
        None if values is None else pad(values[0], (0, 1))[spread] for values in (outputs.log_probs, outputs.entropy)
    )
    return Found(logps, entropies, packed.layout.tokens, media.get("image_grid_thw"))


def packed_groups(model, groups, prompts, completions, shown, grid, device, blank: bool = False) -> Packed:
    """The packed row of groups (row numbers of each), with the positions that the model gives their prompts.

    blank: behind them the token of `blank_picture`, which nothing continues and nobody sees.
    """
    asked = [prompts[group[0]] for group in groups]
    grid = torch.zeros(0, 3, dtype=torch.long) if grid is None else grid.cpu()
    positions = rope_positions(model, asked, [grid[numbers] for numbers in shown])
    segments = [
        [torch.cat([prompt[-1:], completions[row][:-1]]) for row in group]
        for prompt, group in zip(asked, groups, strict=True)
    ]
    prefixes, positions = [prompt[:-1] for prompt in asked], [place[:, :-1] for place in positions]
    if blank:
        prefixes.append(torch.tensor([multimodal(model).config.image_token_id]))
        segments.append([])
        positions.append(torch.zeros(3, 1, dtype=torch.long))
    return pack(prefixes, segments, positions, device=device)


def places(completions: Sequence[torch.Tensor], order: Sequence[int], rows: int, width: int) -> torch.Tensor:
    """(rows, width): number of each row's each token among all tokens in this order of rows; -1 where there is none."""
    index = torch.full((rows, width), -1)
    start = 0
    for row in order if completions else ():
        length = len(completions[row])
        index[row, :length] = torch.arange(start, start + length)
        start += length
    return index


def precision(args, model) -> str:
    """The dtype that the forward pass computes in, as a key of `TOLERANCE`; TF32 has float16's mantissa."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    dtype = str(model.dtype).removeprefix("torch.")
    tf32 = model.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "float16" if dtype == "float32" and tf32 else dtype


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Within, no dropout; each module then gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def deviation(shared: torch.Tensor, plain: torch.Tensor, there: torch.Tensor, dtype: str) -> torch.Tensor:
    """How far two sets of (B, K) log-probabilities are apart, in the measure of `TOLERANCE`; nats."""
    delta = (shared - plain).abs().float()[there.bool()]
    return delta.max() if dtype == "float32" else delta.mean()


def judge(figure: float, dtype: str) -> None:
    """Raises: UserError when shared and plain log-probabilities are further apart than rounding explains."""
    if not figure <= TOLERANCE[dtype]:  # NaN too
        measure = "the largest difference of a token" if dtype == "float32" else "the mean difference of a token"
        raise UserError(
            f"shared prefixes give other log-probabilities than TRL's plain path: on the first batch {measure} is "
            f"{figure:.3g} nats, in {dtype} at most {TOLERANCE[dtype]:g} was expected. Train with share_prefix: false, "
            "and please report the model and the versions; check_sharing: false skips this check"
        )
