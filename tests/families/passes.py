"""Each family under ZeRO-3 against whole weights:  accelerate launch passes.py FOLDER KINDS [ROWS]

KINDS: JSON, {kind: path of its checkpoint}. Process 0 has a row with a picture, process 1 a row of text alone; or ROWS,
JSON: [[prompt of process 0, of process 1], …], each pair tried for itself, of the prompts of `tests.families.conftest`.
Three passes, each as a stage makes it, with gradients: SFT's padded batch; GRPO's log-probabilities row by row; and
those of shared prefixes. Both rows in one process without sharding are what is expected. Then the weights are saved as
the trainers save them. The main process prints a line of JSON for each pass: the relative difference of losses, the
largest gradient, and the largest difference of any.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = ((0, 1),)
"""Prompts of `tests.families.conftest`: of process 0 and 1."""
KEEP = 4
"""Tokens of a completion."""


def inputs_of(one, row: int) -> dict:
    """A prompt and two completions of it, one shorter: (2, P + KEEP), padded on the right."""
    import torch

    prompt = one.prompts([row])
    said = torch.tensor([[30, 31, 32, 33], [40, 41, 42, 0]])
    out = {"input_ids": torch.cat([prompt["input_ids"].repeat(2, 1), said], 1)}
    out["attention_mask"] = torch.cat([prompt["attention_mask"].repeat(2, 1), (said > 0).long()], 1)
    if "mm_token_type_ids" in prompt:
        out["mm_token_type_ids"] = torch.cat([prompt["mm_token_type_ids"].repeat(2, 1), torch.zeros_like(said)], 1)
    return out | {name: prompt[name] for name in ("pixel_values", "image_grid_thw") if name in prompt}


def chosen(logits, ids):
    """(B, L, V), (B, L) → (B, L): log-probabilities of these tokens."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def repeated(inputs: dict) -> dict:
    """With the prompt's pictures once for each row."""
    from vlm.prefix import media

    units = range(len(media.rows(media.of(inputs))))
    return inputs | media.choose(inputs, [*units, *units])


def supervised(model, inputs, config):
    from vlm.prefix.media import shown_in_all

    unsaid = (inputs["attention_mask"] == 0) | (inputs["input_ids"] == config.image_token_id)
    labels = inputs["input_ids"].masked_fill(unsaid, -100)
    batch = shown_in_all({**repeated(inputs), "labels": labels}, config)
    labels = batch.pop("labels")[:, 1:]
    found = chosen(model(**batch).logits[:, :-1], labels.clamp(min=0))
    return -found[labels >= 0].sum()


def plain(model, inputs, config):
    from vlm.prefix.media import shown_in_all

    batch = shown_in_all(repeated(inputs), config, before=True)
    found = chosen(model(**batch).logits[:, -KEEP - 1 : -1], batch["input_ids"][:, -KEEP:])
    return -(found * inputs["attention_mask"][:, -KEEP:]).sum()


def shared(model, inputs, config):
    from rl.sharing.packed import log_probabilities
    from rl.sharing.rows import Rows
    from vlm.prefix import media

    pictures = media.of(inputs)
    units = list(range(len(media.rows(pictures))))
    rows = Rows([0, 0], [units, units])
    return -log_probabilities(model, rows, inputs["input_ids"], inputs["attention_mask"], KEEP, pictures).logps.sum()


def passes(kind: str) -> list:
    """The shared one first: it takes the head by its weight, which DeepSpeed fails at behind passes that call it."""
    from vlm.families import FAMILIES

    return [shared, supervised, plain] if FAMILIES[kind].unshared is None else [supervised, plain]


def prepared(model, kind):
    from trl.trainer.utils import add_fused_lm_head

    from vlm.prefix import enable

    if shared in passes(kind):
        add_fused_lm_head(model)
        enable(model)
    return model.train()


def expected(one, kind, rows):
    """name of a pass → (loss, gradients by name) of both rows, with whole weights, as one process computes them."""
    from unittest import mock

    model, found = prepared(one.model, kind), {}
    with mock.patch.dict(os.environ, WORLD_SIZE="1"):
        for each in passes(kind):
            model.zero_grad()
            loss = sum(each(model, inputs_of(one, row), model.config) for row in rows)
            loss.backward()
            named = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
            found[each.__name__] = loss.item(), {name: grad.clone() for name, grad in named.items()}
    return found


def compare(kind: str, path: str, folder: Path, settings: dict, rows: tuple[int, int]) -> None:
    import deepspeed
    import torch
    from deepspeed.utils import safe_get_full_grad
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    from tests.families.conftest import LIMITS, Loaded
    from tests.support.tiny_checkpoints import section
    from vlm import loading
    from vlm.common.processes import processes, rank

    one = Loaded(kind, path, loading.load_model(section(path)), loading.load_processor(path, LIMITS))
    wanted = expected(one, kind, rows)
    held = HfDeepSpeedConfig(settings)
    model = prepared(loading.load_model(section(path)), kind)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=still, config=settings)
    told, named = [], dict(model.named_parameters())
    for each in passes(kind):
        loss = each(engine, inputs_of(one, rows[rank()]), model.config)
        engine.backward(loss * processes())  # the engine takes the mean over processes
        whole = loss.detach().clone()
        torch.distributed.all_reduce(whole)
        grads = {name: safe_get_full_grad(one) for name, one in named.items()}
        engine.step()
        loss, gradients = wanted[each.__name__]
        told.append(
            {
                "kind": kind,
                "rows": rows,
                "pass": each.__name__,
                "off": abs(whole.item() / loss - 1),
                "largest": max(grad.abs().max().item() for grad in gradients.values()),
                "apart": max((grads[name] - grad).abs().max().item() for name, grad in gradients.items()),
                "idle": [
                    name for name, grad in grads.items() if name not in gradients and grad is not None and grad.any()
                ],
            }
        )
    state = engine._zero3_consolidated_16bit_state_dict()
    if rank() == 0:
        model.save_pretrained(folder / kind, state_dict=state)
        print("\n".join(json.dumps(line) for line in told), flush=True)
    engine.destroy()
    del held
    unset_hf_deepspeed_config()
    torch.distributed.barrier()


def go(folder: Path, kinds: dict[str, str], each: Sequence[tuple[int, int]] = ROWS) -> None:
    import deepspeed

    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, "zero_allow_untested_optimizer": True}
    deepspeed.init_distributed("gloo")
    for kind, path in kinds.items():
        for rows in each:
            compare(kind, path, folder, settings, rows)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ["DS_ACCELERATOR"] = "cpu"
    from vlm.common import telemetry

    telemetry.quiet()  # before what is imported here
    from tests.support.processes.zero_cpu import build_nothing

    build_nothing()
    go(Path(sys.argv[1]), *map(json.loads, sys.argv[2:]))
